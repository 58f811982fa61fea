"""Files for topup and eddy, their commands, and FSL's coordinates.

FSL itself is not needed: a stand-in on the PATH notes how it was called.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fsl.data.image import Nifti
from fsl.transform import affine as fsl_affine

from dmri_fm.errors import DmriError, ImageError, MissingToolError
from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable, fsl_to_ras, rotation_part
from dmri_fm.series import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.eddy import CollectEddy, RunEddy, motion_in_ras
from dmri_fm_workflows.interfaces.fsl import RunTopup
from dmri_fm_workflows.interfaces.fsl_files import WriteFslFiles, encoding_row, index_topup_rows
from dmri_fm_workflows.interfaces.programs import find_program
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, write_volumes

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])


def brain(seed: int) -> np.ndarray:
    """A bright block in the dark, with noise that tells one volume from another."""
    data = np.random.default_rng(seed).uniform(0, 10, (6, 6, 4))
    data[1:5, 1:5, 1:3] += 1000
    return data.astype(np.float32)


def write_series(
    folder: Path, volumes: list[np.ndarray], *, bvals: list[float]
) -> tuple[str, str, str]:
    """Write volumes with their gradients; return the three files."""
    bvecs = [[0, 0, 0] if b == 0 else [1, 0, 0] for b in bvals]
    folder.mkdir()
    path = save_image(np.stack(volumes, axis=3), AFFINE, folder / "dwi.nii.gz")
    bval, bvec = folder / "dwi.bval", folder / "dwi.bvec"
    write_gradients(GradientTable(bvals, bvecs), bval, bvec, affine=AFFINE)
    return str(path), str(bval), str(bvec)


def write_files(
    tmp_path: Path,
    encodings: list[tuple[str | None, float]],
    *,
    bvals: list[float],
    **epi: object,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Run the interface; return b=0 volumes, their rows, the rows of eddy, and its index."""
    volumes = [brain(seed) for seed in range(len(bvals))]
    dwi, bval, bvec = write_series(tmp_path / "series", volumes, bvals=bvals)
    table = write_volumes(
        [VolumeOrigin(i, *encoding, "x") for i, encoding in enumerate(encodings)],
        tmp_path / "volumes.tsv",
    )
    found = (
        WriteFslFiles(dwi_file=dwi, bval_file=bval, bvec_file=bvec, volumes_file=str(table), **epi)
        .run(cwd=tmp_path)
        .outputs
    )
    np.testing.assert_array_equal(
        read_array(load_image(found.first_b0_file)), read_array(load_image(found.b0_file))[..., 0]
    )
    return (
        read_array(load_image(found.b0_file)),
        np.loadtxt(found.b0_acqp_file, ndmin=2),
        np.loadtxt(found.acqp_file, ndmin=2),
        np.loadtxt(found.index_file, ndmin=1).astype(int).tolist(),
    )


def test_topup_gets_the_reverse_image_on_the_scale_of_the_series(tmp_path: Path) -> None:
    epi = save_image(3 * brain(0), AFFINE, tmp_path / "epi.nii.gz")
    b0s, b0_rows, rows, index = write_files(
        tmp_path,
        [("j", 0.05)] * 3,
        bvals=[0, 1000, 0],
        epi_file=str(epi),
        epi_phase_encoding="j-",
        epi_readout_s=0.04,
    )
    np.testing.assert_allclose(b0_rows, [[0, 1, 0, 0.05], [0, 1, 0, 0.05], [0, -1, 0, 0.04]])
    np.testing.assert_array_equal(b0s[..., 0], brain(0))
    np.testing.assert_array_equal(b0s[..., 1], brain(2))
    # Levels are medians of noisy blocks of 1000: they agree to the noise, 1 %.
    np.testing.assert_allclose(b0s[..., 2], brain(0), rtol=0.01)
    # eddy corrects the series only: the reverse image has no row in its table.
    np.testing.assert_allclose(rows, [[0, 1, 0, 0.05]])
    assert index == [1, 1, 1]


def test_topup_gets_no_weighted_volume_of_a_reverse_series(tmp_path: Path) -> None:
    volumes = [brain(7) / 5, brain(8), brain(9) / 5, brain(10)]
    path, bval, bvec = write_series(tmp_path / "reverse", volumes, bvals=[1000, 0, 1000, 0])
    b0s, b0_rows, *_ = write_files(
        tmp_path,
        [("i-", 0.05)],
        bvals=[0],
        epi_file=path,
        epi_bval_file=bval,
        epi_bvec_file=bvec,
        epi_phase_encoding="i",
        epi_readout_s=0.05,
    )
    np.testing.assert_allclose(b0_rows, [[-1, 0, 0, 0.05], [1, 0, 0, 0.05], [1, 0, 0, 0.05]])
    # As above; a weighted volume would be a fifth.
    np.testing.assert_allclose(b0s[..., 1], brain(8), rtol=0.01)
    np.testing.assert_allclose(b0s[..., 2], brain(10), rtol=0.01)


def test_every_phase_encoding_and_readout_has_a_row(tmp_path: Path) -> None:
    encodings = [("j", 0.05), ("j-", 0.05), ("i", 0.04), ("j", 0.03), ("i", 0.04)]
    b0s, b0_rows, rows, index = write_files(tmp_path, encodings, bvals=[0] * 4 + [1000])
    np.testing.assert_allclose(
        rows, [[0, 1, 0, 0.05], [0, -1, 0, 0.05], [1, 0, 0, 0.04], [0, 1, 0, 0.03]]
    )
    assert index == [1, 2, 3, 4, 3]
    np.testing.assert_allclose(b0_rows, rows)
    assert b0s.shape[3] == 4


def test_topup_gets_no_b0_of_unknown_phase_encoding(tmp_path: Path) -> None:
    encodings = [(None, 0.05), ("j", 0.05), ("j-", 0.05)]
    b0s, b0_rows, *_ = write_files(tmp_path, encodings, bvals=[0, 0, 0])
    np.testing.assert_allclose(b0_rows, [[0, 1, 0, 0.05], [0, -1, 0, 0.05]])
    np.testing.assert_array_equal(b0s[..., 0], brain(1))


def test_volumes_start_from_the_nearest_b0_of_their_own_run() -> None:
    """Two runs of one phase encoding, one of the other without a b=0, and a reverse image."""
    origins = [VolumeOrigin(run, pe, 0.05, "x") for run, pe in ((0, "j"), (1, "j"), (2, "j-"))]
    of_volumes = [origins[run] for run in [0, 0, 0, 0, 1, 1, 1, 2]]
    rows = [encoding_row(origin) for origin in of_volumes]
    b0s, epi = [0, 3, 6], (0, -1, 0, 0.05)
    topup_rows = np.array([rows[i] for i in b0s] + [epi, epi])
    # Volume 4 lies next to the last b=0 of the first run, and is of the second run.
    expected = [1, 1, 2, 2, 3, 3, 3, 4]
    assert index_topup_rows(of_volumes, rows, b0s, topup_rows) == expected
    with pytest.raises(ImageError, match="no b=0 volume of its phase encoding"):
        index_topup_rows(of_volumes, rows, b0s, topup_rows[:3])


def put_program(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> Path:
    """Put a program on the PATH that writes its arguments, and the files that it is known for."""
    outputs = {
        "topup": ["corrected.nii.gz", "field.nii.gz", "topup_fieldcoef.nii.gz",
                  "topup_movpar.txt"],
    }.get(name, [f"eddy_corrected.{e}" for e in (
        "nii.gz", "eddy_rotated_bvecs", "eddy_parameters", "eddy_outlier_map")])  # fmt: skip
    program = folder / "bin" / name
    program.parent.mkdir()
    called = folder / "called.txt"
    # eddy gives its reasons on the standard output, CUDA and OpenMP their remarks on the other.
    failure = "echo 'EDDY::: no such field'; echo 'some remark' >&2; exit 3"
    end = failure if fails else f"touch {' '.join(outputs)}"
    # Versions that take threads by an option say so.
    threads = "" if name == "eddy_openmp" else "--nthr"
    help_ = f'if [ "$1" = --help ]; then echo "{threads}"; exit 1; fi'
    note = f'printf "%s\\n" "$OMP_NUM_THREADS" "$@" > {shlex.quote(str(called))}'
    program.write_text(f"#!/bin/sh\n{help_}\n{note}\n{end}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return called


def image_at(path: Path) -> str:
    return str(save_image(np.ones((4, 4, 4)), AFFINE, path))


def text_at(path: Path) -> str:
    path.write_text("0 1 0 0.05\n")
    return str(path)


def test_topup_is_called_with_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = put_program(tmp_path, "topup", monkeypatch, fails=False)
    b0s, acqp = image_at(tmp_path / "b0.nii.gz"), text_at(tmp_path / "acqp.txt")
    node = RunTopup(in_file=b0s, encoding_file=acqp, config="b02b0_1.cnf", n_threads=3)
    outputs = node.run(cwd=tmp_path).outputs
    threads, *arguments = called.read_text().split()
    assert threads == "3"
    assert set(arguments) == {
        f"--imain={b0s}", f"--datain={acqp}", "--config=b02b0_1.cnf", "--out=topup",
        "--fout=field.nii.gz", "--iout=corrected.nii.gz", "--nthr=3",
    }  # fmt: skip
    assert outputs.out_fieldcoef == str(tmp_path / "topup_fieldcoef.nii.gz")


def eddy(folder: Path, **field: str) -> RunEddy:
    texts = {n: text_at(folder / n) for n in ("in_bval", "in_bvec", "in_acqp", "in_index")}
    images = {n: image_at(folder / f"{n}.nii.gz") for n in ("in_file", "in_mask")}
    options = {"repol": True, "is_shelled": True, "fep": False, "nvoxhp": 500}
    return RunEddy(**texts, **images, **field, options=options, n_threads=3)


@pytest.mark.parametrize("given", ["topup", "field", None])
@pytest.mark.parametrize("name", ["eddy_cpu", "eddy_openmp", "eddy"])
def test_eddy_is_called_with_the_field_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, name: str
) -> None:
    called = put_program(tmp_path, name, monkeypatch, fails=False)
    field = {
        "topup": {
            "in_topup_fieldcoef": image_at(tmp_path / "topup_fieldcoef.nii.gz"),
            "in_topup_movpar": text_at(tmp_path / "topup_movpar.txt"),
        },
        "field": {"field_file": image_at(tmp_path / "hz.nii.gz")},
        None: {},
    }[given]
    outputs = eddy(tmp_path, **field).run(cwd=tmp_path).outputs
    threads, *arguments = called.read_text().split()
    assert threads == "3"
    stems = {"topup": f"--topup={tmp_path / 'topup'}", "field": f"--field={tmp_path / 'hz'}"}
    expected = {
        f"--imain={tmp_path / 'in_file.nii.gz'}", f"--mask={tmp_path / 'in_mask.nii.gz'}",
        *(f"--{n}={tmp_path / f'in_{file}'}" for n, file in (
            ("bvals", "bval"), ("bvecs", "bvec"), ("acqp", "acqp"), ("index", "index"))),
        "--out=eddy_corrected", "--repol", "--data_is_shelled", "--nvoxhp=500",
        *(["--nthr=3"] if name == "eddy_cpu" else []),
        *([stems[given]] if given else []),
    }  # fmt: skip
    assert set(arguments) == expected
    assert outputs.out_parameter == str(tmp_path / "eddy_corrected.eddy_parameters")


def test_a_program_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_program(tmp_path, "eddy_cpu", monkeypatch, fails=True)
    with pytest.raises(DmriError, match="exit status 3: EDDY::: no such field / some remark"):
        eddy(tmp_path).run(cwd=tmp_path)


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError, match="eddy_cpu is not on the PATH"):
        find_program("eddy_cpu", "eddy")


#: An image in each of FSL's two storages, and one that is turned.
STORED = {
    "LAS": np.diag([-2.0, 2.0, 3.0, 1.0]),
    "RAS": np.diag([2.0, 2.0, 3.0, 1.0]),
    "turned": fsl_affine.compose([2.0, 2.0, 3.0], [5.0, -3.0, 8.0], [0.2, -0.1, 0.3]),
}


def make_image(affine: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros((6, 8, 4), np.float32), affine)


@pytest.mark.parametrize("name", STORED)
def test_motion_of_eddy_is_that_of_the_scanner(name: str) -> None:
    """A small motion, as a matrix in FSL's coordinates, is the same one in world coordinates."""
    image = make_image(STORED[name])
    to_world = Nifti(image.header).getAffine("fsl", "world")
    parameters = np.array([[0.5, -1.0, 2.0, 1e-3, -2e-3, 3e-3]])
    centre = np.array([5 * 2.0, 7 * 2.0, 3 * 3.0]) / 2
    motion = fsl_affine.compose([1, 1, 1], parameters[0, :3], parameters[0, 3:], origin=centre)
    world = fsl_affine.concat(to_world, motion, fsl_affine.invert(to_world))
    middle = fsl_affine.transform(centre, to_world)
    found = motion_in_ras(parameters, image)[0]
    np.testing.assert_allclose(found[:3], fsl_affine.transform(middle, world) - middle, atol=1e-9)
    # Angles of a few mrad: their order matters to 1e-5 only.
    np.testing.assert_allclose(found[3:], fsl_affine.decompose(world)[2], atol=1e-5)


def test_to_the_left_is_minus_x_however_the_image_is_stored() -> None:
    for name in ("LAS", "RAS"):
        found = motion_in_ras(np.array([[1.0, 0, 0, 0, 0, 0.01]]), make_image(STORED[name]))
        np.testing.assert_allclose(found, [[-1, 0, 0, 0, 0, -0.01]], atol=1e-12)


@pytest.mark.parametrize("name", STORED)
def test_b_vectors_are_read_in_the_coordinates_of_fsl(name: str) -> None:
    """FSL's own library agrees on the frame of a bvec file."""
    image = make_image(STORED[name])
    axes = rotation_part(Nifti(image.header).getAffine("fsl", "world"))
    bvecs = np.eye(3)
    np.testing.assert_allclose(fsl_to_ras(bvecs, image.affine), bvecs @ axes.T, atol=1e-6)


def test_eddys_results_are_those_of_the_built_in_engine(tmp_path: Path) -> None:
    dwi, bval, bvec = write_series(tmp_path / "series", [brain(0), brain(1)], bvals=[0, 1000])
    table = write_volumes(
        [VolumeOrigin(i, "j", 0.05, "x") for i in range(2)], tmp_path / "volumes.tsv"
    )
    parameters, outliers = tmp_path / "parameters", tmp_path / "outliers"
    np.savetxt(parameters, [[0] * 16, [1, 2, 3, 0.01, 0, 0, *[0] * 10]])
    outliers.write_text("header\n0 0 0 0\n0 1 0 0\n")
    found = CollectEddy(
        bval_file=bval, volumes_file=str(table), corrected_file=dwi, rotated_bvec_file=bvec,
        reference_file=dwi, method="FSL eddy (6.0.7)",
        parameter_file=str(parameters), outlier_map_file=str(outliers),
    ).run(cwd=tmp_path).outputs  # fmt: skip
    assert np.load(found.outliers_file).tolist() == [[False] * 4, [False, True, False, False]]
    head, *_, last = Path(found.confounds_file).read_text().splitlines()
    row = dict(zip(head.split("\t"), last.split("\t"), strict=True))
    # The series is stored LAS: FSL's x is the voxels' own, which run to the left.
    assert [float(row[f"trans_{a}"]) for a in "xyz"] == [-1, 2, 3]
    assert float(row["rot_x"]) == pytest.approx(0.01)
    assert found.record["HMCMethod"].startswith("FSL eddy (")
    assert found.motion_record == {
        "IdentityTransforms": True,
        "PointMapping": "Every point is taken to itself: FSL's eddy has resampled the volumes "
        "onto the grid of dwiref.",
    }
