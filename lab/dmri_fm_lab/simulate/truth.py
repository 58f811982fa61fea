"""Truth of a simulated subject, as of an ideal scanner: tensor, b=0, fibre orientations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.mixture import dense_shell, fit_shell
from dmri_fm_lab.simulate.scanner import Acquisition, simulate
from dmri_fm_lab.simulate.subject import Subject, coarser


@dataclass(frozen=True, eq=False)
class Truth:
    """Tensor, b=0 and fibre peaks of a head.

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
    a truth should not. `bval` is that of the shell, s/mm^2. See :func:`~.mixture.fit_shell`.
    """
    axes = dense_shell(torch.device("cpu")).numpy().astype(np.float64)
    gtab = GradientTable(
        np.concatenate([[0.0], np.full(len(axes), bval)]), np.concatenate([np.zeros((1, 3)), axes])
    )
    clean = Acquisition(echo_ms=echo_ms, is_distorted=False)
    n_peaks = (np.abs(true_peaks(subject)).max(axis=4) > 0).sum(axis=3).astype(np.uint8)
    fine = simulate(_on_fine_grid(subject), gtab, clean)
    volumes = coarser(np.asarray(fine.magnitude.dataobj, dtype=np.float32))
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
    simulation = simulate(subject, gtab, Acquisition(is_distorted=False), with_peaks=True)
    peaks = np.asarray(simulation.truth_peaks.dataobj, dtype=np.float32)
    return peaks.reshape(*subject.shape, 3, 3)
