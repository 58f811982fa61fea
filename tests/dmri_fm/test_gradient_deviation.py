"""Deviation of the gradient coils: its file, its frames, and the tensor fit with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.gradient_deviation import (
    DEVIATION_KEY,
    read_gradient_deviation,
    turn_deviation,
    undo_deviation,
)
from dmri_fm.gradients import GradientTable, fsl_to_ras
from dmri_fm.series import Dwi, save_image
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_design import b_columns, elements_of, to_matrices

#: Storage: LAS as the HCP has it, RAS, LPS as QSIPrep has it, and axes in another order.
AFFINES = {
    "LAS": np.diag([-2.0, 2.0, 2.0, 1.0]),
    "RAS": np.diag([2.0, 2.0, 2.0, 1.0]),
    "LPS": np.diag([-2.0, -2.0, 2.0, 1.0]),
    "PIR": np.array([[0, 0, 2.0, 0], [-2.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0, 1]]),
}


@pytest.fixture
def gtab() -> GradientTable:
    """Thirty directions at b=1000 and two b=0 volumes."""
    vectors = np.random.default_rng(0).normal(size=(32, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return GradientTable([0, 0] + [1000] * 30, vectors)


def random_voxels(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tensors (n, 6) and deviations (n, 3, 3) as large as those at the edge of a head."""
    rng = np.random.default_rng(1)
    axes = Rotation.random(n, rng=rng).as_matrix()
    tensors = axes * np.array([1.7e-3, 0.4e-3, 0.2e-3]) @ axes.swapaxes(1, 2)
    return elements_of(tensors), rng.uniform(-0.1, 0.1, (n, 3, 3))


def voxel_tables(gtab: GradientTable, deviation: np.ndarray) -> list[np.ndarray]:
    """Return the negative b-matrix of each voxel: directions (I + L) g, b times squared length."""
    return [b_columns(gtab.bvals, gtab.bvecs_ras @ (np.eye(3) + dev).T) for dev in deviation]


def test_tensors_of_noise_free_signal_are_exact(gtab: GradientTable) -> None:
    tensors, deviation = random_voxels(20)
    tables = voxel_tables(gtab, deviation)
    signal = np.stack([500 * np.exp(table @ d) for table, d in zip(tables, tensors, strict=True)])
    dwi = Dwi.from_arrays(signal.reshape(20, 1, 1, -1), np.eye(4), gtab)
    maps = fit_tensor(dwi, gradient_deviation=deviation.reshape(20, 1, 1, 3, 3))
    # Logarithm and signal are in single precision.
    np.testing.assert_allclose(maps.diffusivity[:, 0, 0], tensors, atol=2e-9)
    nominal = fit_tensor(dwi)
    assert np.abs(nominal.diffusivity[:, 0, 0] - tensors).max() > 1e-4
    assert "b-matrix for each voxel" in maps.metadata[DEVIATION_KEY]
    assert DEVIATION_KEY not in nominal.metadata


def test_noisy_fit_is_that_of_a_design_for_each_voxel(gtab: GradientTable) -> None:
    tensors, deviation = random_voxels(10)
    rng = np.random.default_rng(2)
    signal, expected = [], []
    for table, tensor in zip(voxel_tables(gtab, deviation), tensors, strict=True):
        noisy = 500 * np.exp(table @ tensor) + rng.normal(0, 15, len(gtab))
        design = np.column_stack([table, np.ones(len(gtab))])
        first = np.linalg.lstsq(design / 1000, np.log(noisy), rcond=None)[0] / 1000
        weight = np.exp(design @ first)
        second = np.linalg.lstsq(
            weight[:, None] * design / 1000, weight * np.log(noisy), rcond=None
        )[0]
        signal.append(noisy)
        expected.append(second[:6] / 1000)
    dwi = Dwi.from_arrays(np.reshape(signal, (10, 1, 1, -1)), np.eye(4), gtab)
    maps = fit_tensor(dwi, gradient_deviation=deviation.reshape(10, 1, 1, 3, 3))
    # The fit works on logarithms and weights of single precision.
    np.testing.assert_allclose(maps.diffusivity[:, 0, 0], expected, atol=5e-8)


@pytest.mark.parametrize("axes", AFFINES)
def test_file_acts_on_the_vectors_of_fsl(axes: str, tmp_path: Path) -> None:
    """As FSL's dtifit: the matrix, column by column in the file, times the file's b-vector."""
    rng = np.random.default_rng(3)
    matrix, vector = rng.uniform(-0.1, 0.1, (3, 3)), rng.normal(size=3)
    volumes = np.broadcast_to(matrix.T.reshape(9), (2, 3, 4, 9))
    path = save_image(volumes, AFFINES[axes], tmp_path / "grad_dev.nii.gz")
    found = read_gradient_deviation(path, shape=(2, 3, 4, 30), affine=AFFINES[axes])
    expected = fsl_to_ras([(np.eye(3) + matrix) @ vector], AFFINES[axes])[0]
    in_ras = (np.eye(3) + found[1, 2, 3]) @ fsl_to_ras([vector], AFFINES[axes])[0]
    np.testing.assert_allclose(in_ras, expected, atol=1e-6)


def test_turned_deviation_acts_on_turned_vectors() -> None:
    rng = np.random.default_rng(4)
    deviation, vector = rng.uniform(-0.1, 0.1, (3, 3)), rng.normal(size=3)
    turn = Rotation.random(rng=rng).as_matrix()
    np.testing.assert_allclose(
        turn_deviation(deviation, turn) @ (turn @ vector), turn @ deviation @ vector, atol=1e-6
    )


def test_no_deviation_changes_nothing() -> None:
    tensors, deviation = random_voxels(5)
    np.testing.assert_allclose(undo_deviation(tensors, 0 * deviation), tensors, rtol=1e-12)
    assert np.allclose(elements_of(to_matrices(tensors)), tensors)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    affine = AFFINES["LAS"]
    path = save_image(np.zeros((2, 3, 4, 9)), affine, tmp_path / "grad_dev.nii.gz")
    with pytest.raises(ImageError, match="9 volumes on the grid of the series"):
        read_gradient_deviation(path, shape=(2, 3, 5), affine=affine)
    with pytest.raises(ImageError, match="another position"):
        read_gradient_deviation(path, shape=(2, 3, 4), affine=AFFINES["RAS"])
    save_image(np.full((2, 3, 4, 9), 2.0), affine, path)
    with pytest.raises(ImageError, match="divide percentages by 100"):
        read_gradient_deviation(path, shape=(2, 3, 4), affine=affine)


def test_deviations_that_cannot_be_inverted_are_refused(tmp_path: Path) -> None:
    """Every element is plausible, and I + L is singular: all gradients lie in a plane."""
    affine, matrix = AFFINES["LAS"], np.full((3, 3), -1 / 3)
    assert abs(np.linalg.det(np.eye(3) + matrix)) < 1e-9
    volumes = np.zeros((2, 3, 4, 9))
    volumes[1, 1, 1] = matrix.T.ravel()
    path = save_image(volumes, affine, tmp_path / "grad_dev.nii.gz")
    with pytest.raises(ImageError, match=r"up to 1\n"):
        read_gradient_deviation(path, shape=(2, 3, 4), affine=affine)
    with pytest.raises(ImageError, match=r"up to 1\n"):
        undo_deviation(np.ones((1, 6)), matrix[None])
    # The limit is on the whole matrix, not on its elements.
    sound = np.diag([0.5, 0.5, 0.5])
    volumes[1, 1, 1] = sound.ravel()
    save_image(volumes, affine, path)
    found = read_gradient_deviation(path, shape=(2, 3, 4), affine=affine)
    assert np.isfinite(undo_deviation(np.ones((2, 3, 4, 6)), found)).all()


def test_deviation_of_another_grid_is_refused(gtab: GradientTable) -> None:
    dwi = Dwi.from_arrays(np.ones((2, 2, 2, 32)), np.eye(4), gtab)
    with pytest.raises(ImageError, match="the grid of the series"):
        fit_tensor(dwi, gradient_deviation=np.zeros((2, 2, 3, 3, 3)))
