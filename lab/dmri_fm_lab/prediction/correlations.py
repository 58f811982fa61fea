"""What features go with: correlations of dimensions and components with regions, age, site, QC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.figures import new_figure, save_figure

#: Fewest rows with both values for a correlation.
FEWEST = 8

#: Classes of a column of text, at most; one with more is an identifier, not a variable.
MOST_CLASSES = 30

#: Columns of :func:`correlate`'s table.
COLUMNS = ("feature", "column", "statistic", "value", "n", "p", "q")

_Array = NDArray[np.float64]


def principal_components(values: _Array, n_components: int) -> tuple[_Array, _Array]:
    """Return components of standardised vectors, and the share of the variance of each.

    Parameters
    ----------
    values
        Shape (N, D).
    n_components
        As many at most.

    Returns
    -------
    ndarray
        Shape (N, K).
    ndarray
        Shape (K,).
    """
    scaled = StandardScaler().fit_transform(values)
    model = PCA(min(n_components, *scaled.shape), svd_solver="full")
    return model.fit_transform(scaled), np.asarray(model.explained_variance_ratio_)


def correlate(
    features: pd.DataFrame, columns: pd.DataFrame
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Correlate each feature with each column.

    Parameters
    ----------
    features
        N rows, without missing values.
    columns
        The same rows: numbers, or text, whose values are classes.

    Returns
    -------
    DataFrame
        One row per feature and column: the Pearson correlation `r` with numbers; `eta` with
        classes, the root of the share of variance between them; `n`, `p`, and `q`, the false
        discovery rate over all rows (Benjamini and Hochberg 1995,
        doi:10.1111/j.2517-6161.1995.tb02031.x).
    tuple
        Columns that are not used, with the reason.

    Raises
    ------
    ConfigError
        If no column can be used.
    """
    parts, unused = [], []
    for name in columns:
        column = columns[name]
        known = column.notna().to_numpy()
        n_values = column[known].nunique()
        is_number = pd.api.types.is_numeric_dtype(column)
        if known.sum() < FEWEST or n_values < 2:
            unused.append(f"{name} ({known.sum()} values, {n_values} different)")
            continue
        if not is_number and n_values > min(MOST_CLASSES, known.sum() // 2):
            unused.append(f"{name} ({n_values} classes of {known.sum()} rows)")
            continue
        x = features.to_numpy(dtype=np.float64)[known]
        if is_number:
            value, p = _pearson(x, column[known].to_numpy(dtype=np.float64))
        else:
            value, p = _correlation_ratio(x, column[known].to_numpy(dtype=str))
        parts.append(
            pd.DataFrame(
                {
                    "feature": features.columns.astype(str),
                    "column": name,
                    "statistic": "r" if is_number else "eta",
                    "value": value,
                    "n": int(known.sum()),
                    "p": p,
                }
            )
        )
    if not parts:
        raise ConfigError(f"no column to correlate with: {', '.join(unused)}", expected="some")
    table = pd.concat(parts, ignore_index=True)
    defined = table["p"].notna()
    table.loc[defined, "q"] = stats.false_discovery_control(table.loc[defined, "p"])
    return table[list(COLUMNS)], tuple(unused)


def _pearson(x: _Array, y: _Array) -> tuple[_Array, _Array]:
    x, y = x - x.mean(axis=0), y - y.mean()
    lengths = np.linalg.norm(x, axis=0) * np.linalg.norm(y)
    r = np.divide(y @ x, lengths, out=np.full(x.shape[1], np.nan), where=lengths > 0)
    r = r.clip(-1, 1)
    freedom = len(y) - 2
    with np.errstate(divide="ignore"):
        t = np.abs(r) * np.sqrt(freedom / (1 - r**2))
    return r, np.asarray(2 * stats.t.sf(t, freedom))


def _correlation_ratio(x: _Array, classes: NDArray[np.str_]) -> tuple[_Array, _Array]:
    names, index = np.unique(classes, return_inverse=True)
    indicators = np.eye(len(names))[index]
    sizes = indicators.sum(axis=0)
    means = (indicators.T @ x) / sizes[:, None]
    between = (sizes[:, None] * (means - x.mean(axis=0)) ** 2).sum(axis=0)
    total = ((x - x.mean(axis=0)) ** 2).sum(axis=0)
    share = np.divide(between, total, out=np.full(x.shape[1], np.nan), where=total > 0)
    share = share.clip(0, 1)
    freedom = len(names) - 1, len(x) - len(names)
    with np.errstate(divide="ignore"):
        f = (share / freedom[0]) / ((1 - share) / freedom[1])
    return np.sqrt(share), np.asarray(stats.f.sf(f, *freedom))


def draw_correlations(
    table: pd.DataFrame,
    features: Sequence[str],
    path: Path,
    *,
    n_columns: int = 30,
    q: float = 0.05,
) -> Path:
    """Draw some features of :func:`correlate`'s table against the columns they follow most.

    A dot marks correlations whose false discovery rate is `q` at most.
    """
    own = table[table["feature"].isin(features)]
    values = own.pivot(index="feature", columns="column", values="value").loc[list(features)]
    rates = own.pivot(index="feature", columns="column", values="q").loc[list(features)]
    strongest = values.abs().max().sort_values(ascending=False).index[:n_columns]
    shown, marks = values[strongest], rates[strongest] <= q
    size = 2.5 + 0.28 * len(strongest), 1.8 + 0.28 * len(features)
    figure, axis = new_figure(*size)
    image = axis.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    rows, columns = np.nonzero(marks.to_numpy())
    axis.plot(columns, rows, "k.", ms=3)
    axis.set_xticks(range(len(strongest)), strongest, rotation=90, fontsize=7)
    axis.set_yticks(range(len(features)), features, fontsize=7)
    axis.set_title(f"r (eta of classes); dots: q <= {q:g}", fontsize=9)
    figure.colorbar(image, ax=axis, shrink=0.8)
    return save_figure(figure, path)
