"""Print what linear probes read from encoders by size of patch and length of pretraining.

Usage: python benchmarks/drope_patches.py RUNS [--epochs 5 10 15] [--brains 60]

Figure 7 of Kung et al. 2026 (https://doi.org/10.48550/arXiv.2603.25977, section 6.2): patches of
(16, 16, 4), (12, 14, 4) and (8, 8, 4) voxels, checkpoints at 50 to 300 epochs of one run
(`--epochs 50 100 150 200 250 300`), an epoch being 100 steps here. The published tasks are of
cohorts; ours are the microstructure of simulated brains of one anatomy
(:mod:`dmri_fm_lab.evaluate.galleries`), predicted by ridge regression in five folds from the class
token and from pooled tokens. RUNS keeps what is trained; an unfinished run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmri_fm import feature_grid
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.qspace import FEATURE_DIRECTIONS
from dmri_fm_lab.evaluate.galleries import acquire_tissue, brain_geometry, draw_gallery
from dmri_fm_lab.evaluate.representations import encode
from dmri_fm_lab.evaluate.retrieval import probe
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.simulate.protocol import draw_shells
from dmri_fm_lab.simulate.voxel_tissue import FACTORS
from dmri_fm_lab.train.comparison import Row, pretrain_row

PATCHES = ((16, 16, 4), (12, 14, 4), (8, 8, 4))

#: Steps of an epoch.
EPOCH = 100

#: Features that are probed, by their names in :func:`encode`.
FEATURES = {"cls": "CLS", "pooled": "pooled"}

#: b-value, s/mm^2, and SNR of the brains that are probed.
BVAL, SNR = 1000.0, 25.0

Key = tuple[tuple[int, int, int], int]


def train(folder: Path, epochs: list[int]) -> dict[Key, Drope]:
    """Return encoders by size of patch and epoch."""
    n_steps = EPOCH * epochs[-1]
    encoders = {}
    for patch in PATCHES:
        for epoch in epochs:
            network = pretrain_row(Row(patch=patch), folder, n_steps=n_steps, until=EPOCH * epoch)
            encoders[patch, epoch] = network.encoder
            print(f"patch {patch}, epoch {epoch}: trained", flush=True)
    return encoders


def score(encoders: dict[Key, Drope], n_brains: int) -> dict[Key, dict[str, list[float]]]:
    """Return R^2 of every factor by encoder and feature."""
    rng = np.random.default_rng(0)
    geometry = brain_geometry(feature_grid("drope-ablation"))
    tissues = draw_gallery(rng, n_brains)
    (gtab,) = draw_shells(rng, n_directions=FEATURE_DIRECTIONS, bvals=(BVAL,))
    rows: dict[Key, dict[str, list[NDArray[np.float64]]]] = {
        key: {feature: [] for feature in FEATURES} for key in encoders
    }
    for tissue in tissues:
        scan = acquire_tissue(geometry, tissue, gtab, snr=SNR, rng=rng)
        for key, encoder in encoders.items():
            features = encode(encoder, scan)
            for feature in FEATURES:
                rows[key][feature].append(features[feature])
    targets = np.array([[getattr(tissue, factor) for factor in FACTORS] for tissue in tissues])
    return {
        key: {
            feature: probe([np.stack(vectors)], targets)[0][0].tolist()
            for feature, vectors in by_feature.items()
        }
        for key, by_feature in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 10, 15])
    parser.add_argument("--brains", type=int, default=60, help="brains to probe; default 60")
    options = parser.parse_args()
    encoders = train(options.runs, sorted(options.epochs))
    lines = [["patch", "epoch", "features", *FACTORS, "mean R^2"]]
    for (patch, epoch), by_feature in score(encoders, options.brains).items():
        for feature, values in by_feature.items():
            numbers = [f"{v:.3f}" for v in (*values, float(np.mean(values)))]
            size = " x ".join(map(str, patch))
            lines.append([size, str(epoch), FEATURES[feature], *numbers])
    print(f"\nR^2 of linear probes, {options.brains} brains\n\n{markdown(lines)}")


if __name__ == "__main__":
    main()
