"""Measurements predicted from the others of a scan."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.masked_directions import prediction_errors
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.gradients import GradientTable, group_shells
from dmri_fm_lab.simulate import spread_directions

CONFIG = DropeConfig(
    grid_shape=(16, 16, 8), voxel_size_mm=2.0, patch=(8, 8, 4), dim=24, depth=1, heads=2
)
SIGMA = 0.03


def draw_tokens(*, bvals=(1000.0,) * 16, sigma=SIGMA, seed=0):
    """One tensor along x everywhere, and noise."""
    rng = np.random.default_rng(seed)
    gtab = GradientTable(bvals, spread_directions(rng, len(bvals)))
    along = gtab.bvecs_ras[:, 0] ** 2
    signal = np.exp(-gtab.bvals / 1000 * (0.4 + 1.2 * along))
    shape = CONFIG.grid_shape
    images = signal + sigma * rng.normal(size=(*shape, len(bvals)))
    return tokenise(images.astype(np.float32), gtab, np.ones(shape, bool), CONFIG)


def test_errors_hold_the_noise_and_some_of_the_signal():
    tokens = draw_tokens()
    errors = prediction_errors(tokens)
    assert errors.patches.shape == (8,)
    assert errors.volumes.shape == (16,)
    assert (errors.patches > 0.95 * SIGMA).all()
    # Eight directions leave some of the signal unpredicted, less than half of how it varies.
    assert (errors.patches < 0.5 * tokens.patches.std(dim=0).mean()).all()
    louder = prediction_errors(draw_tokens(sigma=4 * SIGMA))
    assert (louder.patches > 3.8 * SIGMA).all()


@pytest.mark.parametrize("volume", [0, 5, 14])
def test_a_volume_that_lost_signal_stands_out(volume):
    tokens = draw_tokens()
    spoilt = replace(tokens, patches=tokens.patches.clone())
    spoilt.patches[volume] *= 0.6
    errors, intact = prediction_errors(spoilt), prediction_errors(tokens)
    # Even positions are predicted first, then odd ones; a dark volume is overestimated.
    order = [*range(0, 16, 2), *range(1, 16, 2)]
    assert order[int(errors.volumes.argmax())] == volume
    assert (errors.patches > 1.2 * intact.patches).all()


def test_a_dropped_slab_shows_where_it_is():
    tokens = draw_tokens()
    spoilt = replace(tokens, patches=tokens.patches.clone())
    low = tokens.positions[:, 2] < 4
    spoilt.patches[3:6, low] *= 0.5
    ratio = prediction_errors(spoilt).patches / prediction_errors(tokens).patches
    assert ratio[low].min() > 1.5
    assert ratio[~low].max() < 1.5


def test_antipodes_do_not_matter():
    tokens = draw_tokens()
    qspace = tokens.qspace.clone()
    qspace[::3, 1] = np.pi - qspace[::3, 1]
    qspace[::3, 2] += np.pi
    found, expected = prediction_errors(replace(tokens, qspace=qspace)), prediction_errors(tokens)
    torch.testing.assert_close(found.patches, expected.patches, atol=1e-5, rtol=0)


def test_patches_without_brain_have_no_error():
    tokens = draw_tokens()
    tokens.brain[2] = 0.0
    errors = prediction_errors(tokens)
    assert errors.patches.isnan().tolist() == [i == 2 for i in range(8)]
    assert errors.volumes.isfinite().all()


def test_a_measurement_alone_in_its_shell_is_not_predicted():
    bvals = (1000.0,) * 12 + (2500.0,)
    tokens = draw_tokens(bvals=bvals)
    assert len(group_shells(1000 * tokens.qspace[:, 0].numpy())) == 2
    assert prediction_errors(tokens).volumes.shape == (12,)
    assert prediction_errors(draw_tokens(bvals=bvals[-6:])) is None, "five are too few"
