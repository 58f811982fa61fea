"""FACT on fields whose streamlines are known."""

import numpy as np
import pytest

from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.fact import count_streamlines, dice


def maps_along(axes, affine=None, mask=None):
    """Return maps whose main axes (RAS+) are those given, FA .8."""
    tensor = 0.2e-3 * np.eye(3) + 1.2e-3 * axes[..., :, None] * axes[..., None, :]
    i, j = np.triu_indices(3)
    mask = np.ones(axes.shape[:3], dtype=bool) if mask is None else mask
    affine = np.eye(4) if affine is None else affine
    return TensorMaps.from_tensor(tensor[..., i, j], mask, affine=affine, model="tensor")


def test_straight_fibres_visit_their_row_once_each():
    axes = np.zeros((10, 3, 2, 3))
    axes[..., 0] = 1.0
    mask = np.ones((10, 3, 2), dtype=bool)
    mask[:, 1, 0] = False
    counts = count_streamlines(maps_along(axes, mask=mask))
    assert (counts[mask] == 10).all()
    assert not counts[~mask].any()


def test_streamlines_end_at_sharp_turns():
    axes = np.zeros((10, 1, 1, 3))
    axes[:5, ..., 0] = axes[5:, ..., 1] = 1.0
    counts = count_streamlines(maps_along(axes))[:, 0, 0]
    # The fifth voxel's border is crossed into the sixth, where the turn is too sharp to go on.
    assert counts.tolist() == [5, 5, 5, 5, 5, 6, 1, 1, 1, 1]


@pytest.mark.parametrize("edges", [(1.0, 1.0, 1.0), (1.0, 3.0, 2.0)])
def test_fibres_keep_their_angle_in_voxels_of_any_shape(edges):
    """Streamlines stay within a band of voxels along the direction in mm."""
    axes = np.zeros((24, 24, 1, 3))
    axes[...] = np.array([2.0, 3.0, 0.0]) / np.sqrt(13)
    # A flipped first axis: the world's +x is the voxels' -x.
    affine = np.diag([-edges[0], edges[1], edges[2], 1.0])
    along = np.array([-2.0 / edges[0], 3.0 / edges[1]])
    along /= np.linalg.norm(along)
    x, y = np.indices((24, 24)) - 11.5
    band = (np.abs(x * along[1] - y * along[0]) < 1.0)[..., None]
    counts = count_streamlines(maps_along(axes, affine=affine, mask=band))
    ends = np.argwhere(band[..., 0])[[0, -1]]
    # Through the middle and the far voxels run most streamlines of the band.
    assert counts[11:13, 11:13].max() > 0.5 * band.sum()
    assert min(counts[i, j, 0] for i, j in ends) > 0.2 * band.sum()


def test_dice():
    a = np.zeros((4, 4), dtype=bool)
    assert np.isnan(dice(a, a))
    b = a.copy()
    b[0] = True
    assert dice(b, b) == 1.0
    assert dice(a, b) == 0.0
