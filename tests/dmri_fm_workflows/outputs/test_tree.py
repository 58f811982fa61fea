"""A complete output folder, made by the library, against the BIDS validator."""

from __future__ import annotations

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dmri_fm_workflows.outputs import (
    identify,
    load_catalogue,
    output_path,
    publish_file,
    publish_json,
    publish_text,
    sidecar_path,
    write_root_files,
)
from dmri_fm_workflows.outputs.docs import outputs_page
from dmri_fm_workflows.outputs.methods import Processed, write_citations
from dmri_fm_workflows.outputs.publish import conform_image
from dmri_fm_workflows.outputs.sidecars import image_sidecar, missing_metadata
from dmri_fm_workflows.outputs.transforms import transform_metadata
from dmri_fm_workflows.outputs.tsv import format_table, scan_columns

SCANS = [
    {"subject": "01"},
    {"subject": "02", "session": "pre", "acquisition": "tilted", "direction": "PA", "run": "1"},
]


#: What the steps of a run would add.
FACTS = {
    "preproc_dwi": {
        "SkullStripped": False,
        "SDCMethod": "none",
        "SDCReason": "no reverse phase encoding",
        "HMCMethod": "ANTs affine",
        "Denoising": "MP-PCA",
        "GibbsCorrection": "none",
        "GradientCheck": {"Consistent": True},
        "B0NormalizationScale": np.float32(812.5),
    },
    "fieldmap": {"B0FieldIdentifier": "gre", "EstimationMethod": "Gradient-echo field map in Hz"},
    "noise": {"NoiseMap": "MP-PCA"},
    "residual": {"Denoising": "MP-PCA", "GibbsCorrection": "none"},
    "cnr": {"Shells": [1000.0, 2000.0], "CNRMethod": "a model"},
    "t1w": {"SkullStripped": False},
    "lesion_mask": {"LesionMaskFile": "sub-01_label-lesion_roi.nii.gz"},
    "t2w": {"SkullStripped": False},
    **{
        of: {"TissueMethod": "Atropos (antspyx 0.6.3)"}
        for of in ("dseg", "probseg_gm", "probseg_wm", "probseg_csf")
    },
    "dwiref": {"SkullStripped": False},
    **{
        of: {"Preprocessing": {}, "Seed": 0, "Model": {"Name": "drope"}}
        for of in ("features_scan", "features_patch", "sensitivity")
    },
}


def _sidecar(of, model, space, path):
    is_open = of.is_transform and "from" not in of.entities
    content = image_sidecar(
        of.name,
        model=model,
        space=space,
        ends=("dwiref", "ACPC") if is_open else None,
        spatial_reference="bids::sub-01/anat/sub-01_space-ACPC_desc-preproc_T1w.nii.gz"
        if space == "ACPC"
        else None,
        sources=["bids:raw:sub-01/dwi/sub-01_dwi.nii.gz"],
        columns=["trans_x", "bval"],
        extra=FACTS.get(of.name),
    )
    if of.is_transform:
        content |= transform_metadata(identify(path))
    assert missing_metadata(of.name, content) == ()
    return content


def _content(of, extension, scan, folder):
    path = folder / f"source{extension}"
    if extension == ".nii.gz":
        shape = (3, 4, 5)
        if of.suffix == "dwi":
            shape = (3, 4, 5, 2)
        elif of.entities.get("param") == "diffusivity":
            shape = (3, 4, 5, 6)
        dtype = np.uint8 if of.suffix == "mask" else np.float32
        plain = folder / "plain.nii.gz"
        nib.save(nib.Nifti1Image(np.ones(shape, dtype), np.diag([2.0, 2, 2, 1])), plain)
        step = 3.5 if of.suffix == "dwi" else None
        conform_image(plain, path, form_code=2, time_step_s=step)
    elif extension == ".tsv":
        row = scan_columns(scan) | {"value": 0.5} if scan else {"participant_id": "sub-01"}
        path.write_text(format_table([row], list(row)))
    elif extension == ".bval":
        path.write_text("0 1000\n")
    elif extension == ".bvec":
        path.write_text("0 1\n0 0\n0 0\n")
    elif extension == ".npz":
        np.savez(path, tokens=np.zeros((2, 3), np.float32))
    else:
        path.write_text("content\n")
    return path


def build_tree(out: Path, work: Path, raw: Path) -> None:
    """Write one file of every output type and model for every scan, by way of the library."""
    work.mkdir()
    write_root_files(out, source=raw, source_name="Study", environ={})
    write_citations(out, Processed(), [scan["subject"] for scan in SCANS])
    for of in load_catalogue().types.values():
        ends = {"from_space": "dwiref", "to_space": "ACPC"} if of.is_transform else {}
        for scan in [{}] if of.is_group else SCANS:
            if of.datatype == "anat":
                # A T1w image has no phase-encoding direction in its name.
                scan = {k: v for k, v in scan.items() if k != "direction"}
            others = ("MNI152NLin2009cAsym",) if of.in_templates else ()
            spaces = (*of.spaces, *others) or (None,)
            for space, model in itertools.product(spaces, of.models):
                for extension in of.extensions:
                    path = output_path(
                        scan, of.name, model=model, space=space, extension=extension, **ends
                    )
                    publish_file(_content(of, extension, scan, work), out / path)
                if of.has_sidecar:
                    publish_json(_sidecar(of, model, space, path), out / sidecar_path(path))
    for scan in SCANS:
        log = out / f"sub-{scan['subject']}" / "log" / "20260101-000000_x"
        publish_json({"status": "complete"}, log / "provenance.json")
        publish_text("[run]\n", log / "drope.toml")
        publish_text("crash", log / "crash-1.txt")
    publish_text("[run]\n", out / "logs" / "20260101-000000_x" / "config.toml")


@pytest.fixture
def tree(tmp_path):
    out = tmp_path / "out"
    build_tree(out, tmp_path / "work", tmp_path / "raw")
    return out


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tree that no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    build_tree(folder / "out", folder / "work", folder / "raw")
    return folder / "out"


def test_tree_is_valid_by_the_released_schema(finished, assert_valid_output):
    assert_valid_output(finished)


@pytest.mark.realdata
def test_tree_is_valid_by_the_draft_of_bep016(finished, assert_valid_output, draft_schema):
    assert_valid_output(finished, schema=draft_schema)


def test_writing_twice_changes_nothing(tree, tmp_path):
    files = [p for p in tree.rglob("*") if p.is_file()]
    for path in files:
        os.utime(path, (1, 1))
    before = {p: p.read_bytes() for p in files}
    build_tree(tree, tmp_path / "work2", tmp_path / "raw")
    after = {p: p.read_bytes() for p in tree.rglob("*") if p.is_file()}
    assert after == before
    assert {p.stat().st_mtime for p in after} == {1}


def test_many_writers_of_the_root_files_agree(tmp_path):
    out = tmp_path / "out"
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(write_root_files, out, source=tmp_path, source_name="x", environ={})
            for _ in range(16)
        ]
        for job in jobs:
            job.result()
    names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert names == [
        ".bidsignore", "CHANGES", "README.md", "dataset_description.json", "descriptions.json",
        "descriptions.tsv",
    ]  # fmt: skip


def test_root_files(tree):
    ignored = (tree / ".bidsignore").read_text().splitlines()
    assert ignored[0] == "*.html"
    assert "sub-*/log" in ignored
    assert (tree / "descriptions.tsv").read_text().startswith("desc_id\tdescription\ndesc-preproc")
    changes = (tree / "CHANGES").read_text()
    assert changes.count("Outputs written") == 1


def test_changes_keep_earlier_versions(tmp_path):
    (tmp_path / "CHANGES").write_text("0.0.1\n  - Outputs written by drope-bidsapp 0.0.1.\n")
    for _ in range(2):
        write_root_files(tmp_path, source=tmp_path / "raw", source_name="x", environ={})
    assert (tmp_path / "CHANGES").read_text().count("Outputs written") == 2


def test_licence_of_the_source_is_kept(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "License": "CC0"}')
    write_root_files(tmp_path / "out", source=tmp_path, source_name="x", environ={})
    page = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert page["License"] == "CC0"


def test_page_of_outputs_tells_what_the_validator_says(finished, run_validator):
    page = outputs_page()
    assert all(f"`{issue.code}`" in page for issue in run_validator(finished))
    ignored = (finished / ".bidsignore").read_text().splitlines()
    assert all(f"| `{pattern}` | " in page for pattern in ignored)


def test_page_of_outputs_is_current():
    page = Path(__file__).resolve().parents[3] / "docs" / "outputs.md"
    assert page.read_text(encoding="utf-8") == outputs_page(), (
        "run: python -m dmri_fm_workflows.outputs docs/outputs.md"
    )
