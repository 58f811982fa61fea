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
from collections.abc import Sequence
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

#: Tensor, MD, AD and RD in 1e-3 mm^2/s; the angle is over all tissue but CSF.
COLUMNS = (("tensor", 1e3), ("fa", 1.0), ("md", 1e3), ("ad", 1e3), ("rd", 1e3), ("v1_deg", 1.0))
HEADER = "| source | method | tensor | FA | MD | AD | RD | V1, degrees |\n" + "|---" * 8 + "|"

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


def print_published(rows: dict[str, tuple[float, ...]]) -> None:
    for name, numbers in rows.items():
        print(f"| published | {name} | " + " | ".join(f"{n:g}" for n in numbers) + " |")


def print_row(name: str, row: Row) -> None:
    cells = (
        "" if row.get(key) is None else f"{factor * float(row[key] or 0):.4g}"
        for key, factor in COLUMNS
    )
    print(f"| simulation | {name} | " + " | ".join(cells) + " |", flush=True)


def score(
    brains: Sequence[SimulatedBrain], sets: Sequence[NDArray[np.float64]], request: Request
) -> dict[str, Row]:
    """Return errors in tissue, averaged over brains and sets of directions, by method."""
    found: dict[str, list[Row]] = {}
    for number, brain in enumerate(brains):
        for k, axes in enumerate(sets):
            scan = simulated_scan(brain, snr=SNR, bvecs=axes, seed=100 * number + k)
            for method, regions in compare_methods(scan, brain.reference(), request).items():
                found.setdefault(method, []).append(regions["tissue"])
    return {method: mean_rows(rows) for method, rows in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ablations", type=Path, help="folder of weights, for Table 5")
    parser.add_argument("--brains", type=int, default=1)
    parser.add_argument("--sets", type=int, default=3, help="turned sets of directions")
    options = parser.parse_args()
    brains = [build_brain(FIRST_BRAIN + k) for k in range(options.brains)]
    free = [skare_table(k) for k in range(options.sets)]

    print("\nTable 1: six directions, always the same, or turned at random\n")
    for title, sets, published in (
        ("fixed", [np.asarray(SKARE_DIRECTIONS)], PUBLISHED_FIXED),
        ("turned", free, PUBLISHED_FREE),
    ):
        print(f"\n{title}\n\n{HEADER}")
        print_published(published)
        for method, row in score(brains, sets, Request(methods=METHODS)).items():
            name = "tensor-refiner (ours)" if method == "network" else METHOD_TITLES[method]
            print_row(name, row)

    print("\nTable 4: cost of a block of 64^3 voxels\n")
    print("| source | method | 1e9 multiply-adds | 1e6 parameters |\n|---|---|---|---|")
    for name, (macs, millions) in PUBLISHED_COST.items():
        print(f"| published | {name} | {macs:g} | {millions:g} |")
    for name in ("qcg-dti-paper", "tensor-refiner"):
        config, kind, _ = MODELS[name]
        with torch.device("meta"):
            count = sum(p.numel() for p in kind(config).parameters())  # type: ignore[call-arg]
        print(f"| counted | {name} | {count_macs(name):.4g} | {count / 1e6:.4g} |")

    if options.ablations:
        print(f"\nTable 5: parts taken away, directions turned at random\n\n{HEADER}")
        print_published(PUBLISHED_ABLATIONS)
        for row_name in ABLATIONS:
            request = Request(
                methods=("network",),
                model=f"qcg-dti-ablation-{row_name}",
                weights=options.ablations / f"{row_name}.safetensors",
            )
            print_row(row_name, score(brains, free, request)["network"])


if __name__ == "__main__":
    main()
