"""A narrow artefact-removal U-Net of heads at 8 mm, on 16 directions."""

from dmri_fm.encoders.artefact_unet.network import UnetConfig

NARROW = UnetConfig(
    grid_shape=(24, 24, 24), voxel_size_mm=8.0, n_directions=16, widths=(2, 3, 4, 5)
)
