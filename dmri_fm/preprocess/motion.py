"""Head motion and eddy currents of a series, estimated against predictions of each volume.

b=0 volumes are registered rigidly to the reference. A diffusion-weighted volume has a contrast
of its own, so it is registered to what the other volumes say it should look like: in the first
pass the mean of its shell, then the leave-one-out prediction of a tensor (Andersson &
Sotiropoulos 2016, doi:10.1016/j.neuroimage.2015.10.019, do it with a Gaussian process).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.gradients import GradientTable, rotation_part
from dmri_fm.preprocess.eddy_translation import (
    EddyTranslation,
    find_shell_offsets,
    separate_eddy,
)
from dmri_fm.preprocess.motion_scene import MotionScene, find_outlier_slices
from dmri_fm.preprocess.pose import POSE_NAMES, framewise_displacement, pose_rotation
from dmri_fm.preprocess.shell_prediction import predict_left_out
from dmri_fm.series import Dwi

logger = logging.getLogger(__name__)

#: Passes over all volumes with predictions.
N_PASSES, N_PASSES_SLOPPY = 2, 1

#: Points of the brain at which volumes are compared, and the same for coarse runs.
N_POINTS, N_POINTS_SLOPPY = 60_000, 15_000


@dataclass(frozen=True, eq=False)
class MotionEstimate:
    """Head motion and eddy currents of every volume.

    Attributes
    ----------
    xfms
        Shape (N, 4, 4), RAS+ mm: take points of the b=0 reference to points of the volume.
    is_outlier
        Shape (N, Z), bool: slices that lost signal.
    parameters
        Shape (N, 15), in the order of :data:`dmri_fm.preprocess.pose.POSE_NAMES`. Translations
        are of the head alone where that of eddy currents was told apart.
    fd_mm
        Shape (N,): framewise displacement; NaN where a run starts, and behind a change of shell
        where a movement cannot be told from the offset of the shell.
    method
        Name of the method in the sidecar.
    eddy
        Translation by eddy currents, which `xfms` hold and `parameters` do not.
    """

    xfms: NDArray[np.float64]
    is_outlier: NDArray[np.bool_]
    parameters: NDArray[np.float64]
    fd_mm: NDArray[np.float64]
    method: str
    eddy: EddyTranslation


def name_motion(n_passes: int = N_PASSES) -> str:
    """Return the name of :func:`estimate_motion` in the sidecar.

    Parameters
    ----------
    n_passes
        Passes against predictions.

    Examples
    --------
    >>> name_motion(1)
    'registration to leave-one-out tensor predictions, 1 pass'
    """
    passes = f"{n_passes} {'pass' if n_passes == 1 else 'passes'}"
    return f"registration to leave-one-out tensor predictions, {passes}"


def no_motion(n_volumes: int, n_slices: int) -> MotionEstimate:
    """Return identities, for a series that is not corrected."""
    return MotionEstimate(
        xfms=np.tile(np.eye(4), (n_volumes, 1, 1)),
        is_outlier=np.zeros((n_volumes, n_slices), dtype=bool),
        parameters=np.zeros((n_volumes, len(POSE_NAMES))),
        fd_mm=np.full(n_volumes, np.nan),
        method="none",
        eddy=EddyTranslation.unknown(n_volumes, "motion was not estimated"),
    )


def resampled_motion(parameters: ArrayLike, is_outlier: ArrayLike, method: str) -> MotionEstimate:
    """Return identities for a series that another program has resampled.

    Parameters
    ----------
    parameters
        Shape (N, 6): its estimate of motion, translations in mm, rotations in rad.
    is_outlier
        Shape (N, Z): slices that it flagged.
    method
        Name of the program.
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
        eddy=EddyTranslation.unknown(len(moved), "that is left to the program"),
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


def estimate_motion(
    dwi: Dwi,
    *,
    reference: ArrayLike,
    encodings: Sequence[PhaseEncoding],
    field: DistortionField | None = None,
    runs: Sequence[int] | None = None,
    n_passes: int = N_PASSES,
    sloppy: bool = False,
    n_threads: int = 1,
) -> MotionEstimate:
    """Estimate head motion and eddy currents.

    Parameters
    ----------
    dwi
        The series as acquired; its mask is the brain in the undistorted reference.
    reference
        Shape (X, Y, Z): undistorted b=0 image.
    encodings
        Phase encoding of every volume. Where the direction is not known eddy currents may
        displace along any one.
    field
        Distortion field on the reference's grid.
    runs
        Shape (N,), equal for volumes of one run; by default those of one phase encoding that
        follow one another.
    n_passes
        Passes against leave-one-out predictions.
    sloppy
        One such pass on fewer points: for tests.
    n_threads
        Volumes registered at once; the result does not depend on it.

    Raises
    ------
    ImageError
        If the mask is missing or empty.
    """
    b0_image = np.asarray(reference, np.float32)
    gtab = dwi.gtab
    scene = MotionScene.build(
        dwi,
        field=field,
        encodings=encodings,
        n_points=N_POINTS_SLOPPY if sloppy else N_POINTS,
        n_threads=n_threads,
    )
    n_passes = N_PASSES_SLOPPY if sloppy else n_passes
    stretches = _runs([e.direction for e in encodings])
    poses, lost = _register_all(scene, gtab, b0_image, stretches, n_passes)
    method = name_motion(n_passes)
    if lost:
        method += f"; {len(lost)} volumes kept their neighbours' position"
        logger.warning("%d volumes could not be registered", len(lost))
    of_run = stretches if runs is None else np.asarray(runs)
    eddy = separate_eddy(poses, gtab, encodings=encodings, affine=dwi.affine, runs=of_run)
    head = eddy.taken_from(poses)
    return MotionEstimate(
        xfms=np.stack([scene.matrix_of(p) for p in poses]),
        is_outlier=find_outlier_slices(scene, poses, gtab),
        parameters=head,
        fd_mm=head_displacement(head, gtab, encodings=encodings, runs=of_run),
        method=method,
        eddy=eddy,
    )


def _register_all(
    scene: MotionScene,
    gtab: GradientTable,
    b0_image: NDArray[np.float32],
    runs: NDArray[np.int_],
    n_passes: int,
) -> tuple[NDArray[np.float64], frozenset[int]]:
    """Register b=0 volumes to the reference, and each shell to predictions of it."""
    poses = np.zeros((len(gtab), len(POSE_NAMES)))
    b0s = [int(i) for i in np.flatnonzero(gtab.is_b0)]
    targets = np.tile(scene.sample_reference(b0_image), (len(b0s), 1))
    poses, lost = scene.register(poses, b0s, targets, is_rigid=True, lost=frozenset())
    poses = _start_between_b0s(poses, gtab, runs)
    for number in range(1 + n_passes):
        is_first = number == 0
        values = scene.sample(poses)
        turned = gtab.rotated([pose_rotation(p).T for p in poses])
        for shell in gtab.shells:
            members = list(shell.index)
            if is_first:
                targets = np.tile(values[members].mean(axis=0), (len(members), 1))
            else:
                targets = predict_left_out(values, turned, members)
            poses, lost = scene.register(poses, members, targets, is_rigid=is_first, lost=lost)
            if is_first:
                poses = scene.align_shell(poses, members, b0_image)
    return poses, lost


def head_displacement(
    head: NDArray[np.float64],
    gtab: GradientTable,
    *,
    encodings: Sequence[PhaseEncoding],
    runs: ArrayLike,
) -> NDArray[np.float64]:
    """Return the framewise displacement of the head, without the offsets of shells.

    Parameters
    ----------
    head
        Shape (N, 6 or more): translations of the head, mm, and rotations, rad, RAS+.
    gtab, encodings, runs
        As for :func:`dmri_fm.preprocess.eddy_translation.separate_eddy`.

    Returns
    -------
    ndarray
        Shape (N,), mm; NaN where a run starts, and behind changes of shell that are too few to
        tell the offset of the shell from a movement.
    """
    of_run = np.asarray(runs)
    starts = np.flatnonzero(np.r_[True, of_run[1:] != of_run[:-1]])
    found = find_shell_offsets(head, gtab, encodings=encodings, runs=of_run)
    return framewise_displacement(
        head[:, :6] - found.offsets, starts=[*map(int, starts), *found.unknown]
    )


def _runs(directions: Sequence[str | None]) -> NDArray[np.int_]:
    """Number the stretches of volumes that share a phase encoding."""
    changes = [a != b for a, b in zip(directions[1:], directions[:-1], strict=True)]
    return np.concatenate([[0], np.cumsum(changes)]).astype(int)


def _start_between_b0s(
    poses: NDArray[np.float64], gtab: GradientTable, runs: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Start every weighted volume between the b=0 volumes of its run, in order of time."""
    started = poses.copy()
    for run in np.unique(runs):
        index = np.flatnonzero(runs == run)
        known = index[gtab.is_b0[index]]
        if not known.size:
            continue
        for column in range(6):
            started[index, column] = np.interp(index, known, poses[known, column])
    return started
