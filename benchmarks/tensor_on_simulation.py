"""Score tensor estimates from seven volumes on the simulation that networks do not train on.

Usage: python benchmarks/tensor_on_simulation.py [--brains 2] [--weights FILE] [--json OUT]
                                                 [--figure OUT.png]

Brains of `dmri_fm_lab.evaluate.simulated` (trxscan, folded cortex, hand-laid bundles) are acquired
with one b=0 and a turned Skare set. From one condition (SNR 20, b = 1000 s/mm^2, 2.5 mm, no
lesions) one thing at a time is changed: SNR, b, voxel size, lesions. Prints a table for each
condition, and at the end the two verdicts: the gain over the best baseline at SNR 20, and the
loss against least squares at SNR 60 and above.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmri_fm_lab.evaluate.comparison import METHOD_TITLES, Request, compare_methods
from dmri_fm_lab.evaluate.records import json_ready, write_json
from dmri_fm_lab.evaluate.scores import mean_rows
from dmri_fm_lab.evaluate.simulated import build_brain, simulated_scan
from dmri_fm_lab.evaluate.tables import Column, markdown, table_cells

#: Values of each condition; the first is the one that is kept while another condition varies.
SNRS = (20.0, 8.0, 12.0, 30.0, 45.0, 60.0, 80.0)
BVALS = (1000.0, 600.0, 2000.0, 3000.0)
VOXELS_MM = (2.5, 2.0, 3.5)

#: Baselines that see the same seven volumes.
BASELINES = ("wls", "gaussian", "nlmeans", "tv", "mppca")
METHODS = (*BASELINES, "network", "gaussian-oracle")

#: Share of k-space that is sampled.
PARTIAL_FOURIER = 0.8

#: Seeds of brains lie outside those of other benchmarks.
FIRST_BRAIN = 700

COLUMNS = {
    "fa": Column("FA", ".4g"),
    "fa_bias": Column("FA bias", ".4g"),
    "md": Column("MD", ".4g", 1e3),
    "tensor": Column("tensor", ".4g", 1e3),
    "v1_deg_fa03": Column("V1 FA>.3", ".4g"),
    "fa_coverage": Column("FA 90%", ".4g"),
    "md_coverage": Column("MD 90%", ".4g"),
}


def score_brain(
    seed: int, snrs: Sequence[float], request: Request, **changes: Any
) -> dict[float, dict[str, Any]]:
    """Return the numbers of every method and region, by SNR."""
    brain = build_brain(seed, **changes)
    results = {}
    for snr in snrs:
        scan = simulated_scan(brain, snr=snr, partial_fourier=PARTIAL_FOURIER, seed=seed)
        results[snr] = compare_methods(scan, brain.reference(), request)
    return results


def conditions(n_brains: int, request: Request) -> dict[str, list[dict[str, Any]]]:
    """Return the numbers of each brain, by condition."""
    results: dict[str, list[dict[str, Any]]] = {}

    def add(name: str, numbers: dict[str, Any]) -> None:
        print(f"{name}: brain {len(results.get(name, ())) + 1}", flush=True)
        results.setdefault(name, []).append(numbers)

    for k in range(n_brains):
        seed = FIRST_BRAIN + k
        for snr, numbers in score_brain(seed, SNRS, request).items():
            add(f"SNR {snr:g}", numbers)
        for bval in BVALS[1:]:
            add(f"b {bval:g}", score_brain(seed, SNRS[:1], request, bval=bval)[SNRS[0]])
        for size in VOXELS_MM[1:]:
            numbers = score_brain(seed, SNRS[:1], request, voxel_size_mm=size)[SNRS[0]]
            add(f"{size:g} mm", numbers)
        add("lesions", score_brain(seed, SNRS[:1], request, has_lesions=True)[SNRS[0]])
    return results


def means(brains: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Average over brains, by method and region."""
    return {m: {r: mean_rows([h[m][r] for h in brains]) for r in brains[0][m]} for m in brains[0]}


def print_condition(name: str, numbers: dict[str, dict[str, Any]]) -> None:
    for region in ("white", "grey"):
        rows = {METHOD_TITLES[method]: regions[region] for method, regions in numbers.items()}
        print(f"\n{name}, {region} matter\n\n{markdown(table_cells(rows, COLUMNS))}")


def print_verdict(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    print("\nVerdict\n")
    for region in ("white", "grey"):
        for key in ("fa", "md"):
            numbers = results["SNR 20"]
            best = min(BASELINES, key=lambda m: numbers[m][region][key])
            gain = 1 - numbers["network"][region][key] / numbers[best][region][key]
            print(
                f"SNR 20, {region}, {key.upper()}: network {100 * gain:+.0f} % against "
                f"{METHOD_TITLES[best]} (bar: +15 %)"
            )
        for snr in (60, 80):
            numbers = results[f"SNR {snr}"]
            loss = numbers["network"][region]["fa"] - numbers["wls"][region]["fa"]
            print(f"SNR {snr}, {region}, FA: network {loss:+.4f} against WLS (bar: +.005)")


def draw(results: dict[str, dict[str, dict[str, Any]]], out: Path) -> None:
    """Draw FA and MD error of white and grey matter against SNR, b and voxel size."""
    from matplotlib.figure import Figure

    axes_of = {
        "SNR": sorted(SNRS),
        "b, s/mm^2": sorted(BVALS),
        "voxel, mm": sorted(VOXELS_MM),
    }
    names = {"SNR": "SNR {:g}", "b, s/mm^2": "b {:g}", "voxel, mm": "{:g} mm"}
    figure = Figure(figsize=(12, 11), layout="constrained")
    panels = figure.subplots(4, 3, sharey="row")
    for row, (region, key) in enumerate((r, k) for r in ("white", "grey") for k in ("fa", "md")):
        factor, unit = (1.0, "") if key == "fa" else (1e3, ", 1e-3 mm$^2$/s")
        for panel, (title, values) in zip(panels[row], axes_of.items(), strict=True):
            for method in METHODS:
                errors = [
                    factor * results["SNR 20" if n not in results else n][method][region][key]
                    for n in (names[title].format(v) for v in values)
                ]
                style = {"color": "black", "linewidth": 2.2} if method == "network" else {}
                line = "o--" if method == "gaussian-oracle" else "o-"
                panel.plot(values, errors, line, ms=3, label=METHOD_TITLES[method], **style)
            panel.set_xlabel(title)
            panel.set_ylim(bottom=0)
            if title == "SNR":
                panel.set_xscale("log")
                panel.set_xticks(values, [f"{v:g}" for v in values])
                panel.minorticks_off()
                panel.set_ylabel(f"error of {key.upper()}, {region} matter{unit}")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--brains", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="in place of those of the package")
    parser.add_argument("--json", type=Path, help="write all numbers")
    parser.add_argument("--figure", type=Path, help="write the plots")
    options = parser.parse_args()
    request = Request(methods=METHODS, weights=options.weights)
    results = {name: means(brains) for name, brains in conditions(options.brains, request).items()}
    for name, numbers in results.items():
        print_condition(name, numbers)
    print_verdict(results)
    if options.json:
        write_json(json_ready(results), options.json)
    if options.figure:
        draw(results, options.figure)


if __name__ == "__main__":
    main()
