"""Vectors of a cohort in a plane: principal components, or UMAP, coloured by a column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.correlations import principal_components
from dmri_fm_lab.prediction.figures import new_figure, save_figure

#: Ways into the plane.
METHODS = ("pca", "umap")

#: Neighbours that UMAP keeps near.
N_NEIGHBOURS = 15

#: Classes of a legend, at most.
MOST_CLASSES = 20

_Array = NDArray[np.float64]


def embed(values: _Array, method: str, *, seed: int = 0) -> tuple[_Array, tuple[str, str]]:
    """Return points (N, 2) of standardised vectors (N, D), and the titles of both axes.

    UMAP is that of McInnes et al. 2018, doi:10.21105/joss.00861; its distances between groups and
    its densities mean little.

    Raises
    ------
    ConfigError
        If there is no such method, or there are too few rows for it.
    """
    if method == "pca":
        points, shares = principal_components(values, 2)
        titles = tuple(f"PC{k + 1} ({100 * s:.0f} % of variance)" for k, s in enumerate(shares))
        return points, (titles[0], titles[-1])
    if method != "umap":
        raise ConfigError(f"embedding {method!r}", expected=" or ".join(METHODS))
    if len(values) <= N_NEIGHBOURS:
        raise ConfigError(
            f"UMAP of {len(values)} rows", expected=f"more than {N_NEIGHBOURS}", advice="use pca"
        )
    from umap import UMAP  # numba compiles on import, for seconds

    model = UMAP(n_neighbors=N_NEIGHBOURS, random_state=seed, n_jobs=1)
    return model.fit_transform(StandardScaler().fit_transform(values)), ("UMAP 1", "UMAP 2")


def draw_embedding(points: _Array, titles: tuple[str, str], column: pd.Series, path: Path) -> Path:
    """Draw points coloured by a column: numbers by a scale, classes by a legend; missing in grey.

    Raises
    ------
    ConfigError
        If the column has too many classes.
    """
    figure, axis = new_figure(5.4, 4.4)
    known = column.notna().to_numpy()
    axis.scatter(*points[~known].T, s=10, color="0.85")
    if pd.api.types.is_numeric_dtype(column):
        drawn = axis.scatter(*points[known].T, s=12, c=column[known].to_numpy(), cmap="viridis")
        figure.colorbar(drawn, ax=axis, label=str(column.name))
    else:
        classes = sorted(set(column[known].astype(str)))
        if len(classes) > MOST_CLASSES:
            raise ConfigError(
                f"{column.name} has {len(classes)} classes", expected=f"{MOST_CLASSES} at most"
            )
        for own in classes:
            axis.scatter(
                *points[known & (column.astype(str) == own).to_numpy()].T, s=12, label=own
            )
        axis.legend(title=str(column.name), fontsize=7, frameon=False)
    axis.set(xlabel=titles[0], ylabel=titles[1], xticks=[], yticks=[])
    return save_figure(figure, path)
