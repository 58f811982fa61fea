"""The packaged template and its regions."""

from __future__ import annotations

import numpy as np

from dmri_fm.normalise.template import BLOCKS, load_regions, load_template
from dmri_fm.registry import feature_grid


def test_template_is_the_2009a_brain() -> None:
    template = load_template(2)
    assert template.grid.shape == (99, 117, 95)
    assert template.name == "MNI152NLin2009aSym"
    volume_ml = template.brain_mask.sum() * 8 / 1000
    # The 2009 template's brain holds about 1.9 litres, cerebellum and brainstem included.
    assert 1700 < volume_ml < 2000


def test_model_grid_holds_the_whole_brain() -> None:
    template = load_template(2)
    index = np.argwhere(template.brain_mask)
    points = index @ template.grid.affine[:3, :3].T + template.grid.affine[:3, 3]
    grid = feature_grid("drope")
    voxels = (points - grid.affine[:3, 3]) / 2
    assert voxels.min() > 0
    assert (voxels.max(axis=0) < np.array(grid.shape) - 1).all()


def test_regions_have_sides_and_tissues() -> None:
    regions = load_regions()
    template = load_template(2)
    assert len(regions.table) == 2 * 2 * len(BLOCKS)
    x = regions.grid.points()[:, 0].reshape(regions.grid.shape)
    for region in regions.table:
        mask = regions.labels == region.index
        assert mask.sum() * 8 / 1000 > 5, region.name
        assert (x[mask] < 0).all() == (region.hemisphere == "left"), region.name
        tissue = template.gm if region.tissue == "gm" else template.wm
        assert tissue[mask].min() > 0.5, region.name
    left, right = (
        np.isin(regions.labels, [r.index for r in regions.table if r.hemisphere == h]).sum()
        for h in ("left", "right")
    )
    assert left == right  # the template is symmetric


def test_blocks_lie_where_their_names_say() -> None:
    regions = load_regions()
    points = regions.grid.points().reshape(*regions.grid.shape, 3)
    centre = {
        block: points[
            np.isin(regions.labels, [r.index for r in regions.table if r.block == block])
        ].mean(axis=0)
        for block in BLOCKS
    }
    assert centre["frontal"][1] > centre["parietal"][1] > centre["occipital"][1]
    assert centre["infratentorial"][2] < centre["temporal"][2] < centre["parietal"][2]
