"""What is written in spaces of TemplateFlow's templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.execution.plan_text import describe_plan
from dmri_fm_workflows.outputs.methods import describe_methods
from dmri_fm_workflows.plan.boilerplate import foresee_outputs
from dmri_fm_workflows.stages.table import list_session_stages, list_stages
from tests.dmri_fm_workflows.tiny_series import build, plan_for, with_template

NAME = "MNI152NLin2009cAsym"


@pytest.mark.parametrize("t1w", [True, False])
@pytest.mark.parametrize("normalisation", ["affine", "syn"])
def test_maps_mask_and_transforms_have_names_of_bids(
    series: DwiSeries, tmp_path: Path, t1w: bool, normalisation: str
) -> None:
    engines = with_template(tmp_path)
    plan = plan_for(series, root=tmp_path, engines=engines, t1w=t1w, normalisation=normalisation)
    (session,) = plan.sessions
    of_session = list_session_stages(session) if t1w else ()
    outputs = [o for s in (*of_session, *list_stages(session.series[0])) for o in s.outputs]
    paths = [str(o.path({"subject": "01"}, normalisation=normalisation)) for o in outputs]
    end = ".h5" if normalisation == "syn" else ".txt"
    folder = "anat" if t1w else "dwi"
    grid = f"space-{NAME}_res-2"
    maps = [
        f"sub-01/dwi/sub-01_space-{NAME}_model-{model}_param-{name}_res-2_dwimap.nii.gz"
        for model in ("tensor", "qcgdti")
        for name in ("fa", "md", "ad", "rd")
    ]
    assert sorted(p for p in paths if NAME in p) == sorted([
        f"sub-01/{folder}/sub-01_from-ACPC_to-{NAME}_mode-image_xfm{end}",
        f"sub-01/{folder}/sub-01_from-{NAME}_to-ACPC_mode-image_xfm{end}",
        f"sub-01/dwi/sub-01_{grid}_desc-brain_mask.nii.gz",
        *maps,
    ])  # fmt: skip


@pytest.mark.parametrize("t1w", [True, False])
def test_sidecars_name_template_grid_and_sources(
    series: DwiSeries, tmp_path: Path, t1w: bool
) -> None:
    workflow = build(series, root=tmp_path, engines=with_template(tmp_path), t1w=t1w, models=())
    nodes = {n.rpartition(".")[2]: workflow.get_node(n) for n in workflow.list_node_names()}
    base = nodes[f"meta_ds_tensor_fa_{NAME}"].inputs.base
    assert base["Resolution"] == f"res-2 of tpl-{NAME}"
    assert base["SpatialReference"].endswith(f"/tpl-{NAME}/tpl-{NAME}_res-02_T1w.nii.gz")
    folder = "anat" if t1w else "dwi"
    assert base["Sources"] == [
        "bids::sub-01/dwi/sub-01_space-ACPC_model-tensor_param-fa_dwimap.nii.gz",
        f"bids::sub-01/dwi/sub-01_space-{NAME}_res-2_desc-brain_mask.nii.gz",
        f"bids::sub-01/{folder}/sub-01_from-ACPC_to-{NAME}_mode-image_xfm.txt",
    ]
    transform = nodes[f"meta_ds_{folder}_xfm_ACPC_{NAME}"].inputs.base
    assert transform["Spaces"][NAME].endswith(f"tpl-{NAME}")
    assert any("desc-brain_mask" in source for source in transform["Sources"])


def test_plan_and_methods_text_tell_of_it(series: DwiSeries, tmp_path: Path) -> None:
    plan = plan_for(series, root=tmp_path, engines=with_template(tmp_path), models=())
    text = " ".join(describe_plan(plan).split())
    assert f"other template {NAME}: affine" in text
    assert f"{NAME} at res-2: brain mask, FA, MD, AD, RD, resampled from ACPC; no series" in text
    methods = describe_methods(foresee_outputs(plan))
    assert f"templates of TemplateFlow [@ciric2022]: affine (ANTs) to {NAME}" in methods
    assert methods.count("ciric2022") == 1
    plain = plan_for(series, root=tmp_path, models=())
    assert "TemplateFlow" not in describe_plan(plain) + describe_methods(foresee_outputs(plain))
