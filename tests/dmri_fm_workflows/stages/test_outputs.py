"""The derivatives stage: what every sidecar of a scan says, from a run of its graph."""

from __future__ import annotations

import json
from pathlib import Path

import nipype.pipeline.engine as pe
import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm.identity import about_model
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi, save_image
from dmri_fm.tensor import fit_tensor
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.stages import participant
from dmri_fm_workflows.stages.derivatives import Origin, init_derivatives_wf
from dmri_fm_workflows.stages.outputs import (
    HMC_OUTPUTS,
    MNI,
    NORMALISE_OUTPUTS,
    QUALITY_OUTPUTS,
    Output,
    anat_outputs,
    feature_outputs,
    map_outputs,
)

SCAN = {"subject": "01", "acquisition": "b"}
RAW = ["bids:raw:sub-01/dwi/sub-01_acq-b_dwi.nii.gz"]
WARNINGS = ["sub-01_acq-b: distortion is NOT corrected"]


def _fit_metadata() -> dict:
    """Return what a tensor fit says of itself, as the node hands it on."""
    gtab = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    return fit_tensor(Dwi.from_arrays(np.full((2, 1, 1, 7), 100.0), np.eye(4), gtab)).metadata


EDDY = "FSL eddy (6.0.7) with outlier replacement"
RECORDS = {
    "record": {"Warnings": WARNINGS, "HMCMethod": EDDY, "Denoising": "none"},
    "tensor_record": _fit_metadata(),
    "tensorrefiner_record": {
        "Version": "1",
        "Volumes": [0, 1],
        "Status": "primary for fa alone",
        "StatusByMap": {"fa": {"Status": "primary", "StatusReasons": []}},
    },
}
#: Of the normalise stage, what is written with a T1w image.
WITH_T1W = tuple(o for o in NORMALISE_OUTPUTS if MNI not in (o.ends or ()))
OUTPUTS = (
    *(o for o in WITH_T1W if o.type == "dwiref"),
    *(o for o in WITH_T1W if o.type == "preproc_dwi" and o.space == "ACPC"),
    *(o for o in WITH_T1W if o.type == "dwi_xfm"),
    *(o for o in HMC_OUTPUTS if o.type == "hmc_xfm"),
    *(o for o in map_outputs("tensor") if o.type in ("diffusivity", "fa")),
    *(o for o in map_outputs("tensor-refiner") if o.type == "fa" and o.space == "ACPC"),
)


def _write(path: Path, output: Output, field: str) -> Path:
    if field.endswith(("_bval_file", "_bvec_file", "_b_file")):
        path = path.with_suffix(f".{field.split('_')[-2]}")
        path.write_text("0 1\n")
    elif output.type == "dwi_xfm":
        path = path.with_suffix(".txt")
        path.write_text("#Insight Transform File V1.0\n")
    elif output.type == "hmc_xfm":
        path = path.with_suffix(".tsv")
        path.write_text("trans_x\n0\n")
    else:
        shape = (3, 4, 5, 2) if "dwi_file" in field else (3, 4, 5)
        save_image(np.ones(shape), np.eye(4), path := path.with_suffix(".nii.gz"))
    return path


@pytest.fixture(scope="module")
def sidecars(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Run the stage on tiny files; return the sidecars by the rest of their names."""
    folder = tmp_path_factory.mktemp("stage")
    workflow = init_derivatives_wf(
        outputs=OUTPUTS,
        output_dir=folder / "out",
        origin=Origin(
            entities=SCAN,
            sources=RAW,
            normalisation="affine",
            raw_metadata=[{"RepetitionTime": 5.865}],
            anat_entities={"subject": "01"},
        ),
    )
    workflow.base_dir = str(folder / "work")
    workflow.config["execution"] = {"crashdump_dir": str(folder), "check_version": False}
    node = workflow.get_node("inputnode")
    for output in OUTPUTS:
        for field in output.fields:
            path = _write(folder / f"{output.node_name}_{field}", output, field)
            setattr(node.inputs, field, str(path))
    for name, record in RECORDS.items():
        setattr(node.inputs, name, record)
    workflow.run()
    return {
        p.name.removeprefix("sub-01_acq-b_"): json.loads(p.read_text())
        for p in (folder / "out").rglob("*.json")
    }


def test_every_sidecar_carries_the_warnings_of_the_scan(sidecars) -> None:
    assert len(sidecars) == len(OUTPUTS)
    for name, sidecar in sidecars.items():
        assert sidecar["Warnings"] == WARNINGS, name


def test_only_the_series_carries_what_was_done_to_it(sidecars) -> None:
    assert sidecars["space-ACPC_desc-preproc_dwi.json"]["HMCMethod"] == EDDY
    assert "HMCMethod" not in sidecars["space-ACPC_dwiref.json"]
    assert "HMCMethod" not in sidecars["space-ACPC_model-tensor_param-fa_dwimap.json"]


def test_the_works_of_the_methods_that_ran_are_cited(sidecars) -> None:
    motion = sidecars["from-orig_to-dwiref_mode-image_desc-eddy_xfm.json"]
    assert motion["HMCMethod"] == EDDY
    assert "Denoising" not in motion
    # eddy itself, and its replacement of outliers, which its name tells of
    andersson = [
        "https://doi.org/10.1016/j.neuroimage.2015.10.019",
        "https://doi.org/10.1016/j.neuroimage.2016.06.058",
    ]
    for written in (motion, sidecars["space-ACPC_desc-preproc_dwi.json"]):
        assert written["References"] == andersson
    assert "References" not in sidecars["space-ACPC_dwiref.json"]


def test_maps_name_their_model_inputs_and_space(sidecars) -> None:
    fa = sidecars["space-ACPC_model-tensor_param-fa_dwimap.json"]
    assert fa["Model"]["Parameters"]["FitMethod"] == "wls"
    assert fa["Model"]["Parameters"]["Volumes"] == list(range(7))
    # The facts of the run do not override what the record says.
    assert fa["Model"] | {"Parameters": ...} == about_model("tensor") | {"Parameters": ...}
    assert not {"FitMethod", "Name", "Reference"} & set(fa)
    stem = "bids::sub-01/dwi/sub-01_acq-b"
    assert fa["Sources"] == [f"{stem}_space-ACPC_model-tensor_param-diffusivity_dwimap.nii.gz"]
    assert fa["SpatialReference"] == "bids::sub-01/anat/sub-01_space-ACPC_desc-preproc_T1w.nii.gz"
    in_mni = sidecars[f"space-{MNI}_model-tensor_param-fa_res-2_dwimap.json"]
    assert f"{stem}_space-ACPC_model-tensor_param-fa_dwimap.nii.gz" in in_mni["Sources"]
    assert in_mni["SpatialReference"].startswith("https://")


def test_a_map_has_a_status_of_its_own(sidecars) -> None:
    (fa,) = (s["Model"] for name, s in sidecars.items() if "tensorrefiner" in name)
    assert (fa["Status"], fa["StatusReasons"]) == ("primary", [])
    assert "StatusByMap" not in str(fa)


def test_a_transform_names_the_images_of_its_ends(sidecars) -> None:
    spaces = sidecars["from-dwiref_to-ACPC_mode-image_xfm.json"]["Spaces"]
    assert spaces["ACPC"] == "bids::sub-01/anat/sub-01_space-ACPC_desc-preproc_T1w.nii.gz"
    assert spaces["dwiref"].startswith("The b=0 reference")


def _nodes(workflow: pe.Workflow) -> list[pe.Node]:
    return [workflow.get_node(n) for n in workflow.list_node_names()]


@pytest.mark.parametrize("has_t1w", [True, False])
@pytest.mark.parametrize("normalisation", ["affine", "syn"])
def test_every_output_of_a_scan_has_sources_and_a_reference(
    tmp_path: Path, has_t1w: bool, normalisation: str
) -> None:
    outputs = (
        *HMC_OUTPUTS,
        *(WITH_T1W if has_t1w else NORMALISE_OUTPUTS),
        *QUALITY_OUTPUTS,
        *map_outputs("tensor"),
        *map_outputs("tensor-refiner"),
        *map_outputs("qcg-dti-paper"),
        *feature_outputs("drope"),
        *feature_outputs("drope-paper"),
    )
    anat = {"subject": "01"} if has_t1w else None
    origins = [Origin(entities=scan, sources=RAW, normalisation=normalisation, anat_entities=anat)
               for scan in (SCAN, anat) if scan]  # fmt: skip
    workflows = [
        init_derivatives_wf(outputs=listed, output_dir=tmp_path, origin=origin)
        for listed, origin in zip((outputs, anat_outputs()), origins, strict=False)
    ]
    bases = [n.inputs.base for w in workflows for n in _nodes(w) if n.name.startswith("meta_")]
    written = {
        f"bids::{o.path(scan, normalisation=normalisation)}"
        for listed, scan in ((outputs, SCAN), (anat_outputs() if anat else (), anat))
        for o in listed
    }
    n_figures = sum(o.type.startswith("figure_") for o in outputs)
    assert len(bases) == len(outputs) - n_figures + (len(anat_outputs()) if anat else 0)
    ending = ".h5" if normalisation == "syn" else ".txt"
    for base in bases:
        assert base["Sources"], base["Description"]
        own = {uri for uri in base["Sources"] if uri.startswith("bids::")}
        assert own <= written
        assert all(u.endswith(ending) for u in own if f"to-{MNI}" in u)
        assert base.get("SpatialReference", "bids::").startswith(("bids::", "https://"))
        if base.get("SpatialReference", "").startswith("bids::"):
            assert base["SpatialReference"] in written


def test_every_type_that_a_participant_writes_is_described(tmp_path: Path) -> None:
    bare = {t.name for t in load_catalogue().types.values() if not t.has_sidecar}
    shown = ("figure_", "viewer", "participant_report", "group_report")
    assert all(n.startswith(shown) for n in bare)


def test_anatomy_of_a_session_carries_its_label() -> None:
    assert participant._anat_entities("01", None) == {"subject": "01"}
    assert participant._anat_entities("01", "a") == {"subject": "01", "session": "a"}


def test_models_of_one_run_share_no_file_name() -> None:
    outputs = [
        *(o for m in ("tensor", "tensor-refiner", "qcg-dti-paper") for o in map_outputs(m)),
        *feature_outputs("drope"),
        *feature_outputs("drope-paper"),
    ]
    paths = [o.path(SCAN, normalisation="affine") for o in outputs]
    assert len(set(paths)) == len(paths)
    assert len({o.node_name for o in outputs}) == len(outputs)
    figures = sorted(p.name for p in paths if p.parent.name == "figures")
    assert figures == [
        "sub-01_acq-b_desc-features_dwi.svg",
        "sub-01_acq-b_model-dropepaper_desc-features_dwi.svg",
        "sub-01_acq-b_model-qcgdtipaper_desc-tensorvsnetwork_dwi.svg",
        "sub-01_acq-b_model-tensorrefiner_desc-tensorvsnetwork_dwi.svg",
    ]


def test_a_network_without_intervals_promises_none() -> None:
    given = {o.type for o in map_outputs("qcg-dti-paper")}
    assert not given & {"fa_std", "md_std", "ood", "s0"}
    assert {o.type for o in map_outputs("tensor-refiner")} - given == {"fa_std", "md_std", "ood"}
