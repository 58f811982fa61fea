"""Measures of image quality: one row of numbers per series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation
from scipy.stats import chi2

from dmri_fm.errors import ImageError
from dmri_fm.gradients import Shell
from dmri_fm.preprocess.raw_series import find_cut_volumes
from dmri_fm.preprocess.signal_drift import measure_signal_drift
from dmri_fm.series import Dwi
from dmri_fm.tensor_design import DIAGONAL_FIRST, quadratic_terms, to_matrices

#: A slice is bad if its signal is below its shell's by this many robust deviations ...
BAD_SLICE_DEVIATIONS = 4.0
#: ... and by this share at least.
BAD_SLICE_LOSS = 0.1
#: Slices with fewer voxels of the mask are not judged.
BAD_SLICE_VOXELS = 50
#: Shells with fewer volumes have no usual level to compare with.
BAD_SLICE_VOLUMES = 5

#: Degrees of freedom that must remain after the six terms of the CNR's model.
CNR_FREEDOM = 2

#: Voxels of background needed to take the noise from it.
BACKGROUND_VOXELS = 500


#: Measures that need the raw series and its motion: unknown for a series that was corrected
#: before. Its noise is that of interpolated voxels, so no SNR is measured either.
RAW_MEASURES = (
    "raw_neighbor_corr", "raw_num_bad_slices", "raw_num_cut_volumes", "num_outlier_slices",
    "mean_fd", "max_fd", "snr_b0", "snr_b0_is_temporal", "signal_drift_percent",
)  # fmt: skip


def neighbour_correlation(dwi: Dwi) -> float | None:
    """Return the neighbouring DWI correlation of a series.

    Each diffusion-weighted volume is correlated, in the brain mask, with the one nearest in
    q-space, where v and -v are one direction.
    Yeh et al. 2019, doi:10.1016/j.neuroimage.2019.116131.

    Returns
    -------
    float or None
        Mean correlation; None with fewer than two weighted volumes or an empty mask.
    """
    data, gtab, inside = dwi.data, dwi.gtab, dwi.brain
    index = np.flatnonzero(~gtab.is_b0)
    if index.size < 2 or inside.sum() < 2:
        return None
    q = np.sqrt(gtab.bvals[index])[:, None] * gtab.bvecs_ras[index]
    apart = np.minimum(
        np.linalg.norm(q[:, None] - q[None], axis=2), np.linalg.norm(q[:, None] + q[None], axis=2)
    )
    np.fill_diagonal(apart, np.inf)
    values = np.stack([data[..., i][inside] for i in index]).astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1)
    nearest = apart.argmin(axis=1)
    product = np.einsum("nv,nv->n", values, values[nearest])
    scale = length * length[nearest]
    return float(np.mean(np.where(scale > 0, product / np.where(scale > 0, scale, 1.0), 0.0)))


def find_bad_slices(dwi: Dwi, slice_numbers: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Find slices whose signal in the brain is lost.

    The logarithm of a slice's mean is compared with the same slice of the other volumes of its
    shell, after the volume's own level and the slice's usual level are taken out.

    Parameters
    ----------
    dwi
        A series with its brain mask.
    slice_numbers
        Shape (X, Y, Z): the slice that each voxel was acquired in, from 0; below 0 for voxels
        outside. By default slices are those of the third axis. A series that was resampled needs
        it: its axes may cut through the slices of the acquisition.

    Returns
    -------
    ndarray
        Shape (N, S), bool. Volumes of shells with fewer than five volumes are not judged.
    """
    data, gtab, inside = dwi.data, dwi.gtab, dwi.brain
    if slice_numbers is None:
        numbers = np.broadcast_to(np.arange(data.shape[2]), data.shape[:3])
    else:
        numbers = np.asarray(slice_numbers)
    inside = inside & (numbers >= 0)
    number = numbers[inside]
    n_slices = int(max(numbers.max(), 0)) + 1
    bad = np.zeros((len(gtab), n_slices), dtype=bool)
    count = np.bincount(number, minlength=n_slices)
    slices = np.flatnonzero(count >= BAD_SLICE_VOXELS)
    if slices.size < 3:
        return bad
    sums = [np.bincount(number, data[..., n][inside], n_slices) for n in range(len(gtab))]
    means = np.stack(sums)[:, slices] / count[slices]
    # A slice without any signal is as bad as can be: keep its logarithm finite.
    level = np.log(np.maximum(means, 1e-3 * np.abs(means).max() + 1e-12))
    for shell in gtab.shells:
        if len(shell.index) < BAD_SLICE_VOLUMES:
            continue
        index = np.array(shell.index)
        rest = level[index] - np.median(level[index], axis=0)
        rest -= np.median(rest, axis=1, keepdims=True)
        spread = 1.4826 * np.median(np.abs(rest))
        limit = -max(BAD_SLICE_DEVIATIONS * spread, -np.log(1.0 - BAD_SLICE_LOSS))
        bad[np.ix_(index, slices)] = rest < limit
    return bad


class SnrB0(NamedTuple):
    """Signal-to-noise ratio of b=0."""

    snr: float | None  # None if the noise is not known
    is_temporal: bool  # whether the noise comes from repeated volumes


def measure_snr_b0(dwi: Dwi) -> SnrB0:
    """Measure the signal-to-noise ratio of b=0 in the brain.

    With two b=0 volumes or more the noise comes from their differences (the median over the
    brain, so that pulsation and edges count little). Otherwise it comes from the background,
    whose signal is Rayleigh-distributed.
    """
    data, gtab, inside = dwi.data, dwi.gtab, dwi.brain
    index = np.flatnonzero(gtab.is_b0)
    if not index.size or not inside.any():
        return SnrB0(None, False)
    b0 = np.stack([data[..., i] for i in index]).astype(np.float64)
    mean = b0.mean(axis=0)
    if index.size >= 2:
        freedom = index.size - 1
        variance = b0[:, inside].var(axis=0, ddof=1)
        noise = float(np.sqrt(np.median(variance) * freedom / chi2.ppf(0.5, freedom)))
        return SnrB0(float(np.median(mean[inside])) / noise if noise > 0 else None, True)
    away = ~binary_dilation(inside, iterations=6)
    background = mean[away & (mean > 0)]
    # Background that was set to zero, or mixed with zeros by resampling, tells nothing.
    if background.size < BACKGROUND_VOXELS or background.size < 0.5 * away.sum():
        return SnrB0(None, False)
    noise = float(np.median(background) / np.sqrt(2.0 * np.log(2.0)))
    return SnrB0(float(np.median(mean[inside])) / noise, False)


def map_cnr(dwi: Dwi, shell: Shell) -> NDArray[np.float64] | None:
    """Map the contrast-to-noise ratio of a shell.

    The signal over directions is modelled by the six terms of second order; the contrast is
    the spread of the model (less what noise adds to it), the noise the spread of the residual.
    It plays the part of the ratio that eddy maps (Bastiani et al. 2019,
    doi:10.1016/j.neuroimage.2018.09.073), with another model: eddy's is a Gaussian process, whose
    spread holds what noise adds to it.

    Returns
    -------
    ndarray or None
        Shape (X, Y, Z); NaN outside the brain and where nothing is left over. None if fewer than
        two degrees of freedom remain.
    """
    data, inside = dwi.data, dwi.brain
    index = np.array(shell.index)
    # In this order, and mixed terms once: part of the rounding of published tables.
    terms = np.take(quadratic_terms(dwi.gtab.bvecs_ras[index]), DIAGONAL_FIRST, axis=-1)
    design = terms / [1, 1, 1, 2, 2, 2]
    rank = int(np.linalg.matrix_rank(design, tol=1e-3))
    freedom = index.size - rank
    if freedom < CNR_FREEDOM or not inside.any():
        return None
    values = np.stack([data[..., i][inside] for i in index]).astype(np.float64)
    model = design @ (np.linalg.pinv(design, rcond=1e-3) @ values)
    noise = ((values - model) ** 2).sum(axis=0) / freedom
    contrast = model.var(axis=0, ddof=1) - noise * (rank - 1) / (index.size - 1)
    known = noise > 0
    found = np.full(noise.shape, np.nan)
    found[known] = np.sqrt(np.maximum(contrast[known], 0.0) / noise[known])
    cnr = np.full(inside.shape, np.nan)
    cnr[inside] = found
    return cnr


def median_cnr(cnr: NDArray[np.float64] | None) -> float | None:
    """Return the median of a map of :func:`map_cnr`; None where there is no map or no value."""
    known = np.array([]) if cnr is None else cnr[np.isfinite(cnr)]
    return float(np.median(known)) if known.size else None


def tensor_quality(
    diffusivity: NDArray[Any] | None, brain: NDArray[np.bool_]
) -> dict[str, float | None]:
    """Return the shares of a brain's tensors that are not finite, have FA above 1, are negative.

    Parameters
    ----------
    diffusivity
        Shape (X, Y, Z, 6), mm^2/s, not clipped; None where no tensor was fitted.
    brain
        Shape (X, Y, Z), bool.

    Returns
    -------
    dict
        Columns of the table; None for what cannot be known.

    Raises
    ------
    ImageError
        If the tensors are on another grid.
    """
    if diffusivity is None or not brain.any():
        return dict.fromkeys(
            ("fa_nan_fraction", "fa_out_of_range_fraction", "negative_diffusivity_fraction")
        )
    if diffusivity.shape != (*brain.shape, 6):
        raise ImageError(
            f"tensors of shape {diffusivity.shape} for a mask of shape {brain.shape}",
            expected="(X, Y, Z, 6) on the grid of the preprocessed series",
        )
    tensor = diffusivity[brain]
    finite = np.isfinite(tensor).all(axis=1)
    values = np.linalg.eigvalsh(to_matrices(tensor[finite]).astype(np.float64))
    squared = (values**2).sum(axis=1)
    spread = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    # sqrt(1.5 spread / squared) > 1, without the division.
    above = 1.5 * spread > squared * (1.0 + 1e-6)
    return {
        "fa_nan_fraction": float(1.0 - finite.mean()),
        "fa_out_of_range_fraction": float(above.sum() / len(tensor)),
        "negative_diffusivity_fraction": float((values[:, 0] < 0).sum() / len(tensor)),
    }


def series_quality(
    dwi: Dwi,
    raw: Dwi | None = None,
    *,
    fd_mm: ArrayLike | None = None,
    is_outlier: ArrayLike | None = None,
    slice_numbers: ArrayLike | None = None,
    cnr: Mapping[Shell, NDArray[np.float64] | None] | None = None,
    run_sizes: Sequence[int] = (),
) -> dict[str, float | int | None]:
    """Measure the quality of a series, raw and preprocessed.

    Parameters
    ----------
    dwi
        The preprocessed series with its brain mask.
    raw
        The raw series with its brain mask, on its own grid; None where there is none: its
        measures, :data:`RAW_MEASURES`, are None then.
    fd_mm
        Shape (N,): framewise displacement, mm; that of the first volume does not count.
    is_outlier
        Shape (N, Z), bool: slices that motion correction flagged.
    slice_numbers
        Shape of the preprocessed series: slices of the acquisition, see :func:`find_bad_slices`.
    cnr
        Maps of :func:`map_cnr` by shell, where they are there already.
    run_sizes
        Number of volumes of each run of the raw series; by default it is one.

    Returns
    -------
    dict
        Columns of the table, among them `cnr_b<b-value>` of every shell; None where unknown.

    Raises
    ------
    ImageError
        If a series has no mask.
    """
    of_raw: dict[str, float | int | None] = dict.fromkeys(RAW_MEASURES)
    if raw is not None:
        assert fd_mm is not None
        assert is_outlier is not None
        of_raw = _raw_quality(raw, fd_mm, is_outlier, run_sizes)
    row = {
        "raw_neighbor_corr": of_raw.pop("raw_neighbor_corr"),
        "preproc_neighbor_corr": neighbour_correlation(dwi),
        "raw_num_bad_slices": of_raw.pop("raw_num_bad_slices"),
        "preproc_num_bad_slices": int(find_bad_slices(dwi, slice_numbers).sum()),
        **of_raw,
    }
    for shell in dwi.gtab.shells:
        # Runs of one protocol differ by a few s/mm^2 and share a column.
        found = map_cnr(dwi, shell) if cnr is None else cnr[shell]
        row[f"cnr_b{round(shell.bval, -1):.0f}"] = median_cnr(found)
    return row


def _raw_quality(
    raw: Dwi, fd_mm: ArrayLike, is_outlier: ArrayLike, run_sizes: Sequence[int]
) -> dict[str, float | int | None]:
    """Return :data:`RAW_MEASURES`, in this order."""
    moved = np.asarray(fd_mm, dtype=np.float64)[1:]
    moved = moved[np.isfinite(moved)]
    snr_b0 = measure_snr_b0(raw)
    return {
        "raw_neighbor_corr": neighbour_correlation(raw),
        "raw_num_bad_slices": int(find_bad_slices(raw).sum()),
        "raw_num_cut_volumes": len(find_cut_volumes(raw.data)),
        "num_outlier_slices": int(np.sum(is_outlier)),
        "mean_fd": float(moved.mean()) if moved.size else None,
        "max_fd": float(moved.max()) if moved.size else None,
        "snr_b0": snr_b0.snr,
        "snr_b0_is_temporal": None if snr_b0.snr is None else int(snr_b0.is_temporal),
        "signal_drift_percent": measure_signal_drift(raw, run_sizes),
    }


def mask_volume_ml(dwi: Dwi) -> float:
    """Return the volume of the brain mask, ml."""
    voxel_ml = abs(float(np.linalg.det(dwi.affine[:3, :3]))) / 1000.0
    return float(dwi.brain.sum()) * voxel_ml
