"""Draw the blocks of the template that the group level summarises maps in.

Usage: python benchmarks/template_blocks.py docs/img/template_blocks.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from dmri_fm.normalise.template import BLOCKS, load_regions, load_template


def main() -> None:
    """Draw three slices through the origin's neighbourhood."""
    regions, template = load_regions(), load_template(2)
    block = np.zeros(max(r.index for r in regions.table) + 1, dtype=int)
    white = np.zeros(len(block), dtype=bool)
    for region in regions.table:
        block[region.index] = BLOCKS.index(region.block) + 1
        white[region.index] = region.tissue == "wm"
    colours = colormaps["tab10"](np.arange(len(BLOCKS)))
    centre = np.linalg.inv(regions.grid.affine) @ [28, -18, 14, 1]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axis, ax in enumerate(figure.subplots(1, 3)):
        cut = round(centre[axis])
        labels = np.take(regions.labels, cut, axis=axis).T
        image = np.take(template.t1, cut, axis=axis).T
        overlay = np.zeros((*labels.shape, 4))
        inside = labels > 0
        overlay[inside] = colours[block[labels[inside]] - 1]
        overlay[..., 3] = np.where(inside, np.where(white[labels], 0.8, 0.4), 0)
        ax.imshow(image, cmap="gray", origin="lower")
        ax.imshow(overlay, origin="lower")
        ax.set_axis_off()
    handles = [Patch(color=c, label=name) for c, name in zip(colours, BLOCKS, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(BLOCKS), frameon=False)
    figure.savefig(Path(sys.argv[1]), dpi=110)


if __name__ == "__main__":
    main()
