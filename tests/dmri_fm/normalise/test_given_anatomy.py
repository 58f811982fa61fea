"""Anatomy of another pipeline: position and identity of the head, transforms."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from dmri_fm.normalise.given_anatomy import (
    ROUND_TRIP_MM,
    join_transforms,
    judge_transforms,
    locate_head,
)
from dmri_fm.normalise.grid import Grid, Image3D, affine_map, compose, resample_image
from dmri_fm.normalise.registration import as_displacement
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import warp_map

#: A head of 4 mm voxels, RAS+.
GRID = Grid(
    (40, 46, 38), np.array([[4.0, 0, 0, -78], [0, 4, 0, -110], [0, 0, 4, -70], [0, 0, 0, 1]])
)


def make_head(seed: int) -> tuple[Image3D, Image3D]:
    """Return a head of smooth random tissue in the template's brain, and its mask."""
    template = load_template(2)
    inside = resample_image(
        template.brain_mask.astype(np.float32),
        template.grid.affine,
        GRID,
        target2source=affine_map(np.eye(4)),
        order=1,
    )
    tissue = gaussian_filter(np.random.default_rng(seed).normal(size=GRID.shape), 1.2)
    data = (inside > 0.5) * (1 + tissue / tissue.std() * 0.3)
    affine = np.asarray(GRID.affine)
    return Image3D(data.astype(np.float32), affine), Image3D(inside > 0.5, affine)


@pytest.fixture(scope="module")
def moved() -> np.ndarray:
    """Takes points of the prepared image to those of the acquired one, RAS+ mm."""
    xfm = np.eye(4)
    xfm[:3, :3] = Rotation.from_euler("xz", [12, -5], degrees=True).as_matrix()
    xfm[:3, 3] = 6.0, -15.0, 30.0
    return xfm


def acquire(head: Image3D, xfm: np.ndarray) -> Image3D:
    """Return the head where the scanner saw it, in other units."""
    affine = np.array(GRID.affine)
    affine[:3, 3] += xfm[:3, 3]
    seen = Grid(GRID.shape, affine)
    data = resample_image(
        head.data, head.affine, seen, target2source=affine_map(np.linalg.inv(xfm)), order=1
    )
    return Image3D(data * 37 + 2, affine)


def test_head_is_found_where_the_scanner_saw_it(moved: np.ndarray) -> None:
    head, mask = make_head(0)
    found = locate_head(head, acquire(head, moved), mask)
    points = np.array([[0.0, -20, 10], [60, -20, 10], [0, 60, 10], [0, -20, 70]])
    off_mm = np.linalg.norm(apply_affine(found.xfm, points) - apply_affine(moved, points), axis=1)
    # A tenth of a voxel in a head that was interpolated once.
    assert off_mm.max() < 0.8
    assert found.is_same_head
    assert found.correlation > 0.8


def test_another_head_is_told_by_its_tissue(moved: np.ndarray) -> None:
    """Outlines are the same, and tissue is not."""
    (head, mask), (other, _) = make_head(0), make_head(1)
    found = locate_head(head, acquire(other, moved), mask)
    assert not found.is_same_head
    assert abs(found.correlation) < 0.4


def bend() -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth displacement on the template's grid and nearly its inverse, mm."""
    grid = load_template(2).grid
    z = grid.points()[:, 2].reshape(grid.shape)
    field = np.zeros((*grid.shape, 3), np.float32)
    field[..., 0] = 4 * np.sin(z / 25)
    return field, -field


def test_transforms_are_judged_by_both_ways_and_by_the_brain() -> None:
    template = load_template(2)
    brain = Image3D(template.brain_mask.astype(np.float32), np.asarray(template.grid.affine))
    shift = np.eye(4)
    shift[:3, 3] = 0, 40, 0
    there, back = affine_map(shift), affine_map(np.linalg.inv(shift))
    one = affine_map(np.eye(4))
    sound = judge_transforms(brain, template, template2image=one, image2template=one)
    assert sound.dice == pytest.approx(1, abs=0.01)
    assert sound.round_trip_mm == 0
    wrong = judge_transforms(brain, template, template2image=there, image2template=back)
    assert wrong.dice < 0.75
    assert wrong.round_trip_mm == pytest.approx(0, abs=1e-6)
    alone = judge_transforms(brain, template, template2image=one, image2template=back)
    assert alone.round_trip_mm == pytest.approx(40)
    field, inverse = bend()
    warped = judge_transforms(
        brain,
        template,
        template2image=warp_map(field, template.grid),
        image2template=warp_map(inverse, template.grid),
    )
    assert warped.round_trip_mm < ROUND_TRIP_MM
    assert warped.dice > 0.9


@pytest.mark.parametrize("is_warp", [False, True])
def test_transforms_of_the_image_become_those_of_its_brain_in_acpc(
    is_warp: bool, moved: np.ndarray
) -> None:
    """Points of the template reach ACPC by the image, and come back."""
    template, (head, _) = load_template(2), make_head(0)
    field, inverse = bend()
    if is_warp:
        to_image = compose(warp_map(field, template.grid), affine_map(moved))
        to_template = compose(affine_map(np.linalg.inv(moved)), warp_map(inverse, template.grid))
    else:
        to_image, to_template = affine_map(moved), affine_map(np.linalg.inv(moved))
    acpc2image = moved @ np.diag([1.0, 1, 1, 1])
    acpc2image[:3, 3] += 3
    joined = join_transforms(
        to_image,
        to_template,
        acpc2image_xfm=acpc2image,
        brain=head,
        template=template,
        is_warp=is_warp,
    )
    assert (joined.displacement_mm is not None) == is_warp
    points = np.array([[10.0, -20, 15], [-40, 10, 30]])
    expected = apply_affine(np.linalg.inv(acpc2image), to_image(points))
    np.testing.assert_allclose(joined.template2image(points), expected, atol=1e-6)
    if joined.displacement_mm is not None:
        forward, backward = joined.displacement_mm
        assert backward.shape[:3] == head.data.shape
        there = warp_map(forward, template.grid)(points)
        # Linear interpolation of the field between 2 mm and 4 mm voxels.
        np.testing.assert_allclose(there, expected, atol=0.05)
        np.testing.assert_allclose(warp_map(backward, GRID)(there), points, atol=0.3)
        np.testing.assert_array_equal(
            forward, as_displacement(joined.template2image, template.grid)
        )
