"""The point map of an alignment: direction, signs, oblique grids, repeatability."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Literal

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.preprocess.alignment import (
    ITK_THREADS_VARIABLE,
    Level,
    align,
    itk_parameters,
    mutual_information,
    one_itk_thread,
    ras_matrix,
    resample_affine,
)


def head(points: np.ndarray) -> np.ndarray:
    """A head-like intensity at RAS points (..., 3), mm, without any symmetry."""
    x, y, z = np.moveaxis(points, -1, 0)
    r = np.sqrt((x / 38) ** 2 + (y / 46) ** 2 + (z / 36) ** 2)
    brain = 1 / (1 + np.exp((r - 1) * 12))
    spots = sum(
        a * np.exp(-((x - i) ** 2 + (y - j) ** 2 + (z - k) ** 2) / (2 * s**2))
        for i, j, k, s, a in [
            (12, 18, 8, 6, 1.0),
            (-15, 10, -9, 8, -0.6),
            (8, -22, 12, 7, 0.8),
            (-10, -18, -4, 5, 0.9),
            (2, 3, 18, 6, -0.5),
        ]
    )
    return brain * (1 + spots)


def grid_points(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    ijk = np.moveaxis(np.indices(shape), 0, -1)
    return ijk @ affine[:3, :3].T + affine[:3, 3]


def centred(linear: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = -linear @ ((np.array(shape) - 1) / 2)
    return affine


SHAPE = (34, 38, 30)
OBLIQUE = Rotation.from_euler("xyz", [12, -8, 15], degrees=True).as_matrix()
AFFINES = {
    "ras": np.diag([3.0, 3.0, 3.0]),
    "las": np.diag([-3.0, 3.0, 3.0]),
    "oblique": OBLIQUE @ np.diag([-3.0, 3.0, 3.2]),
    "sagittal": np.array([[0, 0, -3.0], [3.0, 0, 0], [0, 3.0, 0]]),
}


def largest_error_mm(found: np.ndarray, truth: np.ndarray) -> float:
    points = np.array([[x, y, z, 1] for x in (-30, 30) for y in (-35, 35) for z in (-25, 25)])
    return float(np.linalg.norm((points @ (found - truth).T)[:, :3], axis=1).max())


# A tenth of a voxel within one contrast; half a voxel for mutual information, which has few
# grey levels to work with on this smooth and small phantom.
@pytest.mark.parametrize(("metric", "tolerance_mm"), [("correlation", 0.3), ("mi", 1.5)])
@pytest.mark.parametrize("name", AFFINES)
def test_known_rigid_motion_is_recovered_on_every_kind_of_grid(
    name: str, metric: Literal["correlation", "mi"], tolerance_mm: float
) -> None:
    affine = centred(AFFINES[name], SHAPE)
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_rotvec(np.deg2rad([4.0, -3.0, 6.0])).as_matrix()
    truth[:3, 3] = [3.0, -2.0, 1.5]
    fixed_points = grid_points(SHAPE, affine)
    # moving(truth @ p) = fixed(p): tissue at p in the fixed image lies at truth @ p.
    inverse = np.linalg.inv(truth)
    moving = head(fixed_points @ inverse[:3, :3].T + inverse[:3, 3])
    grids = {"fixed_affine": affine, "moving_affine": affine}
    found = align(head(fixed_points), moving, **grids, metric=metric)
    assert largest_error_mm(found, truth) < tolerance_mm
    resampled = resample_affine(moving, found, **grids, shape=SHAPE)
    assert mutual_information(head(fixed_points), resampled) > 0.4


def test_affine_recovers_scale_and_a_shift_between_unlike_grids() -> None:
    fixed_affine = centred(AFFINES["las"], SHAPE)
    moving_affine = centred(AFFINES["oblique"], (36, 40, 32))
    truth = np.diag([1.0, 1.05, 0.97, 1.0])
    truth[:3, 3] = [-2.0, 3.0, 0.0]
    truth[1, 0] = 0.03
    inverse = np.linalg.inv(truth)
    fixed = head(grid_points(SHAPE, fixed_affine))
    points = grid_points((36, 40, 32), moving_affine)
    moving = 700 * head(points @ inverse[:3, :3].T + inverse[:3, 3])
    found = align(
        fixed,
        moving,
        fixed_affine=fixed_affine,
        moving_affine=moving_affine,
        freedom="affine",
        metric="correlation",
    )
    assert largest_error_mm(found, truth) < 0.4


def test_the_same_call_gives_the_same_matrix_but_for_rounding_and_a_start_is_used() -> None:
    affine = centred(AFFINES["ras"], SHAPE)
    points = grid_points(SHAPE, affine)
    fixed, moving = head(points), head(points - [1.0, 0.0, 2.0])
    first = align(fixed, moving, fixed_affine=affine, moving_affine=affine)
    second = align(fixed, moving, fixed_affine=affine, moving_affine=affine)
    # Several ITK threads add up in another order each time: rounding, far below a voxel.
    np.testing.assert_allclose(first, second, atol=1e-3)
    start = np.eye(4)
    start[:3, 3] = [1.0, 0.0, 2.0]
    still = align(
        fixed,
        moving,
        fixed_affine=affine,
        moving_affine=affine,
        initial=start,
        levels=[Level(2, 0, 0)],
    )
    np.testing.assert_allclose(still, start, atol=1e-6)


def test_itk_parameters_and_ras_matrix_are_inverse() -> None:
    matrix = np.eye(4)
    matrix[:3] = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_allclose(ras_matrix(itk_parameters(matrix), np.zeros(3)), matrix)


def test_mutual_information_ranks_alignment() -> None:
    affine = centred(AFFINES["ras"], SHAPE)
    points = grid_points(SHAPE, affine)
    image = head(points)
    near = mutual_information(image, head(points - [1.0, 0, 0]))
    far = mutual_information(image, head(points - [9.0, 0, 0]))
    assert 1.0 >= near > far >= 0.0


def test_a_constant_image_is_refused() -> None:
    with pytest.raises(ImageError, match="cannot be aligned"):
        align(
            np.zeros((8, 8, 8)),
            np.ones((8, 8, 8)),
            fixed_affine=np.eye(4),
            moving_affine=np.eye(4),
        )


#: ITK reads its number of threads once in the life of a process, so that each gets its own.
REPEAT = """
import numpy as np
from scipy.ndimage import gaussian_filter
from dmri_fm.preprocess.alignment import align
from dmri_fm.preprocess.dwiref import correct_bias

noise = np.random.default_rng(0).random((32, 32, 16))
image = (gaussian_filter(noise, 2) * np.linspace(1, 2, 32)[:, None, None]).astype(np.float32)
moved = np.roll(image, 2, axis=0)
even = correct_bias(image, np.diag([4.0, 4, 4, 1]))
found = align(image, moved, fixed_affine=np.eye(4), moving_affine=np.eye(4))
print(found.tobytes().hex(), even.tobytes().hex())
"""


def test_registration_and_bias_do_not_depend_on_threads() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", REPEAT],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), ITK_THREADS_VARIABLE: n},
            capture_output=True,
            check=True,
        ).stdout
        for n in ("1", "2")
    }
    assert len(found) == 1


def test_number_of_itk_threads_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ITK_THREADS_VARIABLE, "7")
    with one_itk_thread():
        assert os.environ[ITK_THREADS_VARIABLE] == "1"
    assert os.environ[ITK_THREADS_VARIABLE] == "7"
    monkeypatch.delenv(ITK_THREADS_VARIABLE)
    with one_itk_thread():
        pass
    assert ITK_THREADS_VARIABLE not in os.environ
