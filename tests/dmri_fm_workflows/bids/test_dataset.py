"""What is found in a dataset, and what is said about what cannot be used."""

from __future__ import annotations

import json
import pickle
import shutil
import time

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.errors import ImageError, LayoutError
from dmri_fm_workflows.bids import read_dataset


def test_participants_and_sessions(maker) -> None:
    for label in ("02", "01"):
        for session in ("b", "a"):
            maker.dwi(f"sub-{label}_ses-{session}_dwi", metadata=maker.AP)
    maker.dwi("sub-03_dwi", metadata=maker.AP)
    maker.image("sub-04_T1w.nii.gz")
    dataset = read_dataset(maker.root)
    assert maker.found(dataset) == {
        (label, session): [f"sub-{label}_ses-{session}"]
        for label in ("01", "02")
        for session in "ab"
    } | {("03", None): ["sub-03"]}
    assert dataset.name == "Test"
    assert dataset.problems == ()
    only = read_dataset(maker.root, participant_labels=["sub-02"], session_labels=["ses-a"])
    assert maker.found(only) == {("02", "a"): ["sub-02_ses-a"]}


def test_dataset_survives_pickling(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.image("sub-01_T1w.nii.gz")
    dataset = pickle.loads(pickle.dumps(read_dataset(maker.root)))
    assert maker.found(dataset) == {("01", None): ["sub-01"]}


def test_run_loads_its_series(maker) -> None:
    maker.dwi("sub-01_dwi", bvals=[5, 1000, 1000], metadata=maker.AP)
    run = read_dataset(maker.root).participants[0].sessions[0].series[0].runs[0]
    dwi = run.load()
    assert dwi.data.shape == run.shape == (6, 6, 4, 3)
    assert dwi.gtab.is_b0.tolist() == [True, False, False]


def test_only_measured_magnitude_is_taken(maker) -> None:
    maker.dwi("sub-01_part-mag_dwi", metadata=maker.AP)
    maker.dwi("sub-01_part-phase_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-ADC_dwi", metadata=maker.AP)
    maker.dwi("sub-01_rec-TRACEW_dwi", metadata=maker.AP)
    maker.dwi("sub-01_rec-x_dwi", metadata={"ImageType": ["DERIVED", "DIFFUSION", "FA"]})
    maker.image("sub-01_acq-mean_dwi.nii.gz")
    maker.json("sub-01_acq-mean_dwi.json", {"ImageType": ["DERIVED", "SECONDARY"]})
    for suffix in ("FA", "ADC", "TRACEW", "colFA"):
        maker.image(f"sub-01_{suffix}.nii.gz")
    sbref = maker.image("sub-01_part-mag_sbref.nii.gz")
    dataset = read_dataset(maker.root)
    assert dataset.problems == ()
    assert maker.found(dataset) == {("01", None): ["sub-01_part-mag"]}
    assert dataset.participants[0].sessions[0].series[0].runs[0].sbref == sbref


def test_derived_signal_is_taken_and_said_so(maker) -> None:
    metadata = {**maker.AP, "ImageType": ["DERIVED", "PRIMARY", "M", "DIS2D"]}
    maker.dwi("sub-01_dwi", metadata=metadata)
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert "DERIVED" in series.warnings[0]


def test_derivatives_and_source_folders_are_not_looked_at(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    for folder in ("derivatives/x", "sourcedata", "code"):
        shutil.copytree(maker.root / "sub-01", maker.root / folder / "sub-01")
    assert len(read_dataset(maker.root).participants[0].sessions[0].series[0].runs) == 1


def test_same_scan_twice_is_an_error_and_the_compressed_one_is_used(maker) -> None:
    path = maker.dwi("sub-01_dwi", metadata=maker.AP)
    nib.save(nib.load(path), path.with_suffix(""))
    dataset = read_dataset(maker.root)
    assert [p.path for p in dataset.problems] == [path.with_suffix("")]
    assert dataset.participants[0].sessions[0].series[0].runs[0].path == path
    assert len(dataset.participants[0].sessions[0].series[0].runs) == 1


# T1-weighted images


def t1w_names(dataset, *, session: int = 0) -> list[str]:
    return [path.name for path in dataset.participants[0].sessions[session].t1w]


def test_t1w_of_the_session_then_above_then_another(maker) -> None:
    for session in "ab":
        maker.dwi(f"sub-01_ses-{session}_dwi", metadata=maker.AP)
    maker.image("sub-01_ses-a_T1w.nii.gz")
    dataset = read_dataset(maker.root)
    assert t1w_names(dataset) == t1w_names(dataset, session=1) == ["sub-01_ses-a_T1w.nii.gz"]
    assert dataset.participants[0].sessions[0].warnings == ()
    (warning,) = dataset.participants[0].sessions[1].warnings
    assert "sub-01_ses-a_T1w.nii.gz is used" in warning
    only = read_dataset(maker.root, session_labels=["b"])
    assert t1w_names(only) == ["sub-01_ses-a_T1w.nii.gz"]
    maker.image("sub-01_T1w.nii.gz")
    assert t1w_names(read_dataset(maker.root), session=1) == ["sub-01_T1w.nii.gz"]


def test_all_sessions_take_the_anatomy_of_the_first_on_request(maker) -> None:
    for session in "abc":
        maker.dwi(f"sub-01_ses-{session}_dwi", metadata=maker.AP)
    for session in "bc":
        maker.image(f"sub-01_ses-{session}_T1w.nii.gz")
    dataset = read_dataset(maker.root, shares_anatomy=True)
    sessions = dataset.participants[0].sessions
    assert [p.name for s in sessions for p in s.t1w] == 3 * ["sub-01_ses-b_T1w.nii.gz"]
    assert [s.warnings for s in sessions] == 3 * [()]
    only = read_dataset(maker.root, shares_anatomy=True, session_labels=["c"])
    assert t1w_names(only) == ["sub-01_ses-b_T1w.nii.gz"]
    assert t1w_names(read_dataset(maker.root), session=2) == ["sub-01_ses-c_T1w.nii.gz"]


def test_t2w_is_taken_only_where_the_participant_has_no_t1w(maker) -> None:
    for session in "ab":
        maker.dwi(f"sub-01_ses-{session}_dwi", metadata=maker.AP)
        maker.image(f"sub-01_ses-{session}_T2w.nii.gz")
    dataset = read_dataset(maker.root)
    assert t1w_names(dataset) == ["sub-01_ses-a_T2w.nii.gz"]
    assert t1w_names(dataset, session=1) == ["sub-01_ses-b_T2w.nii.gz"]
    for session in dataset.participants[0].sessions:
        (warning,) = session.warnings
        assert warning.startswith("there is no T1-weighted image that can be used; sub-01_ses-")
    only = read_dataset(maker.root, filters={"t2w": {"session": "b"}})
    assert t1w_names(only) == ["sub-01_ses-b_T2w.nii.gz"]
    assert "ses-a has no T2-weighted image" in only.participants[0].sessions[0].warnings[1]
    assert t1w_names(read_dataset(maker.root, ignored=["t1w"])) == []
    maker.image("sub-01_ses-a_T1w.nii.gz")
    dataset = read_dataset(maker.root)
    assert t1w_names(dataset) == t1w_names(dataset, session=1) == ["sub-01_ses-a_T1w.nii.gz"]


def test_t1w_order_is_normalised_then_fine_then_by_name(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.image("sub-01_acq-b_T1w.nii.gz")
    maker.image("sub-01_acq-a_T1w.nii.gz")
    maker.image("sub-01_acq-fine_T1w.nii.gz", affine=np.diag([1.0, 1, 1, 1]))
    maker.image("sub-01_rec-norm_T1w.nii.gz")
    maker.json("sub-01_rec-norm_T1w.json", {"ImageType": ["ORIGINAL", "M", "NORM"]})
    assert [n.split("_")[1] for n in t1w_names(read_dataset(maker.root))] == [
        "rec-norm",
        "acq-fine",
        "acq-a",
        "acq-b",
    ]


@pytest.mark.parametrize("damage", ["zero bytes", "4-D", "truncated"])
def test_unusable_t1w_is_an_error_and_the_diffusion_goes_on(maker, damage) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    path = maker.image("sub-01_T1w.nii.gz", shape=(6, 6, 4, 2) if damage == "4-D" else (6, 6, 4))
    if damage == "zero bytes":
        path.write_bytes(b"")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    dataset = read_dataset(maker.root)
    (problem,) = dataset.problems
    assert isinstance(problem.error, ImageError)
    assert (problem.participant, problem.path) == ("01", path)
    assert t1w_names(dataset) == []


def test_phase_encoding_of_another_type_is_an_unknown_one(maker) -> None:
    maker.dwi("sub-01_dwi", metadata={**maker.AP, "PhaseEncodingDirection": ["j"]})
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert series.runs[0].phase_encoding is None


# The dataset as a whole


def test_missing_folder(tmp_path) -> None:
    with pytest.raises(LayoutError, match="folder is missing"):
        read_dataset(tmp_path / "none")


@pytest.mark.parametrize("text", [None, "", "[]"])
def test_description_missing_or_broken(maker, text) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    path = maker.root / "dataset_description.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(LayoutError) as caught:
        read_dataset(maker.root)
    assert caught.value.path == path
    assert caught.value.expected


def test_no_participant_folder(maker) -> None:
    with pytest.raises(LayoutError, match=r"no sub-\* folder"):
        read_dataset(maker.root)


def test_no_diffusion_scan_at_all(maker) -> None:
    maker.image("sub-01_T1w.nii.gz")
    with pytest.raises(LayoutError, match="no diffusion scan") as caught:
        read_dataset(maker.root)
    assert "_dwi.nii.gz" in str(caught.value)


def test_filter_that_leaves_nothing_is_named(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    with pytest.raises(LayoutError, match='"acquisition": "zz"'):
        read_dataset(maker.root, filters={"dwi": {"acquisition": "zz"}})


def test_unknown_session_lists_the_known(maker) -> None:
    maker.dwi("sub-01_ses-one_dwi", metadata=maker.AP)
    with pytest.raises(LayoutError, match="sessions there: one"):
        read_dataset(maker.root, session_labels=["two"])


@pytest.mark.parametrize("wanted", [["99"], ["01", "sub-99"], []])
def test_unknown_participant_lists_the_known(maker, wanted) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    with pytest.raises(LayoutError, match="some of 01, 02"):
        read_dataset(maker.root, participant_labels=wanted)


def test_participant_without_diffusion_is_a_problem_only_if_asked_for(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.image("sub-02_T1w.nii.gz")
    assert read_dataset(maker.root).problems == ()
    dataset = read_dataset(maker.root, participant_labels=["01", "02"])
    assert [(p.participant, p.path) for p in dataset.problems] == [("02", maker.root / "sub-02")]
    assert [p.label for p in dataset.participants] == ["01"]


def test_nothing_but_problems_is_still_a_dataset(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP).write_bytes(b"")
    dataset = read_dataset(maker.root)
    assert dataset.participants == ()
    assert len(dataset.problems) == 1


# Large datasets


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """One real participant and 999 copies of its names."""
    root = tmp_path_factory.mktemp("large")
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "Large", "BIDSVersion": "1.10.0"})
    )
    image = nib.Nifti1Image(np.ones((4, 4, 4, 2), np.int16), np.eye(4))
    nib.save(image, root / "image.nii.gz")
    content = (root / "image.nii.gz").read_bytes()
    (root / "image.nii.gz").unlink()
    for number in range(1000):
        for session in "ab":
            folder = root / f"sub-{number:04d}" / f"ses-{session}" / "dwi"
            folder.mkdir(parents=True)
            stem = f"sub-{number:04d}_ses-{session}_dwi"
            (folder / f"{stem}.nii.gz").write_bytes(content)
            (folder / f"{stem}.bval").write_text("0 1000")
            (folder / f"{stem}.bvec").write_text("0 1\n0 0\n0 0")
            (folder / f"{stem}.json").write_text("{}")
    return root


def test_one_of_a_thousand_participants_is_read_quickly(maker, thousand) -> None:
    start = time.perf_counter()
    dataset = read_dataset(thousand, participant_labels=["0500"])
    # Measured 0.4 s; a full index takes 6 s, with metadata several times that.
    assert time.perf_counter() - start < 4
    assert maker.found(dataset) == {("0500", s): [f"sub-0500_ses-{s}"] for s in "ab"}


def test_label_that_begins_like_another_is_not_mixed_up(maker) -> None:
    for label in ("01", "011", "0"):
        maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
    dataset = read_dataset(maker.root, participant_labels=["01"])
    assert [p.label for p in dataset.participants] == ["01"]


def test_reverse_image_with_gradient_files_has_its_own_b0s(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    metadata = {**maker.PA, "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}
    maker.json("sub-01_dir-PA_epi.json", metadata)
    maker.image("sub-01_dir-PA_epi.nii.gz", shape=(6, 6, 4, 3))
    (plain,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert plain.reverse[0].bval is None
    maker.gradients("sub-01_dir-PA_epi", [1000, 0, 1000])
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert series.blip_pair is not None
    assert series.blip_pair[1].bval is not None
    maker.gradients("sub-01_dir-PA_epi", [1000, 1000, 1000])
    (useless,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert useless.blip_pair is None
