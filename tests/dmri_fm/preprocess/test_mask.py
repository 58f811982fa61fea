"""Brain masks of b=0 images: the consensus, on phantoms and on real scans."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from dmri_fm.preprocess.mask import (
    brain_mask,
    describe_agreement,
    find_consensus,
    is_placed,
    is_slab,
    name_mask,
)
from dmri_fm.preprocess.mask_choice import pick_single
from dmri_fm.preprocess.mask_shape import cut_necks, fill_slices, thick_part
from dmri_fm.series import Dwi

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])
SHAPE = (64, 72, 56)
X, Y, Z = np.indices(SHAPE)


def ball(centre: tuple[float, float, float], radii_mm: tuple[float, float, float]) -> np.ndarray:
    """An ellipsoid; centre in voxels, radii in mm."""
    return sum(
        ((axis - c) * 3 / r) ** 2 for axis, c, r in zip((X, Y, Z), centre, radii_mm, strict=True)
    ) <= 1  # fmt: skip


BRAIN = ball((32, 34, 30), (66, 82, 60))
#: It touches the brain, as the fat and nerve behind an eye do.
EYE = ball((22, 64, 22), (12, 12, 12)) & ~BRAIN
#: Deep grey matter whose signal is low, with a way out at the base.
DARK = ball((32, 34, 24), (12, 15, 12)) | (
    (abs(X - 32) < 3) & (abs(Y - 34) < 3) & (Z < 24) & BRAIN
)
#: A cerebellum at the dark end of the coil.
DIM = BRAIN & (Z < 17)


def head_image() -> np.ndarray:
    """The b=0 image of that head, smooth as after a median filter."""
    image = np.where(BRAIN, 300.0, 20.0)
    image[DARK] = 100
    image[DIM] = 110
    image[EYE] = 900
    return gaussian_filter(image, 0.7).astype(np.float32)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def network_mask() -> np.ndarray:
    """What a network sees: all of the dark end, too much at one side, too little at the top."""
    wide = ball((30, 34, 30), (75, 82, 60)) & (X < 32)
    return (BRAIN | wide) & (Z < 44)


def test_the_consensus_has_neither_the_faults_of_the_threshold_nor_of_the_network() -> None:
    image = head_image()
    threshold = image > 170
    assert threshold[DARK].mean() < 0.2
    assert threshold[EYE].mean() > 0.5
    found = find_consensus(threshold, [network_mask()], smooth=image, affine=AFFINE)
    assert dice(found, BRAIN) > 0.97
    assert found[BRAIN].mean() > 0.95
    assert found[DARK].mean() > 0.97
    # All but its thin edge: what the network alone sees has to be thick.
    assert threshold[DIM].mean() < 0.1
    assert found[DIM].mean() > 0.7
    # A stub within one voxel of the brain may be left of the eye.
    assert found[EYE].mean() < 0.3
    assert label(found)[1] == 1
    # A rim beyond the brain is the network's, and dark.
    assert not found[ball((30, 34, 30), (75, 82, 60)) & (X < 8)].any()


def test_the_brain_of_the_t1w_image_outvotes_one_method_but_not_two() -> None:
    image = np.where(BRAIN, 300.0, 20.0).astype(np.float32)
    lump = ball((32, 34, 52), (30, 30, 20)) & ~BRAIN
    bright = np.where(lump, 300, image)
    threshold = BRAIN | lump
    alone = find_consensus(threshold, [BRAIN], smooth=bright, affine=AFFINE)
    assert alone[lump].mean() > 0.9
    both = find_consensus(threshold, [BRAIN, BRAIN], smooth=bright, affine=AFFINE)
    assert both[lump].mean() < 0.3
    # A brain that distortion has moved by two voxels changes nothing where the other two agree.
    moved = find_consensus(BRAIN, [BRAIN, np.roll(BRAIN, 2, axis=1)], smooth=image, affine=AFFINE)
    np.testing.assert_array_equal(moved, BRAIN)


def test_a_large_part_behind_a_neck_stays_where_all_methods_see_it() -> None:
    back = ball((32, 12, 20), (24, 24, 24))
    front = ball((32, 44, 30), (54, 66, 54))
    neck = (abs(X - 32) < 2) & (abs(Z - 20) < 2) & (Y > 12) & (Y < 44)
    brain = front | back | neck
    assert label(front | back)[1] == 2
    image = gaussian_filter(np.where(brain, 300.0, 20.0), 0.5).astype(np.float32)
    three = find_consensus(brain, [brain, brain], smooth=image, affine=AFFINE)
    assert three[front].mean() > 0.97
    # Its opening rounds corners of voxels.
    assert three[back].mean() > 0.95
    # One method that denies it is enough, and nobody vouches for a threshold.
    for others in ([brain, front], [front], []):
        assert find_consensus(brain, others, smooth=image, affine=AFFINE)[back].mean() < 0.3


def test_a_threshold_alone_is_cleaned_too() -> None:
    image = head_image()
    found = find_consensus(image > 170, [], smooth=image, affine=AFFINE)
    assert found[EYE].mean() < 0.3
    assert found[DARK & ~DIM].mean() > 0.9


def test_the_t1w_brain_counts_where_fat_spoils_the_threshold() -> None:
    """Fat that was not suppressed: the threshold's mask is far larger than the brain."""
    fat = ball((32, 34, 30), (84, 100, 78)) & ~BRAIN
    threshold = BRAIN | fat
    moved = np.roll(BRAIN, 12, axis=1)
    for anatomy, expected in ((BRAIN, True), (moved, False)):
        agreement = {
            "median_otsu, deepbet": dice(threshold, BRAIN),
            "median_otsu, T1w": dice(threshold, anatomy),
            "deepbet, T1w": dice(BRAIN, anatomy),
        }
        assert agreement["median_otsu, T1w"] < 0.8
        assert is_placed(agreement) is expected
        assert not is_placed(agreement, lost=["deepbet"])
    image = np.where(threshold, 300.0, 20.0).astype(np.float32)
    found = find_consensus(threshold, [BRAIN, BRAIN], smooth=image, affine=AFFINE)
    assert dice(found, BRAIN) > 0.97


@pytest.mark.parametrize(
    ("volumes_ml", "expected"),
    [
        ({"T1w": 1400, "deepbet": 1450, "median_otsu": 3000}, "T1w"),
        ({"deepbet": 1450, "median_otsu": 3000}, "deepbet"),
        # An impossible one, however far, before an empty one, and else the nearest.
        ({"deepbet": 0, "median_otsu": 20000}, "median_otsu"),
        ({"deepbet": 100, "median_otsu": 3000}, "median_otsu"),
        ({"deepbet": 480, "median_otsu": 6000}, "deepbet"),
        ({"deepbet": 3000, "median_otsu": 0}, "deepbet"),
    ],
)
def test_a_single_mask_is_possible_or_nearest_to_that(
    volumes_ml: dict[str, float], expected: str
) -> None:
    assert pick_single(volumes_ml, (500, 2760)) == expected


def test_the_t1w_brain_is_taken_where_the_threshold_is_impossible() -> None:
    """A bright block that fills the field of view: 9 litres."""
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    image = np.full((28, 28, 24), 1000.0)
    image[:3] = 0
    alone = brain_mask(image, affine, contrast="b0")
    assert alone.method.startswith("deepbet ")
    anatomy = alone.proposals["deepbet"].copy()
    anatomy[:, :, ::6] = False
    found = brain_mask(image, affine, contrast="b0", anatomy=anatomy)
    assert found.method == "the T1w brain"
    np.testing.assert_array_equal(found.mask, anatomy)
    assert "holds 2384 ml" in found.warnings[-1]


def test_thick_slices_give_the_mask_of_small_voxels() -> None:
    """The brain of one head, a third of natural size, at 2 mm and at 1 x 1 x 5 mm."""
    grid = np.indices((80, 80, 80)) - 39.5
    radius = np.sqrt(sum((axis / r) ** 2 for axis, r in zip(grid, (26, 30, 24), strict=True)))
    rng = np.random.default_rng(0)
    head = np.where(radius < 1, 300.0, 20.0) + rng.normal(0, 20, radius.shape)
    masks = []
    for size in ((2, 2, 2), (1, 1, 5)):
        shape = [n for k in size for n in (80 // k, k)]
        image = np.clip(head.reshape(shape).mean(axis=(1, 3, 5)), 0, None)
        found = brain_mask(image, np.diag([*size, 1.0]), contrast="b0")
        masks.append(np.kron(found.proposals["median_otsu"], np.ones(size)) > 0)
    assert dice(masks[0], radius < 1) > 0.95
    assert dice(masks[1], radius < 1) > 0.93
    assert abs(masks[1].sum() / masks[0].sum() - 1) < 0.05


def test_tissue_at_the_edge_of_the_field_of_view_is_not_thin() -> None:
    """A slab of two slices is as thick as the head that it was cut from."""
    slab = BRAIN[:, :, 28:30]
    # An opening rounds corners of voxels, no more.
    assert thick_part(slab, AFFINE, radius_mm=6)[slab].mean() > 0.99
    np.testing.assert_array_equal(cut_necks(slab, AFFINE, radius_mm=10), slab)
    assert not thick_part(slab, AFFINE, radius_mm=90).any()
    # Nothing is thick enough here: the largest part is left.
    np.testing.assert_array_equal(cut_necks(slab, AFFINE, radius_mm=90), slab)


def test_gaps_are_filled_where_that_is_allowed_only() -> None:
    tube = ball((32, 34, 30), (60, 60, 60)) & ~((abs(X - 32) < 3) & (abs(Y - 34) < 3))
    filled = fill_slices(tube, allowed=Z > 30)
    assert filled[32, 34, 35]
    assert not filled[32, 34, 25]


def test_masks_that_agree_badly_are_warned_about() -> None:
    (warning,) = describe_agreement(
        {"median_otsu, deepbet": 0.71, "median_otsu, T1w": 0.93}, is_whole=True
    )
    assert "median_otsu and deepbet overlap by 0.71 only" in warning


@pytest.mark.realdata
def test_a_noisy_head_keeps_its_cerebellum_and_no_skin(data_dir: Path) -> None:
    """Of this 4 mm scan deepbet's mask holds skin and ear, median_otsu's lacks the cerebellum."""
    stem = data_dir / "ds-more" / "sub-ds114" / "dwi" / "sub-ds114_dwi"
    dwi = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
    b0 = dwi.mean_b0()
    found = brain_mask(b0, dwi.affine, contrast="b0")
    network, threshold = found.proposals["deepbet"], found.proposals["median_otsu"]
    assert 1000 < found.mask.sum() * 0.064 < 1250 < network.sum() * 0.064
    # The lowest slices of the cerebellum, 65 ml.
    assert found.mask[..., :7].sum() > 2 * threshold[..., :7].sum()
    assert label(found.mask)[1] == 1
    # A T1w brain in another place does not count, and it is said.
    misplaced = np.roll(found.mask, 12, axis=1)
    again = brain_mask(b0, dwi.affine, contrast="b0", anatomy=misplaced)
    np.testing.assert_array_equal(again.mask, found.mask)
    assert again.method == name_mask("b0")
    assert any("T1w overlap by" in warning for warning in again.warnings)


@pytest.mark.realdata
def test_brain_of_a_real_b0_in_any_storage(data_dir: Path) -> None:
    """The mask has a brain's volume, and follows the image when that is stored otherwise."""
    stem = data_dir / "ds-vendors" / "sub-galan" / "dwi" / "sub-galan_dir-PA_dwi"
    dwi = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
    b0 = dwi.mean_b0()
    found = brain_mask(b0, dwi.affine, contrast="b0")
    assert 900 < found.mask.sum() * 27 / 1000 < 1900
    assert found.agreement_dice > 0.8
    assert found.warnings == ()
    assert found.method == name_mask("b0")
    image = nib.Nifti1Image(b0, dwi.affine)
    stored = nib.orientations.axcodes2ornt("PIR")
    change = nib.orientations.ornt_transform(nib.io_orientation(dwi.affine), stored)
    other = image.as_reoriented(change)
    again = brain_mask(np.asarray(other.dataobj), other.affine, contrast="b0")
    back = nib.Nifti1Image(again.mask.astype(np.uint8), other.affine).as_reoriented(
        nib.orientations.ornt_transform(stored, nib.io_orientation(dwi.affine))
    )
    np.testing.assert_array_equal(np.asarray(back.dataobj) > 0, found.mask)


def test_a_slab_is_masked_without_a_warning() -> None:
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    i, j, _ = np.indices((28, 28, 12))
    inside = np.hypot(i - 14, j - 14) < 9
    image = np.where(inside, 1000, 10) + np.random.default_rng(0).normal(0, 5, inside.shape)
    found = brain_mask(image, affine, contrast="b0")
    assert is_slab(image.shape, affine)
    assert "median_otsu (DIPY " in found.method
    assert found.warnings == ()
    overlaps = {n: dice(found.mask, found.proposals[n]) for n in found.counted}
    assert found.counted == overlaps
    assert found.agreement_dice == min(overlaps.values())
    assert dice(found.mask, inside) > 0.95


def test_image_without_a_head_is_warned_about() -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 10, (48, 48, 48)).astype(np.float32)
    found = brain_mask(noise, AFFINE, contrast="b0")
    assert found.warnings


@pytest.mark.parametrize("is_draft", [True, False])
def test_doubts_about_a_draft_are_not_logged(caplog, is_draft: bool) -> None:
    speck = np.zeros((12, 12, 12), np.float32)
    speck[4:8, 4:8, 4:8] = 100
    found = brain_mask(speck, AFFINE, contrast="b0", is_draft=is_draft)
    assert found.warnings
    assert bool(caplog.messages) != is_draft
