"""Labels of the three tasks: tissue, number of fibre peaks, direction of the largest one.

A peak has at least half of the largest one's amplitude and lies more than 25 degrees from the
others; there are three at most (Weninger et al. 2022, doi:10.1007/978-3-658-36932-3_32).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.layers import dyadic_code
from dmri_fm.shell_resampling import choose_order
from dmri_fm.tensor import fit_tensor

#: Least amplitude of a peak over that of the largest, and least angle to the others, degrees.
LEAST_AMPLITUDE, LEAST_ANGLE_DEG = 0.5, 25.0

#: Largest number of peaks.
MOST_PEAKS = 3

#: Classes of tissue.
TISSUES = ("background", "white matter", "grey matter", "CSF")

#: Fewest distinct directions from which peaks are labelled by spherical deconvolution: order 6.
FEWEST_FOR_PEAKS = 28

#: White-matter voxels of highest FA, from which the response of one fibre is estimated.
N_RESPONSE = 300

#: FA and MD (um^2/ms) of white matter, grey matter and CSF, from which the mixture starts, and
#: the largest number of voxels that it is fitted to.
_FIRST_MEANS, _MOST_POINTS = np.array([[0.45, 0.75], [0.15, 0.9], [0.1, 2.5]]), 20_000


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of a scan.

    Attributes
    ----------
    tissue
        Shape (X, Y, Z), int64: index into :data:`TISSUES`.
    n_peaks
        Shape (X, Y, Z), int64: 0 to 3; read in white matter alone.
    direction
        Shape (6, X, Y, Z), float32: v v^T of the largest peak, RAS+, see
        :func:`dmri_fm.layers.dyadic_code`; read where there is a peak.
    """

    tissue: NDArray[np.int64]
    n_peaks: NDArray[np.int64]
    direction: NDArray[np.float32]

    @property
    def white(self) -> NDArray[np.bool_]:
        """White matter, shape (X, Y, Z)."""
        return np.asarray(self.tissue == TISSUES.index("white matter"))


def count_peaks(axes: NDArray[np.floating], amounts: NDArray[np.floating]) -> NDArray[np.int64]:
    """Count the peaks of voxels whose fibres are known.

    Parameters
    ----------
    axes
        Shape (M, K, 3), unit vectors.
    amounts
        Shape (M, K): amplitudes; zero: no fibres.

    Returns
    -------
    ndarray
        Shape (M,): of the K axes, from the largest to the smallest, those that are large enough
        and not within 25 degrees of one that was counted.

    Examples
    --------
    >>> x, y, near_x = [1.0, 0, 0], [0, 1.0, 0], [np.cos(0.3), np.sin(0.3), 0]
    >>> amounts = np.array([[0.6, 0.4, 0.0], [0.6, 0.2, 0.0], [0.0, 0.0, 0.0]])
    >>> count_peaks(np.array([[x, y, near_x]] * 3), amounts).tolist()
    [2, 1, 0]
    >>> count_peaks(np.array([[x, near_x, y]]), np.array([[0.4, 0.3, 0.3]])).tolist()
    [2]
    """
    order = np.argsort(-amounts, axis=1, kind="stable")
    axes = np.take_along_axis(axes, order[..., None], axis=1)
    amounts = np.take_along_axis(amounts, order, axis=1)
    is_peak = (amounts > 0) & (amounts >= LEAST_AMPLITUDE * amounts[:, :1])
    limit = np.cos(np.deg2rad(LEAST_ANGLE_DEG))
    for k in range(1, axes.shape[1]):
        cosines = np.abs(np.einsum("mjc,mc->mj", axes[:, :k], axes[:, k]))
        is_peak[:, k] &= ~((cosines >= limit) & is_peak[:, :k]).any(axis=1)
    return np.asarray(np.minimum(is_peak.sum(axis=1), MOST_PEAKS), dtype=np.int64)


def labels_of_truth(
    fractions: NDArray[np.floating],
    axes: NDArray[np.floating],
    amounts: NDArray[np.floating],
    mask: NDArray[np.bool_],
) -> Labels:
    """Return the labels of a simulated scan.

    Parameters
    ----------
    fractions
        Shape (4, X, Y, Z): white matter, grey matter, CSF, lesion. A voxel is of the tissue that
        has most of it; lesions count as white matter, in which they lie.
    axes, amounts
        Shapes (K, 3, X, Y, Z) and (K, X, Y, Z): fibre populations, RAS+.
    mask
        Shape (X, Y, Z): the brain; what is not is background.
    """
    white, grey, csf, lesion = fractions
    tissue = np.where(mask, 1 + np.argmax([white + lesion, grey, csf], axis=0), 0)
    shape = mask.shape
    along = np.moveaxis(axes.reshape(len(axes), 3, -1), 2, 0)
    much = amounts.reshape(len(amounts), -1).T
    largest = np.take_along_axis(along, much.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    n_peaks = count_peaks(along, much)
    return Labels(
        tissue.astype(np.int64), n_peaks.reshape(shape), _dyadics(largest, n_peaks, shape)
    )


def labels_by_fits(
    signal: NDArray[np.float32],
    gtab: GradientTable,
    mask: NDArray[np.bool_],
    *,
    where: NDArray[np.bool_] | None = None,
) -> Labels:
    """Label a real scan by a tissue segmentation and constrained spherical deconvolution (CSD).

    Tissue: a mixture of three Gaussians of FA and MD (scikit-learn); the class of highest MD is
    CSF, that of higher FA of the other two white matter. Peaks: CSD by dipy (Tournier et al. 2007,
    doi:10.1016/j.neuroimage.2007.02.016); the response is that of the :data:`N_RESPONSE` voxels of
    white matter with the highest FA.

    Parameters
    ----------
    signal
        Shape (X, Y, Z, N), S/S0, of one shell.
    gtab
        Of the N volumes, RAS+.
    mask
        Shape (X, Y, Z): the brain, from which classes of tissue and the response are estimated.
    where
        Shape (X, Y, Z): voxels whose peaks are labelled; all white matter if None.

    Raises
    ------
    GradientError
        If there are fewer than :data:`FEWEST_FOR_PEAKS` distinct directions.
    """
    from dipy.data import get_sphere
    from dipy.direction import peaks_from_model

    from dmri_fm_lab.spherical_deconvolution import deconvolution, estimate_response

    if (n := gtab.count_directions()) < FEWEST_FOR_PEAKS:
        raise GradientError(
            f"{n} distinct directions",
            expected=f"{FEWEST_FOR_PEAKS} or more for labels by spherical deconvolution",
        )
    # S0 is 1: the signal has been divided by it.
    series = np.concatenate([mask[..., None].astype(np.float32), signal], axis=3)
    with_b0 = GradientTable(
        np.concatenate([[0.0], gtab.bvals]), np.concatenate([np.zeros((1, 3)), gtab.bvecs_ras])
    )
    fa, md = _fit_fa_md(series, with_b0, mask)
    tissue = _segment(fa, md, mask)
    white = tissue == 1
    threshold = np.sort(fa[white])[-min(N_RESPONSE, int(white.sum()))]
    response = estimate_response(series[white & (fa >= threshold)], with_b0)
    order = choose_order(gtab.bvecs_ras)
    with deconvolution(with_b0, response, order=order) as model:
        found = peaks_from_model(
            model,
            series,
            get_sphere(name="repulsion724"),
            LEAST_AMPLITUDE,
            LEAST_ANGLE_DEG,
            mask=white if where is None else white & where,
            return_sh=False,
            npeaks=MOST_PEAKS,
        )
    n_peaks = (found.peak_values > 0).sum(axis=-1).astype(np.int64)
    first = found.peak_dirs[..., 0, :].reshape(-1, 3)
    return Labels(tissue, n_peaks, _dyadics(first, n_peaks.ravel(), mask.shape))


def _dyadics(
    axes: NDArray[np.floating], n_peaks: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return v v^T (6, X, Y, Z) of axes (M, 3); zero where there is no peak."""
    code = dyadic_code(torch.from_numpy(np.ascontiguousarray(axes, dtype=np.float32))).numpy()
    code = np.where(n_peaks[:, None] > 0, code, np.float32(0.0))
    return np.ascontiguousarray(code.T.reshape(6, *shape))


def _fit_fa_md(
    series: NDArray[np.float32], gtab: GradientTable, mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return FA, and MD in um^2/ms."""
    from dmri_fm.series import Dwi

    maps = fit_tensor(Dwi.from_arrays(series, np.eye(4), gtab, mask=mask), mask=mask, shell="all")
    fa = np.nan_to_num(maps.scalars["fa"].astype(np.float64)).clip(0.0, 1.0)
    return fa, 1e3 * np.nan_to_num(maps.scalars["md"].astype(np.float64))


def _segment(
    fa: NDArray[np.float64], md: NDArray[np.float64], mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return classes of :data:`TISSUES`, by a mixture of three Gaussians of FA and MD."""
    from sklearn.mixture import GaussianMixture

    points = np.stack([fa[mask], md[mask]], axis=1)
    some = np.random.default_rng(0).permutation(len(points))[:_MOST_POINTS]
    mixture = GaussianMixture(3, means_init=_FIRST_MEANS, reg_covar=1e-4, random_state=0)
    classes = mixture.fit(points[some]).predict(points)
    csf = int(mixture.means_[:, 1].argmax())
    white = max((c for c in range(3) if c != csf), key=lambda c: mixture.means_[c, 0])
    label_of = np.full(3, TISSUES.index("grey matter"))
    label_of[[csf, white]] = TISSUES.index("CSF"), TISSUES.index("white matter")
    tissue = np.zeros(mask.shape, dtype=np.int64)
    tissue[mask] = label_of[classes]
    return tissue
