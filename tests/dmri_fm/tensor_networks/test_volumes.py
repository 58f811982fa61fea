"""The volumes that a tensor network reads."""

import json

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.tensor_networks.volumes import ChosenVolumes, choose_volumes, split_outliers

TWO_SETS = GradientTable(
    [0, *[1000] * 6, 0, *[1000] * 6],
    np.vstack(
        [np.zeros(3), SKARE_DIRECTIONS, np.zeros(3), SKARE_DIRECTIONS[:, [1, 2, 0]] * [1, 1, -1]]
    ),
)


def test_excluded_volumes_are_not_among_the_six():
    first = choose_volumes(TWO_SETS)
    assert first.b0 == (0, 7)
    assert first.index == (0, 7, *first.six.index)
    again = choose_volumes(TWO_SETS, exclude=[first.six.index[0]])
    assert first.six.index[0] not in again.six.index
    assert (again.excluded, again.reasons) == ((first.six.index[0],), [])
    assert again.describe()["ExcludedVolumes"] == [first.six.index[0]]


def test_a_scan_of_six_directions_keeps_them_with_a_reason():
    six = TWO_SETS.select(range(7))
    chosen = choose_volumes(six, exclude=[2, 5])
    assert chosen.six.index == (1, 2, 3, 4, 5, 6)
    (reason,) = chosen.reasons
    assert "without the excluded volumes no six directions" in reason
    assert "2, 5 of them are used" in reason


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(GradientError, match="six"):
        choose_volumes(TWO_SETS.select(range(6)))
    with pytest.raises(GradientError, match="no b=0"):
        choose_volumes(TWO_SETS.select(range(1, 7)))


def test_a_reduced_set_that_is_poor_is_not_taken():
    """The directions that are left are nearly in a plane: a tensor, but a bad one."""
    turn = np.pi * np.arange(6) / 6
    flat = np.stack([np.cos(turn), np.sin(turn), np.tile([0.1, -0.12, 0.15], 2)], axis=1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    gtab = GradientTable([0, *[1000] * 12], np.vstack([np.zeros(3), SKARE_DIRECTIONS, flat]))
    sound = choose_volumes(gtab)
    chosen = choose_volumes(gtab, exclude=range(1, 7))
    assert chosen.six == sound.six
    assert chosen.six.condition_number < 3
    (reason,) = chosen.reasons
    assert "no six directions determine a tensor well" in reason
    (reason,) = choose_volumes(gtab.select([0, *range(7, 13)])).reasons
    assert "condition number" in reason


def test_an_excluded_b0_volume_is_read_only_where_no_other_is_left():
    chosen = choose_volumes(TWO_SETS, exclude=[0])
    assert (chosen.b0, chosen.reasons) == ((7,), [])
    chosen = choose_volumes(TWO_SETS, exclude=[0, 7])
    assert chosen.b0 == (0, 7)
    (reason,) = chosen.reasons
    assert "all b=0 volumes" in reason


def test_repeated_directions_count_as_volumes():
    five_times = TWO_SETS.select([0, *range(1, 7)] * 5)
    assert choose_volumes(five_times).n_weighted == 30


@pytest.mark.parametrize(
    ("volumes", "is_doubtful"),
    [
        ([0, *range(1, 7)], True),
        # Without any one of six directions, the others determine no tensor, however many b=0.
        ([0, 7, 0, *range(1, 7)], True),
        ([0, *range(1, 7), *range(1, 7)], False),
        ([0, *range(1, 7), *range(8, 14)], False),
    ],
)
def test_outliers_of_few_directions_are_not_excluded(volumes, is_doubtful):
    gtab = TWO_SETS.select(volumes)
    is_outlier = np.zeros((len(gtab), 3), dtype=bool)
    is_outlier[len(gtab) - 2, 1] = True
    excluded, doubtful = split_outliers(is_outlier, gtab)
    assert [excluded, doubtful][is_doubtful] == [len(gtab) - 2]
    assert [excluded, doubtful][not is_doubtful] == []
    record = choose_volumes(gtab, exclude=excluded, doubtful=doubtful).describe()
    assert ("anisotropy" in str(record.get("OutliersNotExcluded"))) == is_doubtful


def test_json_holds_the_choice():
    chosen = choose_volumes(TWO_SETS, exclude=[3], doubtful=[5], seed=2)
    assert ChosenVolumes.from_json(json.loads(json.dumps(chosen.as_json()))) == chosen
