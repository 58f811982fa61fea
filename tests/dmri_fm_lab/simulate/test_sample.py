from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate import draw_protocol, draw_sample


def test_same_seed_same_sample_and_other_seed_other_sample() -> None:
    a, b, c = (draw_sample(np.random.default_rng(s), shape=(12, 12, 12)) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.signal, b.signal)
    np.testing.assert_array_equal(a.truth_tensor, b.truth_tensor)
    assert not np.array_equal(a.signal, c.signal)


def test_volumes_come_last_and_outside_the_brain_is_nothing() -> None:
    rng = np.random.default_rng(3)
    gtab = draw_protocol(rng, scheme="shell", bvals=1000, n_directions=6)
    affine = np.array([[8.0, 0, 0, -92], [0, 8, 0, -128], [0, 0, 8, -70], [0, 0, 0, 1]])
    sample = draw_sample(rng, shape=(24, 28, 20), affine=affine, gtab=gtab)
    assert sample.signal.shape == (24, 28, 20, 7)
    assert sample.signal.dtype == np.float32
    assert sample.truth_tensor.shape == (24, 28, 20, 6)
    assert not sample.truth_tensor[~sample.mask].any()
    # A brain of 1.2 to 2.3 litres with the diffusivities of one.
    assert 1.2e6 < sample.mask.sum() * 8**3 < 2.3e6
    md = sample.truth_tensor[..., [0, 3, 5]].mean(axis=3)
    white, fluid = sample.fractions[..., 0] > 0.9, sample.fractions[..., 2] > 0.9
    assert 0.5e-3 < np.median(md[white]) < 1.1e-3
    assert 1.8e-3 < np.median(md[fluid]) < 3.5e-3
    assert sample.truth_bval == 1000
    np.testing.assert_allclose(sample.affine, affine)


def test_truth_is_left_out_on_demand() -> None:
    sample = draw_sample(np.random.default_rng(0), shape=(8, 8, 8), with_truth=False)
    assert sample.truth_tensor is None


def test_bad_requests_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="shape"):
        draw_sample(rng, shape=(4, 4))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="SNR"):
        draw_sample(rng, snr=0)
    with pytest.raises(ConfigError, match="one kind of volume"):
        draw_sample(rng, gtab=GradientTable([0, 0], np.zeros((2, 3))))
