"""Frames of b-vectors, checked against MRtrix3, DIPY and FSL's manual."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from dmri_fm.gradient_files import read_gradients, write_gradients, write_mrtrix_gradients
from dmri_fm.gradients import GradientTable, fsl_to_ras, ras_to_fsl, rotation_part

SHAPE = (5, 6, 7)
needs_mrtrix = pytest.mark.skipif(shutil.which("mrinfo") is None, reason="MRtrix3 is absent")


def stored_as(codes: str) -> np.ndarray:
    """Affine of an image stored along the given axes, 2 x 2.5 x 3 mm along x, y, z."""
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int8), np.diag([2.0, 2.5, 3.0, 1.0]))
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    return image.as_reoriented(turn).affine


def tilted(affine: np.ndarray, *angles: float) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return turn @ affine


STORAGES = {
    "RAS": stored_as("RAS"),
    "LAS": stored_as("LAS"),
    "LPS": stored_as("LPS"),
    "sagittal PIR": stored_as("PIR"),
    "sagittal ASL": stored_as("ASL"),
    "coronal RSA": stored_as("RSA"),
    "oblique LAS": tilted(stored_as("LAS"), 12, -7, 25),
    "oblique RAS": tilted(stored_as("RAS"), -20, 15, 40),
    "oblique sagittal": tilted(stored_as("PIR"), 10, 20, -15),
}
every_storage = pytest.mark.parametrize("affine", STORAGES.values(), ids=list(STORAGES))


@every_storage
def test_ras_and_fsl_undo_each_other(affine, vectors) -> None:
    np.testing.assert_allclose(fsl_to_ras(ras_to_fsl(vectors, affine), affine), vectors)
    np.testing.assert_allclose(ras_to_fsl(fsl_to_ras(vectors, affine), affine), vectors)
    np.testing.assert_allclose(np.linalg.norm(ras_to_fsl(vectors, affine), axis=1), 1.0)


@every_storage
def test_fsl_rule_as_its_manual_words_it(affine) -> None:
    """Along a voxel axis, but x the other way round in neurological storage."""
    handedness = np.linalg.det(affine[:3, :3])
    for axis in range(3):
        unit = np.eye(3)[axis]
        along_voxels = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
        expected = -along_voxels if axis == 0 and handedness > 0 else along_voxels
        np.testing.assert_allclose(fsl_to_ras([unit], affine)[0], expected, atol=1e-12)


@pytest.mark.parametrize("codes", ["LAS", "LPI", "PIR", "ASL", "SRA"])
def test_reorienting_the_image_moves_no_direction(vectors, codes) -> None:
    """What an image shows does not depend on its storage: follow a line through the voxels."""
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int8), STORAGES["oblique LAS"])
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    moved = image.as_reoriented(turn)
    stored = ras_to_fsl(vectors, moved.affine)
    if np.linalg.det(moved.affine[:3, :3]) > 0:
        stored = stored * [-1, 1, 1]
    # The direction in voxels of the new image, carried into the old one by nibabel.
    to_old = nib.orientations.inv_ornt_aff(turn, SHAPE)[:3, :3]
    old_voxels = (stored @ to_old.T) @ rotation_part(image.affine).T
    np.testing.assert_allclose(old_voxels, vectors, atol=1e-12)


def write_scan(folder: Path, affine: np.ndarray, vectors: np.ndarray) -> tuple[Path, Path, Path]:
    """Write an image and gradient files made by hand, as text in FSL's convention."""
    folder.mkdir(parents=True, exist_ok=True)
    n_volumes = len(vectors) + 1
    image, bval, bvec = (folder / name for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec"))
    nib.save(nib.Nifti1Image(np.ones((*SHAPE, n_volumes), np.int16), affine), image)
    np.savetxt(bval, np.array([[0] + [1000] * len(vectors)]), fmt="%g")
    np.savetxt(bvec, np.vstack([np.zeros(3), vectors]).T, fmt="%.9f")
    return image, bval, bvec


def run_mrinfo(*words: str | Path) -> None:
    subprocess.run(["mrinfo", "-quiet", *map(str, words)], check=True, capture_output=True)


@needs_mrtrix
@every_storage
def test_files_mean_what_mrtrix_reads(tmp_path, affine, vectors) -> None:
    image, bval, bvec = write_scan(tmp_path, affine, vectors)
    table = tmp_path / "grad.b"
    run_mrinfo(image, "-fslgrad", bvec, bval, "-export_grad_mrtrix", table)
    scanner = np.loadtxt(table)
    gtab = read_gradients(bval, bvec, affine=nib.load(image).affine, n_volumes=13)
    # MRtrix3 prints ten decimals.
    np.testing.assert_allclose(gtab.bvecs_ras[1:], scanner[1:, :3], atol=1e-8)
    np.testing.assert_allclose(gtab.bvals, scanner[:, 3], rtol=1e-6)


@needs_mrtrix
@every_storage
def test_mrtrix_reads_what_is_written(tmp_path, affine, vectors) -> None:
    image, bval, bvec = write_scan(tmp_path, affine, vectors)
    gtab = GradientTable([0] + [1000] * 12, np.vstack([np.zeros(3), vectors]))
    write_gradients(gtab, bval, bvec, affine=affine)
    table = tmp_path / "grad.b"
    run_mrinfo(image, "-fslgrad", bvec, bval, "-export_grad_mrtrix", table)
    # Six decimals are written.
    np.testing.assert_allclose(np.loadtxt(table)[1:, :3], vectors, atol=2e-6)


@needs_mrtrix
@every_storage
def test_mrtrix_exports_the_table_that_is_written(tmp_path, affine, vectors) -> None:
    """Both sets of files beside a series say the same to MRtrix3, weak weighting included."""
    image, bval, bvec = write_scan(tmp_path, affine, vectors)
    gtab = GradientTable([0, 60.5, *[1000] * 11], np.vstack([np.zeros(3), vectors]))
    write_gradients(gtab, bval, bvec, affine=affine)
    ours, exported = tmp_path / "ours.b", tmp_path / "exported.b"
    write_mrtrix_gradients(gtab, ours)
    for words in (("-fslgrad", bvec, bval), ("-grad", ours)):
        run_mrinfo(image, *words, "-export_grad_mrtrix", exported)
        # Six decimals are written; MRtrix3 scales b by the square of a vector's length.
        exact = np.column_stack([gtab.bvecs_ras, gtab.bvals])
        np.testing.assert_allclose(np.loadtxt(exported), exact, atol=3e-6, rtol=3e-6)
        exported.unlink()


@needs_mrtrix
def test_mrtrix_restrides_image_and_gradients_to_the_same_directions(tmp_path, vectors) -> None:
    affine = STORAGES["oblique LAS"]
    image, bval, bvec = write_scan(tmp_path, affine, vectors)
    before = read_gradients(bval, bvec, affine=affine, n_volumes=13)
    for strides in ("1,2,3,4", "-2,3,-1,4", "3,1,2,4"):
        out, new_bval, new_bvec = (tmp_path / f"out{e}" for e in (".nii", ".bval", ".bvec"))
        command = ["mrconvert", "-quiet", "-force", image, out, "-fslgrad", bvec, bval]
        command += ["-strides", strides, "-export_grad_fsl", new_bvec, new_bval]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
        new_affine = nib.load(out).affine
        assert not np.allclose(new_affine, affine)
        after = read_gradients(new_bval, new_bvec, affine=new_affine, n_volumes=13)
        np.testing.assert_allclose(after.bvecs_ras, before.bvecs_ras, atol=1e-8)


@needs_mrtrix
@pytest.mark.realdata
@pytest.mark.parametrize(
    "name",
    [
        "sub-galan/dwi/sub-galan_acq-tilted_dir-PA",
        "sub-prisma/dwi/sub-prisma_dir-AP",
        "sub-umr/dwi/sub-umr_acq-rot_dir-PA",
    ],
)
def test_real_files_mean_what_mrtrix_reads(tmp_path, data_dir, name) -> None:
    stem = data_dir / "ds-vendors" / f"{name}_dwi"
    image, bval, bvec = (Path(f"{stem}{e}") for e in (".nii.gz", ".bval", ".bvec"))
    table = tmp_path / "grad.b"
    run_mrinfo(image, "-fslgrad", bvec, bval, "-export_grad_mrtrix", table)
    opened = nib.load(image)
    gtab = read_gradients(bval, bvec, affine=opened.affine, n_volumes=opened.shape[3])
    # MRtrix3 prints ten decimals.
    np.testing.assert_allclose(
        gtab.bvecs_ras[~gtab.is_b0], np.loadtxt(table)[~gtab.is_b0, :3], atol=1e-9
    )


def test_same_tensor_as_dipy_after_turning_the_image(vectors) -> None:
    """dipy fits in the frame of the vectors it is given: ours must be scanner space."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    fibre = np.array([0.36, -0.48, 0.8])
    bvals = np.array([0] + [1000] * 12)
    true = 0.3e-3 * np.eye(3) + 1.2e-3 * np.outer(fibre, fibre)
    for affine in STORAGES.values():
        gtab = GradientTable(bvals, np.vstack([np.zeros(3), vectors]))
        stored = ras_to_fsl(gtab.bvecs_ras, affine)
        again = GradientTable(bvals, fsl_to_ras(stored, affine))
        exponent = np.einsum("n,ni,ij,nj->n", bvals, gtab.bvecs_ras, true, gtab.bvecs_ras)
        model = TensorModel(gradient_table(bvals, bvecs=again.bvecs_ras))
        v1 = model.fit(1000 * np.exp(-exponent)).evecs[:, 0]
        assert abs(v1 @ fibre) == pytest.approx(1.0, abs=1e-6)


def test_rotation_part_ignores_size_and_shear_and_keeps_handedness() -> None:
    turn = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    for mirror in (np.eye(3), np.diag([-1.0, 1, 1])):
        sized = turn @ mirror @ np.diag([2.0, 2.5, 3.0])
        np.testing.assert_allclose(rotation_part(sized), turn @ mirror, atol=1e-12)
        sheared = sized @ np.array([[1, 0.02, 0], [0, 1, 0], [0, 0, 1]])
        found = rotation_part(sheared)
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(found, turn @ mirror, atol=0.02)


@every_storage
def test_written_files_are_read_back(tmp_path, affine, vectors) -> None:
    gtab = GradientTable([5, *[1000.5] * 12], np.vstack([np.zeros(3), vectors]))
    write_gradients(gtab, tmp_path / "x.bval", tmp_path / "x.bvec", affine=affine)
    again = read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", affine=affine, n_volumes=13)
    np.testing.assert_allclose(again.bvals, gtab.bvals)
    # Six decimals are written.
    np.testing.assert_allclose(again.bvecs_ras, gtab.bvecs_ras, atol=2e-6)


@every_storage
def test_mrtrix_table_is_in_the_scanner_frame(tmp_path, affine) -> None:
    """A gradient along the first voxel axis points along the first column of the affine."""
    sign = -1 if np.linalg.det(affine[:3, :3]) > 0 else 1
    (tmp_path / "x.bval").write_text("0 1000\n")
    (tmp_path / "x.bvec").write_text(f"0 {sign}\n0 0\n0 0\n")
    gtab = read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", affine=affine, n_volumes=2)
    write_mrtrix_gradients(gtab, tmp_path / "x.b")
    along = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    rows = np.loadtxt(tmp_path / "x.b")
    np.testing.assert_array_equal(rows[0], np.zeros(4))
    np.testing.assert_allclose(rows[1], [*along, 1000], atol=1e-6)
    assert "-0.000000" not in (tmp_path / "x.b").read_text()
