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
        Shape (S,): indices of the patches among all of the image, C order.
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
    *,
    origin: tuple[int, int, int] = (0, 0, 0),
) -> ScanTokens:
    """Cut a normalised series into patches.

    Parameters
    ----------
    signal
        Shape (X, Y, Z, T), S/S0 of diffusion-weighted volumes on the model's grid, or on a part
        of it.
    gtab
        Gradient table of the volumes, b-vectors in the grid's RAS frame.
    mask
        Shape (X, Y, Z): the brain.
    config
        Architecture of the encoder.
    origin
        Voxel of the grid at which the series begins.

    Raises
    ------
    ImageError
        If the series reaches beyond the encoder's grid, or patches do not tile it.
    """
    size = zip(origin, mask.shape, config.grid_shape, config.patch, strict=True)
    if any(n == 0 or n % p or first < 0 or first + n > end for first, n, end, p in size):
        raise ImageError(
            f"a series of {mask.shape} voxels at voxel {origin}",
            expected=f"a part of the encoder's grid, {config.grid_shape} voxels, that patches of "
            f"{config.patch} tile",
        )
    brain = patchify(torch.from_numpy(mask.astype(np.float32))[None, None], config.patch)[0, 0]
    share = brain.mean(dim=1).numpy()
    index = (
        np.flatnonzero(share >= MIN_BRAIN_FRACTION) if config.is_packed else np.arange(share.size)
    )
    volumes = torch.from_numpy(np.moveaxis(signal * mask[..., None], 3, 0).astype(np.float32))
    kept = torch.from_numpy(index)
    centres = patch_centres(config, mask.shape, origin)[index]
    return ScanTokens(
        patches=patchify(volumes[None], config.patch)[0][:, kept].contiguous(),
        qspace=torch.from_numpy(to_qspace(gtab)).double(),
        positions=torch.from_numpy(centres.astype(np.float32)),
        brain=brain[kept],
        index=index,
    )


def patch_centres(
    config: DropeConfig,
    shape: tuple[int, ...] | None = None,
    origin: tuple[int, int, int] = (0, 0, 0),
) -> NDArray[np.float64]:
    """Return the centres of all patches, C order, shape (S, 3), in voxels of the grid.

    Of the whole grid, or of a part of `shape` voxels that begins at a voxel, `origin`.
    """
    patch = np.array(config.patch)
    ijk = np.indices(np.array(shape or config.grid_shape) // patch).reshape(3, -1).T
    middle = patch // 2 if config.patch_centre == "voxel" else (patch - 1) / 2
    centres: NDArray[np.float64] = ijk * patch + middle + np.array(origin)
    return centres
