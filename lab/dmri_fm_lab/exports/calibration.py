"""Are z-scores calibrated? Their mean, spread and tails in people that the fit has not seen."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from dmri_fm.identity import RESEARCH_ONLY

#: Deviations of mean and standard deviation that are tolerated beyond chance.
TOLERANCE = 0.1

#: Share beyond the 5% and the 95% centile, and the shares that are tolerated beyond chance.
TAIL, TAIL_RANGE = 0.05, (0.03, 0.075)

#: What a verdict rests on, beside the numbers.
RULE = (
    f"calibrated: mean within {TOLERANCE} of 0 and sd within {TOLERANCE} of 1, but for chance "
    "(95%), and a 95% interval of each tail's share that reaches into "
    f"{100 * TAIL_RANGE[0]:g}% to {100 * TAIL_RANGE[1]:g}%"
)

#: Measures that are drawn, those of the worst tails first.
_DRAWN = 12


@dataclass(frozen=True, eq=False)
class Calibration:
    """Calibration of a measure.

    Attributes
    ----------
    z
        Held-out scores of reference participants, sorted.
    mean, sd
        Of the scores.
    low, high
        Shares below the 5% and above the 95% centile.
    faults
        Why the measure is refused; empty if it is calibrated.
    low_interval, high_interval
        Wilson's 95% intervals of the shares, which decide.
    """

    z: NDArray[np.float64]
    mean: float
    sd: float
    low: float
    high: float
    faults: tuple[str, ...]
    low_interval: tuple[float, float] = (np.nan, np.nan)
    high_interval: tuple[float, float] = (np.nan, np.nan)

    def describe(self) -> dict[str, Any]:
        """Return the numbers."""
        return {
            "N": len(self.z),
            "Mean": round(self.mean, 4),
            "StandardDeviation": round(self.sd, 4),
            "ShareBelow5thCentile": round(self.low, 4),
            "ShareBelow5thCentileInterval": [round(p, 4) for p in self.low_interval],
            "ShareAbove95thCentile": round(self.high, 4),
            "ShareAbove95thCentileInterval": [round(p, 4) for p in self.high_interval],
            "Faults": list(self.faults),
        }


def check_calibration(scores: NDArray[np.float64]) -> Calibration:
    """Judge held-out scores; NaN is left out.

    Mean and standard deviation may differ from 0 and 1 by 0.1 and what chance explains (95%); the
    95% interval of a tail's share has to reach into 3% to 7.5%.

    Examples
    --------
    >>> found = check_calibration(norm.ppf((np.arange(200) + 0.5) / 200))
    >>> found.low, found.high, found.faults
    (0.05, 0.05, ())
    """
    z = np.sort(scores[np.isfinite(scores)])
    n = len(z)
    if n < 2:
        return Calibration(z, np.nan, np.nan, np.nan, np.nan, ("no values",))
    mean, sd = float(z.mean()), float(z.std(ddof=1))
    limit = norm.ppf(1 - TAIL)
    counts = {"below the 5% centile": int((z < -limit).sum()),
              "above the 95% centile": int((z > limit).sum())}  # fmt: skip
    faults = []
    if abs(mean) > TOLERANCE + 1.96 / np.sqrt(n):
        faults.append(f"mean {mean:.2f}")
    if abs(sd - 1) > TOLERANCE + 1.96 / np.sqrt(2 * n):
        faults.append(f"standard deviation {sd:.2f}")
    intervals = []
    for where, count in counts.items():
        interval = binomtest(count, n).proportion_ci(method="wilson")
        intervals.append((float(interval.low), float(interval.high)))
        if interval.high < TAIL_RANGE[0] or interval.low > TAIL_RANGE[1]:
            faults.append(f"{100 * count / n:.1f}% {where}")
    low, high = (count / n for count in counts.values())
    return Calibration(z, mean, sd, low, high, tuple(faults), *intervals)


def draw_calibration(found: Mapping[str, Calibration]) -> str:
    """Return a chart (SVG): quantiles of held-out scores against those of the normal."""
    import matplotlib
    from matplotlib.figure import Figure

    worst = sorted(found, key=lambda n: -max(abs(found[n].low - TAIL), abs(found[n].high - TAIL)))
    shown = [name for name in worst if len(found[name].z) > 1][:_DRAWN]
    n_columns = min(4, len(shown))
    n_rows = -(-len(shown) // n_columns)
    with matplotlib.rc_context({"svg.hashsalt": "calibration", "font.size": 8}):
        figure = Figure(figsize=(2.4 * n_columns, 2.6 * n_rows), layout="constrained")
        axes = np.ravel(figure.subplots(n_rows, n_columns, squeeze=False))
        for ax, name in zip(axes, shown, strict=False):
            c = found[name]
            expected = norm.ppf((np.arange(len(c.z)) + 0.5) / len(c.z))
            ax.plot([-3.5, 3.5], [-3.5, 3.5], color="0.7", linewidth=1)
            ax.plot(expected, c.z, ".", markersize=3, color="#b3441e" if c.faults else "#1f5a8a")
            ax.set_title(f"{name}{' (refused)' if c.faults else ''}", fontsize=7)
            ax.text(
                0.03, 0.97, f"mean {c.mean:.2f}, sd {c.sd:.2f}\n5%: {100 * c.low:.1f}%, "
                f"95%: {100 * c.high:.1f}%", transform=ax.transAxes, va="top", fontsize=6,
            )  # fmt: skip
        for ax in axes[len(shown) :]:
            ax.set_axis_off()
        figure.supxlabel(f"Normal quantile\n{RESEARCH_ONLY}", fontsize=6)
        figure.supylabel("Held-out z-score")
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
