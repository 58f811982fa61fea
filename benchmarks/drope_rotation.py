"""Compare D-RoPE encoders that were trained with rotation and without: what does it bring?

Usage: python benchmarks/drope_rotation.py RUNS [--steps 1500] [--seeds 0 1 2] [--data BIDS]
       [--random-start]

Trains `drope-ablation` and `drope-ablation-plain`, equal but for the rotation of attention across
directions, for equal steps on the same brains, once a seed, and prints R of masked directions in
white matter (`dmri-fm evaluate rotation`) on scans of the generator that they are not trained on
and on a dataset. Networks with rotation are also told permuted distances. A difference that is
smaller than the spread of seeds is none: a last table has the verdicts.
`--random-start` trains both from random weights in place of those near the identity, where the
decoder's attention across directions is a mean. RUNS keeps what is trained; an unfinished run goes
on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm import feature_grid
from dmri_fm_lab.evaluate.records import write_json
from dmri_fm_lab.evaluate.rotation import TITLES, RotationRequest, score_rotations
from dmri_fm_lab.evaluate.rotation_verdicts import judge_seeds
from dmri_fm_lab.grid_scans import ScanSources
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.train.comparison import Row, pretrain_row

MODELS = {"with rotation": "drope-ablation", "without rotation": "drope-ablation-plain"}

#: Rows of one training that are printed beside `network`.
PERMUTED = ("distances, encoder", "distances, encoder and decoder")


def format_origin(means: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return a table of R on the scans of one origin, by seed."""
    n_seeds = len(next(iter(means.values())))
    lines = [["R", *(f"run {n + 1}" for n in range(n_seeds)), "mean", "spread of runs"]]
    rows: dict[str, list[float]] = {}
    for title, by_seed in means.items():
        for name in ("network", *PERMUTED):
            if name in by_seed[0]:
                what = title if name == "network" else f"{title}, {TITLES[name]}"
                rows[what] = [_r(scores, name) for scores in by_seed]
    baselines = next(iter(means.values()))[0]
    for name in ("gaussian-process", "stacked"):
        rows[TITLES[name]] = [_r(baselines, name)]
    for title, values in rows.items():
        by_run = [f"{v:.3f}" for v in values] if len(values) == n_seeds else ["-"] * n_seeds
        spread = f"{np.std(values, ddof=1):.3f}" if len(values) > 1 else "-"
        lines.append([title, *by_run, f"{np.mean(values):.3f}", spread])
    return markdown(lines)


def _r(scores: Mapping[str, Any], name: str) -> float:
    r = scores[name]["r"]
    return float("nan") if r is None else float(r)


def by_origin(
    records: Mapping[str, Iterable[Mapping[str, Any]]],
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the mean rows of all runs by origin of the scans, then by title of the model."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for title, runs in records.items():
        for record in runs:
            for origin, rows in record["means"].items():
                found.setdefault(origin, {}).setdefault(title, []).append(rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--other-generator", type=int, default=2, help="scans; default 2")
    parser.add_argument("--data", type=Path, help="a dataset to score, too")
    parser.add_argument("--participant-label", nargs="+")
    parser.add_argument("--masks", type=int, default=3)
    parser.add_argument("--permutations", type=int, default=5)
    parser.add_argument("--random-start", action="store_true", help="train from random weights")
    options = parser.parse_args()
    sources = ScanSources(
        bids=options.data,
        participant_labels=options.participant_label,
        n_other=options.other_generator,
    )
    scans = list(sources.scans(feature_grid("drope-ablation")))
    records: dict[str, list[dict[str, Any]]] = {title: [] for title in MODELS}
    for seed in options.seeds:
        for title, model in MODELS.items():
            row = Row(model, seed=seed, near_identity=not options.random_start)
            network = pretrain_row(row, options.runs, n_steps=options.steps)
            n = options.permutations if model == "drope-ablation" else 0
            record = score_rotations(network, scans, RotationRequest(12, options.masks, n))
            write_json(record, options.runs / row.name / "rotation.json")
            records[title].append(record)
            r = {k: f"{_r(rows, 'network'):.3f}" for k, rows in record["means"].items()}
            print(f"{title}, seed {seed}: {r}", flush=True)
    found = by_origin(records)
    for origin, means in found.items():
        print(f"\n{origin}, {options.steps} steps\n\n{format_origin(means)}")
    by_title = [{origin: means[title] for origin, means in found.items()} for title in MODELS]
    print(f"\n{judge_seeds(*by_title)}")


if __name__ == "__main__":
    main()
