"""Print the paper's tables of QCG-DTI with our rows beside the published ones.

Usage: python benchmarks/paper_tables.py [--ablations FOLDER] [--brains 1] [--sets 3]

Zheng et al. 2025, https://doi.org/10.1631/FITEE.2400766: Table 1 (directions fixed or free),
Table 4 (cost) and Table 5 (ablations). The published rows are of 20 HCP subjects at 1.25 mm; ours
are of simulated brains (`dmri_fm_lab.evaluate.simulated`, SNR 20, b = 1000 s/mm^2, 2.5 mm), so
only the order of rows within one source can be compared. FOLDER holds the weights of the
ablations, as `dmri-fm train qcg-dti-ablation RUN --model qcg-dti-ablation-ROW --weights
FOLDER/ROW.safetensors` writes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tensor_cost import count_macs

from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.registry import MODELS
from dmri_fm.tensor_networks.qcg_dti import ABLATIONS
from dmri_fm_lab.evaluate.comparison import METHOD_TITLES, Request, compare_methods
from dmri_fm_lab.evaluate.scores import Row, mean_rows
from dmri_fm_lab.evaluate.simulated import SimulatedBrain, build_brain, simulated_scan, skare_table
from dmri_fm_lab.evaluate.tables import Column, markdown

#: Tensor, MD, AD and RD in 1e-3 mm^2/s; the angle is over all tissue but CSF.
COLUMNS = {
    "tensor": Column("tensor", ".4g", 1e3),
    "fa": Column("FA", ".4g"),
    "md": Column("MD", ".4g", 1e3),
    "ad": Column("AD", ".4g", 1e3),
    "rd": Column("RD", ".4g", 1e3),
    "v1_deg": Column("V1, degrees", ".4g"),
}

PUBLISHED_FIXED = {
    "WLS": (0.818, 0.1292, 0.1614, 0.1501, 0.1748, 41.38),
    "DeepDTI": (0.357, 0.0502, 0.0592, 0.0883, 0.0627, 29.17),
    "FlexDTI": (0.346, 0.0506, 0.0581, 0.0837, 0.0640, 28.92),
    "QCG-DTI": (0.283, 0.0453, 0.0473, 0.0688, 0.0524, 25.79),
}
PUBLISHED_FREE = {
    "WLS": (0.817, 0.1289, 0.1614, 0.1501, 0.1748, 41.38),
    "DeepDTI": (0.850, 0.1492, 0.1153, 0.1739, 0.1467, 45.37),
    "FlexDTI": (0.373, 0.0520, 0.0663, 0.0907, 0.0728, 29.33),
    "QCG-DTI": (0.289, 0.0443, 0.0499, 0.0706, 0.0546, 25.67),
}
PUBLISHED_COST = {
    "DeepDTI": (941.47, 3.59),
    "TransDTI": (159.95, 39.08),
    "FlexDTI": (60.99, 17.24),
    "QCG-DTI": (488.30, 19.28),
}
PUBLISHED_ABLATIONS = {
    "baseline": (0.357, 0.0531, 0.0624, 0.0877, 0.0677, 29.48),
    "no-qcf": (0.326, 0.0509, 0.0513, 0.0790, 0.0568, 29.79),
    "no-strategy": (0.354, 0.0524, 0.0600, 0.0842, 0.0667, 29.61),
    "no-mrd": (0.313, 0.0479, 0.0525, 0.0784, 0.0568, 27.15),
    "whole": (0.289, 0.0443, 0.0499, 0.0706, 0.0546, 25.67),
}

METHODS = ("wls", "gaussian", "mppca", "network")

#: Seeds of brains lie outside those of other benchmarks.
FIRST_BRAIN = 750

SNR = 20.0


def published(rows: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Return the lines of published numbers."""
    return [["published", name, *(f"{n:g}" for n in row)] for name, row in rows.items()]


def error_table(theirs: Mapping[str, Sequence[float]], ours: Mapping[str, Row]) -> str:
    """Return a table of published errors and of ours."""
    lines = [["source", "method", *(column.title for column in COLUMNS.values())]]
    lines += published(theirs)
    for name, row in ours.items():
        cells = (column.cell(row.get(key)) for key, column in COLUMNS.items())
        lines.append(["simulation", name, *cells])
    return markdown(lines)


def score(
    brains: Sequence[SimulatedBrain], sets: Sequence[NDArray[np.float64]], request: Request
) -> dict[str, Row]:
    """Return errors in tissue, averaged over brains and sets of directions, by method."""
    rows_by_method: dict[str, list[Row]] = {}
    for number, brain in enumerate(brains):
        for k, axes in enumerate(sets):
            scan = simulated_scan(brain, snr=SNR, bvecs=axes, seed=100 * number + k)
            for method, regions in compare_methods(scan, brain.reference(), request).items():
                rows_by_method.setdefault(method, []).append(regions["tissue"])
    return {method: mean_rows(rows) for method, rows in rows_by_method.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ablations", type=Path, help="folder of weights, for Table 5")
    parser.add_argument("--brains", type=int, default=1)
    parser.add_argument("--sets", type=int, default=3, help="turned sets of directions")
    options = parser.parse_args()
    brains = [build_brain(FIRST_BRAIN + k) for k in range(options.brains)]
    free = [skare_table(k) for k in range(options.sets)]

    print("\nTable 1: six directions, always the same, or turned at random\n")
    for title, sets, theirs in (
        ("fixed", [np.asarray(SKARE_DIRECTIONS)], PUBLISHED_FIXED),
        ("turned", free, PUBLISHED_FREE),
    ):
        rows = score(brains, sets, Request(methods=METHODS))
        titles = {**METHOD_TITLES, "network": "tensor-refiner (ours)"}
        ours = {titles[method]: row for method, row in rows.items()}
        print(f"\n{title}\n\n{error_table(theirs, ours)}", flush=True)

    print("\nTable 4: cost of a block of 64^3 voxels\n")
    cost = [
        ["source", "method", "1e9 multiply-adds", "1e6 parameters"],
        *published(PUBLISHED_COST),
    ]
    for name in ("qcg-dti-paper", "tensor-refiner"):
        with torch.device("meta"):
            model = MODELS[name].network(MODELS[name].config)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        cost.append(["counted", name, f"{count_macs(name):.4g}", f"{millions:.4g}"])
    print(markdown(cost))

    if options.ablations:
        ours = {}
        for row_name in ABLATIONS:
            request = Request(
                methods=("network",),
                model=f"qcg-dti-ablation-{row_name}",
                weights=options.ablations / f"{row_name}.safetensors",
            )
            ours[row_name] = score(brains, free, request)["network"]
        print("\nTable 5: parts taken away, directions turned at random\n")
        print(error_table(PUBLISHED_ABLATIONS, ours))


if __name__ == "__main__":
    main()
