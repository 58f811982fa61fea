"""Calibration of predictions outside their training sets: groups of similar predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.figures import new_figure, save_figure

#: Groups of similar predictions, at most, and participants of a group, at least: no group shows a
#: single one.
N_BINS, FEWEST = 10, 5

_Array = NDArray[np.float64]


def calibrate(
    observed: NDArray[Any], predicted: _Array, participants: NDArray[np.str_]
) -> dict[str, Any]:
    """Compare predictions with what was observed, in groups of similar predictions.

    Parameters
    ----------
    observed, predicted
        Shape (N,): numbers in the unit of the target, or classes as bool and probabilities.
    participants
        Shape (N,): whose prediction it is; sessions, and hold-outs that overlap, repeat some.

    Returns
    -------
    dict
        `predicted` and `observed` means, number `n` of predictions and `n_participants` of each
        group, none if there are fewer than :data:`FEWEST` participants; `slope` and `intercept` of
        the regression of observed on predicted: 1 and 0 where predictions are calibrated, a slope
        below 1 where they are too extreme; NaN where predictions are constant.

    Examples
    --------
    >>> found = calibrate(np.arange(20.0), 2 * np.arange(20.0), np.arange(20).astype(str))
    >>> found["n"], round(found["slope"], 3)
    ([5, 5, 5, 5], 0.5)
    >>> calibrate(np.arange(20.0), np.arange(20.0), np.repeat(list("abcde"), 4))["n_participants"]
    [5]
    """
    y = np.asarray(observed, dtype=np.float64)
    slope = intercept = float("nan")
    if np.ptp(predicted) > 0:
        slope, intercept = (float(v) for v in np.polyfit(predicted, y, 1))
    order = np.argsort(predicted, kind="stable")
    bins: list[NDArray[np.int_]] = []
    for n_bins in range(min(N_BINS, len(set(participants)) // FEWEST), 0, -1):
        bins = np.array_split(order, n_bins)
        if min(len(set(participants[rows])) for rows in bins) >= FEWEST:
            break
    return {
        "predicted": [float(predicted[rows].mean()) for rows in bins],
        "observed": [float(y[rows].mean()) for rows in bins],
        "n": [len(rows) for rows in bins],
        "n_participants": [len(set(participants[rows])) for rows in bins],
        "slope": slope,
        "intercept": intercept,
    }


def draw_calibration(
    curves: Mapping[str, Mapping[str, Any]], target: str, path: Path, *, unit: str = ""
) -> Path:
    """Draw calibration curves by title, as PNG or SVG by the name's ending.

    Parameters
    ----------
    curves
        Results of :func:`calibrate`.
    target
        Name of the target, for the axes.
    path
        File.
    unit
        What the numbers are, for the axes.

    Raises
    ------
    ConfigError
        If no curve has a group.
    OutputError
        If the file cannot be written.
    """
    ends: Sequence[float] = [v for c in curves.values() for v in (*c["predicted"], *c["observed"])]
    if not ends:
        raise ConfigError(
            "too few test participants for a calibration plot", expected=f"{FEWEST} or more"
        )
    figure, axis = new_figure(5.0, 4.6)
    axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="0.7", zorder=0)
    for title, curve in curves.items():
        label = f"{title} (slope {curve['slope']:.2f})"
        axis.plot(curve["predicted"], curve["observed"], "o-", ms=4, lw=1, label=label)
    what = f"{target}{unit}"
    axis.set(xlabel=f"predicted {what}", ylabel=f"observed {what}")
    axis.set_title("Held-out participants in groups of similar predictions", fontsize=9)
    axis.legend(fontsize=7, frameon=False)
    return save_figure(figure, path)
