from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.simulate import draw_anatomy
from dmri_fm.simulate.scanner import (
    distort,
    draw_field_hz,
    draw_motion,
    head_shell,
    move_volume,
)


def smooth_shift(shape: tuple[int, int, int]) -> np.ndarray:
    y = np.linspace(0, 2 * np.pi, shape[1])
    return np.broadcast_to((1.5 * np.sin(y))[None, :, None], shape).astype(np.float32)


def test_no_shift_changes_nothing() -> None:
    data = np.random.default_rng(0).uniform(size=(4, 9, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(distort(data, np.zeros((4, 9, 3), np.float32), axis=1), data)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_signal_appears_at_its_place_plus_shift(axis: int) -> None:
    data = np.zeros((11, 11, 11, 1), dtype=np.float32)
    data[5, 5, 5] = 1.0
    moved = distort(data, np.full((11, 11, 11), 2.0, np.float32), axis=axis)
    place = [5, 5, 5]
    place[axis] += 2
    assert moved[(*place, 0)] == pytest.approx(1.0)
    assert moved.sum() == pytest.approx(1.0)


def test_signal_is_kept() -> None:
    rng = np.random.default_rng(1)
    data = np.zeros((3, 40, 3, 2), dtype=np.float32)
    data[:, 8:32] = rng.uniform(1, 2, (3, 24, 3, 2))
    moved = distort(data, smooth_shift((3, 40, 3)), axis=1)
    np.testing.assert_allclose(moved.sum(axis=1), data.sum(axis=1), rtol=1e-5)
    assert not np.allclose(moved, data, atol=0.1)


def test_constant_image_becomes_the_inverse_jacobian() -> None:
    shift = smooth_shift((1, 200, 1))
    moved = distort(np.ones((1, 200, 1, 1), np.float32), shift, axis=1)[0, :, 0, 0]
    y = np.arange(200) + shift[0, :, 0].astype(float)
    density = 1.0 / np.gradient(y)
    np.testing.assert_allclose(np.interp(y[5:-5], np.arange(200), moved), density[5:-5], atol=2e-3)


def test_folding_field_is_refused() -> None:
    shift = np.zeros((1, 10, 1), dtype=np.float32)
    shift[0, 4] = 3.0
    with pytest.raises(ConfigError, match="folds"):
        distort(np.ones((1, 10, 1, 1), np.float32), shift, axis=1)


def test_motion_starts_at_rest_and_moves_points_as_stated() -> None:
    rng = np.random.default_rng(2)
    xfms = draw_motion(rng, 12, step_mm=0.5, step_deg=0.5)
    np.testing.assert_array_equal(xfms[0], np.eye(4))
    np.testing.assert_allclose(np.linalg.det(xfms[:, :3, :3]), 1.0)
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [30, -30, -20]
    xfm = np.eye(4)
    xfm[:3, 3] = [4.0, 0.0, -2.0]
    volume = np.zeros((20, 20, 20), dtype=np.float32)
    volume[10, 10, 10] = 1.0
    moved = move_volume(volume, affine, xfm)
    # 4 mm to the right is two voxels down the first axis of a LAS image.
    assert np.unravel_index(moved.argmax(), moved.shape) == (8, 10, 9)


def test_field_and_shell_fit_the_head() -> None:
    rng = np.random.default_rng(3)
    affine = np.array([[6.0, 0, 0, -96], [0, 6, 0, -128], [0, 0, 6, -84], [0, 0, 0, 1]])
    anatomy = draw_anatomy(rng, (33, 38, 31), affine=affine, jitter=0, deformation_mm=0)
    field = draw_field_hz(rng, anatomy, peak_hz=60.0)
    peak = np.unravel_index(np.where(anatomy.mask, field, 0).argmax(), field.shape)
    # The strongest field of the brain is in the lower half of its front.
    assert anatomy.mni_mm[1][peak] > 20
    assert anatomy.mni_mm[2][peak] < 10
    fluid, scalp = head_shell(anatomy.mni_mm)
    assert not (scalp[anatomy.mask] > 0).any()
    assert fluid[anatomy.mask].max() < 0.9
    assert 0.2 < scalp.sum() * 6**3 / 1e6 < 1.5
