from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS, condition_number, skare_angle_deg
from dmri_fm_lab.evaluate.subsets import choose_subsets
from dmri_fm_lab.simulate import draw_protocol


def twice(table: GradientTable) -> GradientTable:
    """Measure each direction again, with the opposite sign, as some scanners do."""
    weighted = ~table.is_b0
    return GradientTable(
        np.concatenate([table.bvals, table.bvals[weighted]]),
        np.concatenate([table.bvecs_ras, -table.bvecs_ras[weighted]]),
    )


@pytest.fixture(
    params=[(12, 1, False), (16, 1, False), (30, 2, False), (20, 2, True), (6, 1, True)]
)
def gtab(request) -> GradientTable:
    n_directions, n_b0, is_twice = request.param
    rng = np.random.default_rng(3)
    table = draw_protocol(rng, scheme="shell", n_directions=n_directions, bvals=1000, n_b0=n_b0)
    return twice(table) if is_twice else table


def test_a_reference_never_holds_its_test(gtab) -> None:
    subsets = choose_subsets(gtab, n_subsets=4)
    assert subsets
    for subset in subsets:
        assert not set(subset.weighted) & set(subset.reference)
        assert subset.shares_b0 == (subset.b0 in subset.reference_b0)
        assert subset.shares_b0 == (gtab.is_b0.sum() == 1)
        assert len(set(subset.volumes) | set(subset.reference)) == len(gtab)
        assert len(set(subset.volumes)) == 7
        assert gtab.is_b0[list(subset.volumes)].tolist() == [True] + [False] * 6
        assert gtab.select(subset.reference_weighted).count_directions() >= 6


def test_numbers_are_those_of_the_directions(gtab) -> None:
    for subset in choose_subsets(gtab, n_subsets=4):
        expected = condition_number(gtab.bvecs_ras[list(subset.weighted)])
        assert subset.condition_number == pytest.approx(expected)
        assert subset.is_well_conditioned == (expected < 3)
        assert gtab.select(subset.weighted).count_directions() == 6
        assert 0 <= subset.skare_angle_deg < 35


def test_the_best_of_all_subsets_is_among_them() -> None:
    gtab = draw_protocol(np.random.default_rng(0), scheme="shell", n_directions=14, bvals=1000)
    from itertools import combinations

    best = min(condition_number(gtab.bvecs_ras[list(c)]) for c in combinations(range(1, 15), 6))
    assert choose_subsets(gtab)[0].condition_number == pytest.approx(best)


def test_each_repetition_is_a_test_and_serves_the_others_reference() -> None:
    table = draw_protocol(
        np.random.default_rng(1), scheme="shell", n_directions=20, bvals=1000, n_b0=2
    )
    first, second, *_ = choose_subsets(twice(table), n_subsets=2)
    assert (first.repetition, second.repetition) == (0, 1)
    assert np.allclose(np.array(first.weighted) + 20, second.weighted)
    assert set(second.weighted) <= set(first.reference)
    assert {first.b0, second.b0} == {0, 1}


def test_many_good_subsets_differ() -> None:
    gtab = draw_protocol(np.random.default_rng(0), scheme="shell", n_directions=40, bvals=1000)
    subsets = choose_subsets(gtab, n_subsets=4)
    assert all(s.condition_number < 2 for s in subsets)
    shared = [len(set(a.weighted) & set(b.weighted)) for a in subsets for b in subsets if a != b]
    assert max(shared) <= 2


def test_shells_are_kept_apart() -> None:
    gtab = draw_protocol(
        np.random.default_rng(0), scheme="multishell", n_directions=[16, 20], bvals=[700, 2000]
    )
    bvals = {round(s.bval) for s in choose_subsets(gtab, n_subsets=2)}
    assert bvals == {700, 2000}
    for subset in choose_subsets(gtab, n_subsets=2):
        weighted = gtab.bvals[[*subset.weighted, *subset.reference_weighted]]
        assert np.ptp(weighted) == 0


def test_bad_directions_give_one_flagged_subset() -> None:
    rng = np.random.default_rng(0)
    # A narrow cone and its middle: six directions determine a tensor, badly.
    v = np.array([0, 0, 1.0]) + 0.35 * rng.standard_normal((14, 3))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    gtab = GradientTable([0, *[1000] * 14], np.vstack([np.zeros(3), v]))
    subsets = choose_subsets(gtab)
    assert len(subsets) <= 1
    assert not any(s.is_well_conditioned for s in subsets)


def test_too_few_directions_give_none() -> None:
    gtab = draw_protocol(np.random.default_rng(0), scheme="shell", n_directions=11, bvals=1000)
    assert choose_subsets(gtab) == []


def test_what_cannot_be_asked() -> None:
    gtab = draw_protocol(np.random.default_rng(0), scheme="shell", n_directions=12, bvals=1000)
    with pytest.raises(ConfigError, match="0 subsets"):
        choose_subsets(gtab, n_subsets=0)
    with pytest.raises(GradientError, match="no b=0"):
        choose_subsets(gtab.select(range(1, 13)))


def test_the_angle_to_skare_is_that_of_a_turned_direction() -> None:
    turned = Rotation.from_euler("xyz", [0.2, -1.1, 0.7]).apply(SKARE_DIRECTIONS)
    assert skare_angle_deg(-turned[::-1]) == pytest.approx(0, abs=1e-3)
    axis = np.cross(turned[0], [0.0, 0, 1])
    turned[0] = Rotation.from_rotvec(np.deg2rad(12) * axis / np.linalg.norm(axis)).apply(turned[0])
    # One of six is off by 12 degrees; the best rotation shares that out a little.
    assert 1 < skare_angle_deg(turned) < 4
