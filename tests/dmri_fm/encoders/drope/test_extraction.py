"""Extraction of features from the whole brain, and as published."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import PAPER, SMALL
from dmri_fm.encoders.drope.encoder import DropeEncoder
from dmri_fm.encoders.drope.extraction import (
    check_region,
    choose_directions,
    patches_of_region,
    select_region,
)
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.scan_indicators import LEAST_TISSUE, scan_indicators
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.drope.tokens import patch_centres, tokenise
from dmri_fm.errors import ConfigError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import choose_spread
from dmri_fm.series import Dwi
from dmri_fm.weights import Weights
from dmri_fm_lab.simulate import draw_protocol, spread_directions

#: Narrow, on a coarse version of the published grid: 4 mm, patches of 16 mm and of 8 along z.
COARSE = replace(
    PAPER,
    grid_shape=(48, 56, 48),
    voxel_size_mm=4.0,
    patch=(4, 4, 2),
    dim=24,
    depth=1,
    heads=2,
)


def draw_scan(*, top=40):
    rng = np.random.default_rng(0)
    gtab = draw_protocol(rng, scheme="shell", n_directions=20, bvals=1000, n_b0=1)
    mask = np.zeros(COARSE.grid.shape, dtype=bool)
    mask[12:36, 12:40, 4:top] = True
    data = np.zeros((*mask.shape, len(gtab)), dtype=np.float32)
    data[mask] = rng.uniform(100, 300, (int(mask.sum()), len(gtab)))
    data[mask, np.flatnonzero(gtab.is_b0)[0]] = 400.0
    return Dwi.from_arrays(data, COARSE.grid.affine, gtab, mask=mask)


def make(name):
    torch.manual_seed(0)
    network = Drope(COARSE).eval()
    return DropeEncoder(Weights(name, "0", "", COARSE, network, {}, {}, {}))


@pytest.mark.parametrize(("config", "first", "last"), [(PAPER, 64, 119), (SMALL, 32, 59)])
def test_published_slices_on_either_grid(config, first, last):
    """The same box of 192 x 224 x 56 mm, on grids of 1 and 2 mm."""
    inside = patches_of_region(config, "published")
    slices = patch_centres(config)[inside, 2]
    half = (config.patch[2] - 1) / 2
    assert slices.min() - half == first
    assert slices.max() + half == last
    n_slices = last - first + 1
    assert inside.sum() == np.prod(config.patch_grid[:2]) * n_slices / config.patch[2]
    assert patches_of_region(config, "whole").all()
    with pytest.raises(ConfigError, match="whole or published"):
        check_region("half")


def test_tokens_of_a_region_keep_their_position():
    dwi = draw_scan()
    signal = dwi.data[..., ~dwi.gtab.is_b0]
    gtab = dwi.gtab.select(np.flatnonzero(~dwi.gtab.is_b0))
    whole = tokenise(signal, gtab, dwi.mask, COARSE)
    part = select_region(whole, COARSE, "published")
    assert len(part.index) == 12 * 14 * 7
    np.testing.assert_array_equal(part.positions, whole.positions[part.index])
    np.testing.assert_array_equal(part.patches, whole.patches[:, part.index])
    assert select_region(whole, COARSE, "whole") is whole


def test_random_directions_are_those_of_the_seed():
    gtab = draw_protocol(
        np.random.default_rng(0), scheme="shell", n_directions=60, bvals=1000, n_b0=2
    )
    draws = [choose_directions(gtab, 12, how="random", seed=s, gamma=0.5) for s in (0, 0, 1)]
    assert draws[0].tolist() == draws[1].tolist() != draws[2].tolist()
    with pytest.raises(ConfigError, match="directions 'best'"):
        choose_directions(gtab, 12, how="best", seed=0, gamma=0.5)
    for chosen in draws:
        assert len(set(chosen.tolist())) == 12
        assert not gtab.is_b0[chosen].any()
    spread = choose_directions(gtab, 12, how="spread", seed=0, gamma=0.5)
    np.testing.assert_array_equal(spread, choose_spread(gtab, 12, seed=0, gamma=0.5))
    # All are drawn sooner or later.
    draws = [choose_directions(gtab, 12, how="random", seed=s, gamma=0.5) for s in range(60)]
    seen = set(np.concatenate(draws))
    assert seen == set(np.flatnonzero(~gtab.is_b0))


def test_defaults_of_the_two_encoders():
    dwi = draw_scan()
    ours, published = make("drope"), make("drope-paper")
    whole = ours.encode(ours.prepare(dwi, n_directions=12, seed=3))
    assert whole.metadata["Region"] == "whole"
    assert whole.metadata["DirectionChoice"] == "spread"
    assert whole.patches.valid.all()
    prepared = published.prepare(dwi, n_directions=12, seed=3)
    crop = published.encode(prepared)
    assert crop.metadata["RegionSlices"] == [64, 119]
    assert crop.metadata["DirectionChoice"] == "random"
    np.testing.assert_array_equal(crop.patches.valid, patches_of_region(COARSE, "published"))
    assert not crop.patches.tokens[~crop.patches.valid].any()
    asked = published.encode(published.prepare(dwi, n_directions=12, seed=3, region="whole"))
    assert asked.patches.valid.all()
    assert asked.metadata["Volumes"] == crop.metadata["Volumes"] != whole.metadata["Volumes"]
    # The class token of the crop is that of the network on the crop alone.
    t = prepared.tokens
    with torch.inference_mode():
        cls, _ = published._network(t.patches[None], t.qspace[None], t.positions[None])
    np.testing.assert_allclose(crop.vectors["cls"], cls[0], atol=1e-6)


def test_brain_beyond_the_region_is_not_missed():
    """The template lacks nothing in either region; its crop lacks much of the whole."""
    tissue = template_tissue(COARSE)
    brain = (tissue.sum(dim=2) > LEAST_TISSUE).float()
    dwi = draw_scan()
    weighted = np.flatnonzero(~dwi.gtab.is_b0)
    signal, gtab = dwi.data[..., weighted], dwi.gtab.select(weighted)
    whole = replace(tokenise(signal, gtab, dwi.mask, COARSE), brain=brain)
    crop = select_region(whole, COARSE, "published")
    found = {
        (name, region): scan_indicators(tokens, COARSE, None, region=region)["missing"]
        for name, tokens in (("whole", whole), ("crop", crop))
        for region in ("whole", "published")
    }
    assert found["whole", "whole"] == pytest.approx(0.0, abs=1e-5)
    assert found["crop", "published"] == pytest.approx(0.0, abs=1e-5)
    assert found["crop", "whole"] > 0.3


def test_a_region_without_patches_is_refused():
    packed = replace(COARSE, is_packed=True)
    encoder = DropeEncoder(Weights("drope", "0", "", packed, Drope(packed).eval(), {}, {}, {}))
    with pytest.raises(ImageError, match="no patch holds brain"):
        encoder.prepare(draw_scan(top=12), n_directions=12, seed=0, region="published")


@pytest.mark.parametrize("how", ["spread", "random"])
def test_no_direction_is_chosen_twice(how):
    axes = spread_directions(np.random.default_rng(0), 8)
    gtab = GradientTable(np.full(16, 1000.0), np.concatenate([axes, -axes]))
    chosen = choose_directions(gtab, 12, how=how, seed=0, gamma=0.5)
    assert chosen.tolist() == list(range(8))
