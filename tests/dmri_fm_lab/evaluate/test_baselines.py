from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.evaluate import baselines
from dmri_fm_lab.evaluate.regions import Regions
from dmri_fm_lab.evaluate.tensor_errors import tensor_errors
from dmri_fm_lab.simulate import draw_protocol
from dmri_fm_lab.smoothing import brain_snr, noise_sigma, smooth_within


@pytest.fixture(scope="module")
def seven(noisy) -> Dwi:
    from dmri_fm.qspace import choose_six

    dwi = noisy[0]
    return dwi.select([0, *choose_six(dwi.gtab).index])


def fa_error(maps, noisy) -> float:
    return tensor_errors(maps, noisy[1], mask=noisy[2]).fa.mean_absolute


@pytest.mark.parametrize("name", ["gaussian", "nlmeans", "tv", "mppca"])
def test_smoothing_helps_in_much_noise(name, seven, noisy) -> None:
    plain = fa_error(baselines.BASELINES["wls"].apply(seven), noisy)
    assert fa_error(baselines.BASELINES[name].apply(seven), noisy) < 0.9 * plain


def test_every_method_returns_finite_maps_within_the_mask(seven) -> None:
    for name, baseline in baselines.BASELINES.items():
        maps = baseline.apply(seven)
        np.testing.assert_array_equal(maps.mask, seven.mask, err_msg=name)
        assert np.isfinite(maps.diffusivity).all(), name
        assert not maps.fa[~maps.mask].any(), name


def test_seven_volumes_leave_weights_no_say(seven) -> None:
    wls, iwls = (baselines.BASELINES[name].apply(seven) for name in ("wls", "iwls"))
    np.testing.assert_allclose(iwls.diffusivity, wls.diffusivity, atol=2e-6)


def test_iterated_weights_come_near_single_ones_in_a_whole_series(noisy) -> None:
    found, once = baselines.fit_iteratively(noisy[0]), fit_tensor(noisy[0], shell="all")
    inside = noisy[2]
    apart = np.abs(found.md - once.md)[inside]
    assert 0 < apart.mean() < 2e-5


def test_no_strength_is_no_smoothing(seven) -> None:
    plain = baselines.BASELINES["wls"].apply(seven)
    for fit in (baselines.fit_gaussian, baselines.fit_nlmeans, baselines.fit_total_variation):
        np.testing.assert_allclose(fit(seven, 0.0).fa, plain.fa, atol=1e-5)


def test_methods_leave_the_series_as_it_is(seven) -> None:
    before = seven.data.copy()
    for baseline in baselines.BASELINES.values():
        baseline.apply(seven)
    np.testing.assert_array_equal(seven.data, before)


def test_the_oracle_is_never_worse_than_a_fixed_width(seven, noisy) -> None:
    from dmri_fm_lab.evaluate.comparison import Request, compare_methods
    from dmri_fm_lab.evaluate.reference import Reference
    from dmri_fm_lab.evaluate.scores import score

    region = noisy[2]
    reference = Reference(noisy[1], Regions(region, region, region), None, None, is_truth=True)
    found = compare_methods(seven, reference, Request(methods=("wls", "gaussian-oracle"))).rows
    for width in baselines.ORACLE_SIGMAS:
        fixed = score(baselines.fit_gaussian(seven, width), reference)["tissue"]
        for name, best in found["gaussian-oracle"]["tissue"].items():
            assert abs(best) <= abs(fixed[name]) + 1e-12, name
    assert found["gaussian-oracle"]["tissue"]["fa"] < found["wls"]["tissue"]["fa"]


def test_tables_are_complete() -> None:
    for method, strengths in baselines.TUNED.items():
        assert len(strengths) == len(baselines.SNR_EDGES) + 1
        assert set(strengths) <= set(baselines.CANDIDATES[method])
    assert baselines.tuned("gaussian", 1.0) == baselines.TUNED["gaussian"][0]
    assert baselines.tuned("gaussian", float("inf")) == baselines.TUNED["gaussian"][-1]
    assert set(baselines.CANDIDATES["gaussian"]) <= set(baselines.ORACLE_SIGMAS)


def test_smoothing_stays_within_the_mask() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((8, 8, 8)) > 0.4
    data = np.full((8, 8, 8, 2), 3.0) + 100 * ~mask[..., None]
    np.testing.assert_allclose(smooth_within(data, mask, 0.9)[mask], 3.0, rtol=1e-5)


def test_noise_is_found_in_a_flat_image() -> None:
    rng = np.random.default_rng(0)
    gtab = draw_protocol(rng, bvals=1000)
    data = 1000 + rng.normal(0, 25, (16, 16, 16, 7))
    dwi = Dwi.from_arrays(data, np.eye(4), gtab)
    # The quietest components of 3,375 cubes are a little too quiet.
    assert noise_sigma(dwi) == pytest.approx(25, rel=0.08)
    assert brain_snr(dwi) == pytest.approx(40, rel=0.08)
    assert brain_snr(dwi.select([0]).with_mask(np.ones((16, 16, 16)))) > 30
    still = Dwi.from_arrays(np.full((4, 4, 4, 7), 5.0), np.eye(4), gtab)
    # What is left is rounding.
    assert brain_snr(still) > 1e6
    assert baselines.fit_nlmeans(still).fa.max() < 1e-3


def test_anatomy_is_not_taken_for_noise() -> None:
    rng = np.random.default_rng(0)
    gtab = draw_protocol(rng, bvals=1000)
    # Detail that all volumes share, three times as strong as the noise.
    shared = 1000 + rng.normal(0, 60, (20, 20, 20, 1)) * np.linspace(0.5, 1.5, 7)
    dwi = Dwi.from_arrays(shared + rng.normal(0, 20, (20, 20, 20, 7)), np.eye(4), gtab)
    assert noise_sigma(dwi) == pytest.approx(20, rel=0.08)
    assert noise_sigma(dwi.with_mask(np.zeros((20, 20, 20)))) == 0
