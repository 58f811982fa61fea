"""Engines of the denoising, distortion and motion stages."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from nipype.pipeline.engine import Workflow

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.stages import denoise, hmc, sdc
from dmri_fm_workflows.stages.sdc.choice import choose_sdc
from tests.dmri_fm_workflows.tiny_series import (
    ENGINES,
    make_resources,
    plan_for,
)


def test_topup_takes_a_grid_of_odd_size(series: DwiSeries, tmp_path: Path) -> None:
    def config(*shape: int) -> str:
        runs = tuple(replace(run, shape=(*shape, 3)) for run in series.runs)
        (plan,) = plan_for(replace(series, runs=runs), root=tmp_path, engines=ENGINES[3]).series
        workflow = sdc.load("topup").builder(plan, make_resources(tmp_path))
        return str(workflow.get_node("topup").inputs.config)

    assert config(4, 4, 4) == "b02b0.cnf"
    assert config(4, 4, 3) == "b02b0_1.cnf"


def test_uncorrected_runs_of_unlike_phase_encoding_are_warned_of(series: DwiSeries) -> None:
    choice = choose_sdc(series, "none")
    assert choice.method == "none"
    assert "j, j-" in (choice.warning or "")
    assert choose_sdc(replace(series, runs=series.runs[:1]), "none").warning is None


def fields_into(workflow: Workflow, target: str) -> set[str]:
    """Return the inputs of a node that are fed from the workflow's inputnode."""
    graph = workflow._graph
    source, node = workflow.get_node("inputnode"), workflow.get_node(target)
    data = graph.get_edge_data(source, node) or {"connect": []}
    return {field for _, field in data["connect"]}


@pytest.mark.parametrize("package", [denoise, sdc, hmc])
def test_every_engine_is_a_module_with_its_record(package: ModuleType) -> None:
    for name in package.NAMES:
        engine = package.load(name)
        assert engine.name == name
        assert engine.methods


@pytest.mark.parametrize("name", [*sdc.NAMES, "another"])
def test_every_method_with_a_field_hands_it_to_what_corrects_motion(
    name: str, series: DwiSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that is added is connected by what it says of itself."""
    another = replace(sdc.load("pepolar"), name="another")
    monkeypatch.setitem(sys.modules, f"{sdc.__name__}.another", SimpleNamespace(ENGINE=another))
    expected = {
        "topup": {"in_topup_fieldcoef", "in_topup_movpar"},
        "field": {"field_file"},
        None: set(),
    }[sdc.load(name).gives]
    resources = make_resources(tmp_path)

    def motion_wf(method: str) -> Workflow:
        engines = Engines("mppca", name, method)
        (plan,) = plan_for(series, root=tmp_path, engines=engines).series
        return hmc.load(method).builder(plan, resources)

    field_inputs = {"in_topup_fieldcoef", "in_topup_movpar", "field_file"}
    assert fields_into(motion_wf("eddy"), "eddy") & field_inputs == expected
    builtin = fields_into(motion_wf("builtin"), "estimate_motion")
    assert ("field_file" in builtin) == bool(expected)
