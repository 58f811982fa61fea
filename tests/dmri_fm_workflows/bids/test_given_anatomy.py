"""`--derivatives`: which anatomy is taken, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import DmriError, ImageError, LayoutError
from dmri_fm.series import save_image
from dmri_fm_workflows.bids import Dataset, Participant, Session
from dmri_fm_workflows.bids.given_anatomy import take_anatomy
from dmri_fm_workflows.bids.records import describe_t2w
from tests.dmri_fm_workflows.given_anatomies import MNI, SHIFT, write_anatomy, write_transforms

#: The image as acquired, of which only the name is looked at here.
ACQUIRED = Path("/data/sub-01/anat/sub-01_T1w.nii.gz")


def make_dataset(*labels: str | None, acquired: Path | None = ACQUIRED) -> Dataset:
    """Return a raw dataset of one participant with these sessions."""
    t1w = () if acquired is None else (acquired,)
    sessions = tuple(Session(label, t1w, ()) for label in labels or (None,))
    return Dataset(Path("/data"), "Test", (Participant("01", sessions),))


def take_one(root: Path, **given: object) -> Session:
    """Return the only session, which has to have no problem."""
    found = take_anatomy(make_dataset(**given), root)
    assert [str(p.error) for p in found.problems] == []
    (session,) = found.participants[0].sessions
    return session


def only_error(root: Path, *labels: str, **given: object) -> DmriError:
    """Return the error of the only session, which is not processed."""
    found = take_anatomy(make_dataset(*labels, **given), root)
    (problem,) = found.problems
    assert problem.participant == "01"
    assert found.participants == ()
    return problem.error


@pytest.mark.parametrize(
    ("pipeline", "space", "is_acpc"),
    [
        ("fMRIPrep", None, False),
        ("QSIPrep", "ACPC", True),
        ("QSIPrep", None, True),  # before 1.0 its T1w space was ACPC
        ("drope-bidsapp", "ACPC", True),
    ],
)
def test_image_and_mask_are_taken_in_the_frame_of_their_pipeline(
    pipeline: str, space: str | None, is_acpc: bool, tmp_path: Path
) -> None:
    image = write_anatomy(tmp_path, pipeline=pipeline, space=space)
    session = take_one(tmp_path)
    prepared = session.prepared_t1w
    assert prepared is not None
    assert session.t1w == (image,)
    assert prepared.mask == image.with_name(image.name.replace("preproc_T1w", "brain_mask"))
    assert (prepared.is_acpc, prepared.by) == (is_acpc, f"{pipeline} 23.2.1")
    assert prepared.acquired == ACQUIRED
    assert prepared.files == (image, prepared.mask, ACQUIRED)
    assert session.warnings == ()


def test_raw_t2w_image_and_its_lesions_are_left_where_a_t1w_image_is_given(tmp_path: Path) -> None:
    """Nothing registers them to the prepared image: its transforms are not theirs."""
    image = write_anatomy(tmp_path)
    t2w = ACQUIRED.with_name("sub-01_T2w.nii.gz")
    lesions = ACQUIRED.with_name("sub-01_label-lesion_roi.nii.gz")
    raw = Session(None, (t2w,), (), (describe_t2w(t2w), "another"), lesion_mask=lesions)
    found = take_anatomy(Dataset(Path("/data"), "Test", (Participant("01", (raw,)),)), tmp_path)
    (session,) = found.participants[0].sessions
    assert (session.t1w, session.lesion_mask) == ((image,), None)
    assert "another" in session.warnings
    assert describe_t2w(t2w) not in session.warnings
    assert any(lesions.name in w and "not used" in w for w in session.warnings)


def test_what_the_sidecar_warns_of_is_passed_on(tmp_path: Path) -> None:
    """An image that was made coarsely does not become a sound one."""
    image = write_anatomy(tmp_path, sidecar={"Warnings": ["Made with --sloppy"]})
    assert take_one(tmp_path).warnings == (
        f"The sidecar of {image.name} warns: Made with --sloppy",
    )


def test_images_in_the_template_are_no_anatomy(tmp_path: Path) -> None:
    """fMRIPrep writes the image a second time in each output space."""
    image = write_anatomy(tmp_path)
    write_anatomy(tmp_path, space="MNI152NLin2009cAsym")
    assert take_one(tmp_path).t1w == (image,)
    image.unlink()
    error = only_error(tmp_path)
    assert "but for those in space MNI152NLin2009cAsym" in error.found


def test_transforms_to_the_template_are_taken_and_others_named(tmp_path: Path) -> None:
    image = write_anatomy(tmp_path, transforms=True)
    write_transforms(image, SHIFT, template="MNI152NLin2009cAsym")
    prepared = take_one(tmp_path).prepared_t1w
    assert prepared is not None
    assert prepared.transforms is not None
    assert prepared.transforms.to_template.name == f"sub-01_from-T1w_to-{MNI}_mode-image_xfm.txt"
    assert prepared.transforms.method == "affine"
    assert prepared.templates == ("MNI152NLin2009cAsym",)
    assert len(prepared.files) == 5


def test_tissue_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    image = write_anatomy(tmp_path, tissue=True)
    prepared = take_one(tmp_path).prepared_t1w
    assert prepared is not None
    assert prepared.tissue is not None
    names = [p.name for p in prepared.tissue.files]
    shares = [f"sub-01_label-{t}_probseg.nii.gz" for t in ("GM", "WM", "CSF")]
    assert names == ["sub-01_dseg.nii.gz", *shares]
    save_image(np.ones((4, 4, 4)), np.eye(4), prepared.tissue.wm)
    error = only_error(tmp_path)
    assert error.path == prepared.tissue.wm
    assert "grid" in str(error)
    prepared.tissue.wm.unlink()
    session = take_one(tmp_path)
    assert session.t1w == (image,)
    assert session.prepared_t1w is not None
    assert session.prepared_t1w.tissue is None
    assert "sub-01_label-CSF_probseg.nii.gz not taken" in session.warnings[0]


def test_anatomy_of_another_session_comes_with_a_warning(tmp_path: Path) -> None:
    first = write_anatomy(tmp_path, "sub-01_ses-a")
    found = take_anatomy(make_dataset("a", "b"), tmp_path)
    one, two = found.participants[0].sessions
    assert one.t1w == two.t1w == (first,)
    assert one.warnings == ()
    assert "ses-b has no T1w image in the derivatives of fMRIPrep 23.2.1" in two.warnings[0]
    above = write_anatomy(tmp_path, "sub-01")
    found = take_anatomy(make_dataset("a", "b"), tmp_path)
    assert [s.t1w for s in found.participants[0].sessions] == [(first,), (above,)]
    assert found.participants[0].sessions[1].warnings == ()


def test_one_session_without_a_fit_does_not_stop_the_other(tmp_path: Path) -> None:
    write_anatomy(tmp_path, "sub-01_ses-a")
    broken = write_anatomy(tmp_path, "sub-01_ses-b")
    broken.write_bytes(b"no image")
    found = take_anatomy(make_dataset("a", "b"), tmp_path)
    assert [s.label for s in found.participants[0].sessions] == ["a"]
    assert [p.path for p in found.problems] == [broken]


def test_position_has_to_be_known(tmp_path: Path) -> None:
    """An image in ACPC says nothing about the scanner; one in its frame is not compared."""
    write_anatomy(tmp_path / "acpc", pipeline="QSIPrep", space="ACPC")
    error = only_error(tmp_path / "acpc", acquired=None)
    assert "no T1w image that can be used of sub-01" in error.found
    write_anatomy(tmp_path / "own")
    session = take_one(tmp_path / "own", acquired=None)
    assert "could not be compared" in session.warnings[0]


def rename(image: Path) -> None:
    """Give the image the name of another participant."""
    image.rename(image.with_name(image.name.replace("sub-01", "sub-02")))


def link(image: Path) -> None:
    """Put a link to another participant's image in its place."""
    other = image.parents[2] / "sub-02" / "anat" / image.name.replace("sub-01", "sub-02")
    other.parent.mkdir(parents=True)
    image.rename(other)
    image.symlink_to(other)


def say_another(image: Path) -> None:
    """Let the sidecar name another participant's image."""
    sidecar = image.with_name(image.name.replace(".nii.gz", ".json"))
    sidecar.write_text('{"RawSources": ["sub-02/anat/sub-02_T1w.nii.gz"]}', encoding="utf-8")


def shift_mask(image: Path) -> None:
    """Write a mask of another grid."""
    mask = image.with_name(image.name.replace("preproc_T1w", "brain_mask"))
    save_image(np.ones((4, 4, 4)), np.eye(4), mask, dtype=np.uint8)


def move_mask(image: Path) -> None:
    """Leave a mask in another space alone."""
    mask = image.with_name(image.name.replace("preproc_T1w", "brain_mask"))
    mask.rename(image.with_name("sub-01_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz"))


def double(image: Path) -> None:
    """Add an image in ACPC."""
    shutil.copy(image, image.with_name("sub-01_space-ACPC_desc-preproc_T1w.nii.gz"))


def forget_inverse(image: Path) -> None:
    """Write one of the two transforms."""
    write_transforms(image, SHIFT)[1].unlink()


def mix_transforms(image: Path) -> None:
    """Write the inverse of another head."""
    write_transforms(image, SHIFT, back=np.eye(4))


def swap_transforms(image: Path) -> None:
    """Write each transform under the name of the other."""
    far = SHIFT.copy()
    far[:3, 3] = 0, 30, -20
    write_transforms(image, np.linalg.inv(far))


def damage_transform(image: Path) -> None:
    """Write a text that is no transform."""
    write_transforms(image, SHIFT)[0].write_text("no transform", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "expected", "found"),
    [
        (rename, LayoutError, "does not fit its folder sub-01/anat"),
        (link, LayoutError, "sub-02"),
        (say_another, LayoutError, "its sidecar names files of sub-02 as its sources"),
        (shift_mask, ImageError, "mask"),
        (move_mask, LayoutError, "has no brain mask in its space, but there is"),
        (double, LayoutError, "2 prepared T1w images"),
        (forget_inverse, LayoutError, "1 transforms to MNI152NLin2009aSym and 0 back"),
        (mix_transforms, ImageError, "is not its inverse: points come back 13.0 mm away"),
        (swap_transforms, ImageError, "of the template's brain only"),
        (damage_transform, ImageError, "cannot be read as a transform"),
    ],
)
def test_what_does_not_fit_is_an_error_before_work(
    spoil: Callable[[Path], None], expected: type[DmriError], found: str, tmp_path: Path
) -> None:
    image = write_anatomy(tmp_path)
    spoil(image)
    error = only_error(tmp_path)
    assert isinstance(error, expected)
    assert found in str(error)
    assert error.path is not None
    assert error.expected
    assert error.advice


def test_participant_and_description_have_to_be_there(tmp_path: Path) -> None:
    write_anatomy(tmp_path, "sub-02")
    assert only_error(tmp_path).found == "no folder of sub-01"
    (tmp_path / "dataset_description.json").unlink()
    with pytest.raises(LayoutError, match="file is missing"):
        take_anatomy(make_dataset(), tmp_path)


def test_without_a_mask_the_transforms_cannot_be_checked_and_are_left(tmp_path: Path) -> None:
    image = write_anatomy(tmp_path, transforms=True)
    image.with_name(image.name.replace("preproc_T1w", "brain_mask")).unlink()
    session = take_one(tmp_path)
    assert session.prepared_t1w is not None
    assert (session.prepared_t1w.mask, session.prepared_t1w.transforms) == (None, None)
    assert "without a brain mask of" in session.warnings[0]
