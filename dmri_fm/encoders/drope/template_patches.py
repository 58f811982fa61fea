"""The template's tissue on an encoder's grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from scipy.ndimage import gaussian_filter
from torch import Tensor

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.patches import patchify
from dmri_fm.normalise.grid import resample_image
from dmri_fm.normalise.template import load_template

#: Width of the Gaussian over the template's tissue maps, voxels: heads differ by as much.
TISSUE_BLUR_VOXELS = 1.5


@lru_cache(maxsize=2)
def template_tissue(encoder: DropeConfig) -> Tensor:
    """Return white and grey matter of the template, patches of the whole grid, (S, P, 2)."""
    template = load_template(1)
    maps = [
        gaussian_filter(resample_image(m, template.grid.affine, encoder.grid), TISSUE_BLUR_VOXELS)
        for m in (template.wm, template.gm)
    ]
    volumes = torch.from_numpy(np.stack(maps).astype(np.float32))
    return rearrange(patchify(volumes[None], encoder.patch)[0], "c s p -> s p c").contiguous()
