"""Engines of the denoising, distortion and motion stages."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from nipype.pipeline.engine import Workflow

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.engines import DENOISE, HMC, SDC
from dmri_fm_workflows.engines.base import StageEngines
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.plan.sdc import choose_sdc
from dmri_fm_workflows.stages.base import MERGED_FILES, Engine, field_names
from dmri_fm_workflows.stages.participant import ANAT_FIELDS
from dmri_fm_workflows.stages.sdc.engine import FIELDS
from tests.dmri_fm_workflows.tiny_series import (
    ENGINES,
    make_resources,
    plan_for,
)


def test_topup_takes_a_grid_of_odd_size(series: DwiSeries, tmp_path: Path) -> None:
    def config(*shape: int) -> str:
        runs = tuple(replace(run, shape=(*shape, 3)) for run in series.runs)
        (plan,) = plan_for(replace(series, runs=runs), root=tmp_path, engines=ENGINES[3]).series
        workflow = SDC.load("topup").builder(plan, make_resources(tmp_path))
        return str(workflow.get_node("topup").inputs.config)

    assert config(4, 4, 4) == "b02b0.cnf"
    assert config(4, 4, 3) == "b02b0_1.cnf"


def test_uncorrected_runs_of_unlike_phase_encoding_are_warned_of(series: DwiSeries) -> None:
    choice = choose_sdc(series, ("none",))
    assert choice.method == "none"
    assert "j, j-" in (choice.warning or "")
    alone = replace(series, runs=series.runs[:1], fieldmaps=())
    assert choose_sdc(alone, ("none",)).warning is None


def fields_into(workflow: Workflow, target: str) -> set[str]:
    """Return the inputs of a node that are fed from other nodes."""
    edges = workflow._graph.in_edges(workflow.get_node(target), data=True)
    return {field for _, _, data in edges for _, field in data["connect"]}


@pytest.mark.parametrize("engines", [DENOISE, SDC, HMC])
@pytest.mark.parametrize("sloppy", [True, False])
def test_every_engine_is_a_module_whose_name_in_sidecars_has_a_sentence(
    engines: StageEngines[Engine], series: DwiSeries, tmp_path: Path, sloppy: bool
) -> None:
    plan = plan_for(series, root=tmp_path, sloppy=sloppy).series[0]
    for name, text in engines.texts.items():
        stated = engines.load(name).describe(plan)
        assert any(re.match(method.pattern, stated) for method in text.methods), stated


@pytest.mark.parametrize("name", SDC.names)
def test_every_susceptibility_method_offers_the_same_fields(
    name: str, series: DwiSeries, tmp_path: Path
) -> None:
    engines = Engines("none", (name,), "none")
    (plan,) = plan_for(series, root=tmp_path, engines=engines).series
    engine = SDC.load(name)
    workflow = engine.builder(plan, make_resources(tmp_path), name="sdc_wf")
    assert set(field_names(workflow, "outputnode")) == set(FIELDS[engine.gives])
    of_anatomy = ANAT_FIELDS if engine.needs_t1w else ()
    assert set(field_names(workflow, "inputnode")) <= {*MERGED_FILES, *of_anatomy}


@pytest.mark.parametrize("name", [*SDC.names, "another"])
def test_every_method_with_a_field_hands_it_to_what_corrects_motion(
    name: str, series: DwiSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that is added is connected by what it says of itself."""
    another = replace(SDC.load("pepolar"))
    monkeypatch.setitem(sys.modules, f"{SDC.package}.another", SimpleNamespace(ENGINE=another))
    expected = {
        "topup": {"in_topup_fieldcoef", "in_topup_movpar"},
        "field": {"field_file"},
        None: set(),
    }[SDC.load(name).gives]
    resources = make_resources(tmp_path)

    def motion_wf(method: str) -> Workflow:
        engines = Engines("mppca", (name,), method)
        (plan,) = plan_for(series, root=tmp_path, engines=engines).series
        return HMC.load(method).builder(plan, resources)

    field_inputs = {"in_topup_fieldcoef", "in_topup_movpar", "field_file"}
    assert fields_into(motion_wf("eddy"), "eddy") & field_inputs == expected
    builtin = fields_into(motion_wf("builtin"), "estimate_motion")
    assert ("field_file" in builtin) == bool(expected)
