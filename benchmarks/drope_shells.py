"""Does masking whole shells in pretraining make features comparable across b-values?

Usage: python benchmarks/drope_shells.py RUNS [--steps 1000] [--brains 60]

Trains `drope-ablation` twice, on the same simulated brains and for the same number of steps: with
random directions masked as published, and with all shells but one masked in half of the steps that
mask directions (`shell_share`), so that the network predicts another b-value's volumes of the same
tissue. Prints retrieval between protocols of b 1000 and b 2000 (A and C of `dmri-fm evaluate
protocols`; A and B have one b-value), and R^2 of probes that were trained at b 1000, beside
untrained weights and FA and MD maps. RUNS gets a folder for each; finished ones are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm import feature_grid
from dmri_fm_lab.evaluate.galleries import brain_geometry
from dmri_fm_lab.evaluate.protocols import ProtocolRequest, evaluate_gallery
from dmri_fm_lab.evaluate.representations import FEATURES
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import pretrain_drope
from dmri_fm_lab.train.runs import load_autoencoder

MODEL = "drope-ablation"

#: Share of the steps with several shells that mask all but one.
SHARES = (0.0, 0.5)

#: Rows that depend on the training; the others are the same for both networks.
TRAINED = ("both", "cls", "pooled")


def train(runs: Path, share: float, steps: int) -> Path:
    """Pretrain with a share of masked shells; return the folder of the run."""
    changes = {"n_steps": steps, "warmup_steps": max(1, steps // 10)}
    settings = read_training(DropePretraining, MODEL, optimisation=changes)
    folder = runs / f"shell-share-{share:g}"
    pretrain_drope(replace(settings, shell_share=share), folder, brains=runs / "brains")
    return folder


def lines(record: Mapping[str, Any], names: tuple[str, ...], title: str) -> list[list[str]]:
    """Return table lines: retrieval and mean R^2 over the factors of the tissue."""
    rows = []
    for name in names:
        by_pair, probes = record["retrieval"][name], record["probe"][name].values()
        cells = [f"{by_pair[p][k]:.3f}" for p in ("A-B", "A-C") for k in ("centred", "linked")]
        for column in ("A", "C", "C centred"):
            cells.append(f"{np.mean([scores[column] for scores in probes]):.3f}")
        rows.append([title, FEATURES[name], *cells])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--brains", type=int, default=60, help="of the gallery")
    parser.add_argument("--seed", type=int, default=0, help="of the gallery")
    options = parser.parse_args()

    request = ProtocolRequest(n_brains=options.brains, seed=options.seed, n_drawn=0)
    geometry = brain_geometry(feature_grid(MODEL), seed=options.seed)
    table = [
        [
            f"{options.steps} steps; gallery of {options.brains}",
            "features",
            *(f"rank-1 {pair}, {way}" for pair in ("A-B", "A-C") for way in ("centred", "linked")),
            *(f"R^2, trained on A, tested on {c}" for c in ("A", "C", "C centred")),
        ]
    ]
    for number, share in enumerate(SHARES):
        encoder = load_autoencoder(train(options.runs, share, options.steps), model=MODEL).encoder
        cache = options.runs / "features"
        record = evaluate_gallery(encoder, geometry, request, cache=cache)
        table += lines(record, TRAINED, f"shell share {share:g}")
        if number == len(SHARES) - 1:
            rest = tuple(name for name in FEATURES if name not in TRAINED)
            table += lines(record, rest, "baseline")
    print(markdown(table))


if __name__ == "__main__":
    main()
