"""A mask of lesions in the graph, the plan and the sidecars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.execution.plan_text import describe_plan
from dmri_fm_workflows.outputs.methods import describe_methods
from dmri_fm_workflows.plan.boilerplate import foresee_outputs
from dmri_fm_workflows.stages.participant import init_participant_wf
from tests.dmri_fm_workflows.tiny_series import (
    make_resources,
    plan_for,
    plan_with_anatomy,
    with_template,
)

NAME = "sub-01_label-lesion_roi.nii.gz"


def test_registrations_leave_lesions_out_and_networks_are_told(
    series: DwiSeries, tmp_path: Path
) -> None:
    plan = plan_for(
        series, root=tmp_path, engines=with_template(tmp_path), lesion=NAME, models=("qcg-dti",)
    )
    workflow = init_participant_wf(plan, make_resources(tmp_path))
    anat = workflow.get_node("session_anat_wf")
    bring = anat.get_node("anat_wf.bring_lesions")
    assert Path(bring.inputs.in_file).name == NAME
    graph = anat.get_node("anat_wf")._graph
    edges = graph.get_edge_data(bring, anat.get_node("anat_wf.register_template"))
    assert edges["connect"] == [("out_file", "lesion_file")]
    other = anat.get_node("templates_wf")
    edges = other._graph.get_edge_data(
        other.get_node("inputnode"), other.get_node("register_MNI152NLin2009cAsym")
    )
    assert ("lesion_file", "lesion_file") in edges["connect"]
    sink = anat.get_node("derivatives_wf.meta_ds_lesion_mask").inputs.base
    assert sink["Type"] == "Lesion"
    predict = workflow.get_node("dwi_wf.qcgdti_wf.predict_tensor")
    assert predict.inputs.base["LesionMaskFile"] == NAME
    text = " ".join(describe_plan(plan).split())
    assert f"lesions {NAME}: left out of registrations to templates" in text
    methods = describe_methods(foresee_outputs(plan))
    assert "Lesions were left out of the registration to the template by cost-function" in methods


def test_a_transform_that_is_taken_does_not_claim_it(series: DwiSeries, tmp_path: Path) -> None:
    plan = plan_with_anatomy(series, root=tmp_path, lesion=NAME, models=())
    resources = replace(make_resources(tmp_path), anatomy_root=tmp_path / "fmriprep")
    anat = init_participant_wf(plan, resources).get_node("session_anat_wf.anat_wf")
    bring = anat.get_node("bring_lesions")
    # The mask is on the grid of the image as acquired.
    assert anat._graph.has_edge(anat.get_node("locate_head"), bring)
    assert not anat._graph.has_edge(bring, anat.get_node("register_template"))
    methods = describe_methods(foresee_outputs(plan))
    assert f"A mask of lesions was given ({NAME}, not used by the transform" in methods
    assert "cost-function" not in methods


@pytest.mark.parametrize("lesion", [None, NAME])
def test_the_mask_is_written_only_where_there_is_one(
    series: DwiSeries, tmp_path: Path, lesion: str | None
) -> None:
    plan = plan_for(series, root=tmp_path, lesion=lesion, models=())
    names = init_participant_wf(plan, make_resources(tmp_path)).list_node_names()
    assert any("ds_lesion_mask" in name for name in names) == (lesion is not None)
