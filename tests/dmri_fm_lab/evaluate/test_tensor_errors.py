from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.tensor_errors import axis_angle_deg, scalar_errors, tensor_errors


def make_maps(matrices: np.ndarray, mask: np.ndarray, affine=None) -> TensorMaps:
    elements = matrices[..., [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    return TensorMaps.from_tensor(
        elements, mask, affine=np.eye(4) if affine is None else affine, model="tensor"
    )


def draw(rng: np.random.Generator) -> np.ndarray:
    turn = Rotation.random(60, random_state=rng).as_matrix().reshape(3, 4, 5, 3, 3)
    values = np.array([1.6e-3, 0.5e-3, 0.3e-3])
    return np.einsum("...ik,k,...jk->...ij", turn, values, turn)


def test_equal_maps_have_no_error() -> None:
    matrices = draw(np.random.default_rng(0))
    maps = make_maps(matrices, np.ones((3, 4, 5)))
    errors = tensor_errors(maps, maps)
    assert errors.tensor == 0
    assert errors.v1_angle_deg == 0
    assert errors.n_axes == 60
    scalars = (errors.fa, errors.md, errors.ad, errors.rd)
    assert all(e.bias == e.mean_absolute == 0 for e in scalars)


def test_a_common_rotation_is_the_angle_and_leaves_the_scalars() -> None:
    matrices = draw(np.random.default_rng(1))
    reference = make_maps(matrices, np.ones((3, 4, 5)))
    # Turn each tensor by ten degrees about its own third axis: the first moves by as much.
    _, vectors = np.linalg.eigh(matrices)
    turn = Rotation.from_rotvec(np.deg2rad(10) * vectors[..., 0].reshape(-1, 3)).as_matrix()
    turn = turn.reshape(3, 4, 5, 3, 3)
    turned = np.einsum("...ij,...jk,...lk->...il", turn, matrices, turn)
    errors = tensor_errors(make_maps(turned, np.ones((3, 4, 5))), reference)
    assert errors.v1_angle_deg == pytest.approx(10, abs=1e-2)
    assert errors.fa.mean_absolute < 1e-6
    assert errors.md.root_mean_square < 1e-9
    assert errors.tensor > 1e-4


def test_only_the_mask_counts() -> None:
    matrices = draw(np.random.default_rng(2))
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[0] = True
    wrong = matrices.copy()
    wrong[1:] *= 3
    errors = tensor_errors(
        make_maps(wrong, np.ones((3, 4, 5))), make_maps(matrices, np.ones((3, 4, 5))), mask=mask
    )
    assert errors.tensor == 0
    assert errors.fa.n_voxels == 20
    scaled = tensor_errors(
        make_maps(1.1 * matrices, mask), make_maps(matrices, np.ones((3, 4, 5)))
    )
    assert scaled.md.bias == pytest.approx(0.1 * 0.8e-3, rel=1e-4)
    assert scaled.fa.bias == pytest.approx(0, abs=1e-6)


def test_scalar_errors_of_known_numbers() -> None:
    errors = scalar_errors([[[1.0, 2, 3, 100]]], [[[2.0, 2, 5, 0]]], mask=[[[1, 1, 1, 0]]])
    assert errors.mean_absolute == 1
    assert errors.bias == -1
    assert errors.root_mean_square == pytest.approx(np.sqrt(5 / 3))


def test_small_angles_are_exact() -> None:
    angle = 1e-7
    tilted = [np.cos(angle), np.sin(angle), 0]
    assert axis_angle_deg([1, 0, 0], tilted) == pytest.approx(np.rad2deg(angle), rel=1e-6)


def test_isotropic_reference_has_no_axis() -> None:
    maps = make_maps(np.tile(1e-3 * np.eye(3), (2, 2, 2, 1, 1)), np.ones((2, 2, 2)))
    errors = tensor_errors(maps, maps)
    assert errors.n_axes == 0
    assert np.isnan(errors.v1_angle_deg)


def test_unlike_maps_are_refused() -> None:
    matrices = draw(np.random.default_rng(3))
    maps = make_maps(matrices, np.ones((3, 4, 5)))
    with pytest.raises(ImageError, match="unlike grids"):
        tensor_errors(maps, make_maps(matrices, np.ones((3, 4, 5)), affine=np.diag([2, 2, 2, 1])))
    with pytest.raises(ImageError, match="mask of shape"):
        tensor_errors(maps, maps, mask=np.ones((3, 4, 4)))
    with pytest.raises(ImageError, match="empty"):
        tensor_errors(maps, maps, mask=np.zeros((3, 4, 5)))
    with pytest.raises(ImageError, match="not finite"):
        scalar_errors([[[np.nan]]], [[[1.0]]], mask=[[[1]]])
    with pytest.raises(ImageError, match="unlike shapes"):
        scalar_errors([[[1.0]]], [[[1.0, 2.0]]], mask=[[[1]]])
