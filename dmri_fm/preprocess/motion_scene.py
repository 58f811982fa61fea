"""A series prepared for motion correction: volumes as splines, and the points of comparison."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.alignment import Level, align
from dmri_fm.preprocess.pose import (
    PoseFreedom,
    is_plausible,
    pose_from_matrix,
    pose_matrix,
    pose_rotation,
    pose_tangent,
)
from dmri_fm.preprocess.raw_series import find_empty_volumes
from dmri_fm.preprocess.shell_prediction import predict_left_out
from dmri_fm.preprocess.volume_registration import Prediction, register_volume
from dmri_fm.preprocess.volume_spline import Points, VolumeSpline, sample_volume
from dmri_fm.series import Dwi

#: Smoothing before the comparison, mm: noise is white, displacement is not.
SMOOTHING_MM = 4.0

#: Usual size of head motion and eddy currents: mm, rad, mm per mm. Larger ones need evidence.
USUAL_TRANSLATION_MM, USUAL_ROTATION_RAD, USUAL_EDDY = 5.0, 0.1, 0.02

#: Volumes whose mean stands for a shell when it is laid on the b=0 reference.
N_ALIGNED = 12

#: A slice is an outlier if it lost at least this share of its signal, and stands out by this
#: many robust standard deviations.
OUTLIER_LOSS, OUTLIER_DEVIATIONS = 0.15, 4.0

#: A slice with fewer points is not judged.
FEWEST_SLICE_POINTS = 30

#: Inverse variances of the pose numbers about zero.
_PRIOR = np.concatenate(
    [
        np.full(3, USUAL_TRANSLATION_MM**-2),
        np.full(3, USUAL_ROTATION_RAD**-2),
        np.full(9, USUAL_EDDY**-2),
    ]
)


@dataclass(frozen=True, eq=False)
class MotionScene:
    """The volumes as splines, and the points where they are compared.

    Poses are an array of shape (N, 15); methods that move volumes return a new one.

    Attributes
    ----------
    volumes, points, encodings
        Spline, points and phase encoding of each of the N volumes.
    field
        Distortion field on the reference's grid, if there is one.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    xyz
        Shape (P, 3): the points in the reference, RAS+ mm.
    n_slices
        Slices of a volume (third voxel axis).
    empty
        Volumes without contrast, which cannot be registered.
    n_threads
        Volumes worked on at once.
    """

    volumes: list[VolumeSpline]
    points: list[Points]
    encodings: list[PhaseEncoding]
    field: DistortionField | None
    affine: NDArray[np.float64]
    xyz: NDArray[np.float64]
    n_slices: int
    empty: frozenset[int]
    n_threads: int

    @classmethod
    def build(
        cls,
        dwi: Dwi,
        *,
        field: DistortionField | None,
        encodings: Sequence[PhaseEncoding],
        n_points: int,
        n_threads: int,
    ) -> MotionScene:
        """Choose points in the brain of a series and prepare its volumes.

        Raises
        ------
        ImageError
            If the brain mask is missing or empty.
        """
        if not dwi.brain.any():
            raise ImageError("the brain mask is empty", expected="a brain")
        affine = dwi.affine
        # The rim of the brain carries the contrast that a shift is seen by.
        index = np.argwhere(binary_dilation(dwi.brain))
        index = index[:: max(1, len(index) // n_points)]
        xyz = index @ affine[:3, :3].T + affine[:3, 3]
        centre = xyz.mean(axis=0)
        voxels = np.ravel_multi_index(tuple(index.T), dwi.shape[:3])
        by_encoding: dict[PhaseEncoding, Points] = {}
        for encoding in dict.fromkeys(encodings):
            points = Points.undistorted(xyz, centre)
            by_encoding[encoding] = _distort(points, field, encoding, affine, voxels)

        def spline(n: int) -> VolumeSpline:
            return VolumeSpline.build(dwi.data[..., n], affine, fwhm_mm=SMOOTHING_MM)

        with ThreadPoolExecutor(n_threads) as pool:
            volumes = list(pool.map(spline, range(dwi.shape[3])))
        return cls(
            volumes=volumes,
            points=[by_encoding[e] for e in encodings],
            encodings=list(encodings),
            field=field,
            affine=affine,
            xyz=xyz,
            n_slices=dwi.shape[2],
            empty=frozenset(find_empty_volumes(dwi.data)),
            n_threads=n_threads,
        )

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """Shape (3,), RAS+ mm: centre of the poses."""
        return self.points[0].centre_mm

    def matrix_of(self, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the pull matrix of a pose, reference to volume."""
        return pose_matrix(pose, centre_mm=self.centre_mm)

    def sample(self, poses: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return all volumes at the points, shape (N, P)."""

        def read(n: int) -> NDArray[np.float32]:
            return sample_volume(self.volumes[n], self.points[n], self.matrix_of(poses[n])).values

        with ThreadPoolExecutor(self.n_threads) as pool:
            return np.stack(list(pool.map(read, range(len(self.volumes)))))

    def sample_reference(self, reference: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the b=0 reference at the points, shape (P,)."""
        spline = VolumeSpline.build(reference, self.affine, fwhm_mm=SMOOTHING_MM)
        points = Points.undistorted(self.xyz, self.centre_mm)
        return sample_volume(spline, points, np.eye(4)).values

    def register(
        self,
        poses: NDArray[np.float64],
        members: Sequence[int],
        targets: NDArray[np.float32],
        *,
        is_rigid: bool,
        lost: frozenset[int],
    ) -> tuple[NDArray[np.float64], frozenset[int]]:
        """Move volumes onto their targets.

        Parameters
        ----------
        poses
            Shape (N, 15).
        members
            The M volumes that are moved.
        targets
            Shape (M, P).
        is_rigid
            No eddy currents.
        lost
            Volumes that could not be registered so far.

        Returns
        -------
        poses, lost
            Both brought up to date.
        """

        def move(k: int) -> NDArray[np.float64] | None:
            n, target = members[k], np.ascontiguousarray(targets[k], dtype=np.float32)
            if n in self.empty or not np.ptp(target) > 0:
                return None
            axis = self._encoding_axis(n)
            wanted: PoseFreedom = "rigid" if is_rigid else "affine" if axis is None else "eddy"
            tries: tuple[PoseFreedom, ...] = (wanted, "rigid")
            # A volume that gets lost with eddy currents may still be registered as a rigid head.
            for freedom in dict.fromkeys(tries):
                found = register_volume(
                    self.volumes[n],
                    self.points[n],
                    prediction=Prediction(target, self._weight(n, target, poses[n])),
                    start=poses[n],
                    tangent=pose_tangent(freedom, encoding=axis),
                    prior=_PRIOR,
                )
                if np.isfinite(found.misfit) and is_plausible(found.pose):
                    return found.pose
            return None

        with ThreadPoolExecutor(self.n_threads) as pool:
            found = list(pool.map(move, range(len(members))))
        moved = poses.copy()
        for n, pose in zip(members, found, strict=True):
            if pose is not None:
                moved[n] = pose
        newly = {n for n, pose in zip(members, found, strict=True) if pose is None}
        return moved, (lost - set(members)) | newly

    def align_shell(
        self, poses: NDArray[np.float64], members: Sequence[int], reference: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Move a whole shell onto the b=0 reference, shape (X, Y, Z); return the new poses.

        Volumes that are compared with one another cannot tell where they all are; the mean of
        the shell shows it, by mutual information, as the contrast is another one.
        """
        axes = np.indices(reference.shape, dtype=np.float64).reshape(3, -1).T
        xyz = axes @ self.affine[:3, :3].T + self.affine[:3, 3]
        chosen = [
            members[i] for i in np.linspace(0, len(members) - 1, N_ALIGNED).round().astype(int)
        ]
        total: NDArray[np.float64] = np.zeros(len(xyz))
        for n in dict.fromkeys(chosen):
            points = Points.undistorted(xyz, self.centre_mm)
            points = _distort(points, self.field, self.encodings[n], self.affine, slice(None))
            total += sample_volume(self.volumes[n], points, self.matrix_of(poses[n])).values
        if not np.ptp(total) > 0:
            return poses
        found = align(
            reference,
            total.reshape(reference.shape).astype(np.float32),
            fixed_affine=self.affine,
            moving_affine=self.affine,
            levels=(Level(2, 1, 100), Level(1, 0, 50)),
        )
        moved = poses.copy()
        for n in members:
            pose = pose_from_matrix(
                self.matrix_of(poses[n]) @ found,
                centre_mm=self.centre_mm,
                encoding=self._encoding_axis(n),
            )
            if is_plausible(pose):
                moved[n] = pose
        return moved

    def _encoding_axis(self, n: int) -> NDArray[np.float64] | None:
        """Return the unit vector of a volume's phase encoding, RAS+; None if it is not known."""
        if self.encodings[n].direction is None:
            return None
        axis, _ = self.encodings[n].axis_and_sign()
        column = self.affine[:3, axis]
        return np.asarray(column / np.linalg.norm(column))

    def _weight(
        self, n: int, target: NDArray[np.float32], pose: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Return the inverse variance of the residual, the same at every point of a volume."""
        values, slices = sample_volume(self.volumes[n], self.points[n], self.matrix_of(pose))
        seen = np.isfinite(slices)
        spread = (
            1.4826 * float(np.median(np.abs(values[seen] - target[seen]))) if seen.any() else 0
        )
        level = 1.0 / max(spread, 1e-3 * float(np.abs(target).max()), 1e-9) ** 2
        return np.full(len(target), level, dtype=np.float32)


def _distort(
    points: Points,
    field: DistortionField | None,
    encoding: PhaseEncoding,
    affine: NDArray[np.float64],
    voxels: NDArray[np.int_] | slice,
) -> Points:
    """Return points, at these voxels (C order) of the grid, with the distortion of a volume."""
    if field is None or encoding.direction is None:
        return points
    shift = field.displacement_mm(encoding, affine).reshape(-1, 3)[voxels]
    stretch = field.jacobian(encoding, affine).ravel()[voxels]
    return points._replace(
        shift=np.ascontiguousarray(shift), stretch=np.ascontiguousarray(stretch)
    )


def find_outlier_slices(
    scene: MotionScene, poses: NDArray[np.float64], gtab: GradientTable
) -> NDArray[np.bool_]:
    """Flag slices that are darker than predicted, against the usual spread in their shell.

    Returns
    -------
    ndarray
        Shape (N, Z), bool.
    """
    loss = np.full((len(gtab), scene.n_slices), np.nan)
    is_lost = np.zeros(loss.shape, dtype=bool)
    values = scene.sample(poses)
    turned = gtab.rotated([pose_rotation(p).T for p in poses])
    for shell in gtab.shells:
        members = list(shell.index)
        if len(members) < 3:
            continue
        targets = predict_left_out(values, turned, members, by_process=True)
        for target, n in zip(targets, members, strict=True):
            slices = sample_volume(
                scene.volumes[n], scene.points[n], scene.matrix_of(poses[n])
            ).slices
            loss[n] = _slice_loss(values[n], target, slices, scene.n_slices)
        of_shell = np.abs(loss[members])
        spread = 1.4826 * float(np.nanmedian(of_shell)) if np.isfinite(of_shell).any() else 0.0
        limit = max(OUTLIER_LOSS, OUTLIER_DEVIATIONS * spread)
        is_lost[members] = np.nan_to_num(loss[members], nan=0.0) > limit
    return is_lost


def _slice_loss(
    measured: NDArray[np.float32],
    predicted: NDArray[np.float32],
    slices: NDArray[np.float32],
    n_slices: int,
) -> NDArray[np.float64]:
    """Return the share of its predicted signal that each slice of a volume lost: (Z,), or NaN."""
    seen = np.isfinite(slices)
    nearest = np.clip(np.rint(slices[seen]).astype(int), 0, n_slices - 1)
    count = np.bincount(nearest, minlength=n_slices)
    signal = np.bincount(nearest, measured[seen], minlength=n_slices)
    expected = np.bincount(nearest, predicted[seen], minlength=n_slices)
    enough = (count >= FEWEST_SLICE_POINTS) & (expected > 0)
    ratio = np.full(n_slices, np.nan)
    ratio[enough] = signal[enough] / expected[enough]
    if not enough.any():
        return ratio
    level = float(np.nanmedian(ratio))
    # Where most slices are empty, the volume has no level: those are lost, the others as expected.
    return 1 - (ratio / level if level > 0 else np.minimum(ratio, 1.0))
