"""The corrected table that the check of the b-vectors offers."""

from __future__ import annotations

import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.spatial.transform import Rotation

from dmri_fm.errors import GradientError
from dmri_fm.gradient_files import read_gradients, write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.series import save_image
from dmri_fm_workflows.bids.gradient_fixes import make_fixes
from dmri_fm_workflows.interfaces.gradient_check import CheckGradients
from dmri_fm_workflows.interfaces.volumes_table import VolumeOrigin, write_volumes

#: Series that a converter got wrong, and what their rows should be.
WRONG = {"acq-ortho_dir-AP": "x,y,-z", "acq-sagittal_dir-PA": "-x,y,z"}


def turn_into_acpc(
    image: nib.Nifti1Image, gtab: GradientTable, folder: Path
) -> tuple[dict[str, str], np.ndarray]:
    """Write a series, turned and stored in another order, with the transform of the turn."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zyx", [14, -20, 9], degrees=True).as_matrix()
    moved = nib.Nifti1Image(np.asanyarray(image.dataobj), turn @ image.affine)
    order = ornt_transform(io_orientation(moved.affine), axcodes2ornt("RAS"))
    moved = moved.as_reoriented(order)
    turned = GradientTable(gtab.bvals, gtab.bvecs_ras @ turn[:3, :3].T)
    path = save_image(np.asanyarray(moved.dataobj), moved.affine, folder / "acpc.nii.gz")
    b0 = np.asanyarray(moved.dataobj)[..., turned.is_b0].mean(axis=3)
    mask = save_image(b0 > b0.mean(), moved.affine, folder / "mask.nii.gz", dtype=np.uint8)
    write_gradients(turned, folder / "acpc.bval", folder / "acpc.bvec", affine=moved.affine)
    xfm = write_affine(np.linalg.inv(turn), folder / "xfm.txt")
    return {
        "dwi_file": str(path), "bval_file": str(folder / "acpc.bval"),
        "bvec_file": str(folder / "acpc.bvec"), "mask_file": str(mask), "xfm_file": str(xfm),
    }, image.affine  # fmt: skip


def check(folder: Path, image, bval: Path, bvec: Path, **inputs):
    gtab = read_gradients(bval, bvec, affine=image.affine, n_volumes=image.shape[3])
    files, affine = turn_into_acpc(image, gtab, folder)
    node = CheckGradients(**files, source_affine=affine.tolist(), **inputs)
    return node.run(cwd=folder).outputs


@pytest.mark.realdata
@pytest.mark.parametrize("series", WRONG)
def test_the_right_table_is_offered_for_the_raw_file(
    data_dir: Path, tmp_path: Path, series: str
) -> None:
    stem = data_dir / "ds-more" / "sub-galan6" / "dwi" / f"sub-galan6_{series}_dwi"
    image = nib.load(f"{stem}.nii.gz").slicer[:, :, 14:26]
    bval, right = stem.with_suffix(".bval"), stem.with_suffix(".bvec")
    wrong = data_dir / "gradients-as-converted" / f"{stem.name}.bvec"
    known = {"Orientation": "LAS", "StationName": "MR1", "ProtocolName": "DTI", "acquisition": ""}
    runs = {"source_bval_files": [str(bval)], "source_bvec_files": [str(wrong)]}
    found = check(tmp_path, image, bval, wrong, **runs, conditions=[known])
    (offered,) = found.fixed_bvec_files
    table, truth = np.loadtxt(offered), np.loadtxt(right)
    sign = np.where((table * truth).sum(axis=0) < 0, -1, 1)
    np.testing.assert_allclose(table * sign, truth, atol=2e-6)
    verdict = found.record["GradientCheck"]
    assert (verdict["IsConsistent"], verdict["Best"]) == (False, WRONG[series])
    (fix,) = make_fixes(tomllib.loads(verdict["SuggestedFix"]))
    assert (fix.components, fix.conditions) == (WRONG[series], known)
    assert "voxel axes of the raw image" in verdict["FixedTable"]
    assert wrong.name in verdict["FixedTable"]
    (warning,) = found.record["Warnings"]
    assert "desc-fibrecheck" in warning
    # A series without raw files, corrected before, is told about and offered nothing.
    assert check(tmp_path, image, bval, wrong).fixed_bvec_files == []


@pytest.mark.realdata
def test_repairs_are_judged(data_dir: Path, tmp_path: Path) -> None:
    stem = data_dir / "ds-more" / "sub-galan6" / "dwi" / "sub-galan6_acq-ortho_dir-AP_dwi"
    image = nib.load(f"{stem}.nii.gz").slicer[:, :, 14:26]
    bval, right = stem.with_suffix(".bval"), stem.with_suffix(".bvec")
    mirrored, swapped = tmp_path / "mirrored.bvec", tmp_path / "swapped.bvec"
    np.savetxt(mirrored, np.loadtxt(right) * [[1], [1], [-1]])
    np.savetxt(swapped, np.loadtxt(right)[[1, 0, 2]])

    def judge(read: Path, raw: Path, arrangements: list[str], image=image):
        runs = {"source_bval_files": [str(bval)] * len(arrangements)}
        runs |= {"source_bvec_files": [str(raw)] * len(arrangements)}
        return check(tmp_path, image, bval, read, **runs, arrangements=arrangements)

    # A right repair: what is best is told of the raw rows, not of the repaired ones.
    found = judge(right, mirrored, ["x,y,-z"])
    verdict = found.record["GradientCheck"]
    assert (verdict["Best"], verdict["AfterRepair"]) == ("x,y,-z", ["x,y,-z"])
    assert verdict["Summary"].startswith("The b-vectors as repaired (x,y,-z) continue")
    assert (found.record["Warnings"], found.fixed_bvec_files) == ([], [])
    mixed = judge(right, mirrored, ["x,y,-z", "x,y,z"]).record["GradientCheck"]
    assert mixed["Best"] == ["x,y,-z", "identity"]
    # A wrong one stops the series.
    with pytest.raises(GradientError, match=r"\(y,x,z\), and the fibres contradict") as caught:
        judge(swapped, right, ["y,x,z"])
    assert caught.value.path == right
    # One that nothing confirms is warned of.
    found = judge(swapped, right, ["y,x,z"], image=image.slicer[:, :, 4:5])
    (warning,) = found.record["Warnings"]
    assert "as repaired (y,x,z) could not be decided" in warning
    # Of merged runs without repairs, any may be wrong.
    found = judge(swapped, swapped, ["x,y,z", "x,y,z"])
    assert found.fixed_bvec_files == []
    assert "SuggestedFix" not in found.record["GradientCheck"]
    (warning,) = found.record["Warnings"]
    assert "Of the 2 runs of the series any may be the wrong one" in warning


@pytest.mark.realdata
def test_of_merged_runs_those_are_rearranged_that_are_wrong_by_themselves(
    data_dir: Path, tmp_path: Path
) -> None:
    """A wrong series and the first volumes of it, which are too few to be judged."""
    stem = data_dir / "ds-more" / "sub-galan6" / "dwi" / "sub-galan6_acq-ortho_dir-AP_dwi"
    image = nib.load(f"{stem}.nii.gz").slicer[:, :, 14:26]
    bvals, right = (np.loadtxt(stem.with_suffix(e)) for e in (".bval", ".bvec"))
    wrong = right * [[1], [1], [-1]]
    parts = {"long": slice(None), "short": slice(0, 5)}
    for name, part in parts.items():
        np.savetxt(tmp_path / f"{name}.bval", bvals[None, part])
        np.savetxt(tmp_path / f"{name}.bvec", wrong[:, part])
    np.savetxt(tmp_path / "all.bval", np.concatenate([bvals, bvals[:5]])[None])
    np.savetxt(tmp_path / "all.bvec", np.hstack([wrong, wrong[:, :5]]))
    data = np.asanyarray(image.dataobj)
    merged = nib.Nifti1Image(np.concatenate([data, data[..., :5]], axis=3), image.affine)
    n = image.shape[3]
    origins = [
        VolumeOrigin(run=int(k >= n), phase_encoding="j", readout_s=0.05, original_file="x.nii")
        for k in range(n + 5)
    ]
    known = {"Orientation": "LAS", "StationName": "MR1", "ProtocolName": "DTI"}
    found = check(
        tmp_path,
        merged,
        tmp_path / "all.bval",
        tmp_path / "all.bvec",
        source_bval_files=[str(tmp_path / f"{name}.bval") for name in parts],
        source_bvec_files=[str(tmp_path / f"{name}.bvec") for name in parts],
        volumes_file=str(write_volumes(origins, tmp_path / "volumes.tsv")),
        conditions=[known, known],
    )
    (offered,) = found.fixed_bvec_files
    wanted = np.hstack([right, wrong[:, :5]])
    table = np.loadtxt(offered)
    sign = np.where((table * wanted).sum(axis=0) < 0, -1, 1)
    np.testing.assert_allclose(table * sign, wanted, atol=2e-6)
    verdict = found.record["GradientCheck"]
    runs = verdict["Runs"]
    assert runs["long.bvec"]["Columns"] == [0, n - 1]
    assert runs["short.bvec"]["Columns"] == [n, n + 4]
    (fix,) = make_fixes(tomllib.loads(runs["long.bvec"]["SuggestedFix"]))
    assert fix.components == "x,y,-z"
    assert "SuggestedFix" not in {**verdict, **runs["short.bvec"]}
    (warning,) = found.record["Warnings"]
    assert "1 of the 2 runs are wrong" in warning


@pytest.mark.realdata
def test_nothing_is_offered_where_tables_are_right_or_nothing_decides(
    data_dir: Path, tmp_path: Path
) -> None:
    stem = data_dir / "ds-vendors" / "sub-umr" / "dwi" / "sub-umr_dir-AP_dwi"
    bval, bvec = stem.with_suffix(".bval"), stem.with_suffix(".bvec")
    runs = {"source_bval_files": [str(bval)], "source_bvec_files": [str(bvec)]}
    whole = nib.load(f"{stem}.nii.gz")
    found = check(tmp_path, whole, bval, bvec, **runs)
    assert found.fixed_bvec_files == []
    assert found.record["GradientCheck"]["IsDecisive"]
    mirrored = tmp_path / "mirrored.bvec"
    np.savetxt(mirrored, np.loadtxt(bvec) * [[-1], [1], [1]])
    runs["source_bvec_files"] = [str(mirrored)]
    slice_ = whole.slicer[:, :, 4:5]
    found = check(tmp_path, slice_, bval, mirrored, **runs)
    assert found.fixed_bvec_files == []
    assert "could not be decided" in found.record["GradientCheck"]["Summary"]
