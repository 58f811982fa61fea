from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_networks.noise_map import noise_map
from dmri_fm_lab.evaluate.app_grid import AppGrid
from dmri_fm_lab.evaluate.baselines import SMOOTHERS, tuned
from dmri_fm_lab.evaluate.comparison import Request, compare_methods
from dmri_fm_lab.evaluate.scores import score
from dmri_fm_lab.smoothing import brain_snr, noise_sigma


@pytest.fixture(scope="module")
def place(brain):
    return AppGrid.draw(brain, np.random.default_rng(0))


def test_voxels_are_those_of_the_brain_in_another_pose(brain, place) -> None:
    np.testing.assert_allclose(place.grid.voxel_size_mm, 6.0)
    turn = place.pose[:3, :3]
    assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) > 3
    # The brain lies within the grid, all of it.
    volume = place.reference().maps.mask.sum() / brain.truth.mask.sum()
    assert 0.7 < volume < 1


def test_truth_and_directions_turn_together(place, scans) -> None:
    """Without noise the fit on the grid is nearly the truth there; unturned it is not."""
    quiet, reference = scans[1], place.reference()
    brought = place.bring(quiet)
    own = score(fit_tensor(brought, shell="all"), reference)["white"]
    still = replace(brought, gtab=quiet.gtab)
    unturned = score(fit_tensor(still, shell="all"), reference)["white"]
    assert own["v1_deg_fa03"] < 0.5 * unturned["v1_deg_fa03"]
    # Interpolation of coarse voxels mixes tissues a little more.
    assert own["fa"] < 0.08


def test_noise_is_that_of_interpolated_volumes(place, scans) -> None:
    loud, quiet = (replace(scan, mask=None) for scan in scans)
    brought = [place.bring(scan) for scan in (loud, quiet)]
    white = place.reference().regions.white
    apart = (brought[0].data - brought[1].data)[white].std()
    before = (loud.data - quiet.data)[place.brain.reference().regions.white].std()
    lowered = np.sqrt(np.square(place.noise(loud)[white]).mean()) / noise_map(loud).sigma[0, 0, 0]
    # Few voxels: 3 % of chance.
    assert lowered == pytest.approx(apart / before, rel=0.08)
    assert lowered < 0.9


def test_the_gates_ratio_is_that_of_the_noise_given(place, scans) -> None:
    loud = replace(scans[0], mask=None)
    request = Request(("network",), models=("tensor-refiner",))
    noise = place.noise(loud)
    once, twice = (
        compare_methods(loud, place.reference(), request, bring=place.bring, noise=n).snrs
        for n in (noise, 2 * noise)
    )
    assert once["tensor-refiner"] == pytest.approx(2 * twice["tensor-refiner"], rel=2e-3)


def test_the_share_out_of_distribution_is_measured(place, scans) -> None:
    loud = replace(scans[0], mask=None)
    request = Request(("network",), models=("tensor-refiner",))
    found = compare_methods(loud, place.reference(), request, bring=place.bring)
    assert 0 <= found.ood_fractions["tensor-refiner"] < 1


def test_smoothing_gets_the_noise_that_networks_get(place, scans) -> None:
    """Interpolation takes more of the finest detail than of the noise."""
    loud, reference = replace(scans[0], mask=None), place.reference()
    noise, brought = place.noise(loud), place.bring(loud)
    level = float(np.median(noise[brought.brain]))
    assert noise_sigma(brought) < 0.9 * level
    found = compare_methods(
        loud, reference, Request(tuple(SMOOTHERS)), bring=place.bring, noise=noise
    ).rows
    strength = {name: tuned(name, brain_snr(brought, level)) for name in SMOOTHERS}
    for name, fit in SMOOTHERS.items():
        expected = score(fit(brought, strength[name], noise=level), reference)["tissue"]["fa"]
        assert found[name]["tissue"]["fa"] == pytest.approx(expected, rel=1e-6)
    # More noise, more smoothing: the number that is given decides, not the volumes.
    twice = SMOOTHERS["tv"](brought, noise=2 * level)
    assert score(twice, reference)["tissue"]["fa"] != pytest.approx(found["tv"]["tissue"]["fa"])
