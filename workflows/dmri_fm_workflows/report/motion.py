"""Motion figure: head position, framewise displacement, and a slice-by-volume carpet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm_workflows.report.charts import chart_style, write_chart
from dmri_fm_workflows.report.montage import FULL_WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

#: Framewise displacement above this is marked, mm.
FD_MARK_MM = 1.0

#: Groups of volumes smaller than this have no spread to measure a score against.
FEWEST_VOLUMES = 4

TRANSLATIONS = ("x, left-right", "y, anterior-posterior", "z, inferior-superior")
ROTATIONS = ("about x (pitch)", "about y (roll)", "about z (yaw)")
AXIS_COLOURS = ("#d55e00", "#009e73", "#0072b2")


def slice_scores(
    data: ArrayLike, mask: ArrayLike, *, groups: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Score the mean signal of every slice against the same slice in like volumes.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N); slices are stacked along the third axis.
    mask
        Shape (X, Y, Z), the brain.
    groups
        Shape (N,), equal for volumes that may be compared (a shell); one group by default.

    Returns
    -------
    ndarray
        Shape (Z, N): deviation from the median of the group, in robust standard deviations.
        NaN where the slice holds no brain or the group fewer than four volumes.
    """
    array = np.asarray(data)
    inside = np.asarray(mask) > 0
    if array.ndim != 4 or inside.shape != array.shape[:3]:
        raise ImageError(
            f"series of shape {array.shape} beside a mask of shape {inside.shape}",
            expected="shapes (X, Y, Z, N) and (X, Y, Z)",
        )
    n_slices, n_volumes = array.shape[2:]
    means = np.full((n_slices, n_volumes), np.nan)
    for z in range(n_slices):
        if inside[:, :, z].any():
            means[z] = array[:, :, z][inside[:, :, z]].mean(axis=0, dtype=np.float64)
    labels = np.zeros(n_volumes) if groups is None else np.asarray(groups)
    scores = np.full_like(means, np.nan)
    filled = np.isfinite(means).all(axis=1)
    for label in np.unique(labels):
        chosen = labels == label
        if chosen.sum() < FEWEST_VOLUMES or not filled.any():
            continue
        block = means[np.ix_(filled, chosen)]
        middle = np.median(block, axis=1, keepdims=True)
        spread = 1.4826 * np.median(np.abs(block - middle), axis=1, keepdims=True)
        floor = 1e-3 * np.abs(middle) + 1e-12
        scores[np.ix_(filled, chosen)] = (block - middle) / np.maximum(spread, floor)
    return scores


def plot_carpet(
    data: ArrayLike,
    mask: ArrayLike,
    fd_mm: ArrayLike,
    parameters: ArrayLike,
    outliers: ArrayLike,
    out: str | Path,
    *,
    bvals: ArrayLike,
    eddy_shift_mm: ArrayLike | None = None,
) -> Path:
    """Draw head motion over the series, above a carpet of slice signals; return the path.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N): the series as stored, slices along the third axis.
    mask
        Shape (X, Y, Z), the brain.
    fd_mm
        Shape (N,), framewise displacement; NaN for the first volume.
    parameters
        Shape (N, 6) or wider: translations in mm, rotations in rad, along and about the RAS+ axes;
        then the nine eddy-current terms, row by row, which are drawn where there are any.
    outliers
        Shape (N, Z), bool: slices replaced or flagged.
    out
        Path of the SVG to write.
    bvals
        Shape (N,), s/mm^2; slices are compared among volumes of like b-value.
    eddy_shift_mm
        Shape (N, 3), RAS+ mm: translation by eddy currents, drawn where any of it is known.

    Raises
    ------
    ImageError
        If the number of volumes or slices differs between the arguments.
    """
    from matplotlib.figure import Figure

    scores = slice_scores(data, mask, groups=np.round(np.asarray(bvals) / 100))
    fd = np.asarray(fd_mm, dtype=np.float64)
    moved = np.asarray(parameters, dtype=np.float64)
    flagged = np.asarray(outliers, dtype=bool)
    _check_motion(scores, fd, moved, flagged)
    eddy = eddy_terms(moved)
    shift = np.full((len(fd), 3), np.nan) if eddy_shift_mm is None else np.asarray(eddy_shift_mm)
    has_shift = bool(np.isfinite(shift).any())
    order = np.arange(scores.shape[1])
    with chart_style():
        heights = [0.6, *[1.0] * (3 + has_shift + (eddy is not None)), 3.0]
        figure = Figure(figsize=(FULL_WIDTH / 100, 0.6 + sum(heights)), layout="constrained")
        axes = list(figure.subplots(len(heights), 1, sharex=True, height_ratios=heights))
        figure.align_ylabels(axes)
        weighting, displacement, translation, rotation, *of_eddy, carpet = axes
        weighting.bar(order, np.asarray(bvals), width=0.8, color="#777777")
        weighting.set_ylabel("b, s/mm²")
        _draw_displacement(displacement, order, fd)
        _draw_parameters(translation, moved[:, :3], TRANSLATIONS, label="translation, mm")
        _draw_parameters(rotation, np.rad2deg(moved[:, 3:6]), ROTATIONS, label="rotation, °")
        if has_shift:
            _draw_parameters(of_eddy[0], shift, TRANSLATIONS, label="eddy, mm")
        if eddy is not None:
            names = tuple(f"along {eddy[0]}, per distance along {axis}" for axis in "xyz")
            _draw_parameters(of_eddy[-1], 1000 * eddy[1], names, label="eddy, mm/m")
        picture = _draw_slices(carpet, scores, flagged)
        figure.colorbar(
            picture,
            ax=axes[1:],
            label="robust z in its shell",
            pad=0.01,
            shrink=0.4,
            aspect=14,
            anchor=(0.0, 0.0),
            extend="both",
        )
        return write_chart(figure, out, title="Motion and carpet plot")


def eddy_terms(parameters: NDArray[np.float64]) -> tuple[str, NDArray[np.float64]] | None:
    """Return the axis along which eddy currents displace most, and their terms along it.

    Parameters
    ----------
    parameters
        Shape (N, 6) or wider, as for :func:`plot_carpet`.

    Returns
    -------
    tuple or None
        `x`, `y` or `z` (RAS+), and shape (N, 3), mm/mm: displacement per distance along x, y and
        z. None if there are none.
    """
    terms = parameters[:, 6:15].reshape(len(parameters), -1, 3)
    if not terms.any():
        return None
    row = int(np.abs(terms).max(axis=(0, 2)).argmax())
    return "xyz"[row], terms[:, row]


def _check_motion(
    scores: NDArray[np.float64],
    fd: NDArray[np.float64],
    moved: NDArray[np.float64],
    flagged: NDArray[np.bool_],
) -> None:
    n_slices, n_volumes = scores.shape
    if fd.shape != (n_volumes,) or moved.ndim != 2 or moved.shape[0] != n_volumes:
        raise ImageError(
            f"{fd.shape[0]} displacements and parameters of shape {moved.shape} "
            f"for {n_volumes} volumes",
            expected="one of each per volume",
        )
    if moved.shape[1] < 6 or flagged.shape != (n_volumes, n_slices):
        raise ImageError(
            f"parameters of shape {moved.shape}, outliers of shape {flagged.shape}",
            expected=f"at least 6 columns, and shape {(n_volumes, n_slices)}",
        )


def _draw_slices(ax: Axes, scores: NDArray[np.float64], flagged: NDArray[np.bool_]) -> AxesImage:
    """Draw the score of every slice, with a mark on each outlier."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    n_slices, n_volumes = scores.shape
    picture = ax.imshow(
        np.ma.masked_invalid(scores),
        origin="lower",
        aspect="auto",
        interpolation="none",
        cmap=colormaps["RdBu_r"].with_extremes(bad="#d9d9d9"),
        vmin=-6,
        vmax=6,
        extent=(-0.5, n_volumes - 0.5, -0.5, n_slices - 0.5),
    )
    volume, slice_ = np.nonzero(flagged)
    ax.scatter(
        volume,
        slice_,
        marker="x",
        s=float(np.clip(2600 / max(n_volumes, n_slices), 6, 26)),
        color="#000000",
        linewidths=0.9,
    )
    ax.set_title(f"slice signal; x marks {volume.size} outlier slices", loc="left")
    ax.set_ylabel("slice, as stored")
    ax.set_xlabel("volume")
    ax.set_xlim(-0.5, n_volumes - 0.5)
    ax.set_ylim(-0.5, n_slices - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return picture


def _draw_displacement(ax: Axes, order: NDArray[np.int_], fd: NDArray[np.float64]) -> None:
    known = np.isfinite(fd)
    ax.fill_between(order[known], 0, fd[known], color="#56b4e9", alpha=0.35, linewidth=0)
    ax.plot(order[known], fd[known], color="#0072b2", linewidth=1.1)
    high = known & (fd > FD_MARK_MM)
    ax.scatter(order[high], fd[high], s=18, color="#d55e00", zorder=3)
    ax.axhline(FD_MARK_MM, color="#d55e00", linestyle="--", linewidth=0.8)
    top = max(float(fd[known].max()) if known.any() else 0.0, FD_MARK_MM)
    ax.set_ylim(0, 1.15 * top)
    ax.set_ylabel("FD, mm")
    if known.any():
        words = (
            f"framewise displacement: mean {fd[known].mean():.2f}, largest "
            f"{fd[known].max():.2f} mm; {int(high.sum())} volumes above {FD_MARK_MM:g} mm"
        )
        ax.set_title(words, loc="left")


def _draw_parameters(
    ax: Axes, values: NDArray[np.float64], names: tuple[str, ...], *, label: str
) -> None:
    for column, (name, colour) in enumerate(zip(names, AXIS_COLOURS, strict=True)):
        ax.plot(values[:, column], color=colour, linewidth=1.1, label=name)
    reach = max(float(np.nanmax(np.abs(values), initial=0.0)) * 1.2, 0.2)
    ax.set_ylim(-reach, reach)
    ax.axhline(0, color="#999999", linewidth=0.6)
    ax.set_ylabel(label)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.97), ncols=3, borderaxespad=0.2)
