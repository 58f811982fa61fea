"""Baselines: classical estimates of the tensor from the same seven volumes as a network's.

A baseline takes a series with a brain mask and returns tensor maps within it. To add one, write
its function here and an entry in :data:`BASELINES`: tables, options and outputs follow.

Baselines that smooth take their strength from the estimated signal-to-noise ratio, by a table
that :mod:`dmri_fm_lab.evaluate.tune_baselines` made on the simulation that networks are trained
on, never on scans that are evaluated. Those patches are as acquired: of interpolated series the
noise has to be told, as interpolation takes most of the fine detail that it is estimated from.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.denoise import DenoiseMethod, denoise
from dmri_fm.qspace import choose_spread
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor, smallest_signal
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.log_fit import log_design, weighted_inverse
from dmri_fm_lab.smoothing import brain_snr, noise_sigma, smooth_within

Fit = Callable[[Dwi], TensorMaps]

#: Takes a series as acquired to the grid of a comparison.
Bring = Callable[[Dwi], Dwi]
Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Baseline(Generic[Function]):
    """A classical method that a network is compared with.

    Attributes
    ----------
    title
        Its name in tables.
    apply
        The method.
    """

    title: str
    apply: Function


#: Upper ends of the bins of the estimated signal-to-noise ratio; the last has none.
SNR_EDGES = (8.0, 12.0, 18.0, 27.0, 40.0, 60.0)

#: Strengths that tuning compares; zero does not change the images.
CANDIDATES: Mapping[str, tuple[float, ...]] = {
    "gaussian": (0.0, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0),
    "nlmeans": (0.0, 0.05, 0.1, 1.0),
    "tv": (0.0, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0, 1.4),
}

#: Strengths by bin, from `python -m dmri_fm_lab.evaluate.tune_baselines --samples 84 --side 32`;
#: 5 to 31 of the patches lie in each bin, none in the first, which has the strengths of the
#: second. Of the Gaussian: voxels; of the others: shares of the estimated standard deviation of
#: the noise. Errors of FA and MD there, over those of WLS: Gaussian .57 .67 .72 .81 .91 .98,
#: non-local means .63 .75 .78 .94 1 1, total variation .57 .70 .74 .80 .88 .94.
TUNED: Mapping[str, tuple[float, ...]] = {
    "gaussian": (0.6, 0.6, 0.6, 0.55, 0.5, 0.4, 0.35),
    "nlmeans": (1.0, 1.0, 0.1, 0.1, 1.0, 0.0, 0.0),
    "tv": (0.45, 0.45, 0.45, 0.45, 0.45, 0.3, 0.45),
}

#: Widths of the Gaussian among which the oracle chooses, voxels.
ORACLE_SIGMAS = tuple(sorted({*CANDIDATES["gaussian"], 0.9, 1.2}))

#: Weighted fits after the first, unweighted one.
N_ITERATIONS = 5

#: Voxels around the brain that are kept when images are denoised.
_MARGIN = 3


def tuned(method: str, snr: float) -> float:
    """Return the strength of a method at a signal-to-noise ratio.

    Parameters
    ----------
    method
        Key of :data:`TUNED`.
    snr
        Median b=0 signal of the brain over the noise.
    """
    return TUNED[method][int(np.searchsorted(SNR_EDGES, snr, side="right"))]


def keep(dwi: Dwi) -> Dwi:
    """Return a series unchanged: it is compared on the grid on which it was acquired."""
    return dwi


def _mask(dwi: Dwi) -> NDArray[np.bool_]:
    return np.ones(dwi.shape[:3], dtype=bool) if dwi.mask is None else dwi.mask


def _fit(data: NDArray[np.float32], dwi: Dwi) -> TensorMaps:
    """Fit a series whose voxels are replaced by `data`."""
    changed = Dwi.from_arrays(data, dwi.affine, dwi.gtab, mask=_mask(dwi))
    return fit_tensor(changed, shell="all")


def fit_weighted(dwi: Dwi) -> TensorMaps:
    """Fit by weighted least squares."""
    return fit_tensor(dwi, mask=_mask(dwi), shell="all")


def fit_iteratively(dwi: Dwi) -> TensorMaps:
    """Fit by least squares, with weights updated :data:`N_ITERATIONS` times.

    One b=0 volume and six directions are fitted exactly by any weights: then the result is that
    of :func:`fit_weighted`.
    """
    mask = _mask(dwi)
    design = log_design(dwi.gtab)
    log_s = np.log(np.maximum(dwi.data[mask].astype(np.float64), smallest_signal(dwi, mask)))
    beta = log_s @ np.linalg.pinv(design).T
    for _ in range(N_ITERATIONS):
        inverse, _weight = weighted_inverse(design, beta @ design.T)
        beta = np.einsum("min,mn->mi", inverse, log_s)
    tensor = np.zeros((*mask.shape, 6))
    tensor[mask] = 1e-3 * beta[:, :6]
    return TensorMaps.from_tensor(tensor, mask, affine=dwi.affine, model="tensor")


def fit_gaussian(
    dwi: Dwi, sigma_voxels: float | None = None, *, noise: float | None = None
) -> TensorMaps:
    """Fit after Gaussian smoothing within the brain.

    Parameters
    ----------
    dwi
        The series.
    sigma_voxels
        Standard deviation; tuned to the signal-to-noise ratio if None.
    noise
        Standard deviation of one volume's noise, scanner units; estimated from the series if None.
    """
    if sigma_voxels is None:
        sigma_voxels = tuned("gaussian", brain_snr(dwi, noise))
    return _fit(smooth_within(dwi.data, _mask(dwi), sigma_voxels), dwi)


def fit_nlmeans(
    dwi: Dwi, strength: float | None = None, *, noise: float | None = None
) -> TensorMaps:
    """Fit after non-local means of each volume (Coupe et al. 2008, doi:10.1109/TMI.2007.906087).

    Parameters
    ----------
    dwi
        The series.
    strength
        Noise that is assumed over `noise`; tuned to the signal-to-noise ratio if None.
    noise
        See :func:`fit_gaussian`.
    """
    from dipy.denoise.nlmeans import nlmeans

    def denoise_box(
        images: NDArray[np.float32], mask: NDArray[np.bool_], sigma: float, share: float
    ) -> NDArray[np.float64]:
        denoised: NDArray[np.float64] = nlmeans(
            np.ascontiguousarray(images, dtype=np.float64),
            sigma * share,
            mask=np.ascontiguousarray(mask),
            patch_radius=1,
            block_radius=5,
            rician=False,
            num_threads=1,
        )
        return denoised

    return _fit_denoised_box(dwi, "nlmeans", strength, noise, denoise_box)


def fit_total_variation(
    dwi: Dwi, strength: float | None = None, *, noise: float | None = None
) -> TensorMaps:
    """Fit after total-variation denoising of each volume (Chambolle 2004).

    doi:10.1023/B:JMIV.0000011321.19549.88.

    Parameters
    ----------
    dwi
        The series.
    strength
        Weight over `noise`; tuned to the signal-to-noise ratio if None.
    noise
        See :func:`fit_gaussian`.
    """
    from skimage.restoration import denoise_tv_chambolle

    def denoise_box(
        images: NDArray[np.float32], mask: NDArray[np.bool_], sigma: float, share: float
    ) -> NDArray[np.float32]:
        volumes = np.moveaxis(images, 3, 0)
        return np.stack(
            [sigma * denoise_tv_chambolle(v / sigma, weight=share) for v in volumes], axis=3
        )

    return _fit_denoised_box(dwi, "tv", strength, noise, denoise_box)


def _fit_denoised_box(
    dwi: Dwi,
    method: str,
    strength: float | None,
    noise: float | None,
    denoise_box: Callable[..., NDArray[np.floating]],
) -> TensorMaps:
    """Fit after denoising around the brain, with a strength over the noise."""
    sigma = noise_sigma(dwi) if noise is None else noise
    share = tuned(method, brain_snr(dwi, sigma)) if strength is None else strength
    if not sigma * share > 0:
        return fit_weighted(dwi)
    box, data = _box(dwi), dwi.data.copy()
    data[box] = denoise_box(data[box], _mask(dwi)[box], sigma, share)
    return _fit(data, dwi)


def _box(dwi: Dwi) -> tuple[slice, slice, slice]:
    """Return the box of the brain with a margin."""
    where = np.argwhere(_mask(dwi))
    low, high = np.maximum(where.min(axis=0) - _MARGIN, 0), where.max(axis=0) + 1 + _MARGIN
    first, second, third = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return first, second, third


def denoise_series(dwi: Dwi, *, method: DenoiseMethod) -> Dwi:
    """Return a series denoised as by the preprocessing, within its mask if it has one.

    MP-PCA: Veraart et al. 2016, doi:10.1016/j.neuroimage.2016.08.016. Patch2Self: Fadnavis et al.
    2020, doi:10.48550/arXiv.2011.01355.
    """
    with (
        warnings.catch_warnings(),
        np.errstate(invalid="ignore", divide="ignore"),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        # Both methods warn of seven volumes, divide by zero outside the mask, and show bars.
        warnings.simplefilter("ignore")
        data = denoise(dwi, method=method).data
    return Dwi.from_arrays(data, dwi.affine, dwi.gtab, mask=dwi.mask)


def fit_denoised(dwi: Dwi, *, method: DenoiseMethod, bring: Bring = keep) -> TensorMaps:
    """Fit after denoising, which comes before any interpolation.

    Parameters
    ----------
    dwi
        The series as acquired.
    method
        See :func:`denoise_series`.
    bring
        Takes the denoised series to the grid of the result.
    """
    return fit_weighted(bring(denoise_series(dwi, method=method)))


#: Baselines whose strength is tuned to the signal-to-noise ratio; they take the noise as a number.
SMOOTHERS: dict[str, Callable[..., TensorMaps]] = {
    "gaussian": fit_gaussian,
    "nlmeans": fit_nlmeans,
    "tv": fit_total_variation,
}

#: Baselines that denoise, by :func:`fit_denoised`.
DENOISED: tuple[DenoiseMethod, ...] = ("mppca", "patch2self")


#: Tensor from the seven volumes, in the order of tables.
BASELINES: dict[str, Baseline[Fit]] = {
    "wls": Baseline("WLS", fit_weighted),
    "iwls": Baseline("IWLS", fit_iteratively),
    "gaussian": Baseline("Gaussian, WLS", fit_gaussian),
    "nlmeans": Baseline("non-local means, WLS", fit_nlmeans),
    "tv": Baseline("total variation, WLS", fit_total_variation),
    "mppca": Baseline("MP-PCA of the seven, WLS", partial(fit_denoised, method="mppca")),
    "patch2self": Baseline(
        "Patch2Self of the seven, WLS", partial(fit_denoised, method="patch2self")
    ),
}

#: Oracles that denoise the whole series, the reference's volumes too, before seven are taken.
SERIES_ORACLES: dict[str, Baseline[Callable[[Dwi], Dwi]]] = {
    "mppca-series": Baseline(
        "MP-PCA of the whole series (oracle)", partial(denoise_series, method="mppca")
    ),
    "patch2self-series": Baseline(
        "Patch2Self of the whole series (oracle)", partial(denoise_series, method="patch2self")
    ),
}

#: Numbers of directions whose denoised fit is compared with networks that read six.
N_DIRECTIONS = (12, 20, 30)

#: Directions for each b=0 volume of a protocol.
_DIRECTIONS_PER_B0 = 15

#: Rows of fits to more directions than six, by name.
DIRECTION_ROWS: dict[str, str] = {
    f"mppca-{n}": f"MP-PCA, WLS of {n} directions" for n in N_DIRECTIONS
}

#: Row of the fit to the whole shell, denoised with the whole series; of a real scan, its volumes
#: are the reference's.
WHOLE_SERIES: dict[str, str] = {"mppca-all": "MP-PCA, WLS of all volumes (oracle)"}


def choose_protocol(gtab: GradientTable, n_directions: int) -> list[int]:
    """Return the volumes of a smaller protocol: spread directions, a b=0 for each 15 of them.

    Parameters
    ----------
    gtab
        One shell and b=0, of at least as many directions.
    n_directions
        Weighted volumes.
    """
    b0 = np.flatnonzero(gtab.is_b0)[: max(1, round(n_directions / _DIRECTIONS_PER_B0))]
    return [*b0.tolist(), *choose_spread(gtab, n_directions).tolist()]


def fit_directions(
    dwi: Dwi, rows: Sequence[str] = tuple(DIRECTION_ROWS), *, bring: Bring = keep
) -> dict[str, TensorMaps]:
    """Fit smaller protocols of a shell, each denoised by itself with MP-PCA.

    Parameters
    ----------
    dwi
        One shell and b=0, as acquired.
    rows
        Names in :data:`DIRECTION_ROWS`; those that need more directions than the shell has are
        left out.
    bring
        See :func:`fit_denoised`.
    """
    return {
        name: fit_denoised(dwi.select(choose_protocol(dwi.gtab, n)), method="mppca", bring=bring)
        for name, n in zip(DIRECTION_ROWS, N_DIRECTIONS, strict=True)
        if name in rows and dwi.gtab.count_directions() >= n
    }
