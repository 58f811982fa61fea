"""Sides, choice of slices, windows and outlines."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.errors import ImageError
from dmri_fm_workflows.report.slices import (
    choose_slices,
    contour_lines,
    cut_strip,
    cut_tiles,
    foreground,
    intensity_window,
    plan_rows,
    rescale,
    tissue_boundary,
    to_ras,
)

RAS_AFFINE = np.array([[2, 0, 0, -20], [0, 2.5, 0, -30], [0, 0, 3, -15], [0, 0, 0, 1.0]])


def stored_as(data: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """Store a RAS volume in another order; the world stays the same."""
    start = nib.orientations.axcodes2ornt("RAS")
    end = nib.orientations.axcodes2ornt(tuple(codes))
    change = nib.orientations.ornt_transform(start, end)
    array = nib.orientations.apply_orientation(data, change)
    return array, RAS_AFFINE @ nib.orientations.inv_ornt_aff(change, data.shape[:3])


@pytest.mark.parametrize("codes", ["RAS", "LAS", "LPS", "PSR", "ASL", "IRP"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_to_ras_undoes_any_storage_order(codes: str, channels: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).random((6, 7, 8, *channels))
    array, affine = stored_as(data, codes)
    back, back_affine = to_ras(array, affine)
    np.testing.assert_array_equal(back, data)
    np.testing.assert_allclose(back_affine, RAS_AFFINE)


def test_to_ras_keeps_an_oblique_grid_without_interpolation() -> None:
    angle = np.deg2rad(20)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    affine = RAS_AFFINE.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    data = np.arange(24.0).reshape(2, 3, 4)
    back, back_affine = to_ras(data, affine)
    np.testing.assert_array_equal(back, data)
    np.testing.assert_allclose(back_affine, affine)


def test_to_ras_refuses_other_ranks() -> None:
    with pytest.raises(ImageError, match="shape"):
        to_ras(np.zeros((3, 3)), np.eye(4))


def test_left_is_left_anterior_is_up_or_right_and_superior_is_up() -> None:
    data = np.zeros((10, 12, 14))
    data[1, :, :] = 1  # left
    rows = {r.view: r for r in plan_rows(np.ones(data.shape, bool), RAS_AFFINE)}
    for view in ("axial", "coronal"):
        tile = cut_tiles(data, rows[view])[0]
        assert np.argmax(tile.sum(axis=0)) == 1
    data = np.zeros((10, 12, 14))
    data[:, -2, :] = 1  # front
    assert np.argmax(cut_tiles(data, rows["axial"])[0].sum(axis=1)) == 1
    assert np.argmax(cut_tiles(data, rows["sagittal"])[0].sum(axis=0)) == 10
    data = np.zeros((10, 12, 14))
    data[:, :, -2] = 1  # top
    for view in ("coronal", "sagittal"):
        assert np.argmax(cut_tiles(data, rows[view])[0].sum(axis=1)) == 1


def test_slices_are_inside_the_mask_and_evenly_spaced() -> None:
    mask = np.zeros((20, 20, 40), dtype=bool)
    mask[5:15, 5:15, 10:30] = True
    chosen = choose_slices(mask, axis=2, count=5)
    assert len(chosen) == 5
    assert min(chosen) >= 10
    assert max(chosen) < 30
    assert set(np.diff(chosen)) <= {4}
    assert choose_slices(mask[..., 10:12], axis=2, count=5) == (0, 1)
    assert len(choose_slices(np.zeros_like(mask), axis=2, count=5)) == 5


def test_rows_keep_proportions_of_anisotropic_voxels() -> None:
    rows = plan_rows(np.ones((20, 20, 20), bool), RAS_AFFINE, margin_mm=0)
    assert {r.view: r.tile_mm for r in rows} == {
        "axial": (40.0, 50.0),
        "coronal": (40.0, 60.0),
        "sagittal": (50.0, 60.0),
    }
    axial = rows[0]
    np.testing.assert_allclose(axial.positions_mm, -15 + 3 * np.array(axial.indices))


def test_a_scan_of_two_slices_has_axial_tiles_only() -> None:
    rows = plan_rows(np.ones((30, 30, 2), bool), RAS_AFFINE)
    assert [r.view for r in rows] == ["axial"]
    assert rows[0].indices == (0, 1)
    assert cut_strip(np.zeros((30, 30, 2)), rows[0]).shape == (30, 60)


def test_window_and_rescale() -> None:
    image = np.arange(1000.0).reshape(10, 10, 10)
    low, high = intensity_window(image)
    assert low == 0.0
    assert 980 < high < 990
    assert rescale(np.array([low, high, np.nan, 2 * high]), (low, high)).tolist() == [
        0,
        255,
        0,
        255,
    ]
    assert intensity_window(np.zeros((3, 3, 3))) == (0.0, 1.0)
    assert intensity_window(np.full((3, 3, 3), np.nan)) == (0.0, 1.0)
    assert foreground(image).any()


def test_outline_surrounds_the_region_even_at_the_border() -> None:
    tile = np.zeros((6, 8))
    tile[0:3, 5:8] = 1
    (line,) = contour_lines(tile)
    assert np.allclose(line[0], line[-1])
    # Half way between the centres of the pixels inside and outside.
    np.testing.assert_allclose(line.min(axis=0), [5.0, 0.0])
    np.testing.assert_allclose(line.max(axis=0), [8.0, 3.0])


def test_tissue_boundary_finds_the_brightest_class() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((24, 24, 24))
    truth[4:20, 4:20, 4:20] = 1
    truth[8:16, 8:16, 8:16] = 2
    image = 100.0 * (1 + truth) + rng.normal(0, 8, truth.shape)
    found = tissue_boundary(image, np.ones(truth.shape, bool)) > 0.5
    overlap = 2 * (found & (truth == 2)).sum() / (found.sum() + (truth == 2).sum())
    assert overlap > 0.95
    assert not tissue_boundary(np.zeros((5, 5, 5)), np.ones((5, 5, 5), bool)).any()
