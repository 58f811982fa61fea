from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.evaluate.bootstrap import bootstrap_noise, model_noise
from dmri_fm_lab.evaluate.scores import subtract_noise
from dmri_fm_lab.simulate import draw_protocol

SIDE, SIGMA = 14, 20.0
TENSOR = np.array([1.4e-3, 0.1e-3, 0.0, 0.5e-3, 0.1e-3, 0.4e-3])


def noisy_scan(n_directions: int, *, n_b0: int = 1, seed: int = 0) -> tuple[Dwi, np.ndarray]:
    """Return a block of one tensor with Gaussian noise, and the tensor."""
    rng = np.random.default_rng(seed)
    gtab = draw_protocol(rng, scheme="shell", n_directions=n_directions, bvals=1000, n_b0=n_b0)
    x, y, z = gtab.bvecs_ras.T
    columns = np.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], axis=1)
    clean = 1000 * np.exp(-gtab.bvals * (columns @ TENSOR))
    data = clean + rng.normal(0, SIGMA, (SIDE, SIDE, SIDE, len(gtab)))
    return Dwi.from_arrays(data, np.eye(4), gtab), np.ones((SIDE,) * 3, dtype=bool)


@pytest.mark.parametrize(("n_directions", "n_b0"), [(30, 1), (30, 3), (12, 1)])
def test_the_variance_is_the_spread_over_equal_voxels(n_directions, n_b0) -> None:
    dwi, mask = noisy_scan(n_directions, n_b0=n_b0)
    noise = bootstrap_noise(dwi, range(len(dwi.gtab)), mask=mask, rng=np.random.default_rng(1))
    maps = fit_tensor(dwi)
    assert noise is not None
    assert noise.n_free == len(dwi.gtab) - 7
    # 2744 voxels: the empirical variance is good to 3 percent, and the weights are estimated.
    for name in ("fa", "md", "ad", "rd"):
        spread = getattr(maps, name)[mask].astype(np.float64).var()
        assert noise.variance[name].mean() == pytest.approx(spread, rel=0.15), name
    spread = maps.diffusivity[mask].astype(np.float64).var(axis=0)
    np.testing.assert_allclose(noise.variance["tensor"].mean(axis=0), spread, rtol=0.15)


def test_a_reference_without_residuals_borrows_the_size_of_others() -> None:
    dwi, mask = noisy_scan(12)
    six = [0, 1, 2, 3, 7, 8, 9]
    rng = np.random.default_rng(1)
    assert bootstrap_noise(dwi, six, mask=mask, rng=rng) is None
    noise = bootstrap_noise(dwi, six, mask=mask, rng=rng, more=range(13))
    assert noise is not None
    spread = fit_tensor(dwi.select(six)).md.astype(np.float64).var()
    assert noise.variance["md"].mean() == pytest.approx(spread, rel=0.2)


def test_a_shared_b0_does_not_vary() -> None:
    dwi, mask = noisy_scan(20)
    with_b0, without = (
        bootstrap_noise(
            dwi, range(21), mask=mask, rng=np.random.default_rng(1), has_b0_noise=has_b0_noise
        )
        for has_b0_noise in (True, False)
    )
    assert with_b0 is not None
    assert without is not None
    # Of MD's variance, the part of the b=0 in closed form: (sigma / S0 / b)^2.
    part = with_b0.variance["md"].mean() - without.variance["md"].mean()
    assert part == pytest.approx((SIGMA / 1000 / 1000) ** 2, rel=0.15)


def test_subtraction_finds_the_error_without_the_references_noise() -> None:
    """Estimates that are wrong by a known amount, against a noisy reference."""
    dwi, mask = noisy_scan(20, n_b0=2)
    chosen = list(range(len(dwi.gtab)))
    noise = bootstrap_noise(dwi, chosen, mask=mask, rng=np.random.default_rng(1))
    assert noise is not None
    reference = fit_tensor(dwi).md[mask].astype(np.float64)
    truth = TENSOR[[0, 3, 5]].mean()
    error = 2e-5 * np.random.default_rng(2).standard_normal(reference.size)
    raw = ((truth + error - reference) ** 2).mean()
    assert np.sqrt(raw) > 1.2 * 2e-5
    found = subtract_noise(raw, noise.variance["md"].mean())
    assert found == pytest.approx(2e-5, rel=0.06)


def test_the_floor_is_the_error_of_the_fit_itself() -> None:
    dwi, mask = noisy_scan(30, n_b0=2)
    noise = bootstrap_noise(dwi, range(32), mask=mask, rng=np.random.default_rng(1))
    maps = fit_tensor(dwi)
    assert noise is not None
    error = np.abs(maps.diffusivity[mask] - TENSOR).sum(axis=1).mean()
    assert noise.floor["tensor"].mean() == pytest.approx(error, rel=0.1)
    assert 0 < noise.floor["v1"].mean() < 10


def test_one_replicate_is_none() -> None:
    dwi, mask = noisy_scan(20)
    with pytest.raises(ConfigError, match="replicates"):
        bootstrap_noise(dwi, range(21), mask=mask, rng=np.random.default_rng(0), n_replicates=1)


def test_seven_volumes_have_the_noise_of_the_model() -> None:
    dwi, mask = noisy_scan(6)
    noise = model_noise(dwi, mask=mask, sigma=SIGMA, rng=np.random.default_rng(1))
    assert noise.n_free == 0
    assert noise.tensors.shape == (40, mask.sum(), 6)
    maps = fit_tensor(dwi)
    # Replicates start from noisy signals; at this signal-to-noise ratio that changes little.
    for name in ("fa", "md", "ad", "rd"):
        spread = getattr(maps, name)[mask].astype(np.float64).var()
        assert noise.variance[name].mean() == pytest.approx(spread, rel=0.2), name
    twice = model_noise(dwi, mask=mask, sigma=2 * SIGMA, rng=np.random.default_rng(1))
    assert twice.variance["md"].mean() == pytest.approx(4 * noise.variance["md"].mean(), rel=0.1)


def test_replicates_have_the_variance_that_is_told() -> None:
    dwi, mask = noisy_scan(12)
    noise = bootstrap_noise(dwi, range(13), mask=mask, rng=np.random.default_rng(1))
    spread = noise.tensors.astype(np.float64).var(axis=0, ddof=1)
    np.testing.assert_allclose(noise.variance["tensor"], spread, rtol=1e-3, atol=1e-14)
