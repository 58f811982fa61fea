"""Scans of simulated heads: echo-planar series from k-space, by trxscan, and a T1-weighted image.

trxscan (https://github.com/PennLINC/TRXScan) makes the signal of streamlines and tissue
fractions on a finer grid and acquires it line by line, with susceptibility distortion, T2 decay,
eddy currents, ghosts, partial Fourier, ringing, noise and head motion. Its model of tissue is its
own, sticks and zeppelins along streamlines, and not the training generator's mixture.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.anatomy import Fractions, smooth_field
from dmri_fm_lab.simulate.subject import Subject

#: Slices that are simulated at a time.
_SLAB = 16

#: Volumes of a moving head that are scanned at a time.
_N_THREADS = 2

#: SNR of white matter in the T1-weighted image.
_T1W_SNR = 30.0

#: Intensity of fully relaxed free water, scanner units.
_SIGNAL = 2000.0


@dataclass(frozen=True)
class Acquisition:
    """Parameters of the acquisition of a series.

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


def draw_motion(
    rng: np.random.Generator, n_volumes: int, *, step_mm: float, step_deg: float
) -> NDArray[np.float64]:
    """Draw head motion as a random walk that starts at rest: transforms (n_volumes, 4, 4), RAS mm.

    A point x of the head is at ``xfms[n] @ x`` during volume n, the same sense as the transforms
    that motion correction estimates.
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


def acquire(
    subject: Subject,
    gtab: GradientTable,
    acquisition: Acquisition,
    *,
    xfms: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Acquire a series: magnitudes (X, Y, Z, N), float32, scanner units.

    `gtab` is RAS+, `xfms` (N, 4, 4) as :func:`draw_motion` returns them: the head, its fibres and
    its field move, gradients and phase encoding do not.

    Notes
    -----
    trxscan has movements of its own, but rounds them for tissue to points of its grid and takes
    the rest to streamlines with the opposite sign (0.3.0). So a moving head is scanned twice: at
    rest without artefacts, by the gradients that it meets; then each of these images, moved by
    splines of fifth order, with all artefacts.
    """
    if xfms is None:
        return _magnitude(simulate(subject, gtab, acquisition))
    met = gtab.rotated([xfm[:3, :3].T for xfm in xfms])
    still = Acquisition(echo_ms=acquisition.echo_ms, is_distorted=False)
    images = _magnitude(simulate(subject, met, still))
    artefacts = _artefacts(acquisition, relaxation=False)
    played = _protocol(subject, acquisition)
    # The signal of the second scan is that of the image: one compartment, which does not diffuse.
    played = played.replace(tissue_s0=(0.0, 0.0, 1.0), tissue=played.tissue.replace(d_csf=0.0))
    seeds = np.random.default_rng(acquisition.seed).integers(2**31, size=len(gtab))

    def scan(n: int) -> NDArray[np.float32]:
        highest = images[..., n].max()
        simulation = _moved(subject, images[..., n] / highest, xfms[n]).simulate(
            (gtab.bvals[n : n + 1], gtab.bvecs_ras[n : n + 1]),
            played.replace(signal_scale=float(highest)),
            artefacts.replace(seed=int(seeds[n])),
            clean_b0=False,
            kspace=False,
            chunk=_SLAB,
        )
        return _magnitude(simulation)[..., 0]

    with ThreadPoolExecutor(_N_THREADS) as pool:
        return np.stack(list(pool.map(scan, range(len(gtab)))), axis=-1)


def _magnitude(simulation: Any) -> NDArray[np.float32]:
    return np.asarray(simulation.magnitude.dataobj, dtype=np.float32)


def _moved(subject: Subject, share: NDArray[np.float32], xfm: NDArray[np.float64]) -> Any:
    """Return an object of trxscan that shows an image of the head, and its field, moved.

    Its signal does not depend on gradients: the image is the share of one compartment, 0 to 1, the
    rest is a compartment without signal.
    """
    import trxscan

    fine, shape = subject.phantom.sim_affine, subject.phantom.sim_dims
    pull = np.linalg.inv(xfm) @ fine

    def resample(
        data: NDArray[np.float32], affine: NDArray[np.float64], order: int
    ) -> NDArray[np.float32]:
        voxels = np.linalg.inv(affine) @ pull
        moved: NDArray[np.float32] = affine_transform(
            data, voxels[:3, :3], voxels[:3, 3], output_shape=shape, order=order, mode="nearest"
        )
        return moved

    share = resample(share, subject.affine, 5).clip(0, 1)
    field = resample(subject.phantom.sim_fmap.reshape(shape, order="F"), fine, 1)
    none = trxscan.Fibers(np.empty(0), np.empty((0, 3)), np.empty(0))
    return trxscan.objects.from_arrays(
        np.zeros_like(share),
        1 - share,
        share,
        oversample=subject.phantom.oversample,
        voxel_mm=subject.phantom.voxel_mm,
        fieldmap=field,
        affine=subject.affine,
        fibers=none,
    )


def simulate(
    subject: Subject, gtab: GradientTable, acquisition: Acquisition, *, with_peaks: bool = False
) -> Any:
    """Acquire a series of a head at rest as :func:`acquire` does; return trxscan's simulation."""
    return subject.phantom.simulate(
        (gtab.bvals, gtab.bvecs_ras),
        _protocol(subject, acquisition),
        _artefacts(acquisition),
        clean_b0=False,
        kspace=False,
        chunk=_SLAB,  # for memory
        truth_peaks=with_peaks,
    )


def _artefacts(acquisition: Acquisition, *, relaxation: bool = True) -> Any:
    import trxscan

    return trxscan.Artifacts(
        # Noise is white in k-space: lines that are not sampled bring none.
        noise=acquisition.sigma**2 / acquisition.partial_fourier,
        eddy=acquisition.eddy,
        ghost=acquisition.ghost,
        distortion=acquisition.is_distorted,
        relaxation=relaxation,
        seed=acquisition.seed,
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
            gm_restricted_frac=0.0,  # grey matter of one diffusivity
            d_csf=tissue.csf,
            t2_fiber=white,
            t2_gm=grey,
            t2_csf=csf,
        ),
    )


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
    rng: np.random.Generator, parts: Fractions, *, voxel_size_mm: float
) -> NDArray[np.float32]:
    """Draw a T1-weighted image (X, Y, Z), float32, scanner units, scalp included.

    The receive field depends on the voxel size of the image's grid.
    """
    image = parts.wm + 0.68 * parts.gm + 0.22 * parts.csf + 0.95 * parts.scalp
    shape = (image.shape[0], image.shape[1], image.shape[2])
    image = image * np.exp(0.12 * smooth_field(rng, shape, spacing=90.0 / voxel_size_mm)[0])
    noise = rng.standard_normal((2, *shape), dtype=np.float32) / np.float32(_T1W_SNR)
    drawn: NDArray[np.float32] = 900.0 * np.hypot(image + noise[0], noise[1])
    return drawn.astype(np.float32)
