"""Head motion and eddy currents of a series, estimated against predictions of each volume.

b=0 volumes are registered rigidly to the reference. A diffusion-weighted volume has a contrast
of its own, so it is registered to what the other volumes say it should look like: in the first
pass the mean of its shell, then the leave-one-out prediction of a tensor (Andersson &
Sotiropoulos 2016, doi:10.1016/j.neuroimage.2015.10.019, do it with a Gaussian process).
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation

from dmri_fm.errors import ImageError, InputError
from dmri_fm.gradients import GradientTable, rotation_part
from dmri_fm.preprocess.alignment import align
from dmri_fm.preprocess.pose import (
    POSE_NAMES,
    framewise_displacement,
    is_plausible,
    pose_from_matrix,
    pose_matrix,
    pose_rotation,
    pose_tangent,
)
from dmri_fm.preprocess.raw_series import find_empty_volumes
from dmri_fm.preprocess.susceptibility import DistortionField, phase_encoding_vector
from dmri_fm.preprocess.volume_registration import (
    Points,
    VolumeSpline,
    register_volume,
    sample_volume,
)

__all__ = [
    "MotionEstimate",
    "estimate_motion",
    "name_motion",
    "no_motion",
    "predict_left_out",
    "read_motion_tsv",
    "resampled_motion",
    "rotate_bvecs",
    "write_motion_tsv",
]

logger = logging.getLogger(__name__)

#: Passes over all volumes with tensor predictions.
N_PASSES, N_PASSES_SLOPPY = 2, 1

#: Points of the brain at which volumes are compared, and the same for coarse runs.
N_POINTS, N_POINTS_SLOPPY = 60_000, 15_000

#: Smoothing before the comparison, mm: noise is white, displacement is not.
SMOOTHING_MM = 4.0

#: How far head and eddy currents usually go: mm, rad, mm per mm. Beyond that they need evidence.
USUAL_TRANSLATION_MM, USUAL_ROTATION_RAD, USUAL_EDDY = 5.0, 0.1, 0.02

#: Volumes whose mean stands for a shell when it is laid on the b=0 reference.
N_ALIGNED = 12

#: Fewer volumes of a shell than this do not predict one another by a tensor.
FEWEST_FOR_TENSOR = 9

#: Ridge on the tensor's departure from a sphere, against (ms/um^2)^2 of the design: with a dozen
#: directions the plain fit leaves noise in the predictions, which volumes would follow.
RIDGE = 5.0

#: A slice is an outlier if it lost at least this share of its signal, and stands out by this
#: many robust standard deviations.
OUTLIER_LOSS, OUTLIER_DEVIATIONS = 0.15, 4.0

#: A slice with fewer points is not judged.
FEWEST_SLICE_POINTS = 30


@dataclass(frozen=True, eq=False)
class MotionEstimate:
    """Where the head was in each volume.

    Attributes
    ----------
    xfms
        Shape (N, 4, 4), RAS+ mm: take points of the b=0 reference to points of the volume.
    is_outlier
        Shape (N, Z), bool: slices that lost signal.
    parameters
        Shape (N, 15), in the order of :data:`dmri_fm.preprocess.pose.POSE_NAMES`.
    fd_mm
        Shape (N,): framewise displacement; NaN where a run starts.
    method
        What made it, for the sidecar.
    """

    xfms: NDArray[np.float64]
    is_outlier: NDArray[np.bool_]
    parameters: NDArray[np.float64]
    fd_mm: NDArray[np.float64]
    method: str


def name_motion(n_passes: int = N_PASSES) -> str:
    """Return what the sidecar says of :func:`estimate_motion`.

    Examples
    --------
    >>> name_motion(1)
    'registration to leave-one-out tensor predictions, 1 pass'
    """
    return (
        f"registration to leave-one-out tensor predictions, {n_passes} "
        f"{'pass' if n_passes == 1 else 'passes'}"
    )


def no_motion(n_volumes: int, n_slices: int) -> MotionEstimate:
    """Return identities, for a series that is not corrected."""
    return MotionEstimate(
        xfms=np.tile(np.eye(4), (n_volumes, 1, 1)),
        is_outlier=np.zeros((n_volumes, n_slices), dtype=bool),
        parameters=np.zeros((n_volumes, len(POSE_NAMES))),
        fd_mm=np.full(n_volumes, np.nan),
        method="none",
    )


def resampled_motion(parameters: ArrayLike, is_outlier: ArrayLike, method: str) -> MotionEstimate:
    """Return identities for a series that another program has resampled.

    Parameters
    ----------
    parameters
        Shape (N, 6): the motion that it found, translations in mm, rotations in rad.
    is_outlier
        Shape (N, Z): the slices that it flagged.
    method
        That program.
    """
    moved = np.asarray(parameters, dtype=np.float64)
    poses = np.zeros((len(moved), len(POSE_NAMES)))
    poses[:, :6] = moved
    return MotionEstimate(
        xfms=np.tile(np.eye(4), (len(moved), 1, 1)),
        is_outlier=np.asarray(is_outlier, dtype=bool),
        parameters=poses,
        fd_mm=framewise_displacement(moved),
        method=method,
    )


def rotate_bvecs(gtab: GradientTable, motion: MotionEstimate) -> GradientTable:
    """Turn the b-vectors with the head, into the frame of the b=0 reference.

    A head that is turned by R in a volume has met that volume's gradient g where the reference
    head would have met R^T g (Leemans & Jones 2009, doi:10.1002/mrm.21890). What eddy currents
    sheared is no part of R.
    """
    eddy = motion.parameters[:, 6:15].reshape(-1, 3, 3)
    turns = [
        rotation_part(np.linalg.inv(np.eye(3) + g) @ xfm[:3, :3]).T
        for g, xfm in zip(eddy, motion.xfms, strict=True)
    ]
    return gtab.rotated(turns)


def predict_left_out(
    signal: ArrayLike, gtab: GradientTable, members: ArrayLike
) -> NDArray[np.float32]:
    """Predict volumes of one shell from the others.

    Parameters
    ----------
    signal
        Shape (N, P): all volumes at P points, on one scale.
    gtab
        Their gradient table, in the frame of the points.
    members
        Positions of the M volumes of the shell.

    Returns
    -------
    ndarray
        Shape (M, P): for each volume the tensor fitted to b=0 and the shell without it; the
        mean of the others where they are too few for a tensor.
    """
    values = np.asarray(signal, dtype=np.float32)
    index = np.asarray(members)
    used = np.concatenate([np.flatnonzero(gtab.is_b0), index])
    part = gtab.select(used)
    design = _design(part)
    if len(used) >= FEWEST_FOR_TENSOR and np.linalg.matrix_rank(design, tol=1e-2) == 7:
        floor = 1e-3 * np.percentile(values, 99)
        log_signal = np.log(np.maximum(values[used], np.float32(max(float(floor), 1e-6))))
        hat = design @ np.linalg.solve(design.T @ design + _RIDGE * RIDGE, design.T)
        own = np.clip(np.diag(hat), 0.0, 0.95)[:, None]
        residual = log_signal - hat.astype(np.float32) @ log_signal
        predicted = np.exp(log_signal - residual / (1 - own))
        return np.asarray(predicted[len(used) - len(index) :], np.float32)
    if len(index) == 1:
        return np.asarray(values[index])
    total = values[index].sum(axis=0)
    return np.asarray((total - values[index]) / (len(index) - 1), dtype=np.float32)


#: The penalty on (log S0, D11, D22, D33, D12, D13, D23): what is left without the mean of the
#: diagonal; off-diagonal elements count twice, as they stand twice in a tensor.
_RIDGE = np.zeros((7, 7))
_RIDGE[1:4, 1:4] = np.eye(3) - 1 / 3
_RIDGE[4:, 4:] = 2 * np.eye(3)


def _design(gtab: GradientTable) -> NDArray[np.float64]:
    b, (x, y, z) = gtab.bvals / 1000.0, gtab.bvecs_ras.T
    columns = [x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z]
    return np.column_stack([np.ones_like(b), *(-b * c for c in columns)])


def estimate_motion(
    data: ArrayLike,
    gtab: GradientTable,
    affine: ArrayLike,
    *,
    mask: ArrayLike,
    reference: ArrayLike,
    field: DistortionField | None = None,
    phase_encodings: Sequence[str | None],
    readouts_s: Sequence[float | None],
    n_passes: int = N_PASSES,
    sloppy: bool = False,
    n_threads: int = 1,
) -> MotionEstimate:
    """Estimate head motion and eddy currents.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N), as acquired.
    gtab
        Its gradient table, RAS+.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    mask
        Shape (X, Y, Z): brain, in the undistorted reference.
    reference
        Shape (X, Y, Z): undistorted b=0 image.
    field
        Susceptibility field on the reference's grid.
    phase_encodings, readouts_s
        Phase encoding and readout time of every volume. Without a phase encoding eddy currents
        may displace along any direction.
    n_passes
        Passes against leave-one-out predictions.
    sloppy
        One such pass on fewer points: for tests.
    n_threads
        Volumes registered at once; the result does not depend on it.

    Raises
    ------
    ImageError
        If the mask is empty.
    """
    series = np.asarray(data, dtype=np.float32)
    matrix = np.asarray(affine, dtype=np.float64)
    scene = _Scene.build(
        series,
        matrix,
        mask=np.asarray(mask, dtype=bool),
        field=field,
        keys=list(zip(phase_encodings, readouts_s, strict=True)),
        n_points=N_POINTS_SLOPPY if sloppy else N_POINTS,
        n_threads=n_threads,
    )
    n = len(gtab)
    poses = np.zeros((n, len(POSE_NAMES)))
    lost: set[int] = set()
    b0s = [int(i) for i in np.flatnonzero(gtab.is_b0)]
    anchor = VolumeSpline.build(
        np.asarray(reference, np.float32), matrix, fwhm_mm=SMOOTHING_MM, step=1
    )
    flat = Points(
        scene.xyz,
        np.zeros(scene.xyz.shape, np.float32),
        np.ones(len(scene.xyz), np.float32),
        scene.centre_mm,
    )
    anchor_values, _ = sample_volume(anchor, flat, np.eye(4))
    scene.register(poses, b0s, np.tile(anchor_values, (len(b0s), 1)), is_rigid=True, lost=lost)
    runs = _runs(phase_encodings)
    _start_between_b0s(poses, gtab, runs)
    weighted = [int(i) for i in np.flatnonzero(~gtab.is_b0)]
    n_passes = N_PASSES_SLOPPY if sloppy else n_passes
    passes = ["mean"] + ["tensor"] * n_passes
    for kind in passes if weighted else []:
        values = scene.sample(poses)
        turned = gtab.rotated([pose_rotation(p).T for p in poses])
        for shell in gtab.shells:
            members = list(shell.index)
            if kind == "mean":
                target = np.tile(values[members].mean(axis=0), (len(members), 1))
            else:
                target = predict_left_out(values, turned, members)
            scene.register(poses, members, target, is_rigid=kind == "mean", lost=lost)
            if kind == "mean":
                scene.align_shell(poses, members, np.asarray(reference, np.float32))
    is_outlier = _find_outliers(scene, poses, gtab)
    starts = [int(np.flatnonzero(runs == r)[0]) for r in np.unique(runs)]
    method = name_motion(n_passes)
    if lost:
        method += f"; {len(lost)} volumes kept their neighbours' position"
        logger.warning("%d volumes could not be registered", len(lost))
    return MotionEstimate(
        xfms=np.stack([scene.matrix_of(p) for p in poses]),
        is_outlier=is_outlier,
        parameters=poses,
        fd_mm=framewise_displacement(poses, starts=starts),
        method=method,
    )


def _runs(phase_encodings: Sequence[str | None]) -> NDArray[np.int_]:
    """Number the stretches of volumes that share a phase encoding."""
    changes = [a != b for a, b in zip(phase_encodings[1:], phase_encodings[:-1], strict=True)]
    return np.concatenate([[0], np.cumsum(changes)]).astype(int)


def _start_between_b0s(
    poses: NDArray[np.float64], gtab: GradientTable, runs: NDArray[np.int_]
) -> None:
    """Start every weighted volume between the b=0 volumes of its run, in order of time."""
    for run in np.unique(runs):
        index = np.flatnonzero(runs == run)
        known = index[gtab.is_b0[index]]
        if not known.size:
            continue
        for column in range(6):
            poses[index, column] = np.interp(index, known, poses[known, column])


@dataclass(frozen=True, eq=False)
class _Scene:
    """The volumes as splines, and the points where they are looked at."""

    volumes: list[VolumeSpline]
    points: list[Points]
    encodings: list[NDArray[np.float64] | None]
    keys: list[tuple[str | None, float | None]]
    field: DistortionField | None
    affine: NDArray[np.float64]
    xyz: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    n_slices: int
    n_threads: int
    flat: frozenset[int]

    @classmethod
    def build(
        cls,
        series: NDArray[np.float32],
        affine: NDArray[np.float64],
        *,
        mask: NDArray[np.bool_],
        field: DistortionField | None,
        keys: list[tuple[str | None, float | None]],
        n_points: int,
        n_threads: int,
    ) -> _Scene:
        if not mask.any():
            raise ImageError("the brain mask is empty", expected="a brain")
        # The rim of the brain carries the contrast that a shift is seen by.
        index = np.argwhere(binary_dilation(mask))
        index = index[:: max(1, len(index) // n_points)]
        xyz = index @ affine[:3, :3].T + affine[:3, 3]
        centre = xyz.mean(axis=0)
        by_key: dict[tuple[str | None, float | None], Points] = {}
        encoding: dict[tuple[str | None, float | None], NDArray[np.float64] | None] = {}
        at = tuple(index.T)
        for code, readout in dict.fromkeys(keys):
            shift = np.zeros(xyz.shape, np.float32)
            stretch = np.ones(len(xyz), np.float32)
            direction = None
            if code is not None:
                axis, _ = phase_encoding_vector(code, affine)
                direction = affine[:3, axis] / np.linalg.norm(affine[:3, axis])
                if field is not None:
                    shift = field.displacement_mm(code, readout, affine)[at]
                    stretch = field.jacobian(code, readout, affine)[at]
            by_key[code, readout] = Points(
                xyz, np.ascontiguousarray(shift), np.ascontiguousarray(stretch), centre
            )
            encoding[code, readout] = direction

        def spline(n: int) -> VolumeSpline:
            return VolumeSpline.build(series[..., n], affine, fwhm_mm=SMOOTHING_MM, step=1)

        with ThreadPoolExecutor(n_threads) as pool:
            volumes = list(pool.map(spline, range(series.shape[3])))
        return cls(
            volumes,
            [by_key[k] for k in keys],
            [encoding[k] for k in keys],
            keys,
            field,
            affine,
            xyz,
            centre,
            series.shape[2],
            n_threads,
            frozenset(find_empty_volumes(series)),
        )

    def matrix_of(self, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        return pose_matrix(pose, centre_mm=self.centre_mm)

    def sample(self, poses: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return all volumes at the points, shape (N, P)."""

        def read(n: int) -> NDArray[np.float32]:
            return sample_volume(self.volumes[n], self.points[n], self.matrix_of(poses[n]))[0]

        with ThreadPoolExecutor(self.n_threads) as pool:
            return np.stack(list(pool.map(read, range(len(self.volumes)))))

    def register(
        self,
        poses: NDArray[np.float64],
        members: Sequence[int],
        targets: NDArray[np.float32],
        *,
        is_rigid: bool,
        lost: set[int],
    ) -> None:
        """Move volumes onto their targets; `poses` and `lost` are brought up to date."""

        def move(k: int) -> tuple[NDArray[np.float64], bool]:
            n, target = members[k], np.ascontiguousarray(targets[k], dtype=np.float32)
            start = poses[n]
            if n in self.flat or not np.ptp(target) > 0:
                # Nothing is seen that could be laid on anything.
                return start, False
            direction = self.encodings[n]
            kinds = ["rigid"] if is_rigid else ["eddy" if direction is not None else "affine"]
            # What gets lost with eddy currents may be found as a rigid head.
            for kind in dict.fromkeys([*kinds, "rigid"]):
                tangent = pose_tangent(kind, encoding=direction)  # type: ignore[arg-type]
                found, misfit = register_volume(
                    self.volumes[n],
                    self.points[n],
                    target=target,
                    weight=self._weight(n, target, start),
                    start=start,
                    tangent=tangent,
                    prior=_PRIOR,
                )
                if np.isfinite(misfit) and is_plausible(found):
                    return found, True
            return start, False

        with ThreadPoolExecutor(self.n_threads) as pool:
            results = list(pool.map(move, range(len(members))))
        for n, (pose, is_found) in zip(members, results, strict=True):
            poses[n] = pose
            (lost.discard if is_found else lost.add)(n)

    def align_shell(
        self, poses: NDArray[np.float64], members: Sequence[int], reference: NDArray[np.float32]
    ) -> None:
        """Move a whole shell onto the b=0 reference; `poses` is brought up to date.

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
            total += sample_volume(
                self.volumes[n], self.everywhere(n, xyz), self.matrix_of(poses[n])
            )[0]
        if not np.ptp(total) > 0:
            return
        found = align(
            reference,
            total.reshape(reference.shape).astype(np.float32),
            fixed_affine=self.affine,
            moving_affine=self.affine,
            shrink_factors=(2, 1),
            smoothing_voxels=(1, 0),
            iterations=(100, 50),
        ).xfm
        for n in members:
            direction = self.encodings[n]
            moved = pose_from_matrix(
                self.matrix_of(poses[n]) @ found, centre_mm=self.centre_mm, encoding=direction
            )
            if is_plausible(moved):
                poses[n] = moved

    def everywhere(self, n: int, xyz: NDArray[np.float64]) -> Points:
        """Return the points of the whole grid for a volume, with its distortion."""
        shift: NDArray[np.float32] = np.zeros(xyz.shape, np.float32)
        stretch: NDArray[np.float32] = np.ones(len(xyz), np.float32)
        code, readout = self.keys[n]
        if self.field is not None and code is not None:
            shift = self.field.displacement_mm(code, readout, self.affine).reshape(-1, 3)
            stretch = self.field.jacobian(code, readout, self.affine).ravel()
        return Points(
            xyz, np.ascontiguousarray(shift), np.ascontiguousarray(stretch), self.centre_mm
        )

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


_PRIOR = np.concatenate(
    [
        np.full(3, USUAL_TRANSLATION_MM**-2),
        np.full(3, USUAL_ROTATION_RAD**-2),
        np.full(9, USUAL_EDDY**-2),
    ]
)


def _find_outliers(
    scene: _Scene, poses: NDArray[np.float64], gtab: GradientTable
) -> NDArray[np.bool_]:
    """Flag slices that are darker than predicted, against the usual spread of such slices."""
    n = len(gtab)
    loss = np.full((n, scene.n_slices), np.nan)
    values = scene.sample(poses)
    turned = gtab.rotated([pose_rotation(p).T for p in poses])
    for shell in gtab.shells:
        members = list(shell.index)
        if len(members) < 3:
            continue
        targets = predict_left_out(values, turned, members)
        for k, volume in enumerate(members):
            _, slices = sample_volume(
                scene.volumes[volume], scene.points[volume], scene.matrix_of(poses[volume])
            )
            seen = np.isfinite(slices)
            place = np.clip(np.rint(slices[seen]).astype(int), 0, scene.n_slices - 1)
            count = np.bincount(place, minlength=scene.n_slices)
            measured = np.bincount(place, values[volume][seen], minlength=scene.n_slices)
            expected = np.bincount(place, targets[k][seen], minlength=scene.n_slices)
            enough = (count >= FEWEST_SLICE_POINTS) & (expected > 0)
            ratio = np.full(scene.n_slices, np.nan)
            ratio[enough] = measured[enough] / expected[enough]
            if enough.any():
                level = float(np.nanmedian(ratio))
                # Where most slices are empty, the volume has no level: those are lost, all else
                # is as expected.
                loss[volume] = 1 - (ratio / level if level > 0 else np.minimum(ratio, 1.0))
    spread = 1.4826 * float(np.nanmedian(np.abs(loss))) if np.isfinite(loss).any() else 0.0
    limit = max(OUTLIER_LOSS, OUTLIER_DEVIATIONS * spread)
    return np.asarray(np.nan_to_num(loss, nan=0.0) > limit)


_MATRIX_NAMES = tuple(f"m{row}_{column}" for row in range(1, 4) for column in range(1, 5))


def write_motion_tsv(motion: MotionEstimate, path: str | Path) -> Path:
    """Write one row per volume: the pull matrix by rows, the parameters, the displacement."""
    names = ["volume", *_MATRIX_NAMES, *POSE_NAMES, "framewise_displacement"]
    with Path(path).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(names)
        for n, (xfm, pose, fd) in enumerate(
            zip(motion.xfms, motion.parameters, motion.fd_mm, strict=True)
        ):
            numbers = [*xfm[:3].ravel(), *pose, fd]
            writer.writerow([n, *("n/a" if np.isnan(x) else f"{x:.9g}" for x in numbers)])
    return Path(path)


def read_motion_tsv(path: str | Path, *, n_slices: int = 0) -> MotionEstimate:
    """Read a file of :func:`write_motion_tsv`; outlier slices are not in it.

    Raises
    ------
    InputError
        If columns are missing.
    """
    with Path(path).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    wanted = [*_MATRIX_NAMES, *POSE_NAMES, "framewise_displacement"]
    if not rows or any(name not in rows[0] for name in wanted):
        raise InputError(
            "not a table of volume transforms", path=path, expected=", ".join(wanted[:3]) + ", ..."
        )
    table = np.array(
        [[np.nan if r[name] == "n/a" else float(r[name]) for name in wanted] for r in rows]
    )
    xfms = np.tile(np.eye(4), (len(rows), 1, 1))
    xfms[:, :3] = table[:, :12].reshape(-1, 3, 4)
    return MotionEstimate(
        xfms=xfms,
        is_outlier=np.zeros((len(rows), n_slices), dtype=bool),
        parameters=table[:, 12:27],
        fd_mm=table[:, 27],
        method="read from a file",
    )
