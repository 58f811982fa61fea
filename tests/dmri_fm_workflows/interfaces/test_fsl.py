"""Files for topup and eddy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.volumes import load_image, read_array, save_image
from dmri_fm_workflows.interfaces.fsl import WriteFslFiles
from dmri_fm_workflows.volumes_table import VolumeOrigin, write_volumes

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
