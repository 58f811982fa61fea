"""From a series on the grid to tokens: whole scans, and slabs of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.tokens import patch_centres, tokenise
from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import to_qspace

CONFIG = DropeConfig(
    grid_shape=(16, 8, 12), voxel_size_mm=2.0, patch=(4, 4, 2), dim=24, depth=1, heads=2
)
GTAB = GradientTable([1000.0, 2000.0, 1000.0], np.eye(3))


@pytest.fixture(scope="module")
def scan():
    """Give random signal, and a brain that fills one half of the grid and 3 voxels of a patch."""
    signal = np.random.default_rng(0).uniform(0.1, 0.9, (*CONFIG.grid_shape, 3))
    mask = np.zeros(CONFIG.grid_shape, dtype=bool)
    mask[:8, :, 1:11] = True
    mask[8:11, 0, 4] = True
    return signal.astype(np.float32), mask


def test_patches_of_the_brain_are_packed(scan):
    signal, mask = scan
    tokens = tokenise(signal, GTAB, mask, CONFIG)
    # 2 x 2 x 6 patches; one of 3 voxels in 32, below a tenth.
    assert tokens.patches.shape == (3, 24, 32)
    assert tokens.index.tolist() == list(range(24))
    np.testing.assert_allclose(tokens.qspace, to_qspace(GTAB))
    values = signal[:4, :4, 2:4].reshape(32, 3).T
    np.testing.assert_array_equal(tokens.patches[:, 1], values)
    assert not tokens.patches[:, tokens.brain == 0].any()
    assert tokens.brain[0].sum() == 16
    assert tokens.positions[1].tolist() == [1.5, 1.5, 2.5]
    dense = tokenise(signal, GTAB, mask, replace(CONFIG, is_packed=False))
    assert dense.patches.shape == (3, 48, 32)
    torch.testing.assert_close(dense.select_patches(tokens.index).patches, tokens.patches)


@pytest.mark.parametrize("first", [0, 4, 8])
def test_slabs_are_patches_of_the_whole_scan(scan, first):
    signal, mask = scan
    whole = tokenise(signal, GTAB, mask, CONFIG)
    slices = np.s_[:, :, first : first + 4]
    slab = tokenise(signal[slices], GTAB, mask[slices], CONFIG, origin=(0, 0, first))
    inside = (whole.positions[:, 2] > first) & (whole.positions[:, 2] < first + 4)
    same = whole.select_patches(np.flatnonzero(inside.numpy()))
    assert len(slab.index) == 8
    for name in ("patches", "positions", "brain", "qspace"):
        assert torch.equal(getattr(slab, name), getattr(same, name)), name


def test_slabs_begin_at_any_slice(scan):
    signal, mask = scan
    slab = tokenise(signal[:, :, 3:7], GTAB, mask[:, :, 3:7], CONFIG, origin=(0, 0, 3))
    assert slab.positions[:, 2].unique().tolist() == [3.5, 5.5]
    np.testing.assert_array_equal(slab.patches[0, 0], signal[:4, :4, 3:5, 0].ravel())


@pytest.mark.parametrize(
    ("shape", "origin"),
    [
        ((16, 8, 4), (0, 0, 9)),
        ((16, 8, 3), (0, 0, 0)),
        ((16, 8, 4), (0, 0, -1)),
        ((16, 8, 0),) * 2,
    ],
)
def test_what_is_no_part_of_the_grid_is_refused(shape, origin):
    mask = np.ones(shape, dtype=bool)
    with pytest.raises(ImageError, match="part of the encoder's grid"):
        tokenise(np.zeros((*shape, 3), np.float32), GTAB, mask, CONFIG, origin=origin)


def test_directions_are_selected_in_order(scan):
    tokens = tokenise(*scan[:1], GTAB, scan[1], CONFIG)
    some = tokens.select(np.array([2, 0]))
    assert torch.equal(some.patches, tokens.patches[[2, 0]])
    assert torch.equal(some.qspace, tokens.qspace[[2, 0]])
    assert torch.equal(some.positions, tokens.positions)


def test_centres_in_the_convention_of_the_authors():
    ours, theirs = (patch_centres(replace(CONFIG, patch_centre=c)) for c in ("middle", "voxel"))
    assert ours[0].tolist() == [1.5, 1.5, 0.5]
    assert theirs[0].tolist() == [2.0, 2.0, 1.0]
    assert theirs[-1].tolist() == [14.0, 6.0, 11.0]
