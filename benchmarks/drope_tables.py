"""Print the paper's tables 1 and 2 of D-RoPE with our rows beside the published ones.

Usage: python benchmarks/drope_tables.py RUNS [--steps 400] [--scans 3] [--data BIDS]

Kung et al. 2026, https://doi.org/10.48550/arXiv.2603.25977: masked autoencoders that were
pretrained by masking patches, directions, or both in turn, with rotary attention across directions
and without. The published rows are of HCP-YA and an encoder of 35M parameters after 300 epochs;
ours are of `drope-ablation`, trained for a few hundred steps on simulation, so only the order of
rows within one source can be compared. RUNS gets a folder for each; finished ones are kept.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm import feature_grid
from dmri_fm_lab.evaluate.reconstruction import ReconstructionRequest, score_scan
from dmri_fm_lab.evaluate.tables import markdown
from dmri_fm_lab.grid_scans import dataset_scans, simulated_scans
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import pretrain_drope
from dmri_fm_lab.train.runs import load_autoencoder

MODELS = {"MAE": "drope-ablation-plain", "MAE with D-RoPE": "drope-ablation"}
MASKINGS = ("spatial", "diffusion", "alternating")

#: authors_psnr and SSIM by b-value; then FA error, MD error (1e-3 mm^2/s).
PUBLISHED: dict[tuple[str, str], tuple[float, ...]] = {
    ("MAE", "spatial"): (14.54, 0.971, 14.91, 0.969, 15.13, 0.969, 0.074, 0.098),
    ("MAE", "diffusion"): (10.13, 0.875, 10.07, 0.844, 10.01, 0.819, 0.185, 0.233),
    ("MAE", "alternating"): (14.70, 0.971, 15.07, 0.968, 15.29, 0.968, 0.080, 0.109),
    ("MAE with D-RoPE", "spatial"): (14.84, 0.973, 15.26, 0.972, 15.49, 0.971, 0.061, 0.104),
    ("MAE with D-RoPE", "diffusion"): (14.86, 0.974, 15.31, 0.973, 15.54, 0.973, 0.058, 0.099),
    ("MAE with D-RoPE", "alternating"): (14.94, 0.974, 15.37, 0.973, 15.61, 0.973, 0.055, 0.103),
}
COLUMNS = (
    *("b 1000 PSNR", "SSIM", "b 2000 PSNR", "SSIM", "b 3000 PSNR", "SSIM"),
    *("FA error", "MD error (1e-3)"),
)


def train(folder: Path, model: str, masking: str, steps: int) -> None:
    """Pretrain one row; an unfinished run goes on, a finished one is kept."""
    changes = {"n_steps": steps, "warmup_steps": max(1, steps // 10)}
    settings = read_training(DropePretraining, "drope-ablation", model=model, optimisation=changes)
    pretrain_drope(replace(settings, masking=masking), folder)


def describe(records: list[dict[str, Any]], masking: str) -> list[str]:
    """Return table cells: means over scans of our PSNR and SSIM by shell, FA and MD errors."""
    cells: list[str] = []
    results = [r["results"][n][masking] for r in records for n in r["results"]]
    labels = sorted({label for r in results for label in r["rows"]["network"]}, key=_order)
    for label in labels:
        rows = [r["rows"]["network"][label] for r in results if label in r["rows"]["network"]]
        scores = (np.mean([row[k] for row in rows]) for k in ("psnr", "ssim"))
        cells.append(f"{label}: " + ", ".join(f"{s:.3f}" for s in scores))
    for key, factor in (("fa", 1.0), ("md", 1e3)):
        values = [r["tensors"]["network"][key] for r in results if r["tensors"]]
        cells.append(f"{factor * float(np.mean(values)):.4f}" if values else "")
    return cells


def _order(label: str) -> float:
    return float("inf") if label == "all" else float(label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--scans", type=int, default=3, help="simulated scans, held out")
    parser.add_argument("--data", type=Path, help="a dataset to score, too")
    parser.add_argument("--participant-label", nargs="+")
    options = parser.parse_args()

    print("Published, HCP-YA (half of our PSNR, see authors_psnr)\n")
    rows = [[*names, *(f"{x:g}" for x in numbers)] for names, numbers in PUBLISHED.items()]
    print(markdown([["method", "masking", *COLUMNS], *rows]))

    grid = feature_grid("drope-ablation")
    scans = list(
        chain(
            simulated_scans(grid, options.scans, n_directions=30, seed=3),
            dataset_scans(options.data, grid, participant_labels=options.participant_label)
            if options.data
            else (),
        )
    )
    print(f"\nOurs, {options.steps} steps; PSNR, SSIM by b-value; FA and MD error (1e-3 mm^2/s)")
    for method, model in MODELS.items():
        for masking in MASKINGS:
            folder = options.runs / f"{model}-{masking}"
            train(folder, model, masking, options.steps)
            network = load_autoencoder(folder, model=model)
            by_origin: dict[str, list[dict[str, Any]]] = {}
            for scan in scans:
                n = min(30, len(scan.gtab))
                request = ReconstructionRequest((n,), n_masks=1, has_baselines=False)
                by_origin.setdefault(scan.origin, []).append(score_scan(network, scan, request))
            for origin, records in by_origin.items():
                for masked in ("spatial", "diffusion"):
                    cells = " | ".join(describe(records, masked))
                    print(
                        f"| {origin} | masked: {masked} | {method} | {masking} | {cells} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
