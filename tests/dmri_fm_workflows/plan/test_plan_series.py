"""The plan of a series in memory: networks, mask, reasons against maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.gradient_files import read_raw_gradients, write_gradients
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.coregistration import COREGISTRATION_METHOD
from dmri_fm.normalise.registration import name_normalisation
from dmri_fm.preprocess.mask import name_mask
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm_workflows.bids import DwiRun, DwiSeries, Session
from dmri_fm_workflows.bids.ages import Age
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.plan_text import (
    describe_plan,
    list_omissions,
    stage_lines,
)
from dmri_fm_workflows.plan import (
    ParticipantPlan,
    SeriesPlan,
    SessionPlan,
)
from dmri_fm_workflows.plan.decide import plan_series
from dmri_fm_workflows.plan.engines import Engines

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])


def make_series(folder: Path, bvals: list[float], bvecs: np.ndarray) -> DwiSeries:
    """A series that is in memory but for its gradient files."""
    gtab = GradientTable(bvals, bvecs)
    bval, bvec = folder / "x.bval", folder / "x.bvec"
    write_gradients(gtab, bval, bvec, affine=AFFINE)
    run = DwiRun(
        path=folder / "sub-01_dwi.nii.gz", bval=bval, bvec=bvec, entities={"subject": "01"},
        metadata={}, shape=(4, 4, 3, len(gtab)), affine=AFFINE, phase_encoding="j",
        readout_time_s=0.05, gradients=read_raw_gradients(bval, bvec, affine=AFFINE),
    )  # fmt: skip
    return DwiSeries(runs=(run,), entities={"subject": "01"})


def plan(folder: Path, series: DwiSeries, t1w: tuple[Path, ...] = ()) -> SeriesPlan:
    config = RunConfig(folder, folder / "out")
    session = Session("a", t1w, (series,))
    return plan_series(config, series, session, Engines("none", ("none",), "none"))


def test_tensor_and_network_are_planned_by_their_volumes(tmp_path: Path) -> None:
    bvecs = np.vstack([np.zeros(3), SKARE_DIRECTIONS, SKARE_DIRECTIONS])
    found = plan(tmp_path, make_series(tmp_path, [0, *[1000] * 6, *[3000] * 6], bvecs))
    assert found.tensor_volumes == tuple(range(7))
    assert found.six is not None
    assert (found.six.bval, found.six.index) == (1000, tuple(range(1, 7)))
    text = " ".join(describe_plan(ParticipantPlan(
        label="01",
        sessions=(SessionPlan(label="a", t1w=None, unused_t1w=(), normalisation="affine",
                              sloppy=False, series=(found,)),),
    )).split())  # fmt: skip
    assert "squares on 7 volumes, b=0 and b = 1000 (6 directions)" in text
    assert "six of 6 directions at b = 1000" in text
    assert f"volumes 1 2 3 4 5 6, counted from 0, {found.six.condition_number:.2f})" in text
    assert (
        "input not denoised, interpolated once into ACPC age unknown; maps are experimental if"
        in text
    )
    assert "noise map MP-PCA" in text
    assert "drope: all 12 directions" in text
    assert "gradient check b-vectors" in text
    assert ("own weights" in text, "b-value check" in text) == (False, False)


def test_an_encoder_that_no_shell_suffices_for_is_left_out_and_named(tmp_path: Path) -> None:
    bvecs = np.vstack([np.zeros(3), SKARE_DIRECTIONS])
    own = {"artefact-unet": tmp_path / "own.safetensors"}
    own["artefact-unet"].touch()
    config = RunConfig(tmp_path, tmp_path / "out", models=("artefact-unet", "drope"), weights=own)
    series = make_series(tmp_path, [0, *[1000] * 6], bvecs)
    session = Session("a", (), (series,))
    found = plan_series(config, series, session, Engines("none", ("none",), "none"))
    assert found.encoders == ("drope",)
    (warning,) = [w for w in found.warnings if "artefact-unet" in w]
    assert "no shell has 15 directions" in warning
    (omitted,) = [o for o in list_omissions(found) if "artefact-unet" in o]
    assert omitted.startswith("artefact-unet does not run")


def test_the_mask_of_a_whole_head_and_of_a_slab_is_described(tmp_path: Path) -> None:
    series = make_series(tmp_path, [0, 1000], np.eye(3)[:2])
    (run,) = series.runs
    whole = replace(series, runs=(replace(run, shape=(64, 64, 48, 2)),))
    found = plan(tmp_path, whole)
    assert (found.is_slab, found.mask_name) == (False, name_mask("b0"))
    assert f"{name_mask('b0')}; one of them alone where" in dict(stage_lines(found))["mask"]
    assert "too short" not in dict(stage_lines(found))["mask"]
    slab = plan(tmp_path, replace(series, runs=(replace(run, shape=(64, 64, 12, 2)),)))
    assert slab.is_slab
    assert "too short for a whole head" in dict(stage_lines(slab))["mask"]
    assert set(found.methods) >= {found.mask_name, found.normalisation_name}


def test_weights_of_ones_own_are_named(tmp_path: Path) -> None:
    bvecs = np.vstack([np.zeros(3), SKARE_DIRECTIONS])
    series = make_series(tmp_path, [0, *[1000] * 6], bvecs)
    weights = {m: tmp_path / f"{m}.safetensors" for m in ("drope", "qcg-dti")}
    found = dict(stage_lines(replace(plan(tmp_path, series), weights=weights)))
    assert found["features"].endswith(f"own weights {weights['drope']}")
    assert found["network"].endswith(f"own weights {weights['qcg-dti']}")


def test_the_look_at_the_ventricles_is_planned_where_lengths_are_in_doubt(tmp_path: Path) -> None:
    bvecs = np.vstack([np.zeros(3), SKARE_DIRECTIONS])
    series = make_series(tmp_path, [0, *[1000] * 6], bvecs)
    (run,) = series.runs
    run.bvec.write_text("\n".join(" ".join(f"{2 * x:.6f}" for x in row) for row in bvecs.T))
    raw_gradients = read_raw_gradients(
        run.bval, run.bvec, affine=AFFINE, options=GradientOptions("none")
    )
    longer = replace(series, runs=(replace(run, gradients=raw_gradients),))
    found = plan(tmp_path, longer)
    assert found.length_scaling is not None
    assert dict(stage_lines(found))["b-value check"].startswith("MD of the ventricles")


@pytest.mark.parametrize(
    ("years", "hmc", "reasons"),
    [
        (30.0, "none", []),
        (None, "none", []),
        (0.5, "none", ["never primary below 2 years of age"]),
        (30.0, "eddy", ["the input, unlike training data, was denoised by MP-PCA"]),
    ],
)
def test_reasons_for_experimental_maps_are_planned(
    tmp_path: Path, years: float | None, hmc: str, reasons: list[str]
) -> None:
    bvecs = np.vstack([np.zeros(3), SKARE_DIRECTIONS])
    series = make_series(tmp_path, [0, *[1000] * 6], bvecs)
    found = replace(
        plan(tmp_path, series), age=Age(years), engines=Engines("mppca", ("none",), hmc)
    )
    unrung = replace(found, unring=True)
    assert "ringing" in unrung.network_input or hmc == "eddy"
    assert unrung.network_reasons[0].startswith("the input, unlike training data, was ")
    assert len(unrung.network_reasons) == len(reasons) + (hmc != "eddy")
    assert len(found.network_reasons) == len(reasons)
    for stated, expected in zip(found.network_reasons, reasons, strict=True):
        assert stated.startswith(expected)
    lines = list(stage_lines(found))
    assert [text for label, text in lines if label == "  experimental"] == [*found.network_reasons]
    assert "noise map" in dict(lines)  # an output, whoever reads it
    assert found.reads_noise_maps == (hmc != "eddy")
    ages = {None: "unknown", 0.5: "below 2 years", 30.0: "at least 2 years"}
    assert found.age_check == ages[years]


def test_an_age_that_is_not_understood_is_a_reason(tmp_path: Path) -> None:
    series = make_series(tmp_path, [0, *[1000] * 6], np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    found = replace(plan(tmp_path, series), age=Age(40.0, "a column 'birth_age'"))
    assert found.network_reasons == ("a column 'birth_age'",)
    assert found.age_check == "unclear"


def test_a_network_without_six_directions_is_left_out_with_its_reason(tmp_path: Path) -> None:
    half = np.vstack([np.zeros(3), SKARE_DIRECTIONS])
    found = plan(tmp_path, make_series(tmp_path, [0, *[1000] * 3, *[1500] * 3], half))
    assert found.has_tensor
    assert (found.six, found.networks) == (None, ())
    assert any("the tensor network is left out" in text for text in found.warnings)
    assert any("qcg-dti does not run: no shell" in text for text in list_omissions(found))


def test_ill_conditioned_six_are_warned_of(tmp_path: Path) -> None:
    flat = SKARE_DIRECTIONS * [1, 1, 0.35]
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    found = plan(tmp_path, make_series(tmp_path, [0, *[1000] * 6], np.vstack([np.zeros(3), flat])))
    assert found.networks == ("qcg-dti",)
    assert any("condition number" in text and "below 3" in text for text in found.warnings)


def test_the_t1w_image_and_its_session_are_named(tmp_path: Path) -> None:
    bvecs = np.vstack([np.zeros(3), SKARE_DIRECTIONS])
    t1w = tmp_path / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_T1w.nii.gz"
    other = t1w.with_name("sub-01_ses-b_run-2_T1w.nii.gz")
    found = plan(tmp_path, make_series(tmp_path, [0, *[1000] * 6], bvecs), (t1w, other))
    text = " ".join(describe_plan(ParticipantPlan(
        label="01",
        sessions=(SessionPlan(label="a", t1w=t1w, unused_t1w=(other,), normalisation="affine",
                              sloppy=False, series=(found,)),),
    )).split())  # fmt: skip
    affine = name_normalisation("affine")
    assert "ses-a: T1w image sub-01_ses-b_T1w.nii.gz: bias" in text
    assert "not used sub-01_ses-b_run-2_T1w.nii.gz: one T1w image is used" in text
    assert f"brain mask by {name_mask('t1w')}, ACPC; to the template: {affine}" in text
    assert (
        f"b=0 reference to sub-01_ses-b_T1w.nii.gz of ses-b: {COREGISTRATION_METHOD}; to the "
        f"template by that image's: {affine}"
    ) in text
