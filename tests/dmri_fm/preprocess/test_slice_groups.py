"""Slices of each excitation, by their times."""

from __future__ import annotations

import pytest

from dmri_fm.errors import InputError
from dmri_fm.preprocess.slice_groups import group_slices


def test_interleaved_slices_two_at_a_time() -> None:
    # Six slices, excited as 0+3, 2+5, 1+4; times differ by rounding.
    times = [0.0, 0.8, 0.4, 0.0005, 0.8, 0.4005]
    assert group_slices(times, n_slices=6) == [[0, 3], [2, 5], [1, 4]]


def test_slices_stored_against_their_times() -> None:
    times = [0.0, 0.1, 0.2, 0.3]
    assert group_slices(times, n_slices=4, is_reversed=True) == [[3], [2], [1], [0]]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([0, 0.1], "2 times, 0 of them unknown, for 3 slices"),
        ([0, 0.1, float("nan")], "3 times, 1 of them unknown"),
        ([0, 0, 0.5], "1 and 2 slices into one excitation"),
    ],
)
def test_times_that_order_nothing(times: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        group_slices(times, n_slices=3)
