from __future__ import annotations

import numpy as np
import pytest

from dmri_fm_lab.realism.measures import QUANTITIES, describe, measure, noise_of, spectrum_slope
from dmri_fm_lab.realism.patches import FEWEST_BRAIN, SHAPE, brain_share, simulate_patches
from dmri_fm_lab.simulate import draw_protocol


@pytest.fixture(scope="module")
def patches():
    rng = np.random.default_rng(2)
    gtab = draw_protocol(rng, scheme="shell", n_directions=12, bvals=1000, n_b0=2)
    return simulate_patches(rng, gtab, 2)


def test_patches_hold_brain(patches) -> None:
    assert [patch.shape[:3] for patch in patches] == [SHAPE] * 2
    assert min(map(brain_share, patches)) >= FEWEST_BRAIN


def test_a_patch_has_every_quantity_in_its_range(patches) -> None:
    rows = measure(patches)
    assert rows.shape == (2, len(QUANTITIES))
    found = describe(patches[0])
    assert list(found) == list(QUANTITIES)
    np.testing.assert_array_equal(list(found.values()), rows[0])
    assert 0.2 < found["fa"] < found["fa_high"] < 1
    assert 0.2e-3 < found["md"] < 1.1e-3
    assert 0 < found["white_share"] < 1
    assert found["coherence_next"] > found["coherence_8mm"] > 0.4


def test_noise_and_slope_of_white_noise() -> None:
    rng = np.random.default_rng(0)
    mask = np.ones((24, 24, 24), dtype=bool)
    image = (100 + 7 * rng.standard_normal(mask.shape)).astype(np.float32)
    assert noise_of(image, mask) == pytest.approx(7, rel=0.1)
    # White noise has power at all frequencies alike.
    assert abs(spectrum_slope(image, mask)) < 0.4
