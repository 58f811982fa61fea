"""The group level from an output folder alone, with the packaged template."""

from __future__ import annotations

import contextlib
import json
import os

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import LayoutError, OutputError
from dmri_fm.normalise.template import load_regions
from dmri_fm_workflows.cli import main
from dmri_fm_workflows.outputs import output_path
from dmri_fm_workflows.run_group import run_group

MNI = "MNI152NLin2009aSym"


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def out(tmp_path):
    """Two participants: one complete, whose FA is 0.6 on the left and 0.5 on the right."""
    regions = load_regions()
    scan = {"subject": "01", "direction": "AP"}
    x = regions.grid.affine[0, 0] * np.arange(regions.grid.shape[0]) + regions.grid.affine[0, 3]
    fa = np.broadcast_to(np.where(x < 0, 0.6, 0.5)[:, None, None], regions.grid.shape)
    path = tmp_path / output_path(scan, "fa", model="tensor", space=MNI)
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(fa.astype(np.float32), regions.grid.affine), path)
    _write(tmp_path / output_path(scan, "image_qc"), "mean_fd\n0.2\n")
    _write(
        tmp_path / output_path(scan, "features_scan", model="drope"),
        "cls000\tpooled000\n0.25\t-1.5\n",
    )
    record = {"status": "complete", "finished": "2026-01-01T00:00:00+00:00", "outputs": {}}
    _write(tmp_path / "sub-01" / "log" / "a" / "provenance.json", json.dumps(record))
    error = {"scan": "sub-02_dir-AP", "stage": "preprocess", "message": "no b=0"}
    record |= {"status": "failed", "errors": [error]}
    _write(tmp_path / "sub-02" / "log" / "a" / "provenance.json", json.dumps(record))
    return tmp_path


def test_tables_and_page(out):
    assert run_group(out) == 0
    names = sorted(p.name for p in (out / "group").iterdir())
    assert names == [
        "desc-image_qc.json", "desc-image_qc.parquet", "desc-image_qc.tsv",
        "desc-scalars_features.json", "desc-scalars_features.parquet",
        "desc-scalars_features.tsv",
        "desc-scalarslong_features.json", "desc-scalarslong_features.parquet",
        "desc-scalarslong_features.tsv",
        "model-drope_desc-scan_features.json", "model-drope_desc-scan_features.parquet",
        "model-drope_desc-scan_features.tsv",
        "participants_status.json", "participants_status.parquet", "participants_status.tsv",
        "report.html",
    ]  # fmt: skip
    table = pd.read_csv(out / "group" / "desc-scalars_features.tsv", sep="\t")
    assert table["tensor_fa_mean_wm_left_frontal"][0] == pytest.approx(0.6)
    assert table["tensor_fa_mean_wm_right_frontal"][0] == pytest.approx(0.5)
    assert 0.5 < table["tensor_fa_mean_wm"][0] < 0.6
    status = pd.read_csv(out / "group" / "participants_status.tsv", sep="\t")
    assert status["status"].tolist() == ["complete", "failed"]
    assert status["reason"][1] == "sub-02_dir-AP: preprocess: no b=0"


def test_regions_and_exclusions_of_a_user(out, tmp_path_factory):
    grid = load_regions().grid
    folder = tmp_path_factory.mktemp("regions")
    labels = (load_regions().labels == 1).astype(np.int16)
    nib.save(nib.Nifti1Image(labels, grid.affine), folder / "mine.nii.gz")
    (folder / "mine.tsv").write_text("index\tname\n1\tthe first\n")
    (folder / "bundles").mkdir()
    nib.save(nib.Nifti1Image(labels, grid.affine), folder / "bundles" / "cst.nii.gz")
    (folder / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tpatient\n")
    (out / output_path({"subject": "02"}, "image_qc")).parent.mkdir(exist_ok=True)
    _write(out / output_path({"subject": "02"}, "image_qc"), "mean_fd\n2\n")
    options = ["--qc-exclude", "mean_fd > 0.5", "--atlas", "mine.nii.gz", "--bundles", "bundles"]
    with contextlib.chdir(folder):
        assert main([str(folder), str(out), "group", *options]) == 0
    table = pd.read_csv(out / "group" / "desc-scalars_features.tsv", sep="\t")
    first = table["tensor_fa_mean_gm_left_infratentorial"][0]
    assert table["tensor_fa_mean_mine_the_first"][0] == first
    assert table["tensor_fa_mean_bundle_cst"][0] == first
    page = (out / "group" / "report.html").read_text()
    assert "1 of 2 scans are marked" in page
    assert "By group" in page
    assert main([str(folder), str(out), "group", "--qc-exclude", "mean_fd >"]) == 2
    assert main([str(folder), str(out), "group", "--atlas", str(folder / "none.nii")]) == 2


def test_one_damaged_map_is_named_and_the_others_are_tabulated(out, caplog):
    sound = out / output_path(
        {"subject": "01", "direction": "AP"}, "fa", model="tensor", space=MNI
    )
    damaged = out / output_path(
        {"subject": "02", "direction": "AP"}, "fa", model="tensor", space=MNI
    )
    damaged.parent.mkdir(parents=True)
    content = bytearray(sound.read_bytes())
    # Three kinds of damage: a wrong checksum, a stream that cannot be decompressed, a cut one.
    content[-6] ^= 1
    for data in (content, content[:300] + bytes(64) + content[364:], content[:-2000]):
        damaged.write_bytes(data)
        caplog.clear()
        assert run_group(out) == 1
        assert damaged.name in caplog.text
        status = pd.read_csv(out / "group" / "participants_status.tsv", sep="\t")
        assert damaged.name in status["reason"][1]
        table = pd.read_csv(out / "group" / "desc-scalars_features.tsv", sep="\t")
        assert table["participant_id"].tolist() == ["sub-01"]
        assert table["tensor_fa_mean_wm_left_frontal"][0] == pytest.approx(0.6)


def test_damaged_mask_is_named_itself(out, caplog):
    mask = out / output_path({"subject": "01", "direction": "AP"}, "dwi_mask", space=MNI)
    mask.write_bytes(b"no image")
    assert run_group(out) == 1
    assert f"{mask.name}: cannot be opened" in caplog.text


def test_second_run_changes_nothing(out):
    run_group(out)
    files = list((out / "group").iterdir())
    for path in files:
        os.utime(path, (1, 1))
    run_group(out)
    assert {p.stat().st_mtime for p in (out / "group").iterdir()} == {1}


def test_chosen_participants(out):
    run_group(out, participant_labels=["sub-02"])
    status = pd.read_csv(out / "group" / "participants_status.tsv", sep="\t")
    assert status["participant_id"].tolist() == ["sub-02"]
    with pytest.raises(LayoutError, match="no outputs of sub-03"):
        run_group(out, participant_labels=["03"])


def test_empty_folder(tmp_path):
    with pytest.raises(LayoutError, match="no participant here"):
        run_group(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written(out):
    (out / "group").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        run_group(out)


def test_methods_text_of_all_participants(out):
    for label, method in (("01", "none"), ("02", "FSL eddy (6.0.7) with outlier replacement")):
        path = output_path({"subject": label}, "preproc_dwi", space="ACPC", extension=".json")
        _write(out / path, json.dumps({"HMCMethod": method}))
    assert run_group(out) == 0
    text = (out / "logs" / "CITATION.md").read_text()
    assert "were not corrected; all transforms" in text
    assert "corrected by FSL eddy (6.0.7) with outlier replacement (Andersson and S" in text
    assert text.count("(1 of 2 series)") == 2
    assert "2 participants (sub-01, sub-02)" in text
    assert "weighted least squares" in text
    assert "tensor refiner" not in text


def test_a_broken_sidecar_is_named_and_the_others_are_described(out, caplog):
    path = output_path({"subject": "02"}, "preproc_dwi", space="ACPC", extension=".json")
    _write(out / path, "{")
    assert run_group(out) == 1
    assert "sub-02: its methods are not in" in caplog.text
    assert "1 participant (sub-01)" in (out / "logs" / "CITATION.md").read_text()
