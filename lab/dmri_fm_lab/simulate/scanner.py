"""Scans of simulated heads: echo-planar series from k-space, by trxscan, and a T1-weighted image.

trxscan (https://github.com/PennLINC/TRXScan) makes the signal of streamlines and tissue
fractions on a finer grid and acquires it line by line, with susceptibility distortion, T2 decay,
eddy currents, ghosts, partial Fourier, ringing, noise and head motion. Its model of tissue is its
own: sticks and zeppelins along streamlines, in the place of this project's mixture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.anatomy import (
    FIELD_OF_VIEW_CENTRE_MM,
    FIELD_OF_VIEW_MM,
    Anatomy,
    Fractions,
    smooth_field,
    voxel_mm,
)
from dmri_fm_lab.simulate.mixture import dense_shell, fit_shell

__all__ = [
    "Acquisition",
    "Subject",
    "Tissue",
    "Truth",
    "acquire",
    "acquire_fieldmap",
    "draw_field_hz",
    "draw_motion",
    "grid",
    "place_subject",
    "t1w_image",
    "true_peaks",
    "true_tensor",
]

#: Points of the finer grid along each in-plane axis of a voxel.
OVERSAMPLING = 2

#: Slices that are simulated at a time.
_SLAB = 16

#: Intensity of fully relaxed free water, scanner units.
_SIGNAL = 2000.0

#: Bones and air near the brain, where the field is bent: MNI mm, width mm, share of the peak.
_FIELD_SOURCES = (
    ((0.0, 48.0, -28.0), 20.0, 1.0),
    ((45.0, -22.0, -38.0), 15.0, -0.7),
    ((-45.0, -22.0, -38.0), 15.0, -0.7),
)


@dataclass(frozen=True)
class Tissue:
    """Diffusivities of one head, mm^2/s, and relaxation.

    Attributes
    ----------
    stick_fraction, stick, parallel, radial
        White matter: share of restricted sticks and their diffusivity, and the diffusivities of
        the hindered rest along and across.
    grey, csf
        Diffusivities.
    fibrous
        Share of grey matter that is as white matter: fibres go on into it. Real cortex has an FA
        of .1 to .2 (McNab et al. 2013, doi:10.1016/j.neuroimage.2012.11.065).
    t2_ms
        Of white matter, grey matter and CSF.
    """

    stick_fraction: float = 0.42
    stick: float = 1.6e-3
    parallel: float = 1.35e-3
    radial: float = 0.75e-3
    grey: float = 0.9e-3
    csf: float = 3.0e-3
    fibrous: float = 0.3
    t2_ms: tuple[float, float, float] = (70.0, 82.0, 900.0)


@dataclass(frozen=True)
class Acquisition:
    """How a series is acquired.

    Attributes
    ----------
    phase_encoding
        ``"j"`` or ``"j-"`` of a RAS image.
    echo_ms, readout_s, partial_fourier
        Echo time, total readout time, and share of the lines that are sampled.
    sigma
        Noise of the real and of the imaginary channel, scanner units.
    eddy, ghost
        Strength of eddy currents and of the Nyquist ghost, in trxscan's units: 3e-4 stretches
        an image by about a hundredth at 1000 s/mm^2.
    is_distorted
        Whether the susceptibility field acts.
    seed
        Of the noise.
    """

    phase_encoding: str = "j-"
    echo_ms: float = 85.0
    readout_s: float = 0.05
    partial_fourier: float = 1.0
    sigma: float = 0.0
    eddy: float = 0.0
    ghost: float = 0.0
    is_distorted: bool = True
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Subject:
    """A head on the grid of a series.

    Attributes
    ----------
    shape, affine
        Of the grid; the affine is RAS and diagonal.
    fractions
        On the grid.
    field_hz
        Shape (X, Y, Z), float32: the susceptibility field.
    tissue
        Its tissue.
    phantom
        trxscan's object.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    fractions: Fractions
    field_hz: NDArray[np.float32]
    tissue: Tissue
    phantom: Any


def grid(
    voxel_size_mm: tuple[float, float, float],
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Return shape and RAS affine of a grid over the field of view."""
    size = [
        2 * round(length / step / 2)
        for length, step in zip(FIELD_OF_VIEW_MM, voxel_size_mm, strict=True)
    ]
    affine = np.diag([*voxel_size_mm, 1.0])
    half = (np.array(size) - 1) / 2 * voxel_size_mm
    affine[:3, 3] = np.array(FIELD_OF_VIEW_CENTRE_MM) - half
    return (size[0], size[1], size[2]), affine


def draw_field_hz(
    rng: np.random.Generator, mni_mm: NDArray[np.float32], *, peak_hz: float
) -> NDArray[np.float32]:
    """Draw a susceptibility field: bumps above the sinuses and the ears, and a smooth rest.

    Parameters
    ----------
    rng
        Source of randomness.
    mni_mm
        Shape (3, X, Y, Z): where voxels of 1 to 6 mm lie in MNI space.
    peak_hz
        Field above the frontal sinus, Hz.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32, Hz.
    """
    field = np.zeros(mni_mm.shape[1:], dtype=np.float32)
    for place, width, share in _FIELD_SOURCES:
        centre = np.array(place) + rng.normal(0.0, 3.0, 3)
        apart = mni_mm - centre.astype(np.float32)[:, None, None, None]
        size = peak_hz * share * rng.uniform(0.8, 1.2)
        field += np.float32(size) * np.exp(-(apart**2).sum(axis=0) / np.float32(2 * width**2))
    # The smooth rest: a plane wave or two of long wavelength.
    for _ in range(3):
        wave = rng.normal(0, 2 * np.pi / 150.0, 3).astype(np.float32)
        phase = np.tensordot(wave, mni_mm, 1) + np.float32(rng.uniform(0, 2 * np.pi))
        field += np.float32(0.04 * peak_hz) * np.sin(phase)
    return field


def draw_motion(
    rng: np.random.Generator, n_volumes: int, *, step_mm: float, step_deg: float
) -> NDArray[np.float64]:
    """Draw head motion as a random walk that starts at rest.

    Returns
    -------
    ndarray
        Shape (n_volumes, 4, 4), RAS mm: a point x of the head is at ``xfms[n] @ x`` during
        volume n, the same sense as the transforms that motion correction estimates.
    """
    steps = rng.normal(0.0, 1.0, (n_volumes, 6)) * ([step_deg] * 3 + [step_mm] * 3)
    steps[0] = 0.0
    # Heads drift back: a walk without memory would leave the field of view.
    walk = np.zeros_like(steps)
    for n in range(1, n_volumes):
        walk[n] = 0.9 * walk[n - 1] + steps[n]
    xfms = np.tile(np.eye(4), (n_volumes, 1, 1))
    xfms[:, :3, :3] = Rotation.from_euler("xyz", walk[:, :3], degrees=True).as_matrix()
    xfms[:, :3, 3] = walk[:, 3:]
    return xfms


def place_subject(
    anatomy: Anatomy,
    tissue: Tissue,
    *,
    voxel_size_mm: tuple[float, float, float],
    rng: np.random.Generator,
    field_peak_hz: float,
) -> Subject:
    """Put a head on the grid of a series, with a random susceptibility field.

    What lies outside the brain gives no signal, as where fat is suppressed well.

    Parameters
    ----------
    anatomy, tissue
        The head.
    voxel_size_mm
        Of the series.
    rng
        Source of the field's randomness.
    field_peak_hz
        See :func:`draw_field_hz`.
    """
    import trxscan

    shape, affine = grid(voxel_size_mm)
    fine = affine @ np.diag([1 / OVERSAMPLING, 1 / OVERSAMPLING, 1.0, 1.0])
    fine[:3, 3] -= 0.5 * (1 - 1 / OVERSAMPLING) * affine[:3, :3] @ [1, 1, 0]
    fine_shape = (shape[0] * OVERSAMPLING, shape[1] * OVERSAMPLING, shape[2])
    parts = anatomy.fractions(fine_shape, fine, n_inside=(1, 1, 2))
    field = draw_field_hz(rng, anatomy.mni_mm(voxel_mm(fine_shape, fine)), peak_hz=field_peak_hz)
    phantom = trxscan.objects.from_arrays(
        parts.wm + tissue.fibrous * parts.gm,
        (1 - tissue.fibrous) * parts.gm,
        parts.csf,
        oversample=OVERSAMPLING,
        voxel_mm=voxel_size_mm,
        fieldmap=field,
        affine=affine,
    )
    phantom = replace(
        phantom,
        streamlines=trxscan.Streamlines(anatomy.fibres.points, anatomy.fibres.offsets),
    )
    coarse = Fractions.of(
        *(_coarser(a) for a in (parts.wm, parts.gm, parts.csf, parts.lesion, parts.scalp))
    )
    return Subject(shape, affine, coarse, _coarser(field), tissue, phantom)


def _coarser(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average (X, Y, Z, ...) over the points of each voxel."""
    x, y, *rest = fine.shape
    blocks = fine.reshape(x // OVERSAMPLING, OVERSAMPLING, y // OVERSAMPLING, OVERSAMPLING, *rest)
    mean: NDArray[np.float32] = blocks.mean(axis=(1, 3))
    return mean


def acquire(
    subject: Subject,
    gtab: GradientTable,
    acquisition: Acquisition,
    *,
    xfms: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Acquire a series.

    Parameters
    ----------
    subject
        The head on its grid.
    gtab
        Gradients, RAS+.
    acquisition
        How.
    xfms
        Shape (N, 4, 4), RAS mm: a point x of the head is at ``xfms[n] @ x`` during volume n.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, N), float32, scanner units: magnitudes.
    """
    simulation = _simulate(subject, gtab, acquisition, xfms=xfms)
    data: NDArray[np.float32] = np.asarray(simulation.magnitude.dataobj, dtype=np.float32)
    return data


def _simulate(
    subject: Subject,
    gtab: GradientTable,
    acquisition: Acquisition,
    *,
    xfms: NDArray[np.float64] | None = None,
    with_peaks: bool = False,
) -> Any:
    import trxscan

    motion = None
    if xfms is not None:
        middle = subject.affine @ [*((np.array(subject.shape) - 1) / 2), 1.0]
        # trxscan turns heads about the middle of the grid.
        motion = trxscan.Motion.from_affines(xfms, center=tuple(middle[:3]))
    artefacts = trxscan.Artifacts(
        # Noise is white in k-space: lines that are not sampled bring none.
        noise=acquisition.sigma**2 / acquisition.partial_fourier,
        eddy=acquisition.eddy,
        ghost=acquisition.ghost,
        distortion=acquisition.is_distorted,
        motion=motion,
        seed=acquisition.seed,
    )
    return subject.phantom.simulate(
        (gtab.bvals, gtab.bvecs_ras),
        _protocol(subject, acquisition),
        artefacts,
        clean_b0=False,
        kspace=False,
        # A head at rest is simulated in slabs, for memory. A moving one would turn about the
        # middle of each slab.
        chunk=_SLAB if motion is None else None,
        truth_peaks=with_peaks,
    )


def _protocol(subject: Subject, acquisition: Acquisition) -> Any:
    import trxscan

    tissue = subject.tissue
    white, grey, csf = tissue.t2_ms
    return trxscan.Protocol(
        voxel_mm=subject.phantom.voxel_mm,
        oversample=subject.phantom.oversample,
        te_ms=acquisition.echo_ms,
        readout_ms=1000 * acquisition.readout_s,
        partial_fourier=acquisition.partial_fourier,
        pe=acquisition.phase_encoding,
        signal_scale=_SIGNAL,
        # Proton densities of the three tissues.
        tissue_s0=(0.7, 0.82, 1.0),
        tissue=trxscan.Tissue.ADULT.replace(
            intra_frac=tissue.stick_fraction,
            extra_frac=1 - tissue.stick_fraction,
            d_intra=tissue.stick,
            d_extra=(tissue.parallel, tissue.radial, tissue.radial),
            d_gm=tissue.grey,
            # Only heads at rest would have it.
            gm_restricted_frac=0.0,
            d_csf=tissue.csf,
            t2_fiber=white,
            t2_gm=grey,
            t2_csf=csf,
        ),
    )


@dataclass(frozen=True, eq=False)
class Truth:
    """What an ideal scanner would find in a head.

    Attributes
    ----------
    tensor
        Shape (X, Y, Z, 6), mm^2/s, RAS+, order xx, xy, xz, yy, yz, zz.
    b0
        Shape (X, Y, Z), float32, scanner units.
    n_peaks
        Shape (X, Y, Z), uint8: peaks of the fibres' orientations, up to three.
    """

    tensor: NDArray[np.float64]
    b0: NDArray[np.float32]
    n_peaks: NDArray[np.uint8]


def true_tensor(subject: Subject, *, bval: float, echo_ms: float) -> Truth:
    """Fit a tensor to the signal of a dense shell, free of noise, at rest and undistorted.

    The signal is averaged over each voxel: images whose k-space ends at the voxel size ring, and
    a truth should not. See :func:`~.mixture.fit_shell`.

    Parameters
    ----------
    subject
        The head on its grid.
    bval
        Of the shell, s/mm^2.
    echo_ms
        Echo time.
    """
    axes = dense_shell(torch.device("cpu")).numpy().astype(np.float64)
    gtab = GradientTable(
        np.concatenate([[0.0], np.full(len(axes), bval)]), np.concatenate([np.zeros((1, 3)), axes])
    )
    clean = Acquisition(echo_ms=echo_ms, is_distorted=False)
    n_peaks = (np.abs(true_peaks(subject)).max(axis=4) > 0).sum(axis=3).astype(np.uint8)
    fine = _simulate(_on_fine_grid(subject), gtab, clean)
    volumes = _coarser(np.asarray(fine.magnitude.dataobj, dtype=np.float32))
    # In double precision: threads that add up in another order change no digit that is kept.
    signal = torch.from_numpy(np.moveaxis(volumes, 3, 0).astype(np.float64))[None]
    fitted = fit_shell(signal[:, 1:], signal[:, 0], torch.tensor([bval / 1000.0]).double())
    return Truth(1e-3 * fitted[0].movedim(0, -1).numpy(), volumes[..., 0], n_peaks)


def _on_fine_grid(subject: Subject) -> Subject:
    """Return a subject whose voxels are the points of its finer grid."""
    was = subject.phantom
    phantom = replace(
        was,
        oversample=1,
        dims=was.sim_dims,
        nz_full=None,
        affine=was.sim_affine,
        wm=was.sim_wm,
        gm=was.sim_gm,
        csf=was.sim_csf,
        mask=was.sim_mask,
        fmap=was.sim_fmap,
        voxel_mm=tuple(np.linalg.norm(was.sim_affine[:3, :3], axis=0)),
    )
    return replace(subject, shape=was.sim_dims, affine=was.sim_affine, phantom=phantom)


def true_peaks(subject: Subject) -> NDArray[np.float32]:
    """Return the fibres' orientations: shape (X, Y, Z, 3, 3), up to three peaks a voxel.

    RAS+; the length of a peak is its share, and absent ones are zero.
    """
    gtab = GradientTable(np.zeros(1), np.zeros((1, 3)))
    simulation = _simulate(subject, gtab, Acquisition(is_distorted=False), with_peaks=True)
    peaks = np.asarray(simulation.truth_peaks.dataobj, dtype=np.float32)
    return peaks.reshape(*subject.shape, 3, 3)


def acquire_fieldmap(subject: Subject, *, seed: int) -> dict[str, tuple[NDArray[Any], float]]:
    """Acquire a gradient-echo fieldmap.

    Returns
    -------
    dict
        ``magnitude1``, ``magnitude2`` and ``phasediff`` (0 to 4095 is a turn, -pi to pi): array
        (X, Y, Z), and echo time, s; the later one for the difference.
    """
    import trxscan

    result = subject.phantom.simulate(
        (np.zeros(1), np.zeros((1, 3))),
        _protocol(subject, Acquisition()),
        trxscan.Artifacts(seed=seed),
        gre=trxscan.Gre(head=False),
        clean_b0=False,
        kspace=False,
        chunk=_SLAB,
    ).gre
    images = {"magnitude1": result.magnitude1, "magnitude2": result.magnitude2}
    first, second = result.te_s
    echoes = {"magnitude1": first, "magnitude2": second, "phasediff": second}
    images["phasediff"] = result.phase["phasediff"]
    return {name: (np.asarray(i.dataobj), echoes[name]) for name, i in images.items()}


def t1w_image(
    rng: np.random.Generator, parts: Fractions, *, voxel_size_mm: float, snr: float = 30.0
) -> NDArray[np.float32]:
    """Draw a T1-weighted image of a head, scalp included.

    Parameters
    ----------
    rng
        Source of randomness.
    parts
        Fractions on the image's grid.
    voxel_size_mm
        Of that grid, for the receive field.
    snr
        White matter over the noise.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32, scanner units.
    """
    image = parts.wm + 0.68 * parts.gm + 0.22 * parts.csf + 0.95 * parts.scalp
    shape = (image.shape[0], image.shape[1], image.shape[2])
    image = image * np.exp(0.12 * smooth_field(rng, shape, spacing=90.0 / voxel_size_mm)[0])
    noise = rng.standard_normal((2, *shape), dtype=np.float32) / np.float32(snr)
    drawn: NDArray[np.float32] = 900.0 * np.hypot(image + noise[0], noise[1])
    return drawn.astype(np.float32)
