"""Brain masks of the user: what is refused, and how they move with the distortion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.errors import ImageError
from dmri_fm.preprocess.user_mask import read_user_mask, undistort_mask
from dmri_fm.series import save_image

SHAPE = (12, 14, 10)
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
APART = np.array([[-2.0, 0, 0, 4], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
BOX = (slice(3, 9), slice(4, 10), slice(2, 8))


def a_box() -> np.ndarray:
    box = np.zeros(SHAPE, dtype=np.uint8)
    box[BOX] = 1
    return box


def read(path: Path) -> np.ndarray:
    return read_user_mask(path, "sub-01_dwi.nii.gz", shape=SHAPE, affine=AFFINE)


@pytest.mark.parametrize("level", [1, 255])
def test_two_values_are_a_mask(tmp_path: Path, level: int) -> None:
    path = save_image(a_box() * level, AFFINE, tmp_path / "mask.nii.gz", dtype=np.uint8)
    np.testing.assert_array_equal(read(path), a_box() > 0)


@pytest.mark.parametrize(
    ("values", "affine", "found"),
    [
        (np.zeros(SHAPE), AFFINE, "every voxel is 0"),
        (np.ones(SHAPE), AFFINE, "every voxel is 1"),
        (a_box() * np.linspace(0, 1, SHAPE[2]), AFFINE, "different values"),
        (a_box() + 1, AFFINE, "different values \\(1, 2\\)"),
        (a_box()[:-1], AFFINE, "of shape \\(11, 14, 10\\)"),
        (a_box(), APART, "at another position"),
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(
    tmp_path: Path, values: np.ndarray, affine: np.ndarray, found: str
) -> None:
    path = save_image(values, affine, tmp_path / "mask.nii.gz")
    with pytest.raises(ImageError, match=found):
        read(path)


@pytest.mark.parametrize(("direction", "voxels"), [("j", 2), ("j-", -2), ("i-", -2)])
def test_mask_moves_back_along_phase_encoding(direction: str, voxels: int) -> None:
    field = DistortionField(np.full(SHAPE, 40.0), AFFINE)
    encoding = PhaseEncoding(direction, 0.05)  # 40 Hz over .05 s are two voxels
    axis = "ijk".index(direction[0])
    distorted = np.roll(a_box(), voxels, axis=axis)
    moved = undistort_mask(distorted, AFFINE, field=field, encoding=encoding)
    np.testing.assert_array_equal(moved, a_box() > 0)


def test_mask_that_leaves_the_image_is_an_error() -> None:
    field = DistortionField(np.full(SHAPE, 400.0), AFFINE)
    with pytest.raises(ImageError, match="moves the brain mask out"):
        undistort_mask(a_box(), AFFINE, field=field, encoding=PhaseEncoding("j", 0.05))
