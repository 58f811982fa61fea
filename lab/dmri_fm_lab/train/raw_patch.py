"""Patches of scans with known tensors, before normalisation; interpolated as the app does it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation
from torch import Tensor

from dmri_fm.normalise.grid import read_at, spline_of
from dmri_fm.normalise.noise import spline_noise_gain
from dmri_fm.tensor_networks.inputs import batch_inputs, turn_tensors
from dmri_fm_lab.train.tensor_batch import TensorBatch

#: Voxels by which a patch is wider than what is left of it when it has been interpolated.
MARGIN = 8

#: Largest angle of the pose that the app corrects, degrees, and the least size of a voxel of the
#: target, in units of the shortest edge of a voxel.
LARGEST_TURN_DEG, LEAST_ZOOM = 20.0, 0.85

#: Order of the app's spline.
SPLINE_ORDER = 3

#: Share of patches whose noise is left to be estimated, and the deviation of the logarithm of the
#: error that is made of it in the others.
UNKNOWN_SHARE, NOISE_LOG_ERROR = 0.25, 0.12


class RawPatch(NamedTuple):
    """One patch. Its axes are those of its b-vectors and tensors."""

    images: Tensor  # (N, X, Y, Z), scanner units
    q: Tensor  # (N, 4): unit b-vectors, b in ms/um^2
    is_b0: NDArray[np.bool_]  # (N,)
    n_b0: int  # volumes that the b=0 images are the mean of
    mask: Tensor  # (X, Y, Z): 1 in the brain, else 0
    noise: Tensor  # (X, Y, Z): deviation of the noise of a weighted image, scanner units
    truth: Tensor  # (6, X, Y, Z), um^2/ms
    csf: Tensor  # (X, Y, Z): volume fraction
    voxel_mm: Tensor  # (3,)

    def placed(self, rng: np.random.Generator, side: int, interpolated_share: float) -> RawPatch:
        """Return the middle of the patch, interpolated with a chance of `interpolated_share`."""
        is_interpolated = rng.uniform() < interpolated_share
        return self.interpolated(rng, side) if is_interpolated else self.cropped(side)

    def cropped(self, side: int) -> RawPatch:
        """Return the middle of the patch."""
        low = [(n - side) // 2 for n in self.mask.shape]
        box = (..., *(slice(k, k + side) for k in low))
        names = ("images", "mask", "noise", "truth", "csf")
        return self._replace(**{name: getattr(self, name)[box] for name in names})

    def interpolated(self, rng: np.random.Generator, side: int) -> RawPatch:
        """Return the middle of the patch in another pose, on cubic voxels, by the app's spline.

        Images and truth are read by cubic splines, which lower noise between voxels; the other
        maps linearly. What lies outside the patch leaves the mask.
        """
        size = self.voxel_mm.double().numpy()
        turn = Rotation.from_rotvec(
            np.deg2rad(rng.uniform(0, LARGEST_TURN_DEG)) * _random_axis(rng)
        ).as_matrix()
        edge = size.min() * rng.uniform(LEAST_ZOOM, 1.0)
        index = (
            np.indices((side,) * 3).reshape(3, -1)
            - (side - 1) / 2
            + rng.uniform(-0.5, 0.5, (3, 1))
        )
        centre = (np.array(self.mask.shape)[:, None] - 1) / 2
        voxels = ((turn * edge / size[:, None]) @ index + centre).T

        def read(images: Tensor, order: int) -> Tensor:
            found = [
                read_at(spline_of(image, order), voxels, order, outside=0.0)
                for image in images.numpy()
            ]
            return torch.from_numpy(np.stack(found).reshape(-1, side, side, side))

        gain = torch.from_numpy(spline_noise_gain(voxels, SPLINE_ORDER)).reshape(side, side, side)
        maps = torch.stack([self.mask, self.noise, self.csf])
        mask, noise, csf = read(maps, order=1)
        turned = torch.from_numpy(turn.astype(np.float32))
        return RawPatch(
            images=read(self.images, SPLINE_ORDER).clamp(min=0.0),
            q=torch.cat([self.q[:, :3] @ turned, self.q[:, 3:]], dim=1),
            is_b0=self.is_b0,
            n_b0=self.n_b0,
            mask=(mask > 0.99).float(),
            noise=noise * gain,
            truth=turn_tensors(read(self._extended_truth(), SPLINE_ORDER), turn.T),
            csf=csf,
            voxel_mm=torch.full((3,), float(edge)),
        )

    def _extended_truth(self) -> Tensor:
        """Return the truth; outside the mask, where there is none, that of the nearest voxel."""
        nearest = distance_transform_edt(
            self.mask.numpy() == 0, return_distances=False, return_indices=True
        )
        x, y, z = torch.from_numpy(nearest).long()
        return self.truth[:, x, y, z]

    def as_batch(self, rng: np.random.Generator) -> TensorBatch:
        """Return a batch of one, with an error of the noise as its estimates have."""
        error = float(np.exp(NOISE_LOG_ERROR * rng.standard_normal()))
        is_known = rng.uniform() >= UNKNOWN_SHARE
        inputs = batch_inputs(
            self.images[None],
            self.q[None],
            self.mask[None, None],
            self.voxel_mm[None],
            is_b0=self.is_b0,
            noise=error * self.noise[None, None] if is_known else None,
        )
        n_b0 = torch.full_like(inputs.n_b0, float(self.n_b0))
        return TensorBatch(
            inputs._replace(n_b0=n_b0), (self.truth * self.mask)[None], self.csf[None]
        )


def _random_axis(rng: np.random.Generator) -> NDArray[np.float64]:
    axis = rng.standard_normal(3)
    return np.asarray(axis / np.linalg.norm(axis))
