"""Preprocessed datasets: layouts, frames, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import GradientError, ImageError, LayoutError
from dmri_fm.gradient_files import write_mrtrix_gradients
from dmri_fm.series import load_image, save_image
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.bids.preprocessed import read_preprocessed
from tests.dmri_fm_workflows.preprocessed_layouts import (
    Scan,
    only_error,
    only_series,
    write_derivatives,
    write_hcp,
    write_uk_biobank,
)


def assert_same_directions(series: DwiSeries, scan: Scan) -> None:
    """Compare the gradients in memory with those of the scan that was written, RAS+."""
    found = series.runs[0].gtab
    np.testing.assert_allclose(found.bvecs_ras, scan.dwi.gtab.bvecs_ras, atol=1e-6)
    np.testing.assert_allclose(found.bvals, scan.dwi.gtab.bvals)


@pytest.mark.parametrize("axes", ["LAS", "RAS", "LPS"])
@pytest.mark.parametrize("write", [write_hcp, write_uk_biobank])
def test_gradients_of_folders_come_out_in_ras(axes, write, scan, tmp_path) -> None:
    root = tmp_path / "data"
    write(root, "100307", scan, axes=axes)
    dataset = read_preprocessed(root)
    series = only_series(dataset)
    assert dataset.participants[0].label == "100307"
    assert series.name == "sub-100307"
    assert_same_directions(series, scan)


@pytest.mark.parametrize("axes", ["LAS", "RAS", "LPS"])
@pytest.mark.parametrize("pipeline", ["drope-bidsapp", "other"])
def test_gradients_by_fsl_come_out_in_ras(axes, pipeline, scan, tmp_path) -> None:
    write_derivatives(tmp_path / "own", "sub-01", scan, axes=axes, pipeline=pipeline)
    series = only_series(read_preprocessed(tmp_path / "own"))
    assert_same_directions(series, scan)
    assert "by FSL's rule" in series.preprocessing.gradients
    is_doubtful = any("is not known to write another frame" in w for w in series.warnings)
    assert is_doubtful == (pipeline == "other")


def test_vectors_of_qsiprep_are_not_by_fsls_rule(scan: Scan, tmp_path: Path) -> None:
    """Neither of its two files is mirrored, and they have to agree."""
    image = write_derivatives(tmp_path / "q", "sub-01", scan)
    bvec, table = (image.with_name(image.name.replace(".nii.gz", e)) for e in (".bvec", ".b"))
    stored = np.loadtxt(bvec).T
    weighted = scan.dwi.gtab.bvals > 50
    np.testing.assert_allclose(
        stored[weighted] * [-1, -1, 1], np.loadtxt(table)[weighted, :3], atol=1e-6
    )
    both = only_series(read_preprocessed(tmp_path / "q"))
    assert_same_directions(both, scan)
    assert both.preprocessing.gradients.startswith(f"{table.name}: b-vectors in the scanner's")
    assert both.preprocessing.files[-1] == bvec
    table.rename(hidden := table.with_name("hidden"))
    alone = only_series(read_preprocessed(tmp_path / "q"))
    assert_same_directions(alone, scan)
    assert "without FSL's sign rule" in alone.preprocessing.gradients
    assert alone.runs[0].gradients.frame == "voxel"
    hidden.rename(table)
    np.savetxt(bvec, (stored * [-1, 1, 1]).T)
    error = only_error(read_preprocessed(tmp_path / "q"))
    assert error.path == table
    assert str(bvec) in error.expected
    assert "differ by up to" in error.found


def test_table_of_another_pipeline_is_preferred(scan: Scan, tmp_path: Path) -> None:
    image = write_derivatives(tmp_path / "q", "sub-01", scan, pipeline="other")
    write_mrtrix_gradients(
        scan.dwi.gtab, table := image.with_name(image.name.replace(".nii.gz", ".b"))
    )
    series = only_series(read_preprocessed(tmp_path / "q"))
    assert_same_directions(series, scan)
    assert series.runs[0].bvec == table
    rows = np.loadtxt(table)
    np.savetxt(table, rows * [1, 1, 1, 2])
    assert "in the b-values" in only_error(read_preprocessed(tmp_path / "q")).found
    np.savetxt(table, rows[:-1])
    assert "rows of 4 numbers" in only_error(read_preprocessed(tmp_path / "q")).expected


def test_older_qsiprep_describes_itself_by_an_older_key(scan: Scan, tmp_path: Path) -> None:
    write_derivatives(tmp_path / "q", "sub-01", scan)
    description = {"Name": "q", "BIDSVersion": "1.1.1"}
    description |= {"PipelineDescription": {"Name": "qsiprep", "Version": "0.13.0"}}
    path = tmp_path / "q" / "dataset_description.json"
    path.write_text(json.dumps(description), encoding="utf-8")
    series = only_series(read_preprocessed(tmp_path / "q"))
    assert series.preprocessing.by == "qsiprep 0.13.0"
    assert_same_directions(series, scan)


def test_derivatives_say_pipeline_space_and_mask(scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "qsiprep"
    write_derivatives(root, "sub-01_ses-a_acq-x", scan)
    series = only_series(read_preprocessed(root))
    assert series.name == "sub-01_ses-a_acq-x"
    assert_same_directions(series, scan)
    assert series.preprocessing.by == "QSIPrep 1.0.1"
    assert series.preprocessing.space == "ACPC"
    assert series.preprocessing.mask.name.endswith("space-ACPC_desc-brain_mask.nii.gz")
    assert series.runs[0].metadata == {"EchoTime": 0.09}


def test_hcp_is_in_acpc_with_its_t1w_image(scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_hcp(root, "HCA6002236_V1_MR", scan, deviation=True)
    series = only_series(dataset := read_preprocessed(root))
    (session,) = dataset.participants[0].sessions
    assert (dataset.participants[0].label, session.label) == ("HCA6002236", "V1")
    assert series.name == "sub-HCA6002236_ses-V1"
    assert series.preprocessing.space == "ACPC"
    assert series.preprocessing.gradient_deviation.name == "grad_dev.nii.gz"
    assert session.t1w[0].name == "T1w_acpc_dc_restore_brain.nii.gz"
    assert session.prepared_t1w.is_brain
    assert session.prepared_t1w.is_acpc
    assert session.prepared_t1w.mask == session.t1w[0]


@pytest.mark.parametrize("layout", ["folders", "derivatives"])
def test_ignored_t1w_image_is_not_used(layout: str, scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if layout == "folders":
        write_hcp(root, "100307", scan)
    else:
        write_derivatives(root, "sub-01", scan)
    (used,) = read_preprocessed(root).participants[0].sessions
    (session,) = read_preprocessed(root, ignored=("t1w",)).participants[0].sessions
    assert len(used.t1w) == 1
    assert session.t1w == ()
    assert session.prepared_t1w is None
    assert not any("T1" in warning for warning in session.warnings)


def test_uk_biobank_has_a_space_of_its_own(scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_uk_biobank(root, "1234567_20250_2_0", scan)
    series = only_series(dataset := read_preprocessed(root, participant_labels=["sub-1234567"]))
    (session,) = dataset.participants[0].sessions
    assert series.name == "sub-1234567_ses-2"
    assert series.preprocessing.space is None
    assert session.prepared_t1w.mask.name == "T1_brain_mask.nii.gz"
    assert not session.prepared_t1w.is_unbiased
    assert series.warnings == ()


def test_vectors_that_may_not_be_turned_are_named(scan: Scan, tmp_path: Path) -> None:
    inside = write_uk_biobank(tmp_path / "data", "1234567", scan) / "dMRI" / "dMRI"
    (inside / "data.eddy_rotated_bvecs").rename(inside / "bvecs")
    series = only_series(read_preprocessed(tmp_path / "data"))
    assert any("turned with the head is not known" in text for text in series.warnings)


def test_older_qsiprep_names_its_acpc_space_t1w(scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "qsiprep"
    image = write_derivatives(root, "sub-01", scan, space="space-T1w_")
    anat = root / "sub-01" / "anat"
    for path in list(anat.iterdir()):
        path.rename(path.with_name(path.name.replace("space-T1w_", "")))
    dataset = read_preprocessed(root)
    assert only_series(dataset).preprocessing.space == "ACPC"
    prepared = dataset.participants[0].sessions[0].prepared_t1w
    assert prepared.path.name == "sub-01_desc-preproc_T1w.nii.gz"
    assert prepared.is_acpc
    # Of another pipeline, that space may be the scanner's.
    write_derivatives(root, "sub-01", Scan(scan.dwi), space="space-T1w_", pipeline="other")
    dataset = read_preprocessed(root)
    assert only_series(dataset).preprocessing.space == "T1w"
    assert not dataset.participants[0].sessions[0].prepared_t1w.is_acpc
    assert image.exists()


def test_series_in_mni_beside_that_in_acpc_is_passed_over(scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "own"
    write_derivatives(root, "sub-01", scan, pipeline="drope-bidsapp")
    mni = {"space": "space-MNI152NLin2009aSym_res-2_", "pipeline": "drope-bidsapp"}
    write_derivatives(root, "sub-01", Scan(scan.dwi), **mni)
    assert "space-ACPC" in only_series(read_preprocessed(root)).runs[0].path.name
    write_derivatives(root, "sub-01_acq-y", Scan(scan.dwi), **mni)
    assert "in space MNI152NLin2009aSym" in only_error(read_preprocessed(root)).found


def test_series_of_one_session_are_not_merged(scan: Scan, tmp_path: Path) -> None:
    for direction in ("AP", "PA"):
        write_derivatives(tmp_path / "q", f"sub-01_dir-{direction}", scan)
    (participant,) = read_preprocessed(tmp_path / "q").participants
    names = [series.name for series in participant.sessions[0].series]
    assert names == ["sub-01_dir-AP", "sub-01_dir-PA"]


def test_missing_vectors_are_an_error_with_the_file(scan: Scan, tmp_path: Path) -> None:
    folder = write_hcp(tmp_path / "data", "100307", scan)
    (folder / "T1w" / "Diffusion" / "bvecs").unlink()
    error = only_error(read_preprocessed(tmp_path / "data"))
    assert isinstance(error, GradientError)
    assert error.path.name == "bvecs"
    assert "gradients of the raw scan do not fit" in error.advice


def test_mask_of_another_size_is_an_error(scan: Scan, tmp_path: Path) -> None:
    image = write_derivatives(tmp_path / "q", "sub-01", scan)
    mask = image.with_name(image.name.replace("desc-preproc_dwi", "desc-brain_mask"))
    save_image(np.ones((4, 4, 4)), load_image(image).affine, mask)
    error = only_error(read_preprocessed(tmp_path / "q"))
    assert isinstance(error, ImageError)
    assert "(4, 4, 4)" in error.found
    mask.unlink()
    series = only_series(read_preprocessed(tmp_path / "q"))
    assert series.preprocessing.mask is None
    assert any("has no brain mask" in text for text in series.warnings)


def test_gradient_deviation_of_another_grid_is_an_error(scan: Scan, tmp_path: Path) -> None:
    folder = write_hcp(tmp_path / "data", "100307", scan)
    save_image(np.zeros((4, 4, 3, 6)), np.eye(4), folder / "T1w" / "Diffusion" / "grad_dev.nii.gz")
    assert "9 volumes" in only_error(read_preprocessed(tmp_path / "data")).expected


def test_unknown_layout_lists_what_was_looked_for(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "data" / "100307" / "dwi").mkdir(parents=True)
    with pytest.raises(LayoutError) as caught:
        read_preprocessed(tmp_path / "data")
    for pattern in ("*_desc-preproc_dwi.nii.gz", "T1w/Diffusion/data.nii.gz", "data_ud.nii.gz"):
        assert pattern in caught.value.expected
    folder = write_hcp(tmp_path / "hcp", "100307", scan)
    with pytest.raises(LayoutError, match="--participant-label 100307"):
        read_preprocessed(folder)
    visit = write_hcp(tmp_path / "aging", "HCA6002236_V1_MR", scan)
    with pytest.raises(LayoutError, match="--participant-label HCA6002236 --session-label V1"):
        read_preprocessed(visit)
    asked = read_preprocessed(
        visit.parent, participant_labels=["HCA6002236"], session_labels=["V1"]
    )
    assert only_series(asked).name == "sub-HCA6002236_ses-V1"
    with pytest.raises(LayoutError, match="as --participant-label HCA6002236"):
        read_preprocessed(visit.parent, participant_labels=["HCA6002236_V1_MR"])
    write_uk_biobank(tmp_path / "hcp", "1234567", scan)
    with pytest.raises(LayoutError, match="two layouts in one folder"):
        read_preprocessed(tmp_path / "hcp")


def test_unknown_participant_is_an_error(scan: Scan, tmp_path: Path) -> None:
    write_hcp(tmp_path / "data", "100307", scan)
    with pytest.raises(LayoutError, match="no participant 100408"):
        read_preprocessed(tmp_path / "data", participant_labels=["100408"])
    with pytest.raises(LayoutError, match="no preprocessed series in session 2"):
        read_preprocessed(tmp_path / "data", session_labels=["2"])
