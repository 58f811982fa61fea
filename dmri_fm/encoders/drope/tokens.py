"""From a diffusion series on a model's grid to the tokens a D-RoPE encoder reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.patches import patchify
from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.qspace import to_qspace

#: Description of the input, written beside weights.
NORMALISATION = {
    "signal": "weighted volumes over the mean b=0, clipped, zero outside the brain, no logarithm",
    "qspace": "rho = b / 1000 in ms/um^2, theta and phi of the b-vector in the grid's RAS frame",
    "grid": "MNI152NLin2009aSym",
}

#: A packed encoder reads the patches of which at least this share is brain.
MIN_BRAIN_FRACTION = 0.1


@dataclass(frozen=True, eq=False)
class ScanTokens:
    """A scan as an encoder reads it: S patches of P voxels in T directions.

    Attributes
    ----------
    patches
        Shape (T, S, P): S/S0, zero outside the brain.
    qspace
        Shape (T, 3): rho = b / 1000, theta, phi.
    positions
        Shape (S, 3): patch centres in voxels of the grid.
    brain
        Shape (S, P): 1 in the brain, 0 outside.
    index
        Shape (S,): indices of the patches among all of the grid, C order.
    """

    patches: Tensor
    qspace: Tensor
    positions: Tensor
    brain: Tensor
    index: NDArray[np.int_]

    def select(self, directions: NDArray[np.int_]) -> ScanTokens:
        """Return the scan with the given directions, in the given order."""
        which = torch.from_numpy(np.asarray(directions))
        return replace(self, patches=self.patches[which], qspace=self.qspace[which])

    def select_patches(self, patches: NDArray[np.int_]) -> ScanTokens:
        """Return the scan with the given patches, in the given order."""
        which = torch.from_numpy(np.asarray(patches))
        return ScanTokens(
            self.patches[:, which],
            self.qspace,
            self.positions[which],
            self.brain[which],
            self.index[patches],
        )

    def to(self, device: torch.device | str) -> ScanTokens:
        """Return the scan on a device."""
        return replace(
            self,
            patches=self.patches.to(device),
            qspace=self.qspace.to(device),
            positions=self.positions.to(device),
            brain=self.brain.to(device),
        )


def tokenise(
    signal: NDArray[np.float32],
    gtab: GradientTable,
    mask: NDArray[np.bool_],
    config: DropeConfig,
) -> ScanTokens:
    """Cut a normalised series into patches.

    Parameters
    ----------
    signal
        Shape (X, Y, Z, T), S/S0 of diffusion-weighted volumes on the model's grid.
    gtab
        Gradient table of the volumes, b-vectors in the grid's RAS frame.
    mask
        Shape (X, Y, Z): the brain.
    config
        Architecture of the encoder.

    Raises
    ------
    ImageError
        If the series is not on the encoder's grid.
    """
    if mask.shape != tuple(config.grid_shape):
        raise ImageError(
            f"a series of {mask.shape} voxels", expected=f"{config.grid_shape}, the encoder's grid"
        )
    brain = patchify(torch.from_numpy(mask.astype(np.float32))[None, None], config.patch)[0, 0]
    share = brain.mean(dim=1).numpy()
    index = (
        np.flatnonzero(share >= MIN_BRAIN_FRACTION) if config.is_packed else np.arange(share.size)
    )
    volumes = torch.from_numpy(np.moveaxis(signal * mask[..., None], 3, 0).astype(np.float32))
    kept = torch.from_numpy(index)
    return ScanTokens(
        patches=patchify(volumes[None], config.patch)[0][:, kept].contiguous(),
        qspace=torch.from_numpy(to_qspace(gtab)).double(),
        positions=torch.from_numpy(patch_centres(config)[index].astype(np.float32)),
        brain=brain[kept],
        index=index,
    )


def tokenise_series(
    images: NDArray[np.float32],
    gtab: GradientTable,
    mask: NDArray[np.bool_],
    config: DropeConfig,
) -> ScanTokens:
    """Divide a series by its mean b=0 and cut the diffusion-weighted volumes into patches.

    Parameters
    ----------
    images
        Shape (X, Y, Z, N), scanner units, on the model's grid.
    gtab, mask, config
        See :func:`tokenise`; of all volumes, with b=0.

    Raises
    ------
    GradientError
        If there is no b=0 volume.
    """
    weighted = np.flatnonzero(~gtab.is_b0)
    ratio = normalise_b0(images, gtab, mask=mask).signal
    return tokenise(ratio[..., weighted], gtab.select(weighted), mask, config)


def patch_centres(config: DropeConfig) -> NDArray[np.float64]:
    """Return the centres of all patches, C order, shape (S, 3), in voxels of the grid."""
    ijk = np.indices(config.patch_grid).reshape(3, -1).T
    patch = np.array(config.patch)
    middle = patch // 2 if config.patch_centre == "voxel" else (patch - 1) / 2
    centres: NDArray[np.float64] = ijk * patch + middle
    return centres
