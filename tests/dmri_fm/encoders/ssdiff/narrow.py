"""A narrow SSDiff encoder of heads at 6 mm, in blocks of 12 and 24 mm, and a scan for it."""

from dataclasses import replace

import numpy as np

from dmri_fm.encoders.ssdiff.config import COMPACT, SsdiffConfig
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import resample_image
from dmri_fm.normalise.template import load_template
from dmri_fm.series import Dwi
from dmri_fm_lab.simulate import spread_directions

NARROW = replace(
    COMPACT,
    grid_shape=(32, 40, 32),
    voxel_size_mm=6.0,
    direction_block=4,
    dim=24,
    heads=2,
    encoder_blocks=1,
    decoder_blocks=1,
    position_dim=6,
)


def draw_scan(config: SsdiffConfig, *, n_directions: int = 8) -> Dwi:
    """Return a series in the template's brain, two b=0 among it."""
    rng = np.random.default_rng(0)
    template = load_template(2)
    mask = (
        resample_image(
            template.brain_mask.astype(np.float32), template.grid.affine, config.grid, order=1
        )
        > 0.3
    )
    bvals = np.array([0.0, 5.0, *[1000.0] * n_directions])
    vectors = np.vstack([np.zeros((2, 3)), spread_directions(rng, n_directions)])
    data = np.zeros((*mask.shape, len(bvals)), dtype=np.float32)
    data[mask] = rng.uniform(100, 300, (int(mask.sum()), len(bvals)))
    data[mask, :2] = 400.0
    return Dwi.from_arrays(data, config.grid.affine, GradientTable(bvals, vectors), mask=mask)
