"""Names of outputs: the documented examples, and the round trip over every of."""

from __future__ import annotations

import itertools
from pathlib import PurePosixPath

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.outputs import identify, load_catalogue, output_path, sidecar_path
from dmri_fm_workflows.outputs.naming import ENTITY_KEYS

SCAN = {"subject": "01", "session": "02", "acquisition": "b1", "direction": "AP", "run": "1"}
S = "sub-01_ses-02_acq-b1_dir-AP_run-1"
MNI = "MNI152NLin2009aSym"


@pytest.mark.parametrize(
    ("of", "options", "expected"),
    [
        ("t1w", {}, f"anat/{S}_space-ACPC_desc-preproc_T1w.nii.gz"),
        ("t1w_mask", {}, f"anat/{S}_space-ACPC_desc-brain_mask.nii.gz"),
        ("dseg", {}, f"anat/{S}_space-ACPC_dseg.nii.gz"),
        ("probseg_wm", {}, f"anat/{S}_space-ACPC_label-WM_probseg.nii.gz"),
        ("preproc_dwi", {"space": "ACPC"}, f"dwi/{S}_space-ACPC_desc-preproc_dwi.nii.gz"),
        (
            "preproc_dwi",
            {"space": MNI, "extension": ".bvec"},
            f"dwi/{S}_space-{MNI}_res-2_desc-preproc_dwi.bvec",
        ),
        (
            "preproc_dwi",
            {"space": "ACPC", "extension": ".b"},
            f"dwi/{S}_space-ACPC_desc-preproc_dwi.b",
        ),
        (
            "anat_xfm",
            {"from_space": "orig", "to_space": "ACPC"},
            f"anat/{S}_from-orig_to-ACPC_mode-image_xfm.txt",
        ),
        ("dwi_mask", {"space": MNI}, f"dwi/{S}_space-{MNI}_res-2_desc-brain_mask.nii.gz"),
        ("dwiref", {"space": "ACPC"}, f"dwi/{S}_space-ACPC_dwiref.nii.gz"),
        (
            "dwi_xfm",
            {"from_space": "dwiref", "to_space": "ACPC"},
            f"dwi/{S}_from-dwiref_to-ACPC_mode-image_xfm.txt",
        ),
        ("hmc_xfm", {}, f"dwi/{S}_from-orig_to-dwiref_mode-image_desc-eddy_xfm.tsv"),
        ("confounds", {}, f"dwi/{S}_desc-confounds_timeseries.tsv"),
        ("image_qc", {"extension": ".json"}, f"dwi/{S}_desc-image_qc.json"),
        (
            "diffusivity",
            {"model": "tensor"},
            f"dwi/{S}_space-ACPC_model-tensor_param-diffusivity_dwimap.nii.gz",
        ),
        (
            "fa",
            {"model": "tensor-refiner", "space": MNI},
            f"dwi/{S}_space-{MNI}_model-tensorrefiner_param-fa_res-2_dwimap.nii.gz",
        ),
        (
            "md_std",
            {"model": "tensorrefiner"},
            f"dwi/{S}_space-ACPC_model-tensorrefiner_param-md_desc-std_dwimap.nii.gz",
        ),
        (
            "ood",
            {"model": "tensorrefiner"},
            f"dwi/{S}_space-ACPC_model-tensorrefiner_param-ood_dwimap.nii.gz",
        ),
        *(
            (
                f"features_{desc}",
                {"model": model},
                f"dwi/{S}_space-{MNI}_model-{model}_desc-{desc}_features.{extension}",
            )
            for model, desc, extension in (
                ("drope", "scan", "tsv"),
                ("drope", "patch", "npz"),
                ("dropepaper", "scan", "tsv"),
            )
        ),
    ],
)
def test_documented_names(of, options, expected):
    assert str(output_path(SCAN, of, **options)) == f"sub-01/ses-02/{expected}"


def test_places_outside_a_session():
    assert str(output_path(SCAN, "figure_sdc")) == f"sub-01/figures/{S}_desc-sdc_dwi.svg"
    assert str(output_path(SCAN, "participant_report")) == "sub-01.html"
    assert str(output_path({}, "group_scalars")) == "group/desc-scalars_features.tsv"
    assert str(output_path({}, "group_status")) == "group/participants_status.tsv"
    assert str(output_path({"subject": "x"}, "dwiref", space="ACPC")).startswith("sub-x/dwi/")


def _every_path():
    scans = [SCAN, {"subject": "x"}, {"subject": "x", "part": "mag", "chunk": "2"}]
    for of in load_catalogue().types.values():
        extensions = (*of.extensions, *((".json",) if of.has_sidecar else ()))
        models = (None, *of.models) if of.has_optional_model else of.models
        for scan, space, model, extension in itertools.product(
            [{}] if of.is_group else scans, of.spaces or (None,), models, extensions
        ):
            ends = {"from_space": "T1w", "to_space": MNI} if of.is_transform else {}
            path = output_path(
                scan, of.name, model=model, space=space, extension=extension, **ends
            )
            yield of, scan, extension, path


def test_every_path_is_read_back_as_what_it_is():
    seen = {}
    for of, scan, extension, path in _every_path():
        found = identify(path)
        assert found.type is of
        assert found.extension == extension
        expected = {"subject": scan["subject"]} if of.name == "participant_report" else scan
        assert found.source_entities == expected
        assert seen.setdefault(path, of.name) == of.name, f"{path} stands for two types"


#: Order of the entities that our names have in the draft BEP016 of November 2025, and the ends of
#: transforms as in BEP014.
DRAFT_ORDER = (
    "sub", "ses", "acq", "ce", "rec", "dir", "run", "echo", "part", "from", "to", "mode", "space",
    "model", "param", "chunk", "res", "label", "desc",
)  # fmt: skip


def test_entities_stand_in_the_order_of_the_standard():
    order = list(ENTITY_KEYS.values())
    assert tuple(order) == DRAFT_ORDER
    for *_, path in _every_path():
        keys = [w.split("-")[0] for w in path.name.split(".")[0].split("_") if "-" in w]
        assert keys == sorted(keys, key=order.index)


def test_catalogue_is_complete():
    catalogue = load_catalogue()
    used = {k.entities["desc"] for k in catalogue.types.values() if "desc" in k.entities}
    assert used == set(catalogue.descriptions)
    assert all(s in catalogue.spaces for k in catalogue.types.values() for s in k.spaces)


@pytest.mark.parametrize(
    ("entities", "of", "options", "message"),
    [
        ({"subject": "01"}, "fa", {"model": "tensor"}, "space None"),
        ({"subject": "01"}, "fa", {"space": MNI}, "fa of model None"),
        ({"subject": "01"}, "fa_std", {"model": "qcg-dti-paper"}, "of model 'qcg-dti-paper'"),
        ({"subject": "01"}, "dwiref", {"space": MNI, "model": "tensor"}, "dwiref of model"),
        ({"subject": "01"}, "s0", {"model": "tensor", "space": MNI}, "does not exist in space"),
        ({"subject": "01"}, "confounds", {"space": "ACPC"}, "does not exist in space"),
        ({"subject": "01"}, "dwi_xfm", {"from_space": "dwiref"}, "no to for dwi_xfm"),
        ({"subject": "01"}, "confounds", {"extension": ".csv"}, "extension"),
        ({"subject": "sub-01"}, "confounds", {}, "subject is 'sub-01'"),
        ({"subject": "01", "task": "rest"}, "confounds", {}, "task"),
        ({"session": "01"}, "confounds", {}, "no subject"),
        ({}, "confounds", {}, "needs the entities"),
        ({"subject": "01"}, "group_status", {}, "takes no entities"),
        ({"subject": "01"}, "nothing", {}, "no output type is called"),
    ],
)
def test_impossible_names_are_refused(entities, of, options, message):
    with pytest.raises(ConfigError, match=message):
        output_path(entities, of, **options)


@pytest.mark.parametrize(
    "path",
    [
        "sub-01/dwi/sub-01_space-ACPC_param-fa_model-tensor_dwimap.nii.gz",
        "sub-01/anat/sub-01_space-ACPC_dwiref.nii.gz",
        "sub-01/ses-1/dwi/sub-01_space-ACPC_dwiref.nii.gz",
        "sub-01/dwi/sub-01_desc-other_dwi.nii.gz",
        "sub-01/dwi/junk.txt",
        "README.md",
    ],
)
def test_other_names_are_not_outputs(path):
    with pytest.raises(ConfigError, match="no output has such a name"):
        identify(path)


def test_what_pybids_reports_beside_entities_is_ignored():
    scan = {"subject": "01", "suffix": "dwi", "datatype": "dwi", "extension": ".nii.gz"}
    assert str(output_path(scan, "confounds")) == "sub-01/dwi/sub-01_desc-confounds_timeseries.tsv"


def test_scan_name_and_sidecar():
    assert scan_name(SCAN | {"suffix": "dwi"}) == S
    path = PurePosixPath("sub-01/dwi/sub-01_space-ACPC_desc-preproc_dwi.bvec")
    assert sidecar_path(path).name == "sub-01_space-ACPC_desc-preproc_dwi.json"
