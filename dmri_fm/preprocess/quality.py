"""Measures of image quality: one row of numbers per series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.stats import chi2

from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradients import GradientTable, Shell
from dmri_fm.preprocess.raw_series import find_cut_volumes
from dmri_fm.tensor_networks.gate import OOD_PERCENTILE

__all__ = [
    "QUALITY_COLUMNS",
    "describe_quality",
    "find_bad_slices",
    "image_quality",
    "measure_cnr",
    "measure_snr_b0",
    "neighbour_correlation",
    "network_measures",
]

#: A slice is bad if its signal is below its shell's by this many robust deviations ...
BAD_SLICE_DEVIATIONS = 4.0
#: ... and by this share at least.
BAD_SLICE_LOSS = 0.1
#: Slices with fewer voxels of the mask are left out.
BAD_SLICE_VOXELS = 50
#: Shells with fewer volumes have no usual level to compare with.
BAD_SLICE_VOLUMES = 5

#: Degrees of freedom that must remain after the six terms of the CNR's model.
CNR_FREEDOM = 2

#: Voxels of background needed to take the noise from it.
BACKGROUND_VOXELS = 500

#: What is left of the difference of two maps after smoothing by this is a bias, mm.
BIAS_SIGMA_MM = 8.0

#: Description and unit of each column of the table of image quality; `cnr_b*` has the shell's
#: b-value in place of the asterisk.
QUALITY_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "raw_neighbor_corr": {
        "Description": "Mean correlation of each volume with the one nearest in q-space, raw"
    },
    "preproc_neighbor_corr": {
        "Description": "Mean correlation of each volume with the one nearest in q-space, "
        "preprocessed"
    },
    "raw_num_bad_slices": {
        "Description": "Raw slices that lost signal against the same slice of their shell"
    },
    "preproc_num_bad_slices": {
        "Description": "Preprocessed slices that lost signal against the same slice of their shell"
    },
    "raw_num_cut_volumes": {
        "Description": "Raw volumes that were cut short: a quarter of the slices that hold signal "
        "in the others, or more, is zero"
    },
    "num_outlier_slices": {"Description": "Slices that motion correction flagged as outliers"},
    "mean_fd": {"Description": "Mean framewise displacement", "Units": "mm"},
    "max_fd": {"Description": "Largest framewise displacement", "Units": "mm"},
    "snr_b0": {"Description": "Median of b=0 signal over noise in the brain mask"},
    "snr_b0_is_temporal": {
        "Description": "1: noise of snr_b0 from repeated b=0 volumes; 0: from a noise map or the "
        "background"
    },
    "cnr_b*": {
        "Description": "Contrast-to-noise ratio of a shell: median over the brain of the spread "
        "of the signal over directions, over the residual of a model of second order"
    },
    "fa_nan_fraction": {"Description": "Share of brain voxels where FA is not a number, 0 to 1"},
    "fa_out_of_range_fraction": {
        "Description": "Share of brain voxels whose FA, before clipping, is above 1, 0 to 1"
    },
    "negative_diffusivity_fraction": {
        "Description": "Share of brain voxels whose tensor has a negative eigenvalue, 0 to 1"
    },
    "mask_volume_ml": {"Description": "Volume of the brain mask", "Units": "ml"},
    "registration_dice": {
        "Description": "Overlap of the registered brain mask and that of the template, 0 to 1"
    },
    "ood_score": {
        "Description": "Largest of five signs that the scan is unlike the encoder's training data"
    },
    "ood_percentile": {
        "Description": "Share of sound training scans with a lower score",
        "Units": "percent",
    },
}


def describe_quality(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return description and unit of columns of the quality table.

    Examples
    --------
    >>> describe_quality(["mean_fd"])
    {'mean_fd': {'Description': 'Mean framewise displacement', 'Units': 'mm'}}
    """
    return {
        name: dict(QUALITY_COLUMNS["cnr_b*" if name.startswith("cnr_b") else name])
        for name in columns
    }


def neighbour_correlation(
    data: NDArray[Any], gtab: GradientTable, *, mask: ArrayLike
) -> float | None:
    """Return the neighbouring DWI correlation of a series.

    Each diffusion-weighted volume is correlated with the one nearest in q-space, where v and
    -v are one direction. Yeh et al. 2019, doi:10.1016/j.neuroimage.2019.116131.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N).
    gtab
        Its gradient table.
    mask
        Shape (X, Y, Z): voxels to correlate.

    Returns
    -------
    float or None
        Mean correlation; None with fewer than two weighted volumes or an empty mask.
    """
    _check(data, gtab, mask)
    index = np.flatnonzero(~gtab.is_b0)
    inside = np.asarray(mask) > 0
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


def find_bad_slices(
    data: NDArray[Any], gtab: GradientTable, *, mask: ArrayLike
) -> NDArray[np.bool_]:
    """Find slices (third axis) whose signal is lost.

    The logarithm of a slice's mean is compared with the same slice of the other volumes of its
    shell, after the volume's own level and the slice's usual level are taken out.

    Returns
    -------
    ndarray
        Shape (N, Z), bool. Volumes of shells with fewer than five volumes are not judged.
    """
    _check(data, gtab, mask)
    inside = np.asarray(mask) > 0
    bad = np.zeros((len(gtab), data.shape[2]), dtype=bool)
    slices = np.flatnonzero(inside.sum(axis=(0, 1)) >= BAD_SLICE_VOXELS)
    if slices.size < 3:
        return bad
    means = np.stack(
        [[data[:, :, z, n][inside[:, :, z]].mean() for z in slices] for n in range(len(gtab))]
    )
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


def measure_snr_b0(
    data: NDArray[Any],
    gtab: GradientTable,
    *,
    mask: ArrayLike,
    sigma: NDArray[Any] | float | None = None,
) -> tuple[float | None, bool]:
    """Measure the signal-to-noise ratio of b=0.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N).
    gtab
        Its gradient table.
    mask
        Shape (X, Y, Z): the brain.
    sigma
        Noise from denoising, one number or shape (X, Y, Z); read where there is a single b=0.

    Returns
    -------
    snr
        With two b=0 volumes or more the noise comes from their differences (the median over the
        brain, so that pulsation and edges count little). Otherwise from `sigma`; otherwise from
        the background, whose signal is Rayleigh-distributed. None if all are missing.
    is_temporal
        The noise comes from repeated volumes.
    """
    _check(data, gtab, mask)
    inside = np.asarray(mask) > 0
    index = np.flatnonzero(gtab.is_b0)
    if not index.size or not inside.any():
        return None, False
    b0 = np.stack([data[..., i] for i in index]).astype(np.float64)
    mean = b0.mean(axis=0)
    if index.size >= 2:
        freedom = index.size - 1
        variance = b0[:, inside].var(axis=0, ddof=1)
        noise = float(np.sqrt(np.median(variance) * freedom / chi2.ppf(0.5, freedom)))
        return (float(np.median(mean[inside])) / noise if noise > 0 else None), True
    if sigma is not None:
        noise_map = np.broadcast_to(np.asarray(sigma, dtype=np.float64), inside.shape)[inside]
        known = noise_map > 0
        if known.any():
            return float(np.median(mean[inside][known] / noise_map[known])), False
    away = ~binary_dilation(inside, iterations=6)
    background = mean[away & (mean > 0)]
    # Background that was set to zero, or mixed with zeros by resampling, tells nothing.
    if background.size < BACKGROUND_VOXELS or background.size < 0.5 * away.sum():
        return None, False
    noise = float(np.median(background) / np.sqrt(2.0 * np.log(2.0)))
    return float(np.median(mean[inside])) / noise, False


def measure_cnr(
    data: NDArray[Any], shell: Shell, gtab: GradientTable, *, mask: ArrayLike
) -> float | None:
    """Measure the contrast-to-noise ratio of a shell.

    The signal over directions is modelled by the six terms of second order; the contrast is
    the spread of the model (less what noise adds to it), the noise the spread of the residual.
    It plays the part of the ratio that eddy reports (Bastiani et al. 2019,
    doi:10.1016/j.neuroimage.2018.09.073), with another model.

    Returns
    -------
    float or None
        Median over the mask; None if fewer than two degrees of freedom remain.
    """
    _check(data, gtab, mask)
    inside = np.asarray(mask) > 0
    index = np.array(shell.index)
    x, y, z = gtab.bvecs_ras[index].T
    design = np.stack([x * x, y * y, z * z, x * y, x * z, y * z], axis=1)
    rank = int(np.linalg.matrix_rank(design, tol=1e-3))
    freedom = index.size - rank
    if freedom < CNR_FREEDOM or not inside.any():
        return None
    values = np.stack([data[..., i][inside] for i in index]).astype(np.float64)
    model = design @ (np.linalg.pinv(design, rcond=1e-3) @ values)
    noise = ((values - model) ** 2).sum(axis=0) / freedom
    contrast = model.var(axis=0, ddof=1) - noise * (rank - 1) / (index.size - 1)
    known = noise > 0
    if not known.any():
        return None
    return float(np.median(np.sqrt(np.maximum(contrast[known], 0.0) / noise[known])))


def _tensor_measures(tensor: NDArray[Any]) -> dict[str, float]:
    """Return shares of (M, 6) tensors that are not finite, have FA above 1, are negative."""
    finite = np.isfinite(tensor).all(axis=1)
    matrices = tensor[finite][:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    values = np.linalg.eigvalsh(matrices.astype(np.float64))
    squared = (values**2).sum(axis=1)
    spread = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    # sqrt(1.5 spread / squared) > 1, without the division.
    above = 1.5 * spread > squared * (1.0 + 1e-6)
    return {
        "fa_nan_fraction": float(1.0 - finite.mean()),
        "fa_out_of_range_fraction": float(above.sum() / len(tensor)),
        "negative_diffusivity_fraction": float((values[:, 0] < 0).sum() / len(tensor)),
    }


def network_measures(
    network: NDArray[Any],
    fitted: NDArray[Any] | None,
    *,
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    ood: NDArray[Any] | None,
) -> dict[str, float | None]:
    """Look for the known ways in which networks fail to estimate tensors.

    FA above 1, negative diffusivities, a smooth bias against the fit, and input unlike the
    training data (Karimi and Warfield 2024, doi:10.48550/arXiv.2402.00019).

    Parameters
    ----------
    network, fitted
        Shape (X, Y, Z, 6), mm^2/s: tensors of the network and of the fit.
    mask
        Shape (X, Y, Z): the brain.
    affine
        Voxel to RAS+ mm.
    ood
        Shape (X, Y, Z): out-of-distribution percentile among training data, or None.

    Returns
    -------
    dict
        `fa_out_of_range_fraction`, `negative_diffusivity_fraction`, `md_bias`, and
        `ood_fraction`; None for what cannot be known.
    """
    measures = _tensor_measures(network[mask])
    bias = None
    if fitted is not None:
        md, reference = (
            np.where(mask, t[..., [0, 3, 5]].mean(axis=3), 0.0) for t in (network, fitted)
        )
        voxel_mm = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
        weight = gaussian_filter(mask.astype(np.float64), BIAS_SIGMA_MM / voxel_mm)
        smooth = [
            gaussian_filter(m, BIAS_SIGMA_MM / voxel_mm) for m in (md - reference, reference)
        ]
        known = mask & (weight > 0.5) & (smooth[1] > 0)
        if known.any():
            bias = float(np.percentile(np.abs(smooth[0][known] / smooth[1][known]), 99))
    far = None if ood is None else float((ood[mask] >= OOD_PERCENTILE).mean())
    return {
        "fa_out_of_range_fraction": measures["fa_out_of_range_fraction"],
        "negative_diffusivity_fraction": measures["negative_diffusivity_fraction"],
        "md_bias": bias,
        "ood_fraction": far,
    }


def image_quality(
    data: NDArray[Any],
    gtab: GradientTable,
    *,
    mask: ArrayLike,
    affine: ArrayLike,
    raw: NDArray[Any] | None = None,
    raw_gtab: GradientTable | None = None,
    raw_mask: ArrayLike | None = None,
    sigma: NDArray[Any] | float | None = None,
    fd_mm: ArrayLike | None = None,
    is_outlier: ArrayLike | None = None,
    diffusivity: NDArray[Any] | None = None,
    registration_dice: float | None = None,
    ood_score: float | None = None,
    ood_percentile: float | None = None,
) -> dict[str, float | int | None]:
    """Measure the quality of a series, raw and preprocessed.

    Parameters
    ----------
    data, gtab, mask, affine
        The preprocessed series, shape (X, Y, Z, N), its gradient table, brain mask and
        voxel-to-RAS+ mm affine.
    raw, raw_gtab, raw_mask
        The same of the raw series, on its own grid.
    sigma
        Noise of the raw series from denoising, raw grid or one number.
    fd_mm
        Shape (N,): framewise displacement, mm; the first volume has none and is left out.
    is_outlier
        Shape (N, Z), bool: slices that motion correction flagged.
    diffusivity
        Shape (X, Y, Z, 6), mm^2/s: the fitted tensor, not clipped, on the preprocessed grid.
    registration_dice, ood_score, ood_percentile
        Passed on.

    Returns
    -------
    dict
        One row of the table; None for what cannot be known. Columns are described by
        :func:`describe_quality`; there is a `cnr_b<b-value>` for every shell.

    Raises
    ------
    ImageError, GradientError
        If shapes do not fit.
    """
    _check(data, gtab, mask)
    inside = np.asarray(mask) > 0
    row: dict[str, float | int | None] = dict.fromkeys(
        (
            "raw_neighbor_corr",
            "preproc_neighbor_corr",
            "raw_num_bad_slices",
            "preproc_num_bad_slices",
        )
    )
    row["raw_num_cut_volumes"] = None if raw is None else len(find_cut_volumes(raw))
    for name, series, table, brain in (
        ("raw", raw, raw_gtab, raw_mask),
        ("preproc", data, gtab, mask),
    ):
        if series is None or table is None or brain is None:
            continue
        row[f"{name}_neighbor_corr"] = neighbour_correlation(series, table, mask=brain)
        row[f"{name}_num_bad_slices"] = int(find_bad_slices(series, table, mask=brain).sum())
    row["num_outlier_slices"] = None if is_outlier is None else int(np.sum(is_outlier))
    moved = np.array([]) if fd_mm is None else np.asarray(fd_mm, dtype=np.float64)[1:]
    moved = moved[np.isfinite(moved)]
    row["mean_fd"] = float(moved.mean()) if moved.size else None
    row["max_fd"] = float(moved.max()) if moved.size else None

    if raw is not None and raw_gtab is not None and raw_mask is not None:
        snr, is_temporal = measure_snr_b0(raw, raw_gtab, mask=raw_mask, sigma=sigma)
    else:
        snr, is_temporal = measure_snr_b0(data, gtab, mask=mask)
    row["snr_b0"] = snr
    row["snr_b0_is_temporal"] = None if snr is None else int(is_temporal)
    for shell in gtab.shells:
        # Runs of one protocol differ by a few s/mm^2 and share a column.
        row[f"cnr_b{round(shell.bval, -1):.0f}"] = measure_cnr(data, shell, gtab, mask=mask)

    measures: Mapping[str, float | None] = dict.fromkeys(
        ("fa_nan_fraction", "fa_out_of_range_fraction", "negative_diffusivity_fraction")
    )
    if diffusivity is not None and inside.any():
        if diffusivity.shape != (*inside.shape, 6):
            raise ImageError(
                f"tensors of shape {diffusivity.shape} for a mask of shape {inside.shape}",
                expected="(X, Y, Z, 6) on the grid of the preprocessed series",
            )
        measures = _tensor_measures(diffusivity[inside])
    row.update(measures)
    voxel_ml = abs(float(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3]))) / 1000.0
    row["mask_volume_ml"] = float(inside.sum()) * voxel_ml
    row["registration_dice"] = registration_dice
    row["ood_score"] = ood_score
    row["ood_percentile"] = ood_percentile
    return row


def _check(data: NDArray[Any], gtab: GradientTable, mask: ArrayLike) -> None:
    if data.ndim != 4 or np.shape(mask) != data.shape[:3]:
        raise ImageError(
            f"series of shape {data.shape} with a mask of shape {np.shape(mask)}",
            expected="(X, Y, Z, N) and (X, Y, Z)",
        )
    if data.shape[3] != len(gtab):
        raise GradientError(
            f"{len(gtab)} gradients for {data.shape[3]} volumes",
            expected="one gradient per volume",
        )
