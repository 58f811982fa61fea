"""The graph of the preprocess stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Node, Workflow

from dmri_fm.gradient_files import read_raw_gradients, write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.denoise import name_gibbs_removal, unring
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.bids import DwiRun, DwiSeries, Session
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.engines import SDC
from dmri_fm_workflows.execution.plan_text import stage_lines
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.plan.decide import plan_series
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.stages.base import RUN_FILES, Resources
from dmri_fm_workflows.stages.denoise.engine import init_dipy_wf
from dmri_fm_workflows.stages.merge import init_read_wf
from dmri_fm_workflows.stages.participant import init_dwi_wf
from dmri_fm_workflows.stages.quality import init_gradient_check_wf

RESOURCES = Resources(bids_root=Path("/raw"), output_dir=Path("/out"), omp_nthreads=1)


def make_run(
    folder: Path,
    name: str,
    phase_encoding: str | None,
    *,
    readout_time_s: float | None = 0.05,
    has_b0: bool = True,
) -> DwiRun:
    """A record of a run whose image is empty."""
    files = [folder / f"sub-01_{name}_dwi{e}" for e in (".nii.gz", ".bval", ".bvec")]
    files[0].touch()
    gtab = GradientTable([0, *[1000] * 6], np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    write_gradients(gtab, files[1], files[2], affine=np.eye(4))
    return DwiRun(
        path=files[0],
        bval=files[1],
        bvec=files[2],
        entities={"subject": "01"},
        metadata={},
        shape=(4, 4, 4, 7),
        affine=np.eye(4),
        phase_encoding=phase_encoding,
        readout_time_s=readout_time_s,
        gradients=read_raw_gradients(files[1], files[2], affine=np.eye(4)),
        has_b0=has_b0,
    )


def make_series(*runs: DwiRun, reverse: tuple[DwiRun, ...] = ()) -> DwiSeries:
    return DwiSeries(runs=runs, entities={"subject": "01"}, reverse=reverse)


def plan_for(series: DwiSeries, folder: Path, engines: Engines) -> SeriesPlan:
    config = RunConfig(folder, folder / "out")
    return plan_series(config, series, Session(None, (), (series,)), engines)


def source(workflow: Workflow, target: str, field: str) -> tuple[Node, str]:
    """Return the node and the output that feed a field."""
    node = workflow.get_node(target)
    ((found, output),) = [
        (found, output)
        for found, _, data in workflow._graph.in_edges(node, data=True)
        for output, name in data["connect"]
        if name == field
    ]
    return found, output


@pytest.mark.parametrize("hmc", ["eddy", "builtin", "none"])
def test_denoised_file_is_never_resampled(tmp_path: Path, hmc: str) -> None:
    series = make_series(make_run(tmp_path, "dir-PA", "j"), make_run(tmp_path, "dir-AP", "j-"))
    plan = plan_for(series, tmp_path, Engines("mppca", ("topup",), hmc))
    workflow = init_dwi_wf(plan, replace(RESOURCES, bids_root=tmp_path))
    assert source(workflow, "hmc_wf", "inputnode.denoised_file")[0].name == "merge_wf"
    merge_wf = workflow.get_node("merge_wf")
    node, output = source(merge_wf, "outputnode", "denoised_file")
    assert (node.name, output) == ("merge_runs", "dwi_file")
    assert source(workflow, "normalise_wf", "inputnode.dwi_file")[0].name == "hmc_wf"


@pytest.mark.parametrize(
    ("options", "engine", "refused"),
    [
        ({}, "mppca", []),
        ({"denoise": "mppca"}, "mppca", ["--denoise mppca"]),
        ({"denoise": "dwidenoise"}, "dwidenoise", ["--denoise dwidenoise"]),
        ({"denoise": "patch2self"}, "patch2self", []),
        ({"unring": True}, "mppca", ["--unring"]),
        ({"denoise": "mppca", "unring": True}, "mppca", ["--denoise mppca", "--unring"]),
    ],
)
def test_zero_filled_images_are_refused_for_what_the_user_named(
    tmp_path: Path, options: dict, engine: str, refused: list[str]
) -> None:
    series = make_series(make_run(tmp_path, "dir-PA", "j"))
    config = RunConfig(tmp_path, tmp_path / "out", **options)
    engines = Engines(engine, ("none",), "none")
    plan = plan_series(config, series, Session(None, (), (series,)), engines)
    assert init_read_wf(plan, RESOURCES).get_node("validate").inputs.unfit_if_filled == refused


def test_a_repair_is_suggested_for_each_run(tmp_path: Path) -> None:
    first = make_run(tmp_path, "run-1", "j")
    first = replace(first, metadata={"StationName": "MR1"}, entities={"acquisition": "a"})
    for runs in ((first,), (first, make_run(tmp_path, "run-2", "j"))):
        plan = plan_for(make_series(*runs), tmp_path, Engines("none", ("none",), "none"))
        check = init_gradient_check_wf(plan, RESOURCES).get_node("check_gradients")
        known = {"Orientation": "RAS", "StationName": "MR1", "acquisition": "a"}
        other = {"Orientation": "RAS", "acquisition": ""}
        assert check.inputs.conditions == [known, other][: len(runs)]
        assert check.inputs.source_bvec_files == [str(run.bvec) for run in runs]


def test_sidecars_tell_the_slice_axis(tmp_path: Path) -> None:
    plain = make_run(tmp_path, "run-1", "j")
    turned = replace(plain, metadata={"SliceEncodingDirection": "i-"})
    odd = replace(plain, metadata={"SliceEncodingDirection": ["x"]})
    plan = plan_for(make_series(plain, turned, odd), tmp_path, Engines("none", ("none",), "none"))
    validate = init_read_wf(plan, RESOURCES).get_node("validate")
    assert validate.inputs.slice_axis == [2, 0, 2]


def test_a_zero_filled_run_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    """One run was measured on half of its matrix, the other on all of it."""
    rng = np.random.default_rng(0)
    bright = np.zeros((16, 16, 6, 1))
    bright[3:13, 3:13] = 100
    voxels = bright + rng.normal(0, 5, (16, 16, 6, 7))
    k = np.fft.fftshift(np.fft.fftn(voxels, axes=(0, 1)), axes=(0, 1))
    k = np.pad(k, [(8, 8), (8, 8), (0, 0), (0, 0)])
    filled = np.abs(np.fft.ifftn(np.fft.ifftshift(k, axes=(0, 1)), axes=(0, 1)))
    whole = np.repeat(np.repeat(bright, 2, axis=0), 2, axis=1) + rng.normal(0, 5, (32, 32, 6, 7))
    runs = []
    for name, data in (("run-1", filled), ("run-2", whole), ("run-3", whole[:8, :8])):
        run = make_run(tmp_path, name, "j")
        save_image(np.abs(data), np.eye(4), run.path)
        runs.append(replace(run, shape=data.shape))
    plan = plan_for(make_series(*runs), tmp_path, Engines("mppca", ("none",), "none"))
    found = {}
    for builder in (init_read_wf, init_dipy_wf):
        workflow = builder(plan, RESOURCES)
        workflow.base_dir = str(tmp_path / builder.__name__)
        if builder is init_dipy_wf:
            inputs = workflow.get_node("inputnode").inputs
            for field, output in {**RUN_FILES, "run_kspace_extents": "kspace_extent"}.items():
                setattr(inputs, field, getattr(found["validate"], output))
        found |= {node.name: node.result.outputs for node in workflow.run().nodes()}
    extents = found["validate"].kspace_extent
    assert [e if e is None else e < 0.85 for e in extents] == [True, False, None]
    methods = found["collect_records"].record["Denoising"].split("; ")
    assert [m.split(" (")[0] for m in methods] == ["none", "MP-PCA"]
    read = [read_array(load_image(path)) for path in found["denoise"].out_file]
    np.testing.assert_allclose(read[0], np.abs(filled).astype(np.float32))
    assert not np.allclose(read[1], np.abs(whole).astype(np.float32))


def test_gibbs_ringing_is_removed_after_denoising_and_both_are_handed_on(tmp_path: Path) -> None:
    k = np.zeros((24, 24, 2, 7))
    k[6:18, 8:16] = 100
    ringing = np.fft.fftshift(np.fft.fftn(k, axes=(0, 1)), axes=(0, 1))[4:20, 4:20]
    ringing = np.abs(np.fft.ifftn(np.fft.ifftshift(ringing, axes=(0, 1)), axes=(0, 1)))
    run = make_run(tmp_path, "dir-PA", "j")
    save_image(ringing, np.eye(4), run.path)
    plan = plan_for(make_series(run), tmp_path, Engines("none", ("none",), "none"))
    workflow = init_dipy_wf(replace(plan, unring=True), RESOURCES)
    assert source(workflow, "outputnode", "ringing_files")[0].name == "denoise"
    assert source(workflow, "outputnode", "denoised_files")[0].name == "unring"
    workflow.base_dir = str(tmp_path / "work")
    inputs = workflow.get_node("inputnode").inputs
    inputs.run_dwi_files, inputs.run_kspace_extents = [str(run.path)], [None]
    inputs.run_bval_files, inputs.run_bvec_files = [str(run.bval)], [str(run.bvec)]
    found = {node.name: node.result.outputs for node in workflow.run().nodes()}
    (before,), (after,) = found["denoise"].out_file, found["unring"].out_file
    np.testing.assert_allclose(read_array(load_image(before)), ringing, rtol=1e-5)
    np.testing.assert_allclose(read_array(load_image(after)), unring(ringing), rtol=1e-4)
    assert found["collect_records"].record["GibbsCorrection"] == name_gibbs_removal()


@pytest.mark.parametrize(("method", "name"), [("pepolar", "estimate_field"), ("topup", None)])
def test_the_reverse_image_with_b0_is_chosen(
    tmp_path: Path, method: str, name: str | None
) -> None:
    run = make_run(tmp_path, "acq-98_dir-AP", "j-")
    useless = make_run(tmp_path, "acq-97_dir-PA", "j", has_b0=False)
    usable = make_run(tmp_path, "acq-99_dir-PA", "j", readout_time_s=None)
    series = make_series(run, reverse=(useless, usable))
    plan = plan_for(series, tmp_path, Engines("none", (method,), "none"))
    workflow = SDC.load(method).builder(plan, RESOURCES)
    inputs = workflow.get_node(name or "write_fsl_files").inputs
    assert inputs.epi_file == str(usable.path)
    assert inputs.epi_bval_file == str(usable.bval)
    assert inputs.epi_bvec_file == str(usable.bvec)
    assert (inputs.epi_phase_encoding, inputs.epi_readout_s) == ("j", 0.05)


def test_the_pair_may_start_after_runs_that_have_none(tmp_path: Path) -> None:
    series = make_series(
        make_run(tmp_path, "run-1", None),
        make_run(tmp_path, "run-2", "i"),
        make_run(tmp_path, "run-3", "j", has_b0=False),
        make_run(tmp_path, "run-4", "j-"),
        make_run(tmp_path, "run-5", "j"),
    )
    plan = plan_for(series, tmp_path, Engines("none", ("pepolar",), "none"))
    workflow = SDC.load("pepolar").builder(plan, RESOURCES)
    inputs = workflow.get_node("estimate_field").inputs
    assert (inputs.up_encoding, inputs.down_encoding) == ("j-", "j")
    assert not isdefined(inputs.epi_file)


@pytest.mark.parametrize(
    ("hmc", "said"),
    [
        ("eddy", "by eddy on the grid of the series; then one interpolation into each"),
        ("builtin", "one interpolation into each space; ACPC at"),
        ("none", "one interpolation into each space; ACPC at"),
    ],
)
def test_the_plan_says_who_interpolates(tmp_path: Path, hmc: str, said: str) -> None:
    plan = plan_for(make_series(make_run(tmp_path, "dir-PA", "j")), tmp_path,
                    Engines("none", ("none",), hmc))  # fmt: skip
    assert dict(stage_lines(plan))["resampling"].startswith(said)


OWN, REVERSE = "sub-01_dir-AP_dwi.nii.gz", "sub-01_acq-99_dir-PA_dwi.nii.gz"


@pytest.mark.parametrize(
    ("own", "reverse", "sdc", "readouts_s", "assumed"),
    [
        (None, 0.04, "pepolar", (0.04, 0.04), {OWN: 0.04}),
        (None, 0.04, "none", (0.05,), {OWN: 0.05}),
        (0.04, None, "pepolar", (0.04, 0.04), {REVERSE: 0.04}),
        (0.04, None, "none", (0.04,), {}),
        (0.05, 0.04, "pepolar", (0.05, 0.04), {}),
        (None, None, "pepolar", (0.05, 0.05), {OWN: 0.05, REVERSE: 0.05}),
    ],
)
def test_only_readouts_that_no_sidecar_states_are_assumed(
    tmp_path: Path,
    own: float | None,
    reverse: float | None,
    sdc: str,
    readouts_s: tuple[float, ...],
    assumed: dict[str, float],
) -> None:
    """Plan, merge and correction of distortion take the same times."""
    run = make_run(tmp_path, "dir-AP", "j-", readout_time_s=own)
    other = make_run(tmp_path, "acq-99_dir-PA", "j", readout_time_s=reverse)
    series = make_series(run, reverse=(other,))
    plan = plan_for(series, tmp_path, Engines("none", (sdc,), "none"))
    assert plan.readouts_s == readouts_s
    workflow = init_dwi_wf(plan, replace(RESOURCES, bids_root=tmp_path))
    inputs = workflow.get_node("merge_wf.merge_runs").inputs
    assert inputs.readouts_s == [readouts_s[0]]
    assert inputs.assumed_readouts_s == assumed
    if sdc == "pepolar":
        field = workflow.get_node("sdc_wf.estimate_field").inputs
        assert field.epi_readout_s == readouts_s[1]
    lines = " ".join(text for _, text in stage_lines(plan))
    assert lines.count("(assumed)") == len(assumed)
    for name, readout_s in assumed.items():
        said = lines.partition(name)[2].partition(")")[0]
        assert said.endswith(f"readout {readout_s:g} s (assumed")


def test_the_reverse_image_takes_the_readout_of_the_run_that_it_opposes(tmp_path: Path) -> None:
    runs = (
        make_run(tmp_path, "run-1", "i", readout_time_s=0.03),
        make_run(tmp_path, "run-2", "j-", readout_time_s=0.06),
    )
    reverse = make_run(tmp_path, "acq-99_dir-PA", "j", readout_time_s=None)
    series = make_series(*runs, reverse=(reverse,))
    plan = plan_for(series, tmp_path, Engines("none", ("pepolar",), "none"))
    assert plan.readouts_s == (0.03, 0.06, 0.06)
    assert plan.assumed_readouts_s == {REVERSE: 0.06}
