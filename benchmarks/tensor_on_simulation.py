"""Score tensor estimates from seven volumes on the simulation that networks do not train on.

Usage: python benchmarks/tensor_on_simulation.py [--brains 2] [--model NAME ...]
           [--weights MODEL=FILE ...] [--json OUT] [--figure OUT.png] [--quick]

Brains of `dmri_fm_lab.evaluate.simulated` (trxscan, folded cortex, hand-laid bundles) are acquired
with one b=0 and a turned Skare set, and at some noise levels with 30 directions. From one
condition (SNR 20, b = 1000 s/mm^2, 2.5 mm, no lesions) one thing at a time is changed: SNR, b,
voxel size, lesions. Methods are compared on a grid in another pose, to which cubic splines bring
the volumes as in the app; networks, and baselines that smooth, get the noise map that the app
would give networks, and denoising comes before interpolation.

Prints, for each condition, a table of all tissue, white matter, grey matter and lesions; then the
coverage of the networks' 90 % intervals in each cell, with the bars (85 to 95 % over all tissue,
voxels of mixed tissue included, 80 % in each cell); then the verdicts: each network below WLS,
SNR-tuned smoothing (Gaussian, non-local means, total variation) and denoised WLS of the seven in
FA, MD and V1 at once. The numbers of --json, with the sha256 of the weights that they are of, are
what `dmri-fm evaluate tensor --gate --simulation` reads. --quick tries the script out in voxels of
6 mm; its numbers mean little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.commands.evaluate_tensor import parse_weights
from dmri_fm_lab.evaluate.baselines import DIRECTION_ROWS
from dmri_fm_lab.evaluate.comparison import PACKAGED, Request
from dmri_fm_lab.evaluate.comparison_text import verdict_lines
from dmri_fm_lab.evaluate.conditions import CONDITIONS, QUICK, compare_conditions
from dmri_fm_lab.evaluate.coverage import coverage_table, judge_coverage
from dmri_fm_lab.evaluate.records import json_ready, versions, write_json
from dmri_fm_lab.evaluate.saved_scores import describe_networks
from dmri_fm_lab.markdown_tables import Column, markdown, table_cells

METHODS = (
    *("wls", "gaussian", "nlmeans", "tv", "mppca", "network", "gaussian-oracle"),
    *DIRECTION_ROWS,
)

COLUMNS = {
    "fa": Column("FA", ".4g"),
    "fa_bias": Column("FA bias", ".4g"),
    "md": Column("MD", ".4g", 1e3),
    "ad": Column("AD", ".4g", 1e3),
    "rd": Column("RD", ".4g", 1e3),
    "tensor": Column("tensor", ".4g", 1e3),
    "v1_deg_fa03": Column("V1 FA>.3", ".4g"),
    "fa_coverage": Column("FA 90%", ".4g"),
    "md_coverage": Column("MD 90%", ".4g"),
}


def print_condition(record: dict[str, Any]) -> None:
    for region, count in record["n_voxels"].items():
        rows = {
            record["titles"][method]: regions[region]
            for method, regions in record["methods"].items()
            if regions.get(region)
        }
        if rows:
            table = markdown(table_cells(rows, COLUMNS))
            print(f"\n{record['name']}, {region}, {count:.0f} voxels\n\n{table}")


def print_coverage(records: Sequence[dict[str, Any]], models: Sequence[str]) -> None:
    for model in models:
        cells = {
            (record["name"], region): (record["n_voxels"][region], row)
            for record in records
            for region, row in record["methods"][model].items()
            if row
        }
        if any("fa_coverage" in row for _, row in cells.values()):
            print(f"\nCoverage of the 90 % intervals, {model}\n\n{coverage_table(cells)}\n")
            print("\n".join(judge_coverage(model, cells)))


def draw(records: Sequence[dict[str, Any]], models: Sequence[str], out: Path) -> None:
    """Draw FA and MD error of white and grey matter against SNR, b and voxel size."""
    from matplotlib.figure import Figure

    base = records[0]
    figure = Figure(figsize=(12, 11), layout="constrained")
    panels = figure.subplots(4, 3, sharey="row")
    axes = {"snr": "SNR", "bval": "b, s/mm^2", "voxel_mm": "voxel, mm"}
    for row, (region, key) in enumerate((r, k) for r in ("white", "grey") for k in ("fa", "md")):
        factor, unit = (1.0, "") if key == "fa" else (1e3, ", 1e-3 mm$^2$/s")
        for panel, (field, title) in zip(panels[row], axes.items(), strict=True):
            others = {k: v for k, v in base["condition"].items() if k != field}
            line = sorted(
                (r for r in records if others.items() <= r["condition"].items()),
                key=lambda r: r["condition"][field],
            )
            values = [r["condition"][field] for r in line]
            for method in (m for m in base["methods"] if m not in DIRECTION_ROWS):
                errors = [factor * r["methods"][method][region][key] for r in line]
                style = {"color": "black", "linewidth": 2.2} if method in models else {}
                dash = ("-", "--", ":")[models.index(method) % 3] if method in models else "-"
                mark = "o--" if method == "gaussian-oracle" else f"o{dash}"
                panel.plot(values, errors, mark, ms=3, label=base["titles"][method], **style)
            panel.set_xlabel(title)
            panel.set_ylim(bottom=0)
            if field == "snr":
                panel.set_xscale("log")
                panel.set_xticks(values, [f"{v:g}" for v in values])
                panel.minorticks_off()
                panel.set_ylabel(f"error of {key.upper()}, {region} matter{unit}")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--brains", type=int, default=2)
    parser.add_argument("--model", nargs="+", default=PACKAGED, help="networks, a row each")
    parser.add_argument("--weights", nargs="+", default=[], metavar="MODEL=FILE")
    parser.add_argument("--json", type=Path, help="write all numbers")
    parser.add_argument("--figure", type=Path, help="write the plots")
    parser.add_argument("--quick", action="store_true", help="voxels of 6 mm, three conditions")
    options = parser.parse_args()
    models = tuple(options.model)
    request = Request(methods=METHODS, models=models, weights=parse_weights(list(options.weights)))
    networks = describe_networks(models, request.weights)
    records = compare_conditions(
        request,
        conditions=QUICK if options.quick else CONDITIONS,
        n_brains=options.brains,
        report=lambda line: print(line, flush=True),
    )
    for record in records:
        print_condition(record)
    print_coverage(records, models)
    for record in records:
        print(f"\n{record['name']}\n")
        print("\n".join(verdict_lines(record, bval=record["condition"]["bval"])))
    print(f"\n{RESEARCH_ONLY}")
    if options.json:
        numbers = {"versions": versions(), "networks": networks, "conditions": records}
        write_json(json_ready(numbers), options.json)
    if options.figure:
        draw(records, models, options.figure)


if __name__ == "__main__":
    main()
