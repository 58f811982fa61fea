"""Draw participants of a simulated cohort, and where each effect acts.

Usage: python benchmarks/cohort_figure.py COHORT [--out docs/img/simulated_cohorts.png]

COHORT is an output of `dmri-fm simulate-cohort`. Above: FA of the first participants, in one
slice. Below: the weight of each effect on the FA of the first, in a slice of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np

from dmri_fm.normalise.grid import Grid
from dmri_fm.series import load_image, read_array
from dmri_fm_lab.simulate.mni_cohort import TARGETS
from dmri_fm_workflows.outputs.naming import output_path

mpl.use("Agg")
from matplotlib import pyplot as plt

#: MNI z of the slice of participants, and of the slice of each effect, mm.
HEIGHT_MM, HEIGHTS_MM = 12.0, {"age": 20.0, "sex": 12.0, "group": -14.0, "score": 40.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path, metavar="COHORT")
    parser.add_argument("--out", type=Path, default=Path("docs/img/simulated_cohorts.png"))
    options = parser.parse_args()
    labels = sorted(p.name.removeprefix("sub-") for p in options.cohort.glob("sub-*"))
    figure, axes = plt.subplots(2, len(TARGETS), figsize=(9, 5.6), layout="constrained")
    first = None
    for ax, label in zip(axes[0], labels, strict=False):
        name = output_path({"subject": label}, "fa", model="tensor", space="MNI152NLin2009aSym")
        image = load_image(options.cohort / name, ndim=3)
        fa, grid = read_array(image), Grid(image.shape, image.affine)
        first = (fa, grid) if first is None else first
        ax.imshow(_slice(fa, grid, HEIGHT_MM), cmap="gray", vmin=0, vmax=0.9)
        ax.set_title(f"sub-{label}: FA", fontsize=9)
    assert first is not None
    fa, grid = first
    points = np.ascontiguousarray(grid.points().T, dtype=np.float32)
    for ax, (name, target) in zip(axes[1], TARGETS.items(), strict=True):
        weight = target.where(points).reshape(grid.shape) * (fa > 0)
        ax.imshow(_slice(fa, grid, HEIGHTS_MM[name]), cmap="gray", vmin=0, vmax=0.9)
        shown = _slice(weight, grid, HEIGHTS_MM[name])
        ax.imshow(np.ma.masked_less(shown, 0.1), cmap="inferno", vmin=0, vmax=1, alpha=0.6)
        ax.set_title(f"effect of {name}, z = {HEIGHTS_MM[name]:.0f} mm", fontsize=9)
    for ax in axes.flat:
        ax.set_axis_off()
    figure.savefig(options.out, dpi=110)
    print(options.out)


def _slice(image: np.ndarray, grid: Grid, height_mm: float) -> np.ndarray:
    """Return a slice with the front above, and left on the left."""
    k = round((height_mm - grid.affine[2, 3]) / grid.affine[2, 2])
    return np.rot90(image[:, :, k])


if __name__ == "__main__":
    main()
