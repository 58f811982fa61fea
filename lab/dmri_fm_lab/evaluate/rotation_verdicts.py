"""What the project asked of R, and whether an evaluation shows it, with the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dmri_fm_lab.evaluate.scores import Row
from dmri_fm_lab.markdown_tables import markdown

#: Least R on the other generator, and least share of the Gaussian process's R on real scans.
LEAST_R, LEAST_SHARE = 0.5, 2 / 3

#: Origins of scans of datasets, see :class:`~dmri_fm_lab.grid_scans.GridScan`.
REAL = ("raw", "preprocessed")

#: Header of a table of verdicts.
_HEADER = ["asked for", "scans", "found", "verdict"]


def judge_run(means: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the verdicts on one network as a markdown table.

    Parameters
    ----------
    means
        Mean rows by method, by origin of the scans, see
        :func:`~dmri_fm_lab.evaluate.rotation.mean_by_origin`.
    """
    lines = [_HEADER]
    for origin, rows in means.items():
        r = rows["network"]["r"]
        if origin == "other generator":
            lines.append(
                _line(f"R >= {LEAST_R:g}", origin, r, is_met=r is not None and r >= LEAST_R)
            )
        if origin in REAL:
            share, process = rows["network"]["of_process"], rows["gaussian-process"]["r"]
            met = share is not None and share >= LEAST_SHARE
            found = "" if share is None else f" ({r:.3f} of {process:.3f})"
            asked = "R >= 2/3 of the Gaussian process's"
            lines.append(_line(asked, origin, share, found, is_met=met))
        for where in ("encoder", "encoder and decoder"):
            if permuted := rows.get(f"both, {where}"):
                r = permuted["r"]
                asked = f"R <= 0 with distances and code permuted, {where}"
                lines.append(_line(asked, origin, r, is_met=r is not None and r <= 0))
    return markdown(lines)


def judge_seeds(
    with_rotation: Mapping[str, Sequence[Mapping[str, Row]]],
    without: Mapping[str, Sequence[Mapping[str, Row]]],
) -> str:
    """Return the verdicts on trainings with several seeds as a markdown table.

    A cost counts where it is larger than the standard deviation over seeds; of two trainings, the
    larger of theirs.

    Parameters
    ----------
    with_rotation, without
        Mean rows by method, of each seed, by origin of the scans: of networks trained with
        rotation, and without.
    """
    lines = [_HEADER]
    for origin, runs in with_rotation.items():
        r, permuted = (_values(runs, name) for name in ("network", "distances, encoder"))
        plain = _values(without[origin], "network")
        spread = _spread(r)
        lines.append(_cost("permuting distances, encoder", origin, r - permuted, spread))
        apart = np.array([r.mean() - plain.mean()])
        both = max(spread, _spread(plain))
        lines.append(_cost("training without rotation", origin, apart, both))
    return markdown(lines)


def _values(runs: Sequence[Mapping[str, Row]], name: str) -> np.ndarray:
    values = (run[name]["r"] for run in runs if name in run)
    found = np.array([np.nan if v is None else v for v in values])
    return found if found.size else np.array([np.nan])


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _cost(what: str, origin: str, costs: np.ndarray, spread: float) -> list[str]:
    asked, cost = f"{what} costs more than the spread of seeds", float(costs.mean())
    if not np.isfinite([cost, spread]).all():
        return [asked, origin, f"{cost:.3f}, spread {spread:.3f}", "not measured"]
    return _line(asked, origin, cost, f", spread {spread:.3f}", is_met=cost > spread)


def _line(
    asked: str, origin: str, value: float | None, rest: str = "", *, is_met: bool
) -> list[str]:
    if value is None:
        return [asked, origin, "-", "not measured"]
    return [asked, origin, f"{value:.3f}{rest}", "met" if is_met else "NOT met"]
