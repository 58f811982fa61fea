"""How far simulated training patches are from real scans of four vendors.

Usage: python -m dmri_fm_lab.realism DATASET [--output docs] [--quick]

Real patches are cut from the raw scans of DATASET, `ds-vendors`; simulated ones come from
`draw_batch` with the gradient tables of those scans. Compares distributions of what can be
measured on both, and lets two classifiers tell one from the other: a small 3-D network, and
logistic regression on the measurements. Each is tested on a held-out scanner.

Writes the tables of realism.md, between its two marks, and two figures in img/.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import numpy as np

from dmri_fm.series import Dwi
from dmri_fm_lab.realism.classifiers import (
    Effort,
    Verdict,
    choose_sevens,
    judge_network,
    judge_regression,
    network_inputs,
)
from dmri_fm_lab.realism.measures import measure
from dmri_fm_lab.realism.page import (
    SCANNERS,
    draw_distributions,
    draw_rows,
    insert_tables,
    table_of_quantities,
    table_of_verdicts,
)
from dmri_fm_lab.realism.patches import (
    PICTURE_SHAPE,
    centre_of_brain,
    cut_patches,
    read_scan,
    simulate_patches,
    simulate_scan,
)

#: Scanners whose protocols the other generator shows in the picture.
PICTURED_SCANS = ("trio", "galan")

FULL = Effort(patches=120, sets=12, networks=3, steps=250)
QUICK = Effort(patches=4, sets=2, networks=1, steps=4, batch=8)


def row_title(source: str, scanner: str, patch: Dwi) -> str:
    """Name a row of the picture."""
    size = " x ".join(f"{mm:.1f}" for mm in patch.voxel_size_mm)
    return f"{source}, {scanner}, {SCANNERS[scanner]}\n{size} mm"


def simulate_sides(
    rng: np.random.Generator, scans: dict[str, Dwi], n: int
) -> dict[str, dict[str, list[Dwi]]]:
    """Draw simulated patches in both poses, with the gradient table of every scanner."""
    return {
        "as in training": {s: simulate_patches(rng, scan.gtab, n) for s, scan in scans.items()},
        "upright, voxel size of the scan": {
            s: simulate_patches(rng, scan.gtab, n, voxel_mm=scan.voxel_size_mm)
            for s, scan in scans.items()
        },
    }


def compare(dataset: Path, folder: Path, effort: Effort) -> list[str]:
    """Draw, measure, classify; draw the figures and return the lines of the tables."""
    rng = np.random.default_rng(0)
    scans = {scanner: read_scan(dataset, scanner) for scanner in SCANNERS}
    real = {s: cut_patches(rng, scan, effort.patches) for s, scan in scans.items()}
    measured = {s: measure(patches) for s, patches in real.items()}
    sets = {s: choose_sevens(rng, scan.gtab, effort.sets) for s, scan in scans.items()}
    inputs = {s: network_inputs(rng, patches, sets[s]) for s, patches in real.items()}
    verdicts: dict[tuple[str, str, str], Verdict] = {}
    table: list[str] = []
    for pose, side in simulate_sides(rng, scans, effort.patches).items():
        simulated = {s: measure(patches) for s, patches in side.items()}
        simulated_inputs = {s: network_inputs(rng, ps, sets[s]) for s, ps in side.items()}
        for s in scans:
            verdicts[pose, "network", s] = judge_network(inputs, simulated_inputs, s, effort)
            verdicts[pose, "regression", s] = judge_regression(measured, simulated, s)
        if not table:
            table = table_of_quantities(measured, simulated)
            draw_distributions(measured, simulated, folder / "realism_distributions.png")
    pictured = [("real", s, centre_of_brain(scan)) for s, scan in scans.items()] + [
        ("simulated", s, simulate_patches(rng, scan.gtab, 1, shape=PICTURE_SHAPE)[0])
        for s, scan in scans.items()
    ]
    for s in PICTURED_SCANS:
        pictured.append(("scanned by trxscan", s, centre_of_brain(simulate_scan(rng, scans[s]))))
    draw_rows([(row_title(*row), row[2]) for row in pictured], folder / "realism.png")
    return [*table_of_verdicts(verdicts), "", *table]


def main() -> None:
    """Compare, and write the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="raw dataset of the four scanners")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of realism.md")
    parser.add_argument("--quick", action="store_true", help="few patches: to see that it runs")
    options = parser.parse_args()
    # Sets of directions that are doubted are drawn again.
    logging.getLogger("dmri_fm.qspace").setLevel(logging.ERROR)
    start = time.process_time()
    pictures = options.output / "img"
    pictures.mkdir(parents=True, exist_ok=True)
    lines = compare(options.dataset, pictures, QUICK if options.quick else FULL)
    insert_tables(options.output / "realism.md", lines)
    print("\n".join(lines))
    print(f"{time.process_time() - start:.0f} CPU-s")


if __name__ == "__main__":
    main()
