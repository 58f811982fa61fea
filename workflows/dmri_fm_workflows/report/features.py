"""The figure of a scan's features: scan, patch tokens, distance from training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Image3D
from dmri_fm_workflows.report.charts import chart_style, chart_svg
from dmri_fm_workflows.report.montage import (
    FULL_WIDTH,
    colour_table,
    draw_colour_bar,
    draw_convention,
    draw_legend,
    draw_rows,
    draw_strips,
    paint_strip,
    tile_scale,
)
from dmri_fm_workflows.report.slices import Row, plan_rows, to_ras
from dmri_fm_workflows.report.svg import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Numbers of a scan's features per line of their picture.
STRIP_LENGTH = 96

#: Largest number of lines that are labelled.
MOST_LABELS = 8

#: Out-of-distribution percentile above which a scan is marked.
OOD_PERCENTILE = 95.0


@dataclass(frozen=True, eq=False)
class PatchTokens:
    """Tokens of a scan's patches.

    Attributes
    ----------
    tokens
        Shape (N, D), one vector per patch.
    ijk
        Shape (N, 3), positions of the patches in the grid.
    grid_shape
        Shape of the grid that `ijk` indexes.
    xyz_mm
        Shape (N, 3), patch centres in RAS+ mm: gives the pictures their proportions and sides.
        Without it the axes of `ijk` are taken as RAS with cubic patches.
    valid
        Shape (N,), bool: tokens to draw.
    error
        Shape (N,): error of predicted measurements in each patch, S/S0; not drawn where it is
        None or all NaN.
    """

    tokens: ArrayLike
    ijk: ArrayLike
    grid_shape: tuple[int, int, int]
    xyz_mm: ArrayLike | None = None
    valid: ArrayLike | None = None
    error: ArrayLike | None = None


def principal_colours(tokens: ArrayLike) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Colour tokens by their first three principal components.

    Parameters
    ----------
    tokens
        Shape (N, D).

    Returns
    -------
    colours
        Shape (N, 3), 40 to 255: components 1, 2, 3 as red, green, blue, ranked so that every
        colour is used equally. The sign of a component is chosen so that its largest loading is
        positive.
    explained
        Shape (3,), share of the variance; zero for components that do not exist.
    """
    values = np.asarray(tokens, dtype=np.float64)
    centred = values - values.mean(axis=0)
    colours = np.full((len(values), 3), 128, dtype=np.uint8)
    explained = np.zeros(3)
    # The D x D covariance is small however many patches there are.
    variance, loadings = np.linalg.eigh(centred.T @ centred)
    total = variance.clip(min=0).sum()
    for column in range(min(3, values.shape[1])):
        loading = loadings[:, -1 - column]
        loading = loading * np.sign(loading[np.argmax(np.abs(loading))])
        explained[column] = max(variance[-1 - column], 0.0) / total if total > 0 else 0.0
        if explained[column] < 1e-9 or len(values) < 2:
            continue
        rank = np.argsort(np.argsort(centred @ loading, kind="stable"), kind="stable")
        colours[:, column] = np.round(40 + 215 * rank / (len(values) - 1))
    return colours, explained


def token_grid(
    ijk: ArrayLike, grid_shape: tuple[int, int, int]
) -> tuple[NDArray[np.int_], tuple[int, int, int]]:
    """Return the position of each token on the grid of patches.

    Parameters
    ----------
    ijk
        Shape (N, 3): indices of patches, or of the patches' voxels in the model's grid (then they
        step by the size of a patch).
    grid_shape
        Shape of the grid that `ijk` indexes.

    Returns
    -------
    index
        Shape (N, 3), index of each patch.
    shape
        Shape of the grid of patches.

    Examples
    --------
    >>> token_grid([[4, 0, 2], [12, 8, 6], [20, 16, 2]], (24, 24, 8))[0].tolist()
    [[0, 0, 0], [1, 1, 1], [2, 2, 0]]
    """
    index = np.asarray(np.round(np.asarray(ijk)), dtype=int)
    if index.ndim != 2 or index.shape[1] != 3 or len(index) == 0:
        raise ImageError(f"patch indices of shape {index.shape}", expected="shape (N, 3)")
    if (index < 0).any() or (index >= np.asarray(grid_shape)).any():
        raise ImageError(
            f"patch indices up to {index.max(axis=0).tolist()}",
            expected=f"indices inside the grid {tuple(grid_shape)}",
        )
    step = np.array(
        [max(int(np.gcd.reduce(np.diff(np.unique(c)), initial=0)), 1) for c in index.T]
    )
    offset = index.min(axis=0) % step
    shape = tuple(int(-(-(n - o) // s)) for n, o, s in zip(grid_shape, offset, step, strict=True))
    assert len(shape) == 3
    return (index - offset) // step, shape


def plot_features(
    vectors: Mapping[str, ArrayLike],
    patches: PatchTokens | None,
    out: str | Path,
    *,
    maps: Mapping[str, Image3D] | None = None,
    ood_percentile: float | None = None,
    ood_score: float | None = None,
) -> Path:
    """Draw a scan's features, those of its patches, maps, and the out-of-distribution score.

    Parameters
    ----------
    vectors
        Features of the scan by type, each of shape (D,); NaN where unknown.
    patches
        Tokens of the scan's patches; None: there are none.
    out
        Path of the SVG to write.
    maps
        Images of the encoder by what they show; not drawn where they are zero.
    ood_percentile
        0 to 100: share of the training scans with a lower score.
    ood_score
        The score itself, as the model states it.

    Raises
    ------
    ImageError
        If the arrays do not fit each other.
    """
    features = {of: np.asarray(v, dtype=np.float64).ravel() for of, v in vectors.items()}
    title = "Latent features"
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, (), words=title)
    chart = _vector_chart(features, ood_percentile=ood_percentile, ood_score=ood_score)
    y += drawing.embed(chart, 0, y, drawing.width) + 6
    shown = [_count(features)]
    if patches is not None:
        y, n_drawn = _draw_patches(drawing, y, patches)
        shown.append(
            f"{n_drawn} patch tokens drawn on axial slices by principal components, by length "
            "and by how well directions predict one another"
        )
    for words, image in (maps or {}).items():
        y = _draw_map(drawing, y, words, image)
        shown.append(f"{words[0].lower()}{words[1:]}, on axial slices")
    draw_convention(drawing, y)
    return drawing.write(
        out, title=title, description=f"Features of the scan: {'; '.join(shown)}."
    )


def _draw_patches(drawing: Drawing, y: float, patches: PatchTokens) -> tuple[float, int]:
    """Draw patch tokens on the brain; return the bottom edge and the number of tokens."""
    tokens = np.asarray(patches.tokens, dtype=np.float32)
    ijk = np.asarray(patches.ijk)
    if tokens.ndim != 2 or ijk.shape != (len(tokens), 3):
        raise ImageError(
            f"tokens of shape {tokens.shape} at patch positions of shape {ijk.shape}",
            expected="shapes (N, D) and (N, 3)",
        )
    index, shape = token_grid(ijk, patches.grid_shape)
    keep = np.isfinite(tokens).all(axis=1)
    if patches.valid is not None:
        keep &= np.asarray(patches.valid, dtype=bool)
    positions = tuple(index[keep].T)
    affine = _grid_affine(index, patches.xyz_mm)

    def on_grid(values: NDArray[Any]) -> NDArray[Any]:
        """Lay out values of the drawn patches, shape (n, ...), in RAS order."""
        volume = np.zeros((*shape, *values.shape[1:]), dtype=values.dtype)
        volume[positions] = values
        return to_ras(volume, affine)[0]

    n_drawn = int(keep.sum())
    region = on_grid(np.ones(n_drawn, dtype=bool))
    colours, explained = np.zeros((n_drawn, 3), dtype=np.uint8), np.zeros(3)
    if n_drawn > 1:
        colours, explained = principal_colours(tokens[keep])
    # One patch of margin parts the tiles.
    ras_affine = to_ras(np.zeros(shape), affine)[1]
    rows = plan_rows(region, ras_affine, views=("axial",), n_widest=8, margin_mm=0.1)
    share = ", ".join(f"{100 * x:.0f}%" for x in explained)
    words = f"Patch tokens: first three principal components as red, green, blue ({share})"
    y = draw_legend(drawing, y, (), words=words)
    y = draw_rows(drawing, rows, y, _sharpen, on_grid(colours))
    for words, values in _patch_scalars(tokens, patches.error).items():
        volume = on_grid(np.nan_to_num(values[keep]).astype(np.float32))
        y = draw_legend(drawing, y + 6, (), words=words)
        y = _draw_scalar(drawing, rows, y, volume, region)
    return y, n_drawn


def _draw_map(drawing: Drawing, y: float, words: str, image: Image3D) -> float:
    """Draw an image on axial slices; return the bottom edge."""
    volume, affine = to_ras(np.asarray(image.data, dtype=np.float32), image.affine)
    region = volume != 0
    rows = plan_rows(region, affine, views=("axial",), n_widest=8, margin_mm=4.0)
    y = draw_legend(drawing, y + 6, (), words=words)
    return _draw_scalar(drawing, rows, y, volume, region)


def _patch_scalars(
    tokens: NDArray[np.float32], error: ArrayLike | None
) -> dict[str, NDArray[Any]]:
    """Return the numbers that are drawn for each patch, by what they show."""
    scalars = {"Patch tokens: length of the vector": np.linalg.norm(tokens, axis=1)}
    if error is not None and np.isfinite(np.asarray(error)).any():
        words = "Error of measurements predicted from the others (S/S0, noise included)"
        scalars[words] = np.asarray(error, dtype=np.float64)
    return scalars


def _sharpen(strip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the pixels, which keeps patches square-edged in every viewer."""
    return strip.repeat(8, axis=0).repeat(8, axis=1)


def _draw_scalar(
    drawing: Drawing,
    rows: Sequence[Row],
    y: float,
    volume: NDArray[np.float32],
    region: NDArray[np.bool_],
) -> float:
    """Draw a number per patch, with its colour bar; return the bottom edge."""
    inside = volume[region] if region.any() else np.array([0.0, 1.0])
    low, high = (float(v) for v in np.percentile(inside, [1, 99]))
    window = (low, high if high > low else low + 1.0)
    table, scale = colour_table("viridis"), tile_scale(drawing, rows)
    for row in rows:
        strip = paint_strip(volume, region, row, table=table, window=window)
        y = draw_strips(drawing, row, y, _sharpen(strip), scale=scale)
    limits = (f"{window[0]:.3g}", f"{window[1]:.3g}")
    draw_colour_bar(drawing, 0, y + 6, table, limits=limits, name="")
    return y + 24


def _grid_affine(index: NDArray[np.int_], xyz_mm: ArrayLike | None) -> NDArray[np.float64]:
    """Return the affine of the patch grid: the least-squares map from indices to mm."""
    affine = np.eye(4) * [8, 8, 8, 1]
    if xyz_mm is None:
        return affine
    points = np.asarray(xyz_mm, dtype=np.float64)
    if points.shape != index.shape:
        raise ImageError(f"patch centres of shape {points.shape}", expected=f"{index.shape}")
    design = np.column_stack([index, np.ones(len(index))])
    solution, _, rank, _ = np.linalg.lstsq(design, points, rcond=None)
    if rank == 4:
        affine[:3] = solution.T
    return affine


def _count(features: Mapping[str, NDArray[np.float64]]) -> str:
    """Return how many numbers there are of each type, and how many of them are unknown."""
    words = []
    for of, vector in features.items():
        n_unknown = int((~np.isfinite(vector)).sum())
        unknown = f", {n_unknown} of them n/a" if n_unknown else ""
        words.append(f"{of}: {vector.size} numbers{unknown}")
    return "; ".join(words)


def _lay_out(
    features: Mapping[str, NDArray[np.float64]],
) -> tuple[NDArray[np.float64], list[str]]:
    """Lay out features line by line, each type from a new line; NaN behind its last number.

    Returns
    -------
    lines
        Shape (L, STRIP_LENGTH).
    labels
        Type and first number of each line.
    """
    parts, labels = [], []
    for of, vector in features.items():
        n_lines = -(-vector.size // STRIP_LENGTH)
        padded = np.full(n_lines * STRIP_LENGTH, np.nan)
        padded[: vector.size] = vector
        parts.append(padded.reshape(n_lines, STRIP_LENGTH))
        labels += [f"{of} {i * STRIP_LENGTH}" for i in range(n_lines)]
    return np.concatenate(parts), labels


def _vector_chart(
    features: Mapping[str, NDArray[np.float64]],
    *,
    ood_percentile: float | None,
    ood_score: float | None,
) -> str:
    from matplotlib.figure import Figure

    lines, labels = _lay_out(features)
    with chart_style():
        figure = Figure(figsize=(FULL_WIDTH / 100, 2.1), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2.6, 1.0))
        known = np.abs(lines[np.isfinite(lines)])
        reach = (float(np.percentile(known, 99)) if known.size else 0.0) or 1.0
        widest = min(STRIP_LENGTH, max(vector.size for vector in features.values()))
        picture = left.imshow(
            np.ma.masked_invalid(lines[:, :widest]),
            cmap="RdBu_r",
            vmin=-reach,
            vmax=reach,
            aspect="auto",
            interpolation="none",
        )
        left.set_title(f"Features of the scan ({_count(features)})", loc="left")
        step = -(-len(labels) // MOST_LABELS)
        left.set_yticks(range(0, len(labels), step), labels[::step])
        left.set_ylabel("line starts at")
        left.set_xlabel("position in the line")
        figure.colorbar(picture, ax=left, pad=0.01, extend="both")
        _draw_gauge(right, ood_percentile, ood_score)
        return chart_svg(figure)


def _draw_gauge(ax: Axes, percentile: float | None, score: float | None) -> None:
    ax.set_title("Out-of-distribution score", loc="left")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 1)
    ax.set_xlabel("distance from the training scans, percentile")
    if percentile is None or not np.isfinite(percentile):
        ax.text(50, 0.5, "not measured", ha="center", va="center")
        return
    ax.barh(0.3, OOD_PERCENTILE, height=0.28, color="#cfe8d8")
    ax.barh(0.3, 100 - OOD_PERCENTILE, left=OOD_PERCENTILE, height=0.28, color="#f6c9a8")
    ax.plot([percentile, percentile], [0.12, 0.48], color="#222222", linewidth=3)
    is_ood = percentile > OOD_PERCENTILE
    words = f"{percentile:.0f} ({'unlike' if is_ood else 'like'} the training scans)"
    beside = "" if score is None or not np.isfinite(score) else f"\nscore {score:.3g}"
    ax.text(
        0,
        0.92,
        words + beside,
        ha="left",
        va="top",
        fontweight="bold",
        color="#a84300" if is_ood else "#00613f",
    )
