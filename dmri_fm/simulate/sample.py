"""Random training samples: a patch or a brain, its protocol, its signal and its truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.gradients import GradientTable
from dmri_fm.simulate.anatomy import Anatomy, draw_anatomy, smooth_field
from dmri_fm.simulate.protocol import check_request, draw_protocol, truth_bval
from dmri_fm.simulate.signal import (
    add_noise,
    blur_volumes,
    draw_tissue,
    noise_free_signal,
    true_tensor,
)

__all__ = ["Sample", "draw_sample"]


@dataclass(frozen=True, eq=False)
class Sample:
    """A simulated scan and its truth.

    Attributes
    ----------
    signal
        Shape (X, Y, Z, N), float32, scanner units: b=0 and weighted volumes, as measured.
    gtab
        Its gradient table, RAS+.
    truth_tensor
        Shape (X, Y, Z, 6), float32, mm^2/s, RAS+, order xx, xy, xz, yy, yz, zz; zero outside
        the mask. None if it was not asked for.
    truth_bval
        b-value the true tensor belongs to, s/mm^2.
    fractions
        Shape (X, Y, Z, 3), float32: volume fractions of white matter, grey matter, CSF.
    mask
        Shape (X, Y, Z), bool: the brain.
    sigma
        Standard deviation of the noise in one channel, scanner units.
    voxel_size_mm
        Shape (3,).
    affine
        Shape (4, 4), voxel to RAS+ mm.
    """

    signal: NDArray[np.float32]
    gtab: GradientTable
    truth_tensor: NDArray[np.float32] | None
    truth_bval: float
    fractions: NDArray[np.float32]
    mask: NDArray[np.bool_]
    sigma: float
    voxel_size_mm: NDArray[np.float64]
    affine: NDArray[np.float64]


def draw_sample(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int] = (32, 32, 32),
    affine: NDArray[np.float64] | None = None,
    gtab: GradientTable | None = None,
    snr: float | None = None,
    atlas_weight: float | None = None,
    with_truth: bool = True,
) -> Sample:
    """Draw a simulated scan with everything about it at random.

    Parameters
    ----------
    rng
        Source of randomness: the same state gives the same sample.
    shape
        X, Y, Z. Give `affine` too for a whole brain.
    affine
        Shape (4, 4), voxel to RAS+ mm of a grid in MNI space: the brain lies there, up to a
        few degrees and millimetres. If None: a patch of random pose, place and voxel size
        (1.2 to 3 mm), one in five with random labels for tissues.
    gtab
        The protocol; one b=0 and a Skare set at a random b-value if None.
    snr
        b=0 intensity of white matter over sigma; 7 to 80, log-uniform, if None.
    atlas_weight
        How far orientations follow the rough atlas, 0 to 1; at random if None.
    with_truth
        Compute the true tensor; it takes two thirds of the time.

    Returns
    -------
    Sample
        Signal and truth.

    Raises
    ------
    ConfigError
        If an argument is out of range.

    Examples
    --------
    >>> sample = draw_sample(np.random.default_rng(0), shape=(8, 8, 8))
    >>> sample.signal.shape, sample.truth_tensor.shape
    ((8, 8, 8, 7), (8, 8, 8, 6))
    """
    check_request(shape, snr)
    if gtab is None:
        gtab = draw_protocol(rng)
    bval = truth_bval(gtab)
    if atlas_weight is None:
        atlas_weight = float(rng.uniform(0, 1))
    anatomy = (
        _draw_patch(rng, shape, atlas_weight)
        if affine is None
        else draw_anatomy(rng, shape, affine=affine, atlas_weight=atlas_weight)
    )
    tissue = draw_tissue(rng)
    blur = float(rng.uniform(0.0, 0.12))
    signal = blur_volumes(noise_free_signal(anatomy, tissue, gtab), blur)
    voxel_size_mm = np.linalg.norm(anatomy.affine[:3, :3], axis=0)
    bias = smooth_field(rng, shape, spacing=rng.uniform(60.0, 120.0) / voxel_size_mm)[0]
    signal *= np.exp(np.float32(rng.uniform(0.0, 0.2)) * bias)[..., None]
    if snr is None:
        snr = float(np.exp(rng.uniform(np.log(7.0), np.log(80.0))))
    sigma = tissue.intensity[0] / snr
    correlation = float(rng.uniform(0.3, 0.6)) if rng.uniform() < 0.3 else 0.0
    return Sample(
        signal=add_noise(rng, signal, sigma=sigma, correlation=correlation),
        gtab=gtab,
        truth_tensor=true_tensor(anatomy, tissue, bval=bval, blur=blur) if with_truth else None,
        truth_bval=bval,
        fractions=np.stack([anatomy.wm, anatomy.gm, anatomy.csf], axis=-1),
        mask=anatomy.mask,
        sigma=sigma,
        voxel_size_mm=voxel_size_mm,
        affine=anatomy.affine,
    )


def _draw_patch(
    rng: np.random.Generator, shape: tuple[int, int, int], atlas_weight: float
) -> Anatomy:
    voxel_size_mm = rng.uniform(1.2, 3.0) * np.exp(rng.normal(0, 0.05, 3))
    affine = np.diag([*voxel_size_mm, 1.0])
    centre = rng.uniform([-45.0, -75.0, -20.0], [45.0, 40.0, 50.0])
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return draw_anatomy(
        rng,
        shape,
        affine=affine,
        jitter=2.0,
        atlas_weight=atlas_weight,
        random_labels=bool(rng.uniform() < 0.2),
        rotation=Rotation.random(random_state=rng).as_matrix(),
    )
