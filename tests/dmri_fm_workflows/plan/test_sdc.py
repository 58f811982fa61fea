"""Which program does each step, and what the user is told about it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradient_files import RawGradients
from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.bids import DwiRun, DwiSeries, Fieldmap, UnusedImage
from dmri_fm_workflows.engines import SDC
from dmri_fm_workflows.plan.engines import choose_engines
from dmri_fm_workflows.plan.sdc import choose_sdc


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
        gradients=RawGradients(GradientTable([0], [[0, 0, 0]]), (0,), {}, None, ()),
        has_b0=has_b0,
    )


def make_series(*encodings: str | None, reverse: tuple[str, ...] = ()) -> DwiSeries:
    return DwiSeries(
        runs=tuple(make_run(e) for e in encodings),
        entities={"subject": "01"},
        reverse=tuple(make_run(e, "reverse") for e in reverse),
    )


def choose(series: DwiSeries, pair_sdc: str) -> tuple[str, str]:
    # As `auto` has it: the method, and none.
    choice = choose_sdc(series, tuple(dict.fromkeys((pair_sdc, "none"))))
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


def test_there_is_no_image_is_said_only_if_there_is_none() -> None:
    assert choose_sdc(make_series("j"), ("pepolar", "none")).reason == (
        "the session has no image of the opposite phase encoding"
    )
    unused = tuple(UnusedImage(Path(f"sub-01_run-{n}_epi.nii.gz"), f"why {n}") for n in range(4))
    choice = choose_sdc(replace(make_series("j"), unused=unused), ("pepolar", "none"))
    assert choice.reason == (
        "no image fits (sub-01_run-0_epi.nii.gz: why 0; sub-01_run-1_epi.nii.gz: why 1; "
        "and 2 more, each with its reason in SDCImagesNotUsed)"
    )
    assert choice.reason in (choice.warning or "")
    assert choice.unused == unused


def test_pair_is_named_with_what_ties_it() -> None:
    series = replace(make_series("j", reverse=("j-",)), pair_reason="linked by IntendedFor")
    choice = choose_sdc(series, ("pepolar",))
    assert choice.reason == (
        "sub-01_acq-x_dwi.nii.gz (j) and sub-01_acq-reverse_dwi.nii.gz (j-): linked by IntendedFor"
    )


def test_reverse_image_is_not_used_where_correction_is_switched_off() -> None:
    choice = choose_sdc(make_series("j", reverse=("j-",)), ("none",))
    (unused,) = choice.unused
    assert unused.path.name == "sub-01_acq-reverse_dwi.nii.gz"
    assert unused.reason == "switched off on the command line"


def test_none_for_runs_of_one_phase_encoding_is_the_users_choice() -> None:
    assert choose(make_series("j", "j"), "none") == ("none", "")


@pytest.mark.parametrize(("encoding", "word"), [("j", "opposite"), (None, "missing")])
def test_a_missing_pair_is_told(encoding: str | None, word: str) -> None:
    method, warning = choose(make_series(encoding), "pepolar")
    assert method == "none"
    assert word in warning
    assert "temporal lobes" in warning


def test_a_method_that_needs_no_pair_runs_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    single = replace(SDC.load("pepolar"), applies=lambda series: None, uses_pair=False,
                     reason=lambda series: "it needs nothing")  # fmt: skip
    monkeypatch.setitem(sys.modules, f"{SDC.package}.single", SimpleNamespace(ENGINE=single))
    for names in (("single",), ("pepolar", "single", "none")):
        choice = choose_sdc(make_series("j"), names)
        assert (choice.method, choice.reason, choice.warning) == (
            "single",
            "it needs nothing",
            None,
        )
        assert (choice.has_field, choice.uses_pair, choice.unused) == (True, False, ())
    with_pair = make_series("j", reverse=("j-",))
    assert choose_sdc(with_pair, ("pepolar", "single", "none")).method == "pepolar"
    (unused,) = choose_sdc(with_pair, ("single",)).unused
    assert unused.reason == "--sdc single uses no such image"


def make_fieldmap(session: str = "", problem: str = "") -> Fieldmap:
    """A record of a phase difference; there are no files."""
    paths = {s: Path(session, "fmap", f"sub-01_{s}.nii.gz") for s in ("phasediff", "magnitude1")}
    return Fieldmap(
        method="phasediff", paths=paths, entities={}, metadata={}, problem=problem,
        sources=(paths["phasediff"],), magnitude=paths["magnitude1"], echo_times_s=(0.005, 0.0075),
    )  # fmt: skip


AUTO = ("pepolar", "fieldmap", "none")


def test_a_field_map_corrects_what_has_no_pair() -> None:
    runs = tuple(replace(run, path=Path("dwi") / run.path) for run in make_series("j", "j").runs)
    series = DwiSeries(runs=runs, entities={"subject": "01"}, fieldmaps=(make_fieldmap(),))
    choice = choose_sdc(series, AUTO)
    assert (choice.method, choice.warning, choice.unused) == ("fieldmap", None, ())
    assert choice.reason == "sub-01_phasediff.nii.gz, linked to the series"
    assert (choice.uses_fieldmap, choice.uses_pair, choice.has_field) == (True, False, True)
    elsewhere = replace(series, fieldmaps=(make_fieldmap("ses-a"),))
    assert "is not of its session" in (choose_sdc(elsewhere, AUTO).warning or "")


def test_a_pair_comes_before_a_field_map_which_is_named_as_not_needed() -> None:
    series = replace(make_series("j", "j-"), fieldmaps=(make_fieldmap(),))
    choice = choose_sdc(series, AUTO)
    assert choice.method == "pepolar"
    (unused,) = choice.unused
    assert unused.path.name == "sub-01_phasediff.nii.gz"
    assert unused.reason.startswith("not needed: sub-01_acq-x_dwi.nii.gz and")
    assert choose_sdc(series, ("fieldmap",)).method == "fieldmap"
    assert "Leave --sdc to auto, or choose" in (choose_sdc(series, ("none",)).warning or "")


def test_a_field_map_that_could_correct_is_named_where_the_user_chose_none() -> None:
    series = replace(make_series("j"), fieldmaps=(make_fieldmap(),))
    said = "sub-01_phasediff.nii.gz could correct it"
    assert said in (choose_sdc(series, ("none",)).warning or "")
    no_readout = replace(series, runs=(replace(series.runs[0], readout_time_s=None),))
    assert choose_sdc(no_readout, ("none",)).warning is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"readout_time_s": None}, "TotalReadoutTime of sub-01_acq-x_dwi.nii.gz is missing"),
        ({"phase_encoding": None}, "PhaseEncodingDirection of sub-01_acq-x_dwi.nii.gz is missing"),
    ],
)
def test_a_field_in_hz_needs_the_readout_and_the_phase_encoding(change, reason) -> None:
    runs = (replace(make_run("j"), **change),)
    series = DwiSeries(runs=runs, entities={"subject": "01"}, fieldmaps=(make_fieldmap(),))
    choice = choose_sdc(series, AUTO)
    assert choice.method == "none"
    assert reason in choice.reason
    (unused,) = choice.unused
    assert reason in unused.reason


@pytest.mark.parametrize("name", ["topup", "pepolar", "fieldmap"])
def test_a_method_that_was_asked_for_and_is_impossible_is_an_error(name: str) -> None:
    series = replace(make_series("j"), fieldmaps=(make_fieldmap(problem="it has no echo times"),))
    with pytest.raises(ConfigError, match=f"cannot be corrected by --sdc {name}"):
        choose_sdc(series, (name,))


def test_the_t1w_image_corrects_only_where_it_is_asked_for_and_there() -> None:
    auto = choose_engines(denoise="none", sdc="auto", hmc="none", unring=False).sdc
    assert "syn" not in auto
    assert set(auto) <= set(SDC.names)
    series = make_series("j")
    choice = choose_sdc(series, ("syn",), has_t1w=True)
    assert choice.method == "syn"
    assert choice.has_field
    assert "approximate" in str(choice.warning)
    with pytest.raises(ConfigError, match="the participant has no T1w image"):
        choose_sdc(series, ("syn",))
    with pytest.raises(ConfigError, match="PhaseEncodingDirection of"):
        choose_sdc(make_series(None), ("syn",), has_t1w=True)
