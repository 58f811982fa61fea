from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.errors import InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid, affine_map
from dmri_fm.series import Dwi, save_image
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.scores import score
from dmri_fm_lab.evaluate.truth import Truth, read_truth, undistort
from dmri_fm_lab.simulate.anatomy import Fractions

SIDE = 20
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = -SIDE + 1


def smooth(scale: float = 1.0) -> np.ndarray:
    """Return a smooth image between 0 and 1 that has no symmetry."""
    x, y, z = np.indices((SIDE,) * 3) / SIDE
    return (0.5 + 0.25 * np.sin(3 * x + scale) + 0.2 * np.cos(2 * y + z)).astype(np.float32)


@pytest.fixture(scope="module")
def truth():
    white = np.zeros((SIDE,) * 3, dtype=np.float32)
    white[2:-2, 2:-2, 2:-2] = 1.0
    tensor = 1e-3 * np.stack([smooth(k) * s for k, s in enumerate((3, 0.2, 0.1, 1, 0.3, 1))], 3)
    fractions = Fractions.of(white, 0 * white, 0 * white, 0 * white, 0 * white)
    maps = TensorMaps.from_tensor(tensor, white > 0, affine=AFFINE, model="tensor")
    field = DistortionField(8 * smooth(), AFFINE)
    return Truth(maps, fractions, field, has_tensor=True, is_moving=False)


def test_truth_turns_with_the_head(truth) -> None:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    found = truth.resample(Grid((SIDE,) * 3, AFFINE), target2truth=affine_map(turn))
    # The point x of the target is at turn x of the truth, on a voxel: nothing is interpolated.
    maps, old = found.maps, truth.maps
    middle = (slice(6, -6),) * 3
    expected = np.rot90(old.fa, 1, axes=(1, 0))
    np.testing.assert_allclose(maps.fa[middle], expected[middle], atol=1e-5)
    back = turn[:3, :3].T
    axes = np.rot90(old.v1, 1, axes=(1, 0)) @ back.T
    along = np.abs((maps.v1 * axes).sum(axis=3))[middle]
    np.testing.assert_allclose(along, 1, atol=1e-5)
    np.testing.assert_allclose(
        found.fractions.wm[middle], np.rot90(truth.fractions.wm, 1, axes=(1, 0))[middle], atol=1e-5
    )


def test_distortion_by_the_true_field_is_undone(truth) -> None:
    """The image at x + d(x), times the stretching there, is the image at x."""
    encoding = PhaseEncoding("j-", 0.05)
    jacobian = truth.field.jacobian(encoding)
    shift = -0.05 * truth.field.hz
    clean = 500 * smooth(0.7)
    # A distorted image by looking up, for each of its voxels, where its signal comes from.
    distorted = np.zeros_like(clean)
    y = np.arange(SIDE, dtype=float)
    for i in range(SIDE):
        for k in range(SIDE):
            seen = y + shift[i, :, k]
            distorted[i, :, k] = np.interp(y, seen, clean[i, :, k] / jacobian[i, :, k])
    gtab = GradientTable([0.0], [[0.0, 0.0, 0.0]])
    dwi = Dwi.from_arrays(distorted[..., None], AFFINE, gtab)
    found = undistort(dwi, truth, encoding).data[..., 0]
    middle = (slice(3, -3),) * 3
    before = np.abs(distorted - clean)[middle].mean()
    assert np.abs(found - clean)[middle].mean() < 0.1 * before


def write(folder, images) -> None:
    for ending, image in images.items():
        save_image(image, AFFINE, folder / f"sub-01_{ending}.nii.gz")


def test_scalars_alone_leave_tensor_and_axis_open(truth, tmp_path) -> None:
    folder = tmp_path / "derivatives" / "truth" / "sub-01" / "dwi"
    assert read_truth(tmp_path, "01") is None
    scalars = {f"desc-truth_{name}": image for name, image in truth.maps.scalars.items()}
    mask = truth.maps.mask.astype(np.float32)
    write(folder, {**scalars, "desc-truth_mask": mask})
    with pytest.raises(InputError, match="no truth of field"):
        read_truth(tmp_path, "01")
    rest = {"fieldmap_hz": truth.field.hz, "wm": mask, "gm": 0 * mask, "csf": 0 * mask}
    write(folder, {f"desc-truth_{name}": image for name, image in rest.items()})
    found = read_truth(tmp_path, "01")
    assert not found.has_tensor
    assert not found.is_moving
    rows = score(truth.maps, found.reference())
    assert rows["white"]["fa"] == pytest.approx(0, abs=1e-6)
    assert rows["white"]["tensor"] is None
    assert rows["white"]["v1_deg"] is None
    assert "lesion" not in rows
