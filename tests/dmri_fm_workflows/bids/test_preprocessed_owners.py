"""Preprocessed datasets: whose scan it is, and what is missing or damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from dmri_fm.errors import LayoutError
from dmri_fm.series import Dwi, load_image, save_image
from dmri_fm_workflows.bids import Dataset
from dmri_fm_workflows.bids.preprocessed import read_preprocessed
from tests.dmri_fm_workflows.preprocessed_layouts import (
    Scan,
    only_error,
    only_series,
    tiny_scan,
    write_derivatives,
    write_hcp,
    write_uk_biobank,
)

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
