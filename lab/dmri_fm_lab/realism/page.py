"""Tables and figures of the page on realism."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.markdown_tables import Column, markdown
from dmri_fm_lab.realism.classifiers import Verdict
from dmri_fm_lab.realism.measures import QUANTITIES, first_images

#: Scanners of the comparison, with the b-values of their scans, s/mm^2.
SCANNERS = {"prisma": "b 2500", "trio": "b 1000", "galan": "b 1500", "umr": "b 950"}

#: Marks of the page between which the tables stand.
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def summarise(values: NDArray[np.float64], quantity: Column) -> str:
    """Return a median and the 10th and 90th percentiles as text."""
    middle, low, high = map(quantity.cell, np.nanpercentile(values, (50, 10, 90)))
    return f"{middle} ({low} to {high})"


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the Kolmogorov-Smirnov distance: 0 if equal, 1 if nothing overlaps."""
    return float(ks_2samp(a[np.isfinite(a)], b[np.isfinite(b)], method="asymp").statistic)


def table_of_quantities(
    real: dict[str, NDArray[np.float64]], simulated: dict[str, NDArray[np.float64]]
) -> list[str]:
    """Return the lines of the table of measurements."""
    cells = [["quantity", "scanner", "real", "simulated", "KS distance"]]
    distances = []
    for k, quantity in enumerate(QUANTITIES.values()):
        for scanner in real:
            a, b = real[scanner][:, k], simulated[scanner][:, k]
            distances.append(distance(a, b))
            spreads = (summarise(values, quantity) for values in (a, b))
            cells.append([quantity.title, scanner, *spreads, f"{distances[-1]:.2f}"])
    mean = f"| mean of all | | | | {np.mean(distances):.2f} |"
    return [*markdown(cells).splitlines(), mean]


def table_of_verdicts(verdicts: dict[tuple[str, str, str], Verdict]) -> list[str]:
    """Return the lines of the table of classifiers: keys are patches, classifier, scanner."""
    scanners = list(dict.fromkeys(scanner for *_, scanner in verdicts))
    cells = [["simulated patches", "classifier", *(f"{s}, {SCANNERS[s]}" for s in scanners)]]
    for key in dict.fromkeys((patches, classifier) for patches, classifier, _ in verdicts):
        row = [verdicts[(*key, scanner)] for scanner in scanners]
        cells.append([*key, *(f"{v.balanced_accuracy:.2f}, {v.auroc:.2f}" for v in row)])
    return markdown(cells).splitlines()


def insert_tables(page: Path, lines: Sequence[str]) -> None:
    """Replace the lines between the two marks of a page, or write a page of these lines."""
    text = page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text("\n".join([before + BEGIN, "", *lines, "", END + after]), encoding="utf-8")


def draw_distributions(
    real: dict[str, NDArray[np.float64]], simulated: dict[str, NDArray[np.float64]], path: Path
) -> None:
    """Draw a box for every quantity, scanner and side: quartiles, 10th and 90th percentiles."""
    figure, panels = plt.subplots(3, 5, figsize=(15, 8), layout="constrained")
    for k, (panel, quantity) in enumerate(zip(panels.flat, QUANTITIES.values(), strict=False)):
        for side, colour, shift in ((real, "tab:blue", -0.2), (simulated, "tab:orange", 0.2)):
            values = [v[np.isfinite(v[:, k]), k] * quantity.factor for v in side.values()]
            panel.boxplot(
                values, positions=np.arange(len(values)) + shift, widths=0.3, whis=(10, 90),
                showfliers=False, patch_artist=True, manage_ticks=False,
                boxprops={"facecolor": colour, "alpha": 0.6}, medianprops={"color": "black"},
            )  # fmt: skip
        panel.set_xticks(range(len(real)), list(real))
        panel.set_title(quantity.title, fontsize=9)
    for panel in panels.flat[len(QUANTITIES) :]:
        panel.axis("off")
    handles = [Rectangle((0, 0), 1, 1, color=c, alpha=0.6) for c in ("tab:blue", "tab:orange")]
    panels.flat[-1].legend(handles, ["real", "simulated"], loc="center", fontsize=12)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_rows(rows: Sequence[tuple[str, Dwi]], path: Path) -> None:
    """Draw the middle slice of patches: b=0, one weighted volume, FA, MD, direction."""
    columns = ("b=0", "weighted", "FA, 0 to 1", "MD, 0 to 3e-3 mm²/s", "main direction")
    size = (2.1 * len(columns), 2.25 * len(rows))
    figure, panels = plt.subplots(len(rows), len(columns), figsize=size, layout="constrained")
    for (title, patch), line in zip(rows, panels, strict=True):
        maps, z = fit_tensor(patch), patch.shape[2] // 2
        b0, weighted = first_images(patch)
        brightest = [np.percentile(image[maps.mask], 99) for image in (b0, weighted)]
        images = [
            b0 * maps.mask / brightest[0],
            weighted * maps.mask / brightest[1],
            maps.fa,
            maps.md / 3e-3,
            np.abs(maps.v1) * maps.fa[..., None],
        ]
        for panel, image in zip(line, images, strict=True):
            view = np.rot90(image[:, :, z].clip(0, 1))
            panel.imshow(view, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, fontsize=8)
    for panel, title in zip(panels[0], columns, strict=True):
        panel.set_title(title, fontsize=9)
    figure.savefig(path, dpi=80)
    plt.close(figure)
