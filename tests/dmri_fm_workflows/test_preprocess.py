"""The graph of the preprocess stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Node, Workflow

from dmri_fm.bids import DwiRun, DwiSeries, Session
from dmri_fm.gradient_files import read_raw_gradients, write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.simulate.protocol import SKARE_DIRECTIONS
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.engines import Engines
from dmri_fm_workflows.plan import SeriesPlan, plan_series
from dmri_fm_workflows.preprocess import init_preprocess_wf, init_sdc_wf

COMMON = {"omp_nthreads": 1, "mem_gb": 0.1}


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
    plan = plan_for(series, tmp_path, Engines("mppca", "topup", hmc))
    workflow = init_preprocess_wf(plan=plan, **COMMON)
    node, output = source(workflow, "outputnode", "denoised_file")
    assert (node.name, output) == ("merge_runs", "dwi_file")
    assert source(workflow, "outputnode", "dwi_file")[0].name == "hmc_wf"


@pytest.mark.parametrize(("method", "name"), [("pepolar", "estimate_field"), ("topup", None)])
def test_the_reverse_image_with_b0_is_chosen(
    tmp_path: Path, method: str, name: str | None
) -> None:
    run = make_run(tmp_path, "acq-98_dir-AP", "j-")
    useless = make_run(tmp_path, "acq-97_dir-PA", "j", has_b0=False)
    usable = make_run(tmp_path, "acq-99_dir-PA", "j", readout_time_s=None)
    series = make_series(run, reverse=(useless, usable))
    workflow = init_sdc_wf(method=method, series=series, **COMMON)
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
    workflow = init_sdc_wf(method="pepolar", series=series, **COMMON)
    inputs = workflow.get_node("estimate_field").inputs
    assert (inputs.up_encoding, inputs.down_encoding) == ("j-", "j")
    assert not isdefined(inputs.epi_file)


@pytest.mark.parametrize(("sdc", "expected"), [("pepolar", [0.04]), ("none", [])])
def test_the_readout_of_the_reverse_image_reaches_the_merge(
    tmp_path: Path, sdc: str, expected: list[float]
) -> None:
    run = make_run(tmp_path, "dir-AP", "j-", readout_time_s=None)
    reverse = make_run(tmp_path, "acq-99_dir-PA", "j", readout_time_s=0.04)
    series = make_series(run, reverse=(reverse,))
    plan = plan_for(series, tmp_path, Engines("none", sdc, "none"))
    workflow = init_preprocess_wf(plan=plan, **COMMON)
    assert workflow.get_node("merge_runs").inputs.reverse_readouts_s == expected
