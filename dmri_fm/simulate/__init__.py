"""Training and test data with known truth."""

from dmri_fm.simulate.anatomy import Anatomy, draw_anatomy
from dmri_fm.simulate.batch import Batch, draw_batch
from dmri_fm.simulate.dataset import simulate_dataset
from dmri_fm.simulate.protocol import (
    SKARE_DIRECTIONS,
    condition_number,
    draw_protocol,
    read_protocol,
    spread_directions,
)
from dmri_fm.simulate.sample import Sample, draw_sample

__all__ = [
    "SKARE_DIRECTIONS",
    "Anatomy",
    "Batch",
    "Sample",
    "condition_number",
    "draw_anatomy",
    "draw_batch",
    "draw_protocol",
    "draw_sample",
    "read_protocol",
    "simulate_dataset",
    "spread_directions",
]
