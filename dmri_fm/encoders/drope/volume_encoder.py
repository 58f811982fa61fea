"""Whole volumes to an encoder of patches."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from dmri_fm.encoders.drope.network import Drope, Reader
from dmri_fm.encoders.drope.rotary import check_table
from dmri_fm.encoders.patches import patchify
from dmri_fm.errors import ImageError


class VolumeEncoder(nn.Module):
    """An encoder of whole volumes in the conventions of the authors' code.

    It reads all patches of a grid of any size, brain or not, with the authors' patch centres
    (`patch_centre="voxel"` of :class:`~dmri_fm.encoders.drope.config.DropeConfig`).
    """

    def __init__(self, encoder: Drope) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, dwi: Tensor, qspace: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode scans.

        Parameters
        ----------
        dwi
            Shape (B, X, Y, Z, T): S/S0. Any grid that patches tile.
        qspace
            Shape (B, T, 3): rho = b / 1000, theta, phi. Volumes with b below 50 s/mm^2 are left
            out of both arrays here.
        positions
            Shape (B, X, Y, Z, 3): voxel indices of the whole grid, so that a slab knows where it
            was cut.

        Returns
        -------
        cls : Tensor
            Shape (B, dim).
        tokens : Tensor
            Shape (B, T, S, dim), T without b=0, S in C order.

        Raises
        ------
        GradientError
            If the table does not fit the series, lacks a vector, or has b=0 only.
        ImageError
            If an array has another shape, or patches do not tile the grid.
        """
        centres = self._find_centres(dwi, positions)
        return self.encoder.encode(self._read(dwi, qspace), qspace, centres)

    def encode_cls(self, dwi: Tensor, qspace: Tensor, positions: Tensor) -> Tensor:
        """Encode scans as :meth:`forward` does, but compute the scan features only."""
        centres = self._find_centres(dwi, positions)
        return self.encoder.encode(self._read(dwi, qspace), qspace, centres, only_cls=True)[0]

    def _read(self, dwi: Tensor, qspace: Tensor) -> Reader:
        check_table(qspace, dwi.shape[-1])
        volumes = rearrange(dwi, "b x y z t -> b t x y z")
        return lambda t: patchify(volumes[:, t], self.encoder.config.patch)

    def _find_centres(self, dwi: Tensor, positions: Tensor) -> Tensor:
        patch = self.encoder.config.patch
        grid = tuple(dwi.shape[1:4])
        if (
            dwi.ndim != 5
            or 0 in grid
            or any(n % p for n, p in zip(grid, patch, strict=True))
            or positions.shape != (dwi.shape[0], *grid, 3)
        ):
            raise ImageError(
                f"a series of shape {tuple(dwi.shape)} with positions {tuple(positions.shape)}",
                expected=f"(B, X, Y, Z, T) and (B, X, Y, Z, 3), X, Y, Z multiples of {patch}",
                advice="pad or crop both arrays",
            )
        i, j, k = (slice(p // 2, None, p) for p in patch)
        return rearrange(positions[:, i, j, k], "b x y z c -> b (x y z) c")
