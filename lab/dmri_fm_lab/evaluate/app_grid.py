"""Grid on which the app would give a simulated brain to networks: one interpolation away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.distortion import DistortionField
from dmri_fm.normalise.grid import BRAIN_MARGIN_MM, Grid, Image3D, affine_map, brain_grid
from dmri_fm.normalise.series import resample_noise, resample_series
from dmri_fm.series import Dwi
from dmri_fm.tensor_networks.noise_map import noise_map
from dmri_fm_lab.evaluate.reference import Reference
from dmri_fm_lab.evaluate.simulated import SimulatedBrain
from dmri_fm_lab.evaluate.truth import Truth

#: Largest turn about each axis between scanner and grid, degrees, and shift, mm.
LARGEST_TURN, LARGEST_SHIFT = 15.0, 10.0


@dataclass(frozen=True, eq=False)
class AppGrid:
    """A grid of the app's kind: voxels of the brain's size, another pose of the head.

    Attributes
    ----------
    brain
        The brain, which is acquired on its own grid.
    grid
        The grid.
    pose
        Shape (4, 4): points of the grid's space to points of the brain's, RAS+ mm, rigid.
    """

    brain: SimulatedBrain
    grid: Grid
    pose: NDArray[np.float64]

    @classmethod
    def draw(cls, brain: SimulatedBrain, rng: np.random.Generator) -> AppGrid:
        """Return a grid around a brain that is turned and shifted at random."""
        angles = rng.uniform(-LARGEST_TURN, LARGEST_TURN, 3)
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        pose[:3, 3] = rng.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 3)
        mask = Image3D(brain.truth.mask, brain.truth.affine)
        size = float(np.linalg.norm(brain.truth.affine[:3, 0]))
        grid = brain_grid(mask, np.linalg.inv(pose), size, margin_mm=BRAIN_MARGIN_MM)
        return cls(brain, grid, pose)

    def bring(self, dwi: Dwi) -> Dwi:
        """Interpolate a series as acquired by cubic splines; b-vectors turn with the head."""
        whole = dwi.with_mask(self.brain.truth.mask)
        found = resample_series(whole, self.grid, target2dwi=affine_map(self.pose))
        gtab = dwi.gtab.rotated(self.pose[:3, :3].T)
        return Dwi.from_arrays(found.data, found.affine, gtab, mask=found.mask)

    def noise(self, dwi: Dwi) -> NDArray[np.float32]:
        """Return the noise of a series as the app estimates and interpolates it, (X, Y, Z)."""
        # Nothing moves: one volume stands for all.
        one, sigma = dwi.select([0]), noise_map(dwi).sigma[..., None]
        return resample_noise(sigma, one, self.grid, target2dwiref=affine_map(self.pose))

    def reference(self) -> Reference:
        """Return the truth on the grid as a reference without noise."""
        maps, fractions = self.brain.truth, self.brain.subject.fractions
        none = DistortionField(np.zeros(maps.mask.shape, np.float32), maps.affine)
        truth = Truth(maps, fractions, none, has_tensor=True, is_moving=False)
        return truth.resample(self.grid, target2truth=affine_map(self.pose)).reference()
