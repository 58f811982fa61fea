"""The transforms that the nodes write, by the tools of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.coregistration import COREGISTRATION_METHOD
from dmri_fm.normalise.grid import Grid, affine_map, compose, resample_image
from dmri_fm.normalise.registration import name_normalisation
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import read_point_map, write_warp
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.registry import MODELS
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.weights import save_weights
from dmri_fm_workflows.interfaces.models import ExtractFeatures
from dmri_fm_workflows.interfaces.motion import SkipMotion
from dmri_fm_workflows.interfaces.normalise import (
    AlignAcpc,
    CoregisterReference,
    RegisterTemplate,
    ResampleDwi,
)
from tests.dmri_fm.encoders.ssdiff.narrow import NARROW

LPS = np.array([-1.0, -1.0, 1.0])
TILT = Rotation.from_euler("xyz", [9, -6, 12], degrees=True).as_matrix()

#: Directions of the voxel axes in RAS+.
STORAGES = {
    "RAS": np.eye(3),
    "LAS": np.diag([-1.0, 1, 1]),
    "oblique": TILT @ np.diag([-1.0, 1, 1]),
}


#: Takes points of the head to points of the template.
POSE = np.eye(4)
POSE[:3, :3] = Rotation.from_euler("xyz", [-8, 3, 5], degrees=True).as_matrix()
POSE[:3, 3] = [-4, 6, 9]


def write_head(folder: Path, axes: np.ndarray) -> tuple[Path, Path]:
    """Write the template's head as if it had lain askew, in 4 mm voxels, and its brain mask."""
    template = load_template(2)
    affine = np.eye(4)
    affine[:3, :3] = 4 * axes
    affine[:3, 3] = [5, -12, 8] - affine[:3, :3] @ [24, 28, 24]
    grid = Grid((49, 57, 49), affine)
    head, mask = (
        resample_image(data, template.grid.affine, grid, target2source=affine_map(POSE))
        for data in (template.t1, template.brain_mask.astype(np.float32))
    )
    return (
        save_image(head, affine, folder / "head.nii.gz"),
        save_image(mask > 0.5, affine, folder / "mask.nii.gz", dtype=np.uint8),
    )


def assert_readers_agree(there: str, back: str, points: np.ndarray, *, inverse_mm: float) -> None:
    """Compare ANTs, nitransforms and ourselves, and the transform with its inverse.

    nitransforms interpolates a displacement field by cubic splines: where it is smooth, as here,
    that makes a tenth of a millimetre at most.
    """
    import ants
    from nitransforms import linear, manip

    for path, start in ((there, points), (back, read_point_map(there)(points))):
        ours = read_point_map(path)(start)
        transform = ants.read_transform(path)
        by_ants = [ants.apply_ants_transform_to_point(transform, tuple(p)) for p in start * LPS]
        np.testing.assert_allclose(np.array(by_ants) * LPS, ours, atol=0.01)
        is_warp = path.endswith(".h5")
        by_nitransforms = (manip if is_warp else linear).load(path, fmt="itk").map(start)
        np.testing.assert_allclose(by_nitransforms, ours, atol=0.1 if is_warp else 0.01)
    round_trip = compose(read_point_map(there), read_point_map(back))(points)
    assert np.linalg.norm(round_trip - points, axis=1).max() < inverse_mm


def resampled_by_ants(moving: Path, transform: str, reference: Path) -> np.ndarray:
    import ants

    fixed, image = ants.image_read(str(reference)), ants.image_read(str(moving))
    return ants.apply_transforms(fixed, image, [transform], interpolator="linear").numpy()


def assert_same_image(first: np.ndarray, second: np.ndarray) -> None:
    both = (first > 0) & (second > 0)
    assert both.sum() > 10_000
    assert np.corrcoef(first[both], second[both])[0, 1] > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "method"), [("RAS", "affine"), ("LAS", "affine"), ("oblique", "syn")]
)
def test_transforms_of_the_anatomy_mean_the_same_to_others(
    tmp_path: Path, axes: str, method: str
) -> None:
    head, mask = write_head(tmp_path, STORAGES[axes])
    folder = tmp_path / "acpc"
    folder.mkdir()
    found = AlignAcpc(in_file=str(head), mask_file=str(mask)).run(cwd=str(folder)).outputs
    brain = load_image(found.brain_file)
    inside = np.argwhere(read_array(brain) > 0)[::997]
    points = apply_affine(brain.affine, inside)
    assert_readers_agree(found.to_acpc_file, found.from_acpc_file, points, inverse_mm=0.01)
    ours = read_array(load_image(found.out_file))
    assert_same_image(resampled_by_ants(head, found.to_acpc_file, Path(found.out_file)), ours)
    folder = tmp_path / "mni"
    folder.mkdir()
    node = RegisterTemplate(
        brain_file=found.brain_file, mask_file=found.mask_file, method=method, sloppy=True
    )
    mni = node.run(cwd=str(folder)).outputs
    assert mni.record["NormalisationMethod"] == name_normalisation(method)
    assert Path(mni.to_mni_file).suffix == {"affine": ".txt", "syn": ".h5"}[method]
    points = load_template(2).grid.points()[load_template(2).brain_mask.ravel()][::9973]
    # A warp and its inverse are two fields, each interpolated.
    inverse_mm = {"affine": 0.01, "syn": 1.0}[method]
    assert_readers_agree(mni.to_mni_file, mni.from_mni_file, points, inverse_mm=inverse_mm)
    by_ants = resampled_by_ants(Path(found.brain_file), mni.to_mni_file, Path(mni.brain_file))
    assert_same_image(by_ants, read_array(load_image(mni.brain_file)))


@pytest.mark.parametrize("axes", [pytest.param("LAS", marks=pytest.mark.slow), "oblique"])
def test_head_of_another_contrast_finds_the_template(tmp_path: Path, axes: str) -> None:
    """White matter dark and fluid bright, as in a T2w image: mutual information decides."""
    t1, mask = write_head(tmp_path, STORAGES[axes])
    head, inside = load_image(t1), read_array(load_image(mask)) > 0
    data = read_array(head)
    inverted = np.where(inside, 1.2 * data[inside].max() - data, 0)
    t2 = save_image(inverted, head.affine, tmp_path / "t2.nii.gz")
    acpc = AlignAcpc(in_file=str(t2), mask_file=str(mask)).run(cwd=str(tmp_path)).outputs
    node = RegisterTemplate(
        brain_file=acpc.brain_file, mask_file=acpc.mask_file, method="affine", sloppy=True
    )
    mni = node.run(cwd=str(tmp_path)).outputs
    template = load_template(2)
    points = template.grid.points()[template.brain_mask.ravel()][::997]
    found = compose(read_point_map(mni.to_mni_file), read_point_map(acpc.to_acpc_file))(points)
    expected = affine_map(np.linalg.inv(POSE))(points)
    # Half a voxel of 4 mm.
    assert np.linalg.norm(found - expected, axis=1).mean() < 2


@pytest.mark.slow
def test_transforms_of_the_reference_mean_the_same_to_others(tmp_path: Path) -> None:
    """The b=0 reference is stored obliquely, the T1w image along the scanner's axes."""
    for name, axes in (("t1w", "RAS"), ("dwi", "oblique")):
        (tmp_path / name).mkdir()
        write_head(tmp_path / name, STORAGES[axes])
    (tmp_path / "acpc").mkdir()
    acpc = AlignAcpc(
        in_file=str(tmp_path / "t1w" / "head.nii.gz"),
        mask_file=str(tmp_path / "t1w" / "mask.nii.gz"),
    ).run(cwd=str(tmp_path / "acpc"))
    reference = tmp_path / "dwi" / "head.nii.gz"
    found = CoregisterReference(
        dwi_brain_file=str(reference),
        t1w_brain_file=acpc.outputs.out_file,
        to_t1w_acpc_file=acpc.outputs.to_acpc_file,
    ).run(cwd=str(tmp_path)).outputs  # fmt: skip
    assert found.record["CoregistrationMethod"] == COREGISTRATION_METHOD
    image = load_image(acpc.outputs.brain_file)
    points = apply_affine(image.affine, np.argwhere(read_array(image) > 0)[::997])
    assert_readers_agree(found.to_acpc_file, found.from_acpc_file, points, inverse_mm=0.01)
    by_ants = resampled_by_ants(reference, found.to_acpc_file, Path(acpc.outputs.out_file))
    assert_same_image(by_ants, read_array(load_image(acpc.outputs.out_file)))


def test_voxels_in_which_the_warp_folds_are_counted_in_the_sidecar_of_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warp runs backwards along x in two planes of voxels of the brain."""
    monkeypatch.setitem(MODELS, "ssdiff", MODELS["ssdiff"]._replace(config=NARROW))
    grid, template = NARROW.grid, load_template(2)
    brain = resample_image(template.brain_mask.astype(np.float32), template.grid.affine, grid)
    gtab = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    data = 100 * (brain > 0.5)[..., None] * np.exp(-gtab.bvals * 0.8e-3)
    files = Dwi.from_arrays(data, grid.affine, gtab).save(tmp_path / "dwi")
    names = ("dwi_file", "bval_file", "bvec_file")
    series = dict(zip(names, map(str, files), strict=True))
    rows = ["run\tphase_encoding\treadout_s\toriginal_file", *["0\tj\t0.05\tx.nii"] * 7]
    (tmp_path / "volumes.tsv").write_text("\n".join(rows) + "\n")
    series["volumes_file"] = str(tmp_path / "volumes.tsv")
    # The shift falls by 8 mm a plane of 6 mm between 14 and 17: slopes 1 + 10/6, three times
    # 1 - 8/6, and 1 + 14/6. Differences at 14 and 17 see the fold on one side alone: above zero.
    shift_mm = np.zeros((*grid.shape, 3))
    shift_mm[14:18, ..., 0] = np.array([10.0, 2.0, -6.0, -14.0])[:, None, None]
    warp = write_warp(shift_mm, grid, tmp_path / "to_mni.h5")
    mask = save_image(brain > 0.5, grid.affine, tmp_path / "mask.nii.gz", dtype=np.uint8)
    moved = SkipMotion(**series).run(cwd=str(tmp_path)).outputs
    placed = ResampleDwi(
        **series,
        motion_file=moved.motion_file,
        mask_file=str(mask),
        xfm_files=[str(warp)],
        grid="features",
        model="ssdiff",
        has_rotations=True,
        order=1,
    ).run(cwd=str(tmp_path)).outputs  # fmt: skip
    inside = read_array(load_image(placed.mask_file)) > 0
    turns = read_array(load_image(placed.rotations_file))
    assert placed.rotations_record == {"WarpFoldedVoxels": inside[15:17].sum()}
    assert not turns[15:17].any()
    weights = tmp_path / "ssdiff.safetensors"
    torch.manual_seed(0)
    save_weights(weights, Ssdiff(NARROW), name="ssdiff", version="0", training={})
    done = ExtractFeatures(
        **{name: getattr(placed, name) for name in (*names, "mask_file")},
        rotations_file=placed.rotations_file,
        rotations_record=placed.rotations_record,
        model="ssdiff",
        weights=str(weights),
        region="whole",
        entities={"subject": "01"},
    ).run(cwd=str(tmp_path)).outputs  # fmt: skip
    assert done.record["LocalRotation"] is True
    assert done.record["WarpFoldedVoxels"] == inside[15:17].sum()
