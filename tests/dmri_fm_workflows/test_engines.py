"""Which program does each step, and what the user is told about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.bids import DwiRun, DwiSeries
from dmri_fm_workflows.engines import Engines, choose_sdc


def make_run(phase_encoding: str | None, name: str = "x", *, has_b0: bool = True) -> DwiRun:
    """A record of a run; there are no files."""
    return DwiRun(
        path=Path(f"sub-01_acq-{name}_dwi.nii.gz"),
        bval=Path("x.bval"),
        bvec=Path("x.bvec"),
        entities={"subject": "01"},
        metadata={},
        shape=(4, 4, 4, 7),
        affine=np.eye(4),
        phase_encoding=phase_encoding,
        readout_time_s=0.05,
        has_b0=has_b0,
    )


def make_series(*encodings: str | None, reverse: tuple[str, ...] = ()) -> DwiSeries:
    return DwiSeries(
        runs=tuple(make_run(e) for e in encodings),
        entities={"subject": "01"},
        reverse=tuple(make_run(e, "reverse") for e in reverse),
    )


def choose(series: DwiSeries, pair_sdc: str) -> tuple[str, str]:
    choice = choose_sdc(series, Engines("none", pair_sdc, "none"))
    return choice.method, choice.warning or ""


@pytest.mark.parametrize(
    "series",
    [make_series("j", "j-"), make_series("i", None, "j", "j-"), make_series("j", reverse=("j-",))],
)
def test_a_pair_is_used_and_needs_no_warning(series: DwiSeries) -> None:
    assert choose(series, "topup") == ("topup", "")


def test_merged_opposite_runs_that_stay_distorted_are_warned_of() -> None:
    method, warning = choose(make_series("j", "j-"), "none")
    assert method == "none"
    assert "NOT corrected" in warning
    assert "different phase encodings, j, j-" in warning
    assert "--sdc to auto" in warning


def test_merged_runs_without_a_pair_are_warned_of_whatever_was_asked() -> None:
    for pair_sdc in ("none", "topup"):
        method, warning = choose(make_series("i", None), pair_sdc)
        assert method == "none"
        assert "different phase encodings, i, unknown" in warning
        assert "--sdc" not in warning


def test_an_unused_reverse_image_is_named() -> None:
    method, warning = choose(make_series("j", reverse=("j-",)), "none")
    assert method == "none"
    assert "sub-01_acq-reverse_dwi.nii.gz could correct it" in warning


def test_none_for_runs_of_one_phase_encoding_is_the_users_choice() -> None:
    assert choose(make_series("j", "j"), "none") == ("none", "")


@pytest.mark.parametrize(("encoding", "word"), [("j", "opposite"), (None, "missing")])
def test_a_missing_pair_is_told(encoding: str | None, word: str) -> None:
    method, warning = choose(make_series(encoding), "pepolar")
    assert method == "none"
    assert word in warning
    assert "temporal lobes" in warning
