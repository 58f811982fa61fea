"""b-values and b-vectors: frames against independent programs, files, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradient_files import read_gradients, write_gradients, write_mrtrix_gradients
from dmri_fm.gradients import (
    GradientTable,
    fsl_to_ras,
    group_shells,
    ras_to_fsl,
    rotation_part,
)
from dmri_fm.qspace import choose_six, to_qspace

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


@pytest.fixture
def vectors() -> np.ndarray:
    directions = np.random.default_rng(4).normal(size=(12, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions


# Frames


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


# The table


def test_table_is_a_value() -> None:
    bvals, bvecs = np.array([0.0, 1000.0]), np.array([[0.0, 0, 0], [0, 0, 1]])
    gtab = GradientTable(bvals, bvecs)
    bvals[1] = 7
    assert gtab.bvals.tolist() == [0, 1000]
    with pytest.raises(ValueError, match="read-only"):
        gtab.bvecs_ras[0, 0] = 1


@pytest.mark.parametrize("low", [0, 1.25, 5, 10, 49.9])
def test_low_b_values_are_b0_whatever_their_vector(low) -> None:
    for vector in ([np.nan] * 3, [0, 0, 0], [0.3, 0.3, 0], [1, 0, 0]):
        gtab = GradientTable([low, 1000], [vector, [0, 1, 0]])
        assert gtab.is_b0.tolist() == [True, False]
        assert gtab.bvecs_ras[0].tolist() == [0, 0, 0]


def test_nearly_unit_vectors_are_normalised() -> None:
    gtab = GradientTable([1000, 1000], [[1.008, 0, 0], [0, 0, -0.995]])
    np.testing.assert_allclose(np.linalg.norm(gtab.bvecs_ras, axis=1), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("bvals", "bvecs", "words"),
    [
        ([0, 1000], [[0, 0, 0]], "shapes"),
        ([[0, 1000]], [[0, 0, 0], [1, 0, 0]], "shapes"),
        ([-5, 1000], [[0, 0, 0], [1, 0, 0]], "negative"),
        ([np.nan, 1000], [[0, 0, 0], [1, 0, 0]], "not finite"),
        ([0, 1000], [[0, 0, 0], [np.nan, 0, 0]], "volume 1"),
        ([0, 1000], [[0, 0, 0], [np.inf, 0, 0]], "volume 1"),
        ([0, 1000], [[0, 0, 0], [0, 0, 0]], "length 0.000"),
        ([0, 1000], [[0, 0, 0], [0.5, 0, 0]], "length 0.500"),
        ([0, 1000], [[0, 0, 0], [0, 1000, 0]], "length 1000.000"),
    ],
)
def test_table_that_cannot_be_is_refused(bvals, bvecs, words) -> None:
    with pytest.raises(GradientError, match=words) as caught:
        GradientTable(bvals, bvecs)
    assert caught.value.expected


def test_shells_group_neighbouring_b_values() -> None:
    gtab = GradientTable([2000, 0, 995, 1005, 5, 2010, 700], [[1, 0, 0]] * 7)
    assert [(round(s.bval), s.index) for s in gtab.shells] == [
        (700, (6,)),
        (1000, (2, 3)),
        (2005, (0, 5)),
    ]


def test_opposite_and_repeated_vectors_are_one_direction() -> None:
    gtab = GradientTable([0] + [1000] * 4, [[0] * 3, [1, 0, 0], [-1, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert gtab.count_directions() == 2


def test_rotations_compose_and_keep_b_values(vectors) -> None:
    gtab = GradientTable([1000] * 12, vectors)
    one, two = Rotation.random(2, random_state=5).as_matrix()
    np.testing.assert_allclose(
        gtab.rotated(one).rotated(two).bvecs_ras, gtab.rotated(two @ one).bvecs_ras
    )
    each = np.stack([one, two] * 6)
    np.testing.assert_allclose(gtab.rotated(each).bvecs_ras[1], two @ vectors[1])


def test_selecting_undoes_joining(vectors) -> None:
    one = GradientTable([1000] * 5, vectors[:5])
    two = GradientTable([2000] * 7, vectors[5:])
    both = GradientTable.concatenate([one, two])
    np.testing.assert_array_equal(both.select(range(5)).bvecs_ras, one.bvecs_ras)
    np.testing.assert_array_equal(both.select(range(5, 12)).bvals, two.bvals)


# Files


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


GOOD_BVAL = "0 1000 1000 2000"
GOOD_BVEC = "0 1 0 0\n0 0 1 0\n0 0 0 1"


def read_texts(tmp_path, bval: str, bvec: str) -> GradientTable:
    (tmp_path / "x.bval").write_text(bval)
    (tmp_path / "x.bvec").write_text(bvec)
    return read_gradients(
        tmp_path / "x.bval", tmp_path / "x.bvec", affine=STORAGES["LAS"], n_volumes=4
    )


@pytest.mark.parametrize(
    ("bval", "bvec"),
    [
        (GOOD_BVAL, GOOD_BVEC),
        (GOOD_BVAL.replace(" ", "\n"), GOOD_BVEC),
        (GOOD_BVAL.replace(" ", "\t") + "\r\n", GOOD_BVEC.replace("\n", "\r\n") + "\r\n\r\n"),
        (GOOD_BVAL.replace(" ", ", "), GOOD_BVEC.replace(" ", ",")),
        ("\ufeff0 1e3 1.0e3 2000.", GOOD_BVEC),
    ],
    ids=["plain", "column", "tabs and DOS line ends", "commas", "byte order mark"],
)
def test_ways_to_write_the_same_table(tmp_path, bval, bvec) -> None:
    gtab = read_texts(tmp_path, bval, bvec)
    assert gtab.bvals.tolist() == [0, 1000, 1000, 2000]
    assert gtab.bvecs_ras.tolist() == [[0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("bval", "bvec", "file", "words"),
    [
        ("", GOOD_BVEC, "bval", ["empty"]),
        (GOOD_BVAL, " \n\n", "bvec", ["empty"]),
        ("0 1000 1000", GOOD_BVEC, "bval", ["3 b-values", "4 volumes"]),
        (GOOD_BVAL, "0 1 0\n0 0 1\n0 0 0", "bvec", ["3 rows of 3", "4 volumes"]),
        (GOOD_BVAL, "0 1 0 0\n0 0 1 0", "bvec", ["2 rows of 4"]),
        (GOOD_BVAL, "0 0 0\n1 0 0\n0 1 0\n0 0 1", "bvec", ["transposed", ".T"]),
        (GOOD_BVAL, "0 1 0 0\n0 0 1\n0 0 0 1", "bvec", ["unequal length"]),
        (GOOD_BVAL, GOOD_BVEC.replace("1", "one"), "bvec", ["not a number"]),
        (GOOD_BVAL, GOOD_BVEC.replace("1", "nan", 1), "bvec", ["volume 1", "not finite"]),
        (GOOD_BVAL, GOOD_BVEC.replace("1", "12"), "bvec", ["length 12"]),
        ("0 -1000 1000 1000", GOOD_BVEC, "bval", ["negative"]),
        ("0 nan 1000 1000", GOOD_BVEC, "bval", ["not finite"]),
        ("nan nan nan nan", GOOD_BVEC, "bval", ["not finite"]),
        ("0 1 1 2", GOOD_BVEC, "bval", ["largest b-value is 2", "s/mm^2", "by 1000"]),
        ("0 1e9 1e9 2e9", GOOD_BVEC, "bval", ["s/mm^2", "1e6"]),
    ],
)
def test_file_that_cannot_be_used_is_named(tmp_path, bval, bvec, file, words) -> None:
    with pytest.raises(GradientError) as caught:
        read_texts(tmp_path, bval, bvec)
    assert caught.value.path == tmp_path / f"x.{file}"
    assert caught.value.expected
    assert caught.value.advice
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("missing", ["x.bval", "x.bvec"])
def test_missing_file_is_named(tmp_path, missing) -> None:
    (tmp_path / "x.bval").write_text(GOOD_BVAL)
    (tmp_path / "x.bvec").write_text(GOOD_BVEC)
    (tmp_path / missing).unlink()
    with pytest.raises(GradientError, match="missing") as caught:
        read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", affine=np.eye(4), n_volumes=4)
    assert caught.value.path == tmp_path / missing


@pytest.mark.parametrize("bval", ["0 5 10 10", "5 5 5 5", "1.25 8 8 8", "0 0 0 0"])
def test_series_of_b0_volumes_is_no_wrong_unit(tmp_path, bval) -> None:
    assert read_texts(tmp_path, bval, GOOD_BVEC).is_b0.all()


def test_full_scheme_in_another_unit_is_told_from_b0(tmp_path, vectors) -> None:
    (tmp_path / "x.bval").write_text("0 " + " ".join(["10"] * 12))
    np.savetxt(tmp_path / "x.bvec", np.vstack([np.zeros(3), vectors]).T)
    with pytest.raises(GradientError, match="by 1000"):
        read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", affine=np.eye(4), n_volumes=13)


# --- shells and the b=0 threshold -----------------------------------------------------------


@pytest.mark.parametrize(
    ("bvals", "shells"),
    [
        # HCP 3T, HCP 7T and UK Biobank state the b-value of every volume.
        ([0, 5, 990, 995, 1000, 1005, 1985, 2000, 2010, 2990, 2995, 3010], [4, 3, 3]),
        ([60, 65, 995, 1000, 1005, 1995, 2005], [3, 2]),
        ([0, 995, 1000, 1005, 1995, 2000, 2005], [3, 3]),
        ([0, 4850, 4930, 5000, 5080, 5150], [5]),
        ([0, 4850, 5000, 5150], [3]),
        ([0, 700, 1000], [1, 1]),
        ([0, 700, 1000, 2000, 3000], [1, 1, 1, 1]),
        ([0, 1000, 1200], [1, 1]),
        ([0, 2000, 2500, 3000, 4000, 5000, 10000], [1, 1, 1, 1, 1, 1]),
    ],
)
def test_jitter_of_b_does_not_split_a_shell(bvals, shells) -> None:
    axes = np.eye(3)[np.arange(len(bvals)) % 3]
    gtab = GradientTable(bvals, axes)
    assert [len(shell.index) for shell in gtab.shells] == shells


def test_a_jittered_shell_serves_six_directions_and_the_encoder_as_one() -> None:
    rng = np.random.default_rng(3)
    axes = rng.normal(size=(12, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    bvals = np.concatenate([[0], 5000 + np.linspace(-150, 150, 12)])
    gtab = GradientTable(bvals, np.vstack([np.zeros((1, 3)), axes]))
    assert gtab.count_directions() == 12
    assert choose_six(gtab).bval == pytest.approx(5000)
    rho = to_qspace(gtab.select(range(1, 13)))[:, 0]
    assert len(group_shells(1000.0 * rho)) == 1


def test_a_table_keeps_its_threshold() -> None:
    axes = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    gtab = GradientTable([60, 1000, 2000], axes)
    assert gtab.b0_threshold == 150
    assert gtab.is_b0.tolist() == [True, False, False]
    # A b=0 volume that is weighted a little keeps its direction, and turns with the others.
    turned = gtab.rotated(Rotation.from_euler("z", 90, degrees=True).as_matrix())
    np.testing.assert_allclose(turned.bvecs_ras[0], [0, 1, 0], atol=1e-12)
    assert to_qspace(gtab)[0].tolist() == [0, 0, 0]
    for part in (gtab.select([1]), turned, GradientTable.concatenate([gtab, gtab])):
        assert part.b0_threshold == 150
    # What is b=0 in one run stays so in the series of several.
    usual = GradientTable([0, 1000], [[0, 0, 0], axes[0]])
    assert usual.b0_threshold == 50
    joined = GradientTable.concatenate([usual, gtab])
    assert joined.is_b0.tolist() == [True, False, True, False, False]
    # That is no reason to take a weak shell of the other run for b=0.
    weak = GradientTable([0, 120], [[0, 0, 0], axes[0]])
    assert (
        GradientTable.concatenate([weak, gtab]).is_b0.tolist() == [True, False, True] + [False] * 2
    )


def test_an_explicit_threshold_may_lie_below_the_usual_one() -> None:
    gtab = GradientTable([0, 20, 1000], [[0, 0, 0], [1, 0, 0], [0, 1, 0]], 10.0)
    assert gtab.is_b0.tolist() == [True, False, False]
    assert gtab.bvecs_ras[1].tolist() == [1, 0, 0]
    with pytest.raises(ConfigError):
        GradientTable([0], [[0, 0, 0]], -1.0)
