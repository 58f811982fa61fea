"""Score the D-RoPE weights that ship against plain rivals, on held-out simulation and a real scan.

Usage: python benchmarks/first_weights.py [--data FOLDER] [--pretraining FOLDER] [--scans 24]

Prints, with --data, how familiar a real scan is (sub-trio of the test scans, never used in
training); with --pretraining (the folder of a run of `dmri-fm pretrain`, whose checkpoint holds
the decoder), the error of hidden directions and places against the mean of the visible ones, on
simulated brains that no training run draws and on that scan.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from dipy.segment.mask import median_otsu

from dmri_fm.evaluate.grid_scans import lay_on_grid
from dmri_fm.models.directions import choose_spread
from dmri_fm.models.drope import SMALL
from dmri_fm.models.mae import SMALL_MAE, Mask, MaskedAutoencoder, draw_mask
from dmri_fm.models.predict import extract_features
from dmri_fm.models.tokens import ScanTokens, feature_grid, tokenise
from dmri_fm.models.weights import load_weights
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.train.drope import draw_scan_tokens
from dmri_fm.train.runs import load_autoencoder
from dmri_fm.volumes import Dwi

#: Training draws from [seed, step] and [seed, 0..2, number]; these seeds lie outside.
HELD_OUT = 777_000


def print_table(title: str, rows: dict[str, list[dict[str, float]]]) -> None:
    print(f"\n{title}\n")
    names = list(next(iter(rows.values()))[0])
    print("| method | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for method, values in rows.items():
        means = (np.nanmean([v[n] for v in values]) for n in names)
        print(f"| {method} | " + " | ".join(f"{m:.4f}" for m in means) + " |")


def read_trio(data: Path) -> Dwi:
    stem = data / "ds-vendors" / "sub-trio" / "dwi"
    image = next(stem.glob("*_dwi.nii.gz"))
    name = str(image).removesuffix(".nii.gz")
    dwi = Dwi.from_files(image, f"{name}.bval", f"{name}.bvec")
    _, mask = median_otsu(dwi.mean_b0(), median_radius=4, numpass=4)
    return dwi.with_mask(mask)


def hidden_errors(
    model: MaskedAutoencoder, scan: ScanTokens, rng: np.random.Generator
) -> dict[str, float]:
    """Return root mean squared errors of S/S0 in hidden patches of the brain."""
    n, places = scan.qspace.shape[0], scan.positions.shape[0]
    brain = scan.brain.bool()
    out: dict[str, float] = {}
    for kind in ("diffusion", "spatial"):
        mask: Mask = draw_mask(rng, SMALL_MAE, kind=kind, n_directions=n, n_places=places)
        with torch.inference_mode():
            made = model(scan.patches[None], scan.qspace[None], scan.positions[None], mask)[0]
        hidden = mask.hidden(n, places)[0]
        if kind == "diffusion":
            mean = scan.patches[~hidden[:, 0]].mean(dim=0).expand_as(scan.patches)
            rival = "mean of visible directions"
        else:
            seen = ~hidden[0]
            values = torch.stack([p[seen][brain[seen]].mean() for p in scan.patches])
            mean = values[:, None, None].expand_as(scan.patches)
            rival = "mean of visible places"
        voxels = hidden[..., None] & brain[None]
        for name, estimate in (("network", made), (rival, mean)):
            square = (estimate - scan.patches).square()[voxels].mean()
            out[f"{kind}: {name}"] = float(square.sqrt())
    return out


def score_autoencoder(folder: Path, n_scans: int, trio: Dwi | None) -> None:
    model = load_autoencoder(folder)
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(n_scans):
        rng = np.random.default_rng([HELD_OUT + 1, number])
        scan = draw_scan_tokens(rng, SMALL, n_directions=12)
        rows["held-out simulation"].append(hidden_errors(model, scan, rng))
    if trio is not None:
        chosen = choose_spread(trio.gtab, 12)
        volumes = np.concatenate([np.flatnonzero(trio.gtab.is_b0), chosen])
        table = trio.gtab.select(volumes)
        assert trio.mask is not None
        signal = normalise_b0(trio.data[..., volumes], table, mask=trio.mask).signal
        scan = tokenise(signal[..., ~table.is_b0], trio.gtab.select(chosen), trio.mask, SMALL)
        rows["sub-trio"].append(hidden_errors(model, scan, np.random.default_rng(0)))
    print_table("Masked autoencoder: RMSE of S/S0 in hidden patches, noise included", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the real test scans")
    parser.add_argument("--pretraining", type=Path, help="folder of a pretraining run")
    parser.add_argument("--scans", type=int, default=24, help="simulated scans of each kind")
    options = parser.parse_args()

    loaded = load_weights("drope")
    print(f"drope {loaded.version}, sha256 {loaded.sha256}")
    print(f"  {loaded.training['steps']} steps, {loaded.training['minutes']} minutes")
    trio = read_trio(options.data) if options.data else None
    in_mni = None
    if trio is not None:
        in_mni = lay_on_grid(trio, feature_grid("drope"))
        features = extract_features(in_mni)
        print(
            f"\nsub-trio's features: familiarity score {features.ood_score:.2f}, "
            f"percentile {features.ood_percentile:.0f} of held-out simulation"
        )
    if options.pretraining:
        score_autoencoder(options.pretraining, max(1, options.scans // 4), in_mni)


if __name__ == "__main__":
    main()
