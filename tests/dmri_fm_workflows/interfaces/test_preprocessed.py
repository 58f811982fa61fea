"""Nodes for a preprocessed series, whose voxels, directions and tensors stay in place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nipype.interfaces.base import isdefined

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Grid, Image3D, has_cubic_axes, own_brain_grid, resample_image
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor import fit_tensor
from dmri_fm_workflows.bids.preprocessed import read_preprocessed
from dmri_fm_workflows.interfaces.models import FitTensor
from dmri_fm_workflows.interfaces.normalise import ResampleDwi
from dmri_fm_workflows.interfaces.preprocess import MakeReference, ValidateDwi
from dmri_fm_workflows.interfaces.preprocessed import (
    KeepAcpc,
    ResampleDeviation,
    TakeMask,
    TakeT1wAlignment,
)
from dmri_fm_workflows.interfaces.quality import AssessQuality
from tests.dmri_fm_workflows.preprocessed_layouts import (
    COIL_RAS,
    Scan,
    write_derivatives,
    write_hcp,
)

#: Part of the head that is read, to be quick.
CROP = (slice(20, 44), slice(20, 44), slice(6, 16))


@pytest.fixture(scope="module")
def scan(data_dir: Path) -> Scan:
    """Part of a real scan, resampled to cubic voxels, with a box as its brain."""
    stem = str(data_dir / "ds-vendors" / "sub-umr" / "dwi" / "sub-umr_dir-PA_dwi")
    dwi = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
    brain = np.zeros(dwi.data[CROP].shape[:3], dtype=bool)
    brain[4:-4, 5:-3, 2:-1] = True
    # The slices are 4.2 mm apart; in a preprocessed dataset voxels are cubes.
    affine = np.diag([-3.5, 3.5, 3.5, 1.0])
    affine[:3, 3] = 30.0, -45.0, 10.0
    return Scan(Dwi.from_arrays(dwi.data[CROP], affine, dwi.gtab, mask=brain))


def write(layout: str, root: Path, scan: Scan, axes: str) -> None:
    """Write the scan in a layout."""
    if layout == "HCP":
        write_hcp(root, "100307", scan, axes=axes, deviation=True)
    else:
        write_derivatives(root, "sub-01", scan, axes=axes)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("layout", "axes"), [("HCP", "LAS"), ("HCP", "RAS"), ("HCP", "LPS"), ("QSIPrep", "LPS")]
)
def test_tensors_are_those_of_the_original(
    layout: str, axes: str, scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(layout, tmp_path / "data", scan, axes)
    series = read_preprocessed(tmp_path / "data").participants[0].sessions[0].series[0]
    (run,) = series.runs
    assert has_cubic_axes(run.affine)
    identity = str(write_affine(np.eye(4), tmp_path / "identity.txt"))
    read = ValidateDwi(
        dwi_file=str(run.path),
        bval_file=str(run.bval),
        bvec_file=str(run.bvec),
        bvec_frame=run.gradients.frame,
    ).run()
    files = {f: getattr(read.outputs, f) for f in ("bval_file", "bvec_file")}
    mask = str(series.preprocessing.mask)
    moved = ResampleDwi(
        dwi_file=str(run.path),
        mask_file=mask,
        xfm_files=[identity],
        grid="acpc",
        keeps_voxels=True,
        **files,
    ).run()
    placed = {
        f: getattr(moved.outputs, f) for f in ("dwi_file", "bval_file", "bvec_file", "mask_file")
    }
    found = Dwi.from_files(
        placed["dwi_file"], placed["bval_file"], placed["bvec_file"], placed["mask_file"]
    )
    grid = Grid(found.shape[:3], found.affine)
    expected = resample_image(scan.dwi.data, scan.dwi.affine, grid, order=0)
    np.testing.assert_allclose(found.data, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found.gtab.bvecs_ras, scan.dwi.gtab.bvecs_ras, atol=1e-5)
    fit = FitTensor(**placed)
    deviation = None
    if series.preprocessing.gradient_deviation is not None:
        turned = ResampleDeviation(
            deviation_file=str(series.preprocessing.gradient_deviation),
            xfm_file=identity,
            mask_file=placed["mask_file"],
        ).run()
        fit.inputs.deviation_file = turned.outputs.out_file
        deviation = np.broadcast_to(COIL_RAS, (*scan.dwi.shape[:3], 3, 3))
    maps = fit.run().outputs
    original = fit_tensor(scan.dwi, gradient_deviation=deviation)
    inside = read_array(load_image(maps.fa_file)) > 0.1
    inside &= found.brain
    assert inside.sum() > 100
    # Where an eigenvalue is clipped, or two are alike, axes are free: V1 is compared by angle.
    for name, data in (("fa", original.fa), ("md", original.md)):
        moved_map = resample_image(data, scan.dwi.affine, grid, order=0)
        written = read_array(load_image(getattr(maps, f"{name}_file")))
        np.testing.assert_allclose(written[inside], moved_map[inside], rtol=2e-3, atol=1e-6)
    axis = resample_image(original.v1, scan.dwi.affine, grid, order=0)
    cosine = np.abs((read_array(load_image(maps.v1_file)) * axis).sum(axis=3))
    assert np.quantile(cosine[inside], 0.02) > 0.999


def test_grid_of_the_voxels_is_cut_to_brain_and_field_of_view() -> None:
    data = np.zeros((10, 12, 14))
    data[1:3, 6:8, 5:9] = 1
    affine = np.array([[0, -2.0, 0, 9], [0, 0, 2.0, -8], [-2.0, 0, 0, 7], [0, 0, 0, 1]])
    grid = own_brain_grid(Image3D(data, affine), margin_mm=4.0)
    # Voxels (first axis to z, second to x, third to y): 1..2, 6..7, 5..8, two more on each side.
    assert grid.shape == (6, 8, 5)
    np.testing.assert_allclose(np.diag(grid.affine), [2, 2, 2, 1])
    np.testing.assert_allclose(grid.affine[:3, 3], [9 - 2 * 9, -8 + 2 * 3, 7 - 2 * 4])
    shown = resample_image(data, affine, grid, order=0)
    assert shown.sum() == data.sum()


def test_mask_is_taken_if_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    affine = np.diag([-2.0, 2, 2, 1])
    image = save_image(np.full((3, 3, 3), 7.0), affine, tmp_path / "dwiref.nii.gz")
    inside = np.zeros((3, 3, 3))
    mask = save_image(inside, affine, tmp_path / "nodif_brain_mask.nii.gz")
    with pytest.raises(ImageError, match="no voxel is above zero"):
        TakeMask(in_file=str(image), mask_file=str(mask)).run()
    inside[1, 1, 1] = 0.4
    save_image(inside, affine, mask)
    taken = TakeMask(in_file=str(image), mask_file=str(mask)).run().outputs
    assert taken.record == {"MaskMethod": "taken from the input: nodif_brain_mask.nii.gz"}
    assert read_array(load_image(taken.brain_file)).sum() == 7
    save_image(inside[:2], affine, mask)
    with pytest.raises(ImageError, match="mask of"):
        TakeMask(in_file=str(image), mask_file=str(mask)).run()


def test_brains_that_do_not_overlap_are_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T1w image of another person, or of another space, shows."""
    monkeypatch.chdir(tmp_path)
    head = np.zeros((20, 20, 20))
    head[4:16, 4:16, 4:16] = 9
    affine = np.diag([2.0, 2, 2, 1])
    t1w = save_image(head, affine, tmp_path / "t1w.nii.gz")
    kept = KeepAcpc(in_file=str(t1w), mask_file=str(t1w)).run().outputs
    given = {
        "t1w_brain_file": kept.brain_file,
        "to_t1w_acpc_file": kept.to_acpc_file,
        "from_t1w_acpc_file": kept.from_acpc_file,
    }
    mask = save_image(head > 0, affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    record = TakeT1wAlignment(dwi_mask_file=str(mask), **given).run().outputs.record
    assert record["CoregistrationDice"] == 1.0
    assert record["Warnings"] == []
    save_image(np.roll(head > 0, 4, axis=0), affine, mask, dtype=np.uint8)
    record = TakeT1wAlignment(dwi_mask_file=str(mask), **given).run().outputs.record
    assert record["CoregistrationDice"] < 0.75
    assert "of one person and one space" in record["Warnings"][0]


@pytest.mark.realdata
def test_quality_without_a_raw_series_names_what_is_absent(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_derivatives(tmp_path / "data", "sub-01", scan, pipeline="drope-bidsapp")
    series = read_preprocessed(tmp_path / "data").participants[0].sessions[0].series[0]
    (run,) = series.runs
    files = {"dwi_file": str(run.path), "bval_file": str(run.bval), "bvec_file": str(run.bvec)}
    found = AssessQuality(
        entities={"subject": "01"},
        mask_file=str(series.preprocessing.mask),
        not_measured={"mean_fd": "why"},
        **files,
    )
    assert not isdefined(found.inputs.raw_file)
    outputs = found.run().outputs
    header, row = Path(outputs.qc_file).read_text(encoding="utf-8").splitlines()
    values = dict(zip(header.split("\t"), row.split("\t"), strict=True))
    assert outputs.record["NotMeasured"] == {"mean_fd": "why"}
    assert {values[c] for c in ("mean_fd", "snr_b0", "raw_neighbor_corr")} == {"n/a"}
    assert 0 < float(values["preproc_neighbor_corr"]) <= 1
    cnr = read_array(load_image(outputs.cnr_files[0], ndim=4))
    shells = outputs.cnr_record["Shells"]
    assert cnr.shape[3] == len(shells) > 0
    inside = read_array(load_image(series.preprocessing.mask)) > 0
    assert not cnr[~inside].any()
    for number, bval in enumerate(shells):
        column = float(values[f"cnr_b{round(bval, -1):.0f}"])
        assert np.median(cnr[inside][:, number]) == pytest.approx(column, rel=1e-3)
    averaged = MakeReference(is_aligned=True, **files).run().outputs.dwiref_file
    mean = Dwi.from_files(run.path, run.bval, run.bvec).mean_b0()
    np.testing.assert_allclose(read_array(load_image(averaged)), mean, rtol=1e-5)
