"""Print the paper's tables 1 and 2 of D-RoPE with our rows beside the published ones.

Usage: python benchmarks/drope_tables.py RUNS [--steps 1500] [--scans 1] [--data BIDS]

Kung et al. 2026, https://doi.org/10.48550/arXiv.2603.25977: masked autoencoders that were
pretrained by masking patches, directions, or both in turn, with rotary attention across directions
and without. The published rows are of HCP-YA and an encoder of 35M parameters after 300 epochs;
ours are of `drope-ablation`, trained for a few epochs of 100 steps on simulation, so only the
order of rows within one source can be compared. As published, 90 directions (30 of each of b 1000,
2000 and 3000) are scored with three quarters of the patches masked; with half of the directions
masked, too. A dataset's scans have as many as they have distinct ones. RUNS keeps what is trained;
an unfinished run goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm import feature_grid
from dmri_fm.qspace import distinct_directions
from dmri_fm_lab.evaluate.reconstruction import ReconstructionRequest, score_scan
from dmri_fm_lab.evaluate.scores import mean_rows
from dmri_fm_lab.grid_scans import GridScan, dataset_scans, simulated_scans
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.train.comparison import Row, pretrain_row

MODELS = {"MAE": "drope-ablation-plain", "MAE with D-RoPE": "drope-ablation"}
MASKINGS = ("spatial", "diffusion", "alternating")

#: Directions and shells of the published evaluation, s/mm^2.
N_DIRECTIONS, SHELLS = 90, (1000.0, 2000.0, 3000.0)

#: authors_psnr and SSIM by b-value; then FA error, MD error (1e-3 mm^2/s).
PUBLISHED: dict[tuple[str, str], tuple[float, ...]] = {
    ("MAE", "spatial"): (14.54, 0.971, 14.91, 0.969, 15.13, 0.969, 0.074, 0.098),
    ("MAE", "diffusion"): (10.13, 0.875, 10.07, 0.844, 10.01, 0.819, 0.185, 0.233),
    ("MAE", "alternating"): (14.70, 0.971, 15.07, 0.968, 15.29, 0.968, 0.080, 0.109),
    ("MAE with D-RoPE", "spatial"): (14.84, 0.973, 15.26, 0.972, 15.49, 0.971, 0.061, 0.104),
    ("MAE with D-RoPE", "diffusion"): (14.86, 0.974, 15.31, 0.973, 15.54, 0.973, 0.058, 0.099),
    ("MAE with D-RoPE", "alternating"): (14.94, 0.974, 15.37, 0.973, 15.61, 0.973, 0.055, 0.103),
}
PUBLISHED_COLUMNS = (
    *("b 1000: authors' PSNR", "authors' SSIM", "b 2000: authors' PSNR", "authors' SSIM"),
    *("b 3000: authors' PSNR", "authors' SSIM", "FA error", "MD error (1e-3)"),
)

#: Of one shell: title, part of a score's record, its key, and the format.
SHELL_COLUMNS = (
    ("PSNR", "rows", "psnr", ".2f"),
    ("SSIM", "rows", "ssim", ".3f"),
    ("authors' PSNR", "authors", "authors_psnr", ".2f"),
    ("authors' SSIM", "authors", "authors_ms_ssim", ".3f"),
)


def scans_of(options: argparse.Namespace) -> Iterator[GridScan]:
    """Yield held-out simulated scans, and those of a dataset."""
    grid = feature_grid("drope-ablation")
    yield from simulated_scans(
        grid, options.scans, n_directions=N_DIRECTIONS, seed=3, protocols=[SHELLS]
    )
    if options.data:
        yield from dataset_scans(options.data, grid, participant_labels=options.participant_label)


def describe(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the cells of a row by title: means over scans, shell by shell."""
    shells = {label for r in results for label in r["rows"]["network"]}
    cells = {}
    for label in sorted(shells, key=lambda b: (b == "all", b if b == "all" else float(b))):
        for title, part, key, spec in SHELL_COLUMNS:
            rows = [r[part]["network"].get(label, {}) for r in results]
            value = mean_rows(rows).get(key)
            name = label if label == "all" else f"b {label}"
            cells[f"{name}: {title}"] = "-" if value is None else format(value, spec)
    errors = mean_rows([r["tensors"].get("network", {}) for r in results])
    for title, key, factor in (("FA error", "fa_white", 1), ("MD error (1e-3)", "md_white", 1e3)):
        value = errors.get(key)
        cells[f"{title}, white matter"] = "-" if value is None else f"{factor * value:.4f}"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--scans", type=int, default=1, help="simulated scans, held out")
    parser.add_argument("--data", type=Path, help="a dataset to score, too")
    parser.add_argument("--participant-label", nargs="+")
    options = parser.parse_args()

    print("Published, HCP-YA, patches masked\n")
    rows = [[*names, *(f"{x:g}" for x in numbers)] for names, numbers in PUBLISHED.items()]
    print(markdown([["method", "masking in training", *PUBLISHED_COLUMNS], *rows]))

    scans = list(scans_of(options))
    tables: dict[tuple[str, str], list[list[str]]] = {}
    for method, model in MODELS.items():
        for masking in MASKINGS:
            row = Row(model, masking)
            network = pretrain_row(row, options.runs, n_steps=options.steps)
            by_table: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for scan in scans:
                n = min(N_DIRECTIONS, len(distinct_directions(scan.gtab)))
                request = ReconstructionRequest((n,), n_masks=1, has_baselines=False)
                record = score_scan(network, scan, request)
                assert record is not None, "scans are simulated with that many directions"
                (found,) = record["results"].values()
                for masked, result in found.items():
                    by_table.setdefault((scan.origin, masked), []).append(result)
            for table, results in by_table.items():
                cells = describe(results)
                titles = ["method", "masking in training", *cells]
                tables.setdefault(table, [titles]).append([method, masking, *cells.values()])
            print(f"{row.name} scored", flush=True)
    titles_of = {"spatial": "patches masked", "diffusion": "directions masked"}
    for (origin, masked), lines in tables.items():
        print(f"\nOurs, {options.steps} steps; {origin}, {titles_of[masked]}\n")
        print(markdown(lines))


if __name__ == "__main__":
    main()
