"""Training and test data with known truth."""

from dmri_fm_lab.simulate.anatomy import draw_anatomy
from dmri_fm_lab.simulate.batch import draw_batch
from dmri_fm_lab.simulate.dataset import simulate_dataset
from dmri_fm_lab.simulate.protocol import draw_protocol, read_protocol, spread_directions
from dmri_fm_lab.simulate.sample import draw_sample

__all__ = [
    "draw_anatomy",
    "draw_batch",
    "draw_protocol",
    "draw_sample",
    "read_protocol",
    "simulate_dataset",
    "spread_directions",
]
