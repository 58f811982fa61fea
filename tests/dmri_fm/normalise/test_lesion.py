"""Lesions do not count for the registration to a template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Grid, Image3D, affine_map, resample_image
from dmri_fm.normalise.lesion import read_lesion_mask
from dmri_fm.normalise.registration import register_affine, register_syn
from dmri_fm.normalise.template import load_template
from dmri_fm.series import save_image

LAS = np.diag([-1.0, 1, 1])
OBLIQUE = Rotation.from_euler("xyz", [9, -6, 12], degrees=True).as_matrix() @ LAS


def make_brain(axes: np.ndarray) -> tuple[Image3D, np.ndarray]:
    """Return the template's brain in 4 mm voxels, its right half displaced, and that half."""
    template = load_template(2)
    affine = np.eye(4)
    affine[:3, :3] = 4 * axes
    affine[:3, 3] = np.array([0, -18, 8]) - affine[:3, :3] @ [26, 30, 26]
    grid = Grid((53, 61, 53), affine)
    right = (grid.points()[:, 0] > 8).reshape(grid.shape)
    shift = np.eye(4)
    shift[1:3, 3] = [14, -10]
    sound, displaced = (
        resample_image(template.t1, template.grid.affine, grid, target2source=affine_map(xfm))
        for xfm in (np.eye(4), shift)
    )
    return Image3D(np.where(right, displaced, sound), affine), right


def mean_error_mm(xfm: np.ndarray) -> float:
    template = load_template(2)
    points = template.grid.points()[template.brain_mask.ravel()][::997]
    return float(np.linalg.norm(apply_affine(xfm, points) - points, axis=1).mean())


@pytest.mark.parametrize("axes", [LAS, pytest.param(OBLIQUE, marks=pytest.mark.slow)])
def test_what_the_mask_leaves_out_does_not_move_the_rest(axes: np.ndarray) -> None:
    """Half of the brain lies 17 mm off; the other half alone finds the truth, the identity."""
    brain, right = make_brain(axes)
    template = load_template(2)
    without = mean_error_mm(register_affine(brain, template, is_coarse=True))
    masked = mean_error_mm(register_affine(brain, template, is_coarse=True, lesion=right))
    assert without > 4
    assert masked < 2  # half a voxel


@pytest.mark.slow
@pytest.mark.parametrize("axes", [LAS, OBLIQUE])
def test_a_warp_does_not_follow_the_displaced_half_at_once(axes: np.ndarray) -> None:
    brain, right = make_brain(axes)
    template = load_template(2)
    grid = template.grid
    inside = (template.brain_mask.ravel()) & (grid.points()[:, 0] > 20)
    points = grid.points()[inside][::97]
    moved = []
    for lesion in (None, right):
        warp = register_syn(brain, template, initial=np.eye(4), is_coarse=True, lesion=lesion)
        moved.append(np.linalg.norm(warp.template2image(points) - points, axis=1).mean())
    assert moved[1] < 0.6 * moved[0]


def test_a_mask_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    affine = np.diag([-2.0, 2, 2, 1])
    given = {"shape": (4, 4, 4), "affine": affine}
    good = np.zeros((4, 4, 4))
    good[1, 1, 1:3] = 1
    path = save_image(good, affine, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_lesion_mask(path, "T1w.nii.gz", **given), good > 0)
    for data in (0 * good, good + 1, np.arange(64.0).reshape(4, 4, 4)):
        save_image(data, affine, path)
        with pytest.raises(ImageError, match="different values"):
            read_lesion_mask(path, "T1w.nii.gz", **given)
    save_image(good, np.diag([2.0, 2, 2, 1]), path)
    with pytest.raises(ImageError, match="lesion mask"):
        read_lesion_mask(path, "T1w.nii.gz", **given)
