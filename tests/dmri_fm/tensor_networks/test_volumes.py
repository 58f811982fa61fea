"""The volumes that a tensor network reads."""

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.tensor_networks.volumes import choose_volumes

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
