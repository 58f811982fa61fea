"""Preprocessed datasets: layouts, owners, frames, and what does not fit."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from dmri_fm.errors import DmriError, GradientError, ImageError, LayoutError
from dmri_fm.gradient_files import write_mrtrix_gradients
from dmri_fm.series import Dwi, load_image, save_image
from dmri_fm_workflows.bids import Dataset, DwiSeries
from dmri_fm_workflows.bids.preprocessed import read_preprocessed
from tests.dmri_fm_workflows.preprocessed_layouts import (
    Scan,
    tiny_scan,
    write_derivatives,
    write_hcp,
    write_uk_biobank,
)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    """A scan of a few voxels with a T1w image."""
    return tiny_scan(tmp_path / "raw")


def only_series(dataset: Dataset) -> DwiSeries:
    """Return the series of a dataset that has one, and no problem."""
    assert [str(p.error) for p in dataset.problems] == []
    (participant,) = dataset.participants
    (session,) = participant.sessions
    (series,) = session.series
    return series


def only_error(dataset: Dataset) -> DmriError:
    """Return the error of a dataset that has one problem."""
    (problem,) = dataset.problems
    return problem.error


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


# ------------------------------------------------------------ whose scan it is


def test_folder_of_another_participant_inside_is_refused(scan: Scan, tmp_path: Path) -> None:
    folder = write_hcp(tmp_path / "data", "100307", scan)
    folder.rename(folder.with_name("100408"))
    dataset = read_preprocessed(tmp_path / "data")
    assert dataset.participants == ()
    assert "FreeSurfer's folder in it is that of 100307" in only_error(dataset).found


@pytest.mark.parametrize("linked", ["", "T1w/Diffusion/data.nii.gz", "T1w/Diffusion/bvecs",
                                    "T1w/Diffusion/nodif_brain_mask.nii.gz",
                                    "T1w/T1w_acpc_dc_restore_brain.nii.gz"])  # fmt: skip
def test_link_to_another_participant_is_refused(linked: str, scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "data"
    source = write_hcp(root, "100307", scan)
    if linked:
        path = write_hcp(root, "100408", scan) / linked
        path.unlink()
    else:
        path = root / "100408"
    os.symlink(source / linked, path)
    dataset = read_preprocessed(root)
    assert [p.label for p in dataset.participants] == ["100307"]
    assert dataset.problems[0].participant == "100408"
    assert "data of another participant" in only_error(dataset).found


def test_link_out_of_the_dataset_is_followed(scan: Scan, tmp_path: Path) -> None:
    stored = write_hcp(tmp_path / "store", "100307", scan)
    (tmp_path / "data").mkdir()
    os.symlink(stored, tmp_path / "data" / "100307")
    assert only_series(read_preprocessed(tmp_path / "data")).name == "sub-100307"


def test_two_folders_of_one_participant_are_refused(scan: Scan, tmp_path: Path) -> None:
    for name in ("1234567_2_0", "1234567_20250_2_1"):
        write_uk_biobank(tmp_path / "data", name, scan)
    dataset = read_preprocessed(tmp_path / "data")
    assert dataset.participants == ()
    assert len(dataset.problems) == 2
    assert "same participant and visit" in dataset.problems[0].error.found


def test_folder_that_tells_no_participant_is_refused(scan: Scan, tmp_path: Path) -> None:
    write_hcp(tmp_path / "data", "100307_old", scan)
    error = only_error(read_preprocessed(tmp_path / "data"))
    assert error.path.name == "100307_old"
    assert "100307 or HCA6002236_V1_MR" in error.expected


def test_file_name_of_another_participant_is_refused(scan: Scan, tmp_path: Path) -> None:
    image = write_derivatives(tmp_path / "q", "sub-01", scan)
    folder = tmp_path / "q" / "sub-02" / "dwi"
    folder.mkdir(parents=True)
    for path in image.parent.iterdir():
        path.rename(folder / path.name)
    dataset = read_preprocessed(tmp_path / "q")
    assert dataset.participants == ()
    assert "it has sub-01" in only_error(dataset).found


def test_voxels_that_are_read_are_those_of_the_folder(scan: Scan, tmp_path: Path) -> None:
    """Every participant gets an image of its own value, whatever the order of the folders."""
    root = tmp_path / "data"
    for value, name in ((2, "100408"), (1, "100307"), (3, "99")):
        own = Dwi.from_arrays(
            np.full(scan.dwi.shape, value), scan.dwi.affine, scan.dwi.gtab, mask=scan.dwi.brain
        )
        write_hcp(root, name, Scan(own))
    found = {
        p.label: int(p.sessions[0].series[0].runs[0].load().data[0, 0, 0, 0])
        for p in read_preprocessed(root).participants
    }
    assert found == {"99": 3, "100307": 1, "100408": 2}


# ---------------------------------------------------- participants without a series


def problems_of(dataset: Dataset) -> dict[str | None, str]:
    """Return what was found by participant."""
    return {p.participant: p.error.found for p in dataset.problems}


def test_folder_that_was_not_fetched_is_a_problem(scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_hcp(root, "100307", scan)
    os.symlink(tmp_path / "nowhere", root / "100408")
    (root / "100610" / "T1w").mkdir(parents=True)
    os.symlink(tmp_path / "nowhere", root / "100610" / "T1w" / "Diffusion")
    dataset = read_preprocessed(root)
    assert [p.label for p in dataset.participants] == ["100307"]
    assert set(problems_of(dataset)) == {"100408", "100610"}
    assert all("the link leads nowhere" in found for found in problems_of(dataset).values())
    shutil.rmtree(root / "100307")
    shutil.rmtree(root / "100610")
    with pytest.raises(LayoutError, match="the link leads nowhere"):
        read_preprocessed(root)


def test_folders_without_a_series_are_named(scan: Scan, tmp_path: Path, caplog) -> None:
    root = tmp_path / "data"
    write_hcp(root, "100307", scan)
    for name in ("100408/T1w", "100610"):
        (root / name).mkdir(parents=True)
    assert only_series(read_preprocessed(root)).name == "sub-100307"
    assert "2 folders could be those of participants" in caplog.text
    assert "100408, 100610" in caplog.text
    asked = read_preprocessed(root, participant_labels=["100307", "100408"])
    assert [p.label for p in asked.participants] == ["100307"]
    assert problems_of(asked) == {"100408": "no preprocessed series"}


def test_named_participant_without_a_derivative_is_a_problem(scan, tmp_path, caplog) -> None:
    root = tmp_path / "q"
    write_derivatives(root, "sub-01", scan)
    (root / "sub-02" / "anat").mkdir(parents=True)
    asked = read_preprocessed(root, participant_labels=["01", "02"])
    assert [p.label for p in asked.participants] == ["01"]
    assert problems_of(asked) == {"02": "no preprocessed series"}
    assert only_series(read_preprocessed(root)).name == "sub-01"
    assert "no preprocessed series: sub-02" in caplog.text
    os.symlink(tmp_path / "nowhere", root / "sub-02" / "dwi")
    assert "the link leads nowhere" in only_error(read_preprocessed(root)).found


def test_named_participant_without_the_session_is_a_problem(scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_uk_biobank(root, "1_2_0", scan)
    write_uk_biobank(root, "2_3_0", scan)
    asked = read_preprocessed(root, participant_labels=["1", "2"], session_labels=["2"])
    assert [p.label for p in asked.participants] == ["1"]
    assert problems_of(asked) == {"2": "no preprocessed series in session 2"}


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Read as a user for whom permissions count."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folder_that_cannot_be_read_costs_itself_alone(request) -> None:
    # Outside of pytest's own folder, which other users cannot enter.
    with TemporaryDirectory() as folder:
        (place := Path(folder)).chmod(0o755)
        root = place / "data"
        write_hcp(root, "100307", tiny_scan(place / "raw"))
        write_hcp(root, "100408", tiny_scan(place / "raw"))
        for name, mode in (("lost+found", 0), ("100610", 0)):
            (root / name).mkdir(mode=mode)
        (root / "100408" / "T1w" / "Diffusion").chmod(0)
        try:
            request.getfixturevalue("as_nobody")
            dataset = read_preprocessed(root)
            assert [p.label for p in dataset.participants] == ["100307"]
            assert {p.path.name for p in dataset.problems} >= {"lost+found", "100610"}
            assert set(problems_of(dataset)) == {None, "100408", "100610"}
            assert all("Permission denied" in str(p.error) for p in dataset.problems)
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
            for path in (root / "lost+found", root / "100610", root / "100408/T1w/Diffusion"):
                path.chmod(0o755)


# ------------------------------------------------------- stores, FreeSurfer, T1w image


def test_store_of_another_label_is_a_warning(scan: Scan, tmp_path: Path) -> None:
    """Links may give participants other labels on purpose; the report says so."""
    stored = write_hcp(tmp_path / "store", "100307", scan)
    (tmp_path / "data").mkdir()
    os.symlink(stored, tmp_path / "data" / "100408")
    shutil.rmtree(stored / "T1w" / "100307")
    dataset = read_preprocessed(tmp_path / "data")
    assert only_series(dataset).name == "sub-100408"
    (warning,) = [w for w in dataset.participants[0].sessions[0].warnings if "tells another" in w]
    assert str(stored) in warning


def test_files_from_two_folders_of_a_store_are_refused(scan: Scan, tmp_path: Path) -> None:
    """A series of one person beside the T1w image of another, both behind links."""
    one, other = (write_hcp(tmp_path / "store", n, scan) for n in ("100307", "100408"))
    (tmp_path / "data").mkdir()
    os.symlink(one, tmp_path / "data" / "100307")
    image = "T1w/T1w_acpc_dc_restore_brain.nii.gz"
    (one / image).unlink()
    os.symlink(other / image, one / image)
    error = only_error(read_preprocessed(tmp_path / "data"))
    assert "several participants" in error.found
    assert str(other) in error.found
    # A store whose paths tell no participant is followed.
    (one / image).unlink()
    os.symlink(shutil.copy(other / image, tmp_path / "store" / "0cc1.nii.gz"), one / image)
    session = read_preprocessed(tmp_path / "data").participants[0].sessions[0]
    assert session.warnings == ()


def test_folders_of_freesurfer_that_are_sound_are_taken(scan: Scan, tmp_path: Path) -> None:
    root = tmp_path / "data"
    folder = write_hcp(root, "100307", scan)
    (folder / "T1w" / "fsaverage" / "mri").mkdir(parents=True)
    (folder / "T1w" / "fsaverage_LR32k").mkdir()
    assert only_series(read_preprocessed(root)).name == "sub-100307"
    folder.rename(root / "sub-100307")
    assert only_series(read_preprocessed(root)).name == "sub-100307"
    shutil.rmtree(root)
    folder = write_hcp(root, "HCA6002236_V1_MR", scan)
    inside = folder / "T1w" / folder.name
    inside.rename(inside.with_name("HCA6002236_V2_MR"))
    assert "that of HCA6002236_V2_MR" in only_error(read_preprocessed(root)).found


@pytest.mark.parametrize("layout", ["HCP", "UK Biobank", "QSIPrep"])
def test_t1w_image_or_mask_that_is_damaged_is_done_without(layout, scan, tmp_path) -> None:
    root = tmp_path / "data"
    if layout == "HCP":
        folder = write_hcp(root, "100307", scan) / "T1w"
        image, mask = (folder / f"{n}.nii.gz" for n in ("T1w_acpc_dc_restore", "brainmask_fs"))
        for path in (image, mask):
            save_image(scan.t1w.data, scan.t1w.affine, path)
    elif layout == "UK Biobank":
        folder = write_uk_biobank(root, "1234567", scan) / "T1"
        image, mask = folder / "T1.nii.gz", folder / "T1_brain_mask.nii.gz"
    else:
        folder = write_derivatives(root, "sub-01", scan).parent.parent / "anat"
        (image,) = folder.glob("*_T1w.nii.gz")
        (mask,) = folder.glob("*_mask.nii.gz")
    save_image(np.ones((4, 4, 4)), load_image(image).affine, mask)
    (session,) = (dataset := read_preprocessed(root)).participants[0].sessions
    assert session.prepared_t1w.path == image
    assert session.prepared_t1w.mask is None
    assert any("one is made" in w for w in session.warnings)
    assert only_error(dataset).path == mask
    image.write_bytes(b"no image")
    (session,) = (dataset := read_preprocessed(root)).participants[0].sessions
    assert session.prepared_t1w is None
    assert session.t1w == ()
    assert any(f"{image.name} is not used" in w for w in session.warnings)
    assert only_error(dataset).path == image
    assert len(session.series) == 1


def test_missing_t1w_mask_is_a_warning(scan: Scan, tmp_path: Path) -> None:
    folder = write_derivatives(tmp_path / "q", "sub-01", scan).parent.parent / "anat"
    next(folder.glob("*_mask.nii.gz")).unlink()
    dataset = read_preprocessed(tmp_path / "q")
    assert only_series(dataset).name == "sub-01"
    (warning,) = dataset.participants[0].sessions[0].warnings
    assert "no brain mask" in warning


@pytest.mark.parametrize("write", [write_hcp, write_uk_biobank])
def test_gradients_without_a_deviation_are_said_to_be_nominal(write, scan, tmp_path) -> None:
    write(tmp_path / "data", "100307", scan)
    series = only_series(read_preprocessed(tmp_path / "data"))
    assert series.preprocessing.is_nominal
    is_warned = any("has no T1w/Diffusion/grad_dev.nii.gz" in w for w in series.warnings)
    assert is_warned == (write is write_hcp)
    write_derivatives(tmp_path / "q", "sub-01", scan)
    assert not only_series(read_preprocessed(tmp_path / "q")).preprocessing.is_nominal


def test_sidecar_of_the_input_is_kept(scan: Scan, tmp_path: Path) -> None:
    image = write_derivatives(tmp_path / "own", "sub-01", scan, pipeline="drope-bidsapp")
    said = {"SDCMethod": "none", "HMCMethod": "a; b", "Warnings": ["No field map."], "x": 1}
    image.with_name(image.name.replace(".nii.gz", ".json")).write_text(
        json.dumps(said), encoding="utf-8"
    )
    series = only_series(read_preprocessed(tmp_path / "own"))
    before = series.preprocessing.corrections
    assert before["SDCMethod"] == "drope-bidsapp 1.0.1 (none)"
    assert before["HMCMethod"] == "drope-bidsapp 1.0.1 (a, b)"
    assert before["Denoising"] == "drope-bidsapp 1.0.1"
    assert "The sidecar of the input warns: No field map." in series.warnings
