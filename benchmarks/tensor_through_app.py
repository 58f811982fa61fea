"""Score tensor networks on the truth of simulated participants, through the whole app.

Usage: python benchmarks/tensor_through_app.py WORK [--bids BIDS] [--bval B ...] [--voxel-size MM
           ...] [--directions N] [--participants N] [--model NAME ...] [--weights MODEL=FILE ...]
           [--json OUT] [--sloppy]

Participants come from `dmri-fm simulate`, one dataset for each b-value and voxel size (every
second participant is a patient with lesions), or from --bids, a raw dataset with its truth under
`derivatives/truth`. The app corrects each scan twice: whole, and cut to one b=0 and six
directions before all preprocessing (b=0 images of reversed phase encoding only correct the
distortion). The truth is brought to ACPC by the app's own transforms.
Outputs in WORK that are complete are not computed again.

Prints for each dataset and tissue the errors of: the network's maps as the app wrote them; the
network on the corrected, denoised series; the network of the scan cut to seven; WLS of all volumes
(intervals: wild bootstrap), and of the volumes that the network read, both scans (intervals: the
noise model, as seven volumes leave no residuals; residuals of more b=0 volumes are not used). All
rows of WLS are of the app's corrected series, which is denoised, and say so. Then coverage and
half-width of the 90 % intervals, networks beside bootstraps of WLS, in each cell of tissue,
lesion, b-value and voxel size and in all tissue, with the bars: 85 to 95 % of all tissue, 80 % in
each cell; and the share of the brain that is out-of-distribution. --json has the sha256 of the
weights.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm.tensor_networks.predict import predict_tensor
from dmri_fm_lab.commands.evaluate_tensor import parse_weights
from dmri_fm_lab.evaluate.app_outputs import AppOutput, cut_to_seven, with_intervals
from dmri_fm_lab.evaluate.bootstrap import bootstrap_noise, model_noise
from dmri_fm_lab.evaluate.comparison import PACKAGED
from dmri_fm_lab.evaluate.coverage import interval_tables, judge_coverage
from dmri_fm_lab.evaluate.records import json_ready, versions, write_json
from dmri_fm_lab.evaluate.saved_scores import describe_networks
from dmri_fm_lab.evaluate.scores import Row, mean_rows, score
from dmri_fm_lab.markdown_tables import Column, markdown, table_cells
from dmri_fm_lab.scans import list_participants
from dmri_fm_lab.simulate import simulate_dataset
from dmri_fm_lab.smoothing import noise_sigma

COLUMNS = {
    "fa": Column("FA", ".4f"),
    "fa_bias": Column("FA bias", ".4f"),
    "md": Column("MD", ".4f", 1e3),
    "md_bias": Column("MD bias", ".4f", 1e3),
    "ad": Column("AD", ".4f", 1e3),
    "rd": Column("RD", ".4f", 1e3),
    "tensor": Column("tensor", ".3f", 1e3),
    "v1_deg_fa03": Column("V1 FA>.3", ".1f"),
    "fa_coverage": Column("FA 90%", ".2f"),
    "md_coverage": Column("MD 90%", ".2f"),
}

#: Errors by method and region.
Rows = dict[str, dict[str, Row]]


def run_app(raw: Path, out: Path, label: str, options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "dmri_fm_workflows", str(raw), str(out), "participant"]
    command += ["--participant-label", label, "--output-spaces", "ACPC"]
    command += ["--models", *options.model, *(["--sloppy"] if options.sloppy else [])]
    command += ["--weights", *options.weights] if options.weights else []
    subprocess.run(command, check=True)


class Scores(NamedTuple):
    """What a dataset gives: rows, voxels by region, out-of-distribution shares by network."""

    rows: Rows
    n_voxels: dict[str, float]
    ood_fractions: Row


def shell_volumes(dwi: Dwi) -> list[int]:
    """Return b=0 and the shell nearest to b = 1000 s/mm^2."""
    shell = min(dwi.gtab.shells, key=lambda s: abs(s.bval - 1000))
    return [*np.flatnonzero(dwi.gtab.is_b0).tolist(), *shell.index]


def fit_with_model(dwi: Dwi, where: NDArray[np.bool_], rng: np.random.Generator) -> TensorMaps:
    noise = model_noise(dwi, mask=where, sigma=noise_sigma(dwi), rng=rng)
    return with_intervals(fit_tensor(dwi, shell="all"), noise, where)


def score_whole(output: AppOutput, options: argparse.Namespace) -> Rows:
    """Return the rows of a whole scan; networks that read the same volumes share their WLS."""
    rng = np.random.default_rng(0)
    reference = output.truth.reference()
    where = output.dwi.brain & np.logical_or.reduce([m for _, m in reference.regions.items()])
    volumes = shell_volumes(output.dwi)
    noise = bootstrap_noise(output.dwi, volumes, mask=where, rng=rng)
    every = fit_tensor(output.dwi.select(volumes), shell="all")
    every = every if noise is None else with_intervals(every, noise, where)
    found = {"WLS of all volumes, denoised": every}
    readers: dict[tuple[int, ...], list[str]] = {}
    weights = parse_weights(options.weights)
    for model in options.model:
        maps, read = output.network_maps(model)
        found[f"{model}, by the app"] = maps
        found[f"{model}, denoised input"] = predict_tensor(
            output.dwi, model=model, weights=weights.get(model)
        )
        readers.setdefault(tuple(sorted(read)), []).append(model)
    for volumes_read, models in readers.items():
        title = f"WLS of the volumes of {' and '.join(models)}, denoised"
        found[title] = fit_with_model(output.dwi.select(volumes_read), where, rng)
    return {name: score(maps, reference) for name, maps in found.items()}


def score_seven(output: AppOutput, options: argparse.Namespace) -> Rows:
    """Return the rows of a scan that was cut to seven volumes, and no more."""
    reference = output.truth.reference()
    where = output.dwi.brain & np.logical_or.reduce([m for _, m in reference.regions.items()])
    found = {}
    for model in options.model:
        maps, read = output.network_maps(model)
        if sorted(read) != list(range(7)) or output.dwi.shape[3] != 7:
            raise SystemExit(
                f"{output.stem}: {model} read the volumes {read} of {output.dwi.shape[3]}, not "
                "one b=0 and six others; delete the folders `seven` and `out-seven`, made before"
            )
        found[f"{model}, scan cut to seven"] = maps
    found["WLS, scan cut to seven, denoised"] = fit_with_model(
        output.dwi, where, np.random.default_rng(0)
    )
    return {name: score(maps, reference) for name, maps in found.items()}


def compare(raw: Path, folder: Path, options: argparse.Namespace) -> Scores:
    """Return means over the participants of a dataset."""
    people = list_participants(raw)
    seven = folder / "seven"
    if not (seven / "dataset_description.json").is_file():
        cut_to_seven(raw, seven, people)
    results: list[Rows] = []
    counts: list[Row] = []
    oods: list[Row] = []
    for label in people:
        outputs = []
        for source, name in ((raw, "out"), (seven, "out-seven")):
            run_app(source, folder / name, label, options)
            outputs.append(AppOutput.read(folder / name, raw, label))
        results.append(score_whole(outputs[0], options) | score_seven(outputs[1], options))
        regions = outputs[0].truth.reference().regions
        counts.append({name: float(mask.sum()) for name, mask in regions.items()})
        oods.append({m: outputs[0].parameters(m).get("OODFraction") for m in options.model})
    regions = {name: None for count in counts for name in count}
    means = {
        method: {r: mean_rows([rows[method].get(r, {}) for rows in results]) for r in regions}
        for method in results[0]
    }
    n_voxels = {r: float(sum(c.get(r) or 0.0 for c in counts)) for r in regions}
    return Scores(means, n_voxels, mean_rows(oods))


def datasets(options: argparse.Namespace) -> Sequence[tuple[str, Path, Path]]:
    """Return title, raw dataset and folder of outputs of each dataset; simulate those needed."""
    if options.bids:
        return [(options.bids.name, options.bids, options.work / options.bids.name)]
    found = []
    for bval in options.bval:
        for size in options.voxel_size:
            folder = options.work / f"b{bval:g}_{size:g}mm"
            if not (folder / "raw" / "dataset_description.json").is_file():
                simulate_dataset(
                    folder / "raw",
                    n_participants=options.participants,
                    seed=4,
                    voxel_size_mm=size,
                    n_directions=options.directions,
                    bval=bval,
                )
            found.append((f"b {bval:g}, {size:g} mm", folder / "raw", folder))
    return found


def print_tables(title: str, scores: Scores) -> None:
    for region, count in scores.n_voxels.items():
        kept = {name: rows[region] for name, rows in scores.rows.items() if rows[region]}
        if kept:
            print(f"\n{title}, {region}, {count:.0f} voxels\n")
            print(markdown(table_cells(kept, COLUMNS)), flush=True)
    for model, share in scores.ood_fractions.items():
        found = "not measured" if share is None else f"{100 * share:.2f} % of the brain"
        print(f"\n{title}, {model}, out-of-distribution: {found}")


def print_coverage(results: Mapping[str, Scores]) -> None:
    """Print the intervals of all methods side by side, cell by cell, and the verdicts on them."""
    methods = list(next(iter(results.values())).rows)
    cells: dict[str, dict[tuple[str, str], tuple[float, Row]]] = {
        method: {
            (title, region): (scores.n_voxels[region], scores.rows[method][region])
            for title, scores in results.items()
            for region in scores.n_voxels
            if "fa_coverage" in scores.rows[method][region]
        }
        for method in methods
    }
    for title, table in interval_tables(cells).items():
        print(f"\nIntervals, {title}\n\n{table}")
    for method, own in cells.items():
        if own:
            print("\n" + "\n".join(judge_coverage(method, own)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of datasets and outputs")
    parser.add_argument("--bids", type=Path, help="raw dataset with its truth")
    parser.add_argument("--bval", type=float, nargs="+", default=[1000.0])
    parser.add_argument("--voxel-size", type=float, nargs="+", default=[2.5])
    parser.add_argument("--directions", type=int, default=30)
    parser.add_argument("--participants", type=int, default=2)
    parser.add_argument("--model", nargs="+", default=list(PACKAGED))
    parser.add_argument("--weights", nargs="+", default=[], metavar="MODEL=FILE")
    parser.add_argument("--json", type=Path, help="write all numbers")
    parser.add_argument("--sloppy", action="store_true", help="the app's --sloppy")
    options = parser.parse_args()
    networks = describe_networks(options.model, parse_weights(options.weights))
    results: dict[str, Scores] = {}
    for title, raw, folder in datasets(options):
        results[title] = compare(raw.resolve(), folder.resolve(), options)
        if options.sloppy:
            print("\nMade with --sloppy: the app's corrections are coarse.")
        print_tables(title, results[title])
    print_coverage(results)
    print(f"\n{RESEARCH_ONLY}")
    if options.json:
        content = {
            "versions": versions(),
            "networks": networks,
            "is_sloppy": options.sloppy,
            "datasets": {title: scores._asdict() for title, scores in results.items()},
        }
        write_json(json_ready(content), options.json)


if __name__ == "__main__":
    main()
