"""Print means of a training's log by steps, and draw them.

Usage: python benchmarks/training_curve.py RUN [--every 1000] [--columns over_mean ...]
       [--figure docs/img/drope_training.png]

RUN is the folder of `dmri-fm pretrain` or `dmri-fm train`. Means are over the steps that have a
number in the column: steps that mask patches have none of masked directions, and the reverse.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.train.loop import LOG

#: Columns of a log that are no errors.
SETTINGS = ("step", "minutes", "rate", "norm")


def window_means(log: pd.DataFrame, every: int) -> pd.DataFrame:
    """Return means of the columns over windows of steps, indexed by the last step of each.

    `minutes` are those at the end of the window.
    """
    ends = (((log["step"] - 1) // every + 1) * every).clip(upper=log["step"].max())
    groups = log.drop(columns=["step"]).groupby(ends)
    return groups.mean().assign(minutes=groups["minutes"].last())


def draw(log: pd.DataFrame, columns: list[str], out: Path) -> None:
    """Draw means over a hundredth of the run's steps, a panel for each column."""
    means = window_means(log, max(1, log["step"].max() // 100))
    n_rows = math.ceil(len(columns) / 2)
    figure, axes = plt.subplots(
        n_rows, 2, figsize=(8, 2.2 * n_rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, column in zip(axes.flat, columns, strict=False):
        axis.plot(means.index, means[column], color="#30638e", linewidth=1.2)
        axis.set_title(column, fontsize=9, loc="left")
        axis.set_yscale("log")
        axis.grid(alpha=0.3, which="both")
    for axis in axes.flat[len(columns) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--every", type=int, default=1000, help="steps of a mean; default 1000")
    parser.add_argument("--columns", nargs="+", help="of the log; default: all errors")
    parser.add_argument("--figure", type=Path, help="image of the curves")
    options = parser.parse_args()
    log = pd.read_csv(options.run / LOG)
    columns = options.columns or [c for c in log.columns if c not in SETTINGS]
    means = window_means(log, options.every)
    lines = [["to step", "hours", *columns]]
    for step, row in means.iterrows():
        cells = ["-" if math.isnan(row[c]) else f"{row[c]:.4g}" for c in columns]
        lines.append([str(step), f"{row['minutes'] / 60:.1f}", *cells])
    print(markdown(lines))
    if options.figure:
        draw(log, columns, options.figure)


if __name__ == "__main__":
    main()
