"""Simulated scans with motion, eddy currents and distortion whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter
from scipy.spatial.transform import Rotation

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.motion import MotionEstimate, no_motion
from dmri_fm.preprocess.susceptibility import B0Image
from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.simulate import draw_anatomy, draw_protocol
from dmri_fm_lab.simulate.anatomy import FIELD_OF_VIEW_CENTRE_MM, Anatomy, Shape
from dmri_fm_lab.simulate.bundles import Streamlines
from dmri_fm_lab.simulate.dataset import EDDY, FIELD_PEAK_HZ, GHOST
from dmri_fm_lab.simulate.scanner import Acquisition, acquire, draw_motion
from dmri_fm_lab.simulate.subject import Subject, Tissue, place_subject
from dmri_fm_lab.simulate.truth import true_tensor

#: Share of the slices' signal that is left after a movement during the diffusion gradients.
_LEFT_SIGNAL = (0.2, 0.7)

#: Steps of the fit of the eddy currents' displacement.
_EDDY_STEPS = 4


@dataclass(frozen=True)
class Conditions:
    """How a scan is acquired.

    Attributes
    ----------
    voxel_mm
        Edge of the voxels.
    snr
        Median b=0 signal of white matter over the noise of one channel.
    bvals
        Shells, s/mm^2; the first one is that of the true tensor.
    n_directions
        Weighted volumes of each shell.
    is_left_right
        Whether phase encoding runs from left to right, else from front to back.
    step_mm, step_deg
        Deviation of the head's steps from volume to volume.
    lost_share
        Share of the weighted volumes that lose signal in three slices.
    """

    voxel_mm: float = 2.5
    snr: float = 20.0
    bvals: tuple[float, ...] = (1000.0,)
    n_directions: int = 30
    is_left_right: bool = False
    step_mm: float = 0.25
    step_deg: float = 0.2
    lost_share: float = 0.0


@dataclass(frozen=True, eq=False)
class DistortedScan:
    """A scan and what is known of it.

    Attributes
    ----------
    dwi
        The series, with the true brain mask; b=0 volumes come first.
    pair
        First b=0 image of the series, and one of opposite phase encoding.
    field
        True distortion field, on the grid of the head during the first volume.
    xfms
        Shape (N, 4, 4), RAS+ mm: where points of the head during the first volume lie during each
        one, displacement by eddy currents included.
    fa, md
        Shape (X, Y, Z), of the true tensor on the same grid; mm^2/s.
    is_white
        Shape (X, Y, Z): white matter.
    """

    dwi: Dwi
    pair: tuple[B0Image, B0Image]
    field: DistortionField
    xfms: NDArray[np.float64]
    fa: NDArray[np.float32]
    md: NDArray[np.float32]
    is_white: NDArray[np.bool_]

    @property
    def encodings(self) -> list[PhaseEncoding]:
        """Phase encoding of every volume."""
        return [self.pair[0].encoding] * len(self.dwi.gtab)

    @property
    def motion(self) -> MotionEstimate:
        """The true transforms, as an estimate without parameters."""
        return replace(no_motion(len(self.dwi.gtab), self.dwi.shape[2]), xfms=self.xfms)


def simulate_distorted(conditions: Conditions, *, seed: int) -> DistortedScan:
    """Scan a head as :func:`dmri_fm_lab.simulate.simulate_dataset` does, under other conditions.

    Parameters
    ----------
    conditions
        Protocol and movement.
    seed
        Of anatomy, field, movement and noise.
    """
    rng = np.random.default_rng(seed)
    to_head = _quarter_turn() if conditions.is_left_right else np.eye(4)
    subject = place_subject(
        _turned(draw_anatomy(rng, Shape(callosum=0.87)), to_head),
        Tissue(),
        voxel_size_mm=(conditions.voxel_mm,) * 3,
        rng=rng,
        field_peak_hz=FIELD_PEAK_HZ,
    )
    played = Acquisition(eddy=EDDY, ghost=GHOST)
    truth = true_tensor(subject, bval=conditions.bvals[0], echo_ms=played.echo_ms)
    is_white = subject.fractions.wm > 0.9
    sigma = float(np.median(truth.b0[is_white])) / conditions.snr
    played = replace(played, sigma=sigma, seed=int(rng.integers(2**31)))
    gtab = draw_protocol(
        rng,
        scheme="multishell" if len(conditions.bvals) > 1 else "shell",
        n_directions=conditions.n_directions,
        bvals=conditions.bvals if len(conditions.bvals) > 1 else conditions.bvals[0],
        n_b0=2,
    )
    n_volumes = len(gtab)
    motion = draw_motion(
        rng, n_volumes + 1, step_mm=conditions.step_mm, step_deg=conditions.step_deg
    )
    data = acquire(subject, gtab, played, xfms=motion[:-1])
    data = _lose_slices(data, rng, share=conditions.lost_share, sigma=sigma)
    b0 = gtab.select([0])
    opposed = acquire(
        subject,
        b0,
        replace(played, phase_encoding="j", seed=int(rng.integers(2**31))),
        xfms=motion[-1:],
    )
    eddy = measure_eddy(subject, gtab, played)
    affine = to_head @ subject.affine
    dwi = Dwi.from_arrays(data, affine, gtab.rotated(to_head[:3, :3]), mask=subject.fractions.mask)
    pair = (
        B0Image(data[..., 0], affine, PhaseEncoding("j-", played.readout_s)),
        B0Image(opposed[..., 0], affine, PhaseEncoding("j", played.readout_s)),
    )
    xfms = to_head @ eddy @ motion[:-1] @ np.linalg.inv(to_head)
    scalars = TensorMaps.from_tensor(
        truth.tensor, subject.fractions.mask, affine=subject.affine, model="tensor"
    )
    return DistortedScan(
        dwi,
        pair,
        DistortionField(subject.field_hz, affine),
        xfms,
        scalars.fa,
        scalars.md,
        is_white,
    )


def differences_mm(
    one: NDArray[np.float64], other: NDArray[np.float64], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far apart two sets of transforms (N, 4, 4) take points (P, 3): (N, P, 3), mm."""
    pairs = zip(one, other, strict=True)
    return np.stack([apply_affine(a, points) - apply_affine(b, points) for a, b in pairs])


def _quarter_turn() -> NDArray[np.float64]:
    """Return the turn about the vertical axis that lays front to back on left to right."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    centre = np.array(FIELD_OF_VIEW_CENTRE_MM)
    turn[:3, 3] = centre - turn[:3, :3] @ centre
    return turn


def _turned(anatomy: Anatomy, to_head: NDArray[np.float64]) -> Anatomy:
    """Lay a head elsewhere: points of the scanner are taken to those where it lay before."""
    back = np.linalg.inv(to_head)
    fibres = Streamlines(apply_affine(back, anatomy.fibres.points), anatomy.fibres.offsets)
    return replace(
        anatomy,
        to_mni=anatomy.to_mni @ to_head,
        warp_affine=back @ anatomy.warp_affine,
        fibres=fibres,
    )


def _lose_slices(
    data: NDArray[np.float32], rng: np.random.Generator, *, share: float, sigma: float
) -> NDArray[np.float32]:
    """Take signal, but not noise, from slices of a share of the weighted volumes."""
    out = data.copy()
    depth = data.shape[2]
    for volume in np.flatnonzero(rng.random(data.shape[3]) < share):
        if volume < 2:  # the b=0 volumes
            continue
        for slice_ in rng.choice(np.arange(depth // 5, 4 * depth // 5), 3, replace=False):
            left = rng.uniform(*_LEFT_SIGNAL)
            signal = left * data[:, :, slice_, volume]
            noise = rng.normal(0, sigma * np.sqrt(1 - left**2), (2, *signal.shape))
            out[:, :, slice_, volume] = np.hypot(signal + noise[0], noise[1])
    return out


def measure_eddy(
    subject: Subject, gtab: GradientTable, acquisition: Acquisition
) -> NDArray[np.float64]:
    """Measure where trxscan's eddy currents move each volume: (N, 4, 4), scanner mm.

    The head is scanned at rest, undistorted, without noise, with and without them; the second
    image is laid on the first by an affine displacement along phase encoding.
    """
    quiet = replace(acquisition, sigma=0.0, ghost=0.0, is_distorted=False)
    shown = acquire(subject, gtab, quiet)
    plain = acquire(subject, gtab, replace(quiet, eddy=0.0))
    voxels = np.argwhere(subject.fractions.mask)
    step = subject.affine[1, 1]
    points = np.c_[apply_affine(subject.affine, voxels), np.ones(len(voxels))]
    xfms = np.tile(np.eye(4), (len(gtab), 1, 1))
    for n in range(len(gtab)):
        xfms[n, 1] += _fit_displacement(plain[..., n], shown[..., n], voxels, points, step)
    return xfms


def _fit_displacement(
    plain: NDArray[np.float32],
    shown: NDArray[np.float32],
    voxels: NDArray[np.int_],
    points: NDArray[np.float64],
    step_mm: float,
) -> NDArray[np.float64]:
    """Fit a, shape (4,), so that the second image shows at x + (a x) e_y what the first has at x.

    Intensities follow the change of length along y.
    """
    spline = spline_filter(shown)
    wanted = plain[tuple(voxels.T)]
    found = np.zeros(4)
    for _ in range(_EDDY_STEPS):
        moved = voxels.astype(np.float64)
        moved[:, 1] += points @ found / step_mm
        ahead, behind = moved.copy(), moved.copy()
        ahead[:, 1] += 0.5
        behind[:, 1] -= 0.5
        value, after, before = (
            map_coordinates(spline, at.T, order=3, prefilter=False, mode="nearest")
            for at in (moved, ahead, behind)
        )
        stretch = 1 + found[1]
        columns = stretch * ((after - before) / step_mm)[:, None] * points
        columns[:, 1] += value
        change = np.linalg.lstsq(columns, wanted - stretch * value, rcond=None)[0]
        found = found + change
    return np.asarray(found)
