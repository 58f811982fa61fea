"""A T2w image as the anatomical reference of a participant without a T1w image."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.execution.plan_text import describe_plan
from dmri_fm_workflows.outputs.methods import describe_methods
from dmri_fm_workflows.plan import ParticipantPlan
from dmri_fm_workflows.plan.boilerplate import foresee_outputs
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.stages.participant import init_participant_wf
from dmri_fm_workflows.stages.table import list_session_stages
from tests.dmri_fm_workflows.tiny_series import make_resources, plan_for


@pytest.fixture
def plan(series: DwiSeries, tmp_path: Path) -> ParticipantPlan:
    return plan_for(series, root=tmp_path, contrast="T2w", models=())


def test_outputs_carry_the_name_of_the_contrast(plan: ParticipantPlan) -> None:
    outputs = [o for stage in list_session_stages(plan.sessions[0]) for o in stage.outputs]
    paths = [str(o.path({"subject": "01"}, normalisation="affine")) for o in outputs]
    stem = "sub-01/anat/sub-01"
    assert [p for p in paths if "ACPC" in p and "MNI" not in p] == [
        f"{stem}_space-ACPC_desc-preproc_T2w.nii.gz",
        f"{stem}_space-ACPC_desc-brain_mask.nii.gz",
        f"{stem}_from-T2w_to-ACPC_mode-image_xfm.txt",
        f"{stem}_from-orig_to-ACPC_mode-image_xfm.txt",
        f"{stem}_from-ACPC_to-T2w_mode-image_xfm.txt",
        # Where there is a mask of lesions.
        f"{stem}_space-ACPC_label-lesion_mask.nii.gz",
    ]
    assert not any("dseg" in p or "probseg" in p for p in paths)


def test_its_mask_is_drawn_by_the_methods_of_a_t2_weighted_image(
    plan: ParticipantPlan, tmp_path: Path
) -> None:
    """And does not count for the mask of the series, which names T1w masks."""
    workflow = init_participant_wf(plan, make_resources(tmp_path))
    mask = workflow.get_node("session_anat_wf.anat_wf.mask_t1w")
    assert mask.inputs.contrast == "b0"
    (series,) = plan.series
    assert "T1w" not in series.mask_name
    assert not any("bring_t1w_mask" in name for name in workflow.list_node_names())
    coregister = workflow.get_node("dwi_wf.normalise_wf.coregister_t1w")
    assert coregister.inputs.contrast == "T2w"
    reference = workflow.get_node("dwi_wf.derivatives_wf.meta_ds_preproc_dwi_acpc").inputs.base
    assert reference["SpatialReference"].endswith("_space-ACPC_desc-preproc_T2w.nii.gz")
    sources = workflow.get_node("dwi_wf.derivatives_wf.meta_ds_dwi_xfm_dwiref_ACPC").inputs.base
    assert any(s.endswith("from-T2w_to-ACPC_mode-image_xfm.txt") for s in sources["Sources"])


def test_plan_and_methods_text_say_so(plan: ParticipantPlan) -> None:
    text = " ".join(describe_plan(plan).split())
    assert "T2w image sub-01_T2w.nii.gz: bias correction" in text
    assert "tissue not segmented: the image is T2w" in text
    assert "b=0 reference to sub-01_T2w.nii.gz" in text
    methods = describe_methods(foresee_outputs(plan))
    assert "Without a T1w image, the T2w image was the anatomical reference." in methods
    assert "The brain in the T2-weighted image was masked by" in methods
    assert "The b=0 reference was registered to the T2-weighted image" in methods
    assert "T1-weighted" not in methods


def test_distortion_is_not_estimated_from_it(series: DwiSeries, tmp_path: Path) -> None:
    """The method inverts the contrast of a T1w image."""
    engines = Engines("mppca", ("syn",), "builtin")
    planned = plan_for(series, root=tmp_path, contrast="T2w", engines=engines, sdc="syn")
    assert planned.problems
    with pytest.raises(ConfigError, match="T1w image"):
        raise planned.problems[0].error
