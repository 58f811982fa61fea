"""A ball as a head: white matter of one and of two fibres in a shell of grey matter."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm_lab.encoder_comparison.method import Sample
from dmri_fm_lab.evaluate.cohort_regions import choose_parcels, label_image
from dmri_fm_lab.evaluate.galleries import noisy_series
from dmri_fm_lab.simulate.protocol import draw_protocol
from dmri_fm_lab.simulate.subject import Tissue
from dmri_fm_lab.simulate.voxel_tissue import Geometry, tissue_signal

SIDE = 16
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = -15.0


@pytest.fixture(scope="session")
def ball() -> Geometry:
    apart = np.linalg.norm(np.indices((SIDE,) * 3) - 7.5, axis=0)
    mask = apart < 7.5
    n, white = int(mask.sum()), apart[mask] < 6
    fractions = np.stack([0.9 * white, 0.9 * ~white, np.full(n, 0.1)], axis=1)
    axes = np.tile(np.eye(3), (n, 1, 1))
    shares = np.zeros((n, 3))
    shares[white] = [1.0, 0.0, 0.0]
    shares[white & (np.indices((SIDE,) * 3)[2][mask] > 7)] = [0.65, 0.35, 0.0]
    parts = (a.astype(np.float32) for a in (fractions, axes, shares))
    return Geometry(mask, AFFINE, *parts)


@pytest.fixture(scope="session")
def sample(ball: Geometry) -> Sample:
    """Two shells of 20 directions, almost without noise."""
    rng = np.random.default_rng(0)
    gtab = draw_protocol(
        rng, scheme="multishell", n_directions=[20, 20], bvals=[1000, 2000], n_b0=2
    )
    dwi = noisy_series(ball, tissue_signal(ball, Tissue(), gtab), gtab, snr=1000.0, rng=rng)
    return Sample(dwi, label_image(ball, choose_parcels([ball])))
