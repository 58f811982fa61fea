"""Plans of preprocessed input: what is left to it, what is said of it, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradient_deviation import DEVIATION_KEY, NOMINAL
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.plan_text import describe_plan
from dmri_fm_workflows.outputs.steps import describe_steps
from dmri_fm_workflows.stages.lines import describe_preprocessed
from dmri_fm_workflows.stages.merge import init_read_preprocessed_wf
from dmri_fm_workflows.stages.tensor import init_tensor_wf
from tests.dmri_fm_workflows.tiny_series import make_resources, make_run, plan_preprocessed


def test_plan_says_what_is_left_to_the_input(tmp_path: Path) -> None:
    run = make_run(tmp_path / "raw", "AP")
    plan = plan_preprocessed(run, tmp_path, space="ACPC", full=True)
    (series,) = plan.series
    text = " ".join(describe_plan(plan).split())
    assert "corrections left to the input: QSIPrep 1.0.1" in text
    assert "taken from the input: mask.nii.gz" in text
    assert "in ACPC already" in text
    assert "none into ACPC, voxels of 3 mm are kept" in text
    assert "grad_dev.nii.gz: a b-matrix for each voxel" in text
    assert "motion and eddy" not in text
    assert "Nothing is corrected: the input is preprocessed" in text
    assert "MP-PCA" not in " ".join(series.methods)
    assert series.model_base == {DEVIATION_KEY: "not corrected: the nominal b-values and "
                                 "b-vectors are read"}  # fmt: skip


def test_mask_of_the_input_has_no_agreement(tmp_path: Path) -> None:
    run = make_run(tmp_path / "raw", "AP")
    for has_mask in (True, False):
        plan = plan_preprocessed(run, tmp_path, full=True, has_mask=has_mask).series[0]
        assert ("mask_agreement_dice" in plan.not_measured) == has_mask
        assert plan.mask_name.startswith("taken from the input") == has_mask


def test_nominal_gradients_are_stated_where_the_deviation_is_absent(tmp_path: Path) -> None:
    plan = plan_preprocessed(make_run(tmp_path / "raw", "AP"), tmp_path).series[0]
    assert plan.model_base == {}
    before = replace(plan.preprocessing, is_nominal=True, stated={"SDCMethod": "none"})
    nominal = replace(plan, series=replace(plan.series, preprocessing=before))
    assert nominal.model_base == {DEVIATION_KEY: NOMINAL}
    assert not nominal.has_gradient_deviation
    assert nominal.earlier_steps["SDCMethod"] == "left to the input: QSIPrep 1.0.1 (none)"
    read = init_read_preprocessed_wf(nominal, make_resources(tmp_path))
    assert read.get_node("validate").inputs.bvec_frame == "fsl"
    fit = init_tensor_wf(nominal, make_resources(tmp_path)).get_node("fit_tensor")
    assert fit.inputs.base == {DEVIATION_KEY: NOMINAL}
    (sentence,) = describe_steps([{DEVIATION_KEY: NOMINAL}])
    assert "was not corrected" in sentence


def test_frame_of_the_vectors_goes_into_the_graph(tmp_path: Path) -> None:
    run = make_run(tmp_path / "raw", "AP")
    table = replace(run, gradients=replace(run.gradients, frame="ras"))
    plan = plan_preprocessed(table, tmp_path).series[0]
    said = replace(plan.preprocessing, gradients="run.b: b-vectors in the scanner's RAS+ frame")
    plan = replace(plan, series=replace(plan.series, preprocessing=said))
    read = init_read_preprocessed_wf(plan, make_resources(tmp_path))
    assert read.get_node("validate").inputs.bvec_frame == "ras"
    base = read.get_node("collect_records").inputs.base
    assert base["GradientSource"] == "run.b: b-vectors in the scanner's RAS+ frame"
    assert ("gradients", base["GradientSource"]) in list(describe_preprocessed(plan))


def test_networks_are_experimental_and_have_no_noise_map(tmp_path: Path) -> None:
    (plan,) = plan_preprocessed(make_run(tmp_path / "raw", "AP"), tmp_path).series
    assert plan.networks
    assert not plan.reads_noise_maps
    assert "preprocessed by QSIPrep 1.0.1, interpolated again" in plan.network_reasons[0]
    assert set(plan.not_measured) >= {"mean_fd", "snr_b0", "raw_neighbor_corr"}


def test_voxels_are_kept_only_in_acpc_and_as_cubes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "raw", "AP")
    (kept,) = plan_preprocessed(run, tmp_path, space="ACPC").series
    (turned,) = plan_preprocessed(run, tmp_path, space="T1w").series
    (coarse,) = plan_preprocessed(run, tmp_path, space="ACPC", output_resolution=2.0).series
    assert (kept.keeps_voxels, turned.keeps_voxels, coarse.keeps_voxels) == (True, False, False)


def test_methods_text_credits_no_correction() -> None:
    left = "left to the input: QSIPrep 1.0.1"
    keys = ("Denoising", "GibbsCorrection", "SDCMethod", "HMCMethod")
    text = describe_steps([dict.fromkeys(keys, left)])
    assert text[0] == "Removal of noise was left to the input: QSIPrep 1.0.1."
    assert len(text) == 4
    assert "@" not in " ".join(text)


@pytest.mark.parametrize(
    "asked", [{"denoise": "mppca"}, {"sdc": "pepolar"}, {"hmc": "builtin"}, {"unring": True},
              {"bids_filters": {"dwi": {"acquisition": "x"}}}, {"bids_database_dir": Path("db")},
              {"eddy_config": {"repol": True}}, {"ignore": ("fieldmaps",)},
              {"ignore": ("sbref", "t1w")}, {"derivatives": Path("fmriprep")}],
)  # fmt: skip
def test_corrections_of_corrected_input_are_refused(asked: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--input-type preprocessed and --"):
        RunConfig(Path("bids"), Path("out"), input_type="preprocessed", **asked)
    RunConfig(Path("bids"), Path("out"), input_type="preprocessed", hmc="none", ignore=("t1w",))
