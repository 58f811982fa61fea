"""A narrow SSDiff encoder of heads at 6 mm, in blocks of 12 and 24 mm."""

from dataclasses import replace

from dmri_fm.encoders.ssdiff.config import COMPACT

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
