"""Print Tables 1, 4 and 5 of the publication of QCG-DTI with our rows beside the published ones.

Usage: python benchmarks/paper_tables.py [--brains 1] [--sets 3] [--weights NAME=FILE ...]
           [--runs FOLDER ...] [--ablations FOLDER] [--tables 1 4 5]

Zheng et al. 2025, https://doi.org/10.1631/FITEE.2400766: Table 1 (directions fixed or flexible),
Table 4 (cost) and Table 5 (ablations); `paper_cohorts.py` has Tables 2 and 3, `tractography.py`
Figure 7. The published rows are of 20 HCP subjects at 1.25 mm; ours are of simulated brains
(`dmri_fm_lab.evaluate.simulated`, SNR 20, b = 1000 s/mm^2, 2.5 mm).

`--runs` are DeepDTI and FlexDTI, small and retrained; with `--scans` on the same data as the
networks that ship, without it on simulation alone:

    dmri-fm train deepdti RUNS/deepdti --scans BIDS
    dmri-fm train flexdti RUNS/flexdti --scans BIDS

`--ablations` is a folder with a run for each row of Table 5:

    dmri-fm train qcg-dti-ablation FOLDER/ROW --model qcg-dti-ablation-ROW
    dmri-fm train qcg-dti-ablation-fixed FOLDER/fixed

of which a row is printed only if it is better than WLS in FA and in MD. `fixed` is the whole
network, trained with one set of directions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from published_tables import ABLATIONS, COST, FIXED, FLEXIBLE
from seven_volumes import (
    PACKAGED,
    Method,
    add_network_options,
    error_table,
    read_methods,
    score_methods,
)
from tensor_cost import BLOCK
from torch import nn

from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_networks.qcg_dti import PAPER, QcgDti
from dmri_fm_lab.baseline_networks import BASELINE_NETWORKS, find_tensor_network
from dmri_fm_lab.evaluate.baselines import BASELINES
from dmri_fm_lab.evaluate.network_runs import estimate_tensors, load_tensor_run
from dmri_fm_lab.evaluate.reference import Reference
from dmri_fm_lab.evaluate.scores import Row
from dmri_fm_lab.evaluate.simulated import SimulatedBrain, build_brain, simulated_scan, skare_table
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.network_cost import block_gmacs, block_inputs

BASELINE_NAMES = ("wls", "gaussian", "mppca")

#: Title of WLS, which a row of Table 5 has to beat.
WLS = BASELINES["wls"].title

#: Seeds of brains lie outside those of other benchmarks.
FIRST_BRAIN = 750

SNR = 20.0

FIXED_SET = np.asarray(SKARE_DIRECTIONS)


def acquire(
    brains: Sequence[SimulatedBrain], sets: Sequence[NDArray[np.float64]]
) -> list[tuple[Dwi, Reference]]:
    """Return a scan and its truth for each brain and set of directions."""
    return [
        (simulated_scan(brain, snr=SNR, bvecs=axes, seed=100 * number + k), brain.reference())
        for number, brain in enumerate(brains)
        for k, axes in enumerate(sets)
    ]


def print_table_1(
    methods: Mapping[str, Method],
    brains: Sequence[SimulatedBrain],
    flexible: Sequence[NDArray[np.float64]],
) -> None:
    print("\nTable 1: six directions, always the same, or turned at random")
    for title, sets, theirs in (("fixed", [FIXED_SET], FIXED), ("flexible", flexible, FLEXIBLE)):
        ours = score_methods(methods, acquire(brains, sets))
        print(f"\n{title}\n\n{error_table(theirs, ours)}", flush=True)


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def print_table_4() -> None:
    """Print multiply-adds, parameters and time of a block; ours in processor time."""
    print(
        "\nTable 4: cost of a block of 64^3 voxels, on a GPU (published) and a processor (ours)\n"
    )
    lines = [["source", "method", "1e9 multiply-adds", "1e6 parameters", "time"]]
    for name, (macs, parameters, ms) in COST.items():
        numbers = ["-" if n is None else f"{n:g}" for n in (macs, parameters)]
        lines.append(["published", name, *numbers, f"{ms:.0f} ms, A100"])
    rng = np.random.default_rng(0)
    gtab = GradientTable(np.repeat([0.0, 1000.0], [1, 6]), np.vstack([np.zeros(3), FIXED_SET]))
    data = rng.uniform(300.0, 1000.0, (*BLOCK, 7)).astype(np.float32)
    block = Dwi.from_arrays(data, np.eye(4), gtab, mask=np.ones(BLOCK, dtype=bool))
    # The first fit compiles.
    fit_tensor(block)
    seconds = cpu_seconds(lambda: fit_tensor(block))
    lines.append(["measured", "WLS", "-", "-", f"{seconds:.2f} CPU-s"])
    inputs = block_inputs(BLOCK[0])
    networks: dict[str, nn.Module] = {}
    for name in ("qcg-dti-paper", *PACKAGED, *BASELINE_NETWORKS):
        found = find_tensor_network(name)
        networks[name] = found.network(found.config).eval()
    # Algorithm 1 has no MRD at the coarsest level of the encoder.
    bare = QcgDti(PAPER).eval()
    bare.encoder[-1] = nn.Identity()
    networks["qcg-dti-paper, no MRD at the coarsest level"] = bare
    for name, network in networks.items():
        millions = sum(p.numel() for p in network.parameters()) / 1e6
        with torch.inference_mode():
            seconds = cpu_seconds(partial(network, inputs))
        macs = f"{block_gmacs(network, BLOCK):.4g}"
        lines.append(["measured", name, macs, f"{millions:.4g}", f"{seconds:.2f} CPU-s"])
    print(markdown(lines), flush=True)


def print_table_5(folder: Path, scans: Sequence[tuple[Dwi, Reference]]) -> None:
    """Print the ablations whose runs are in the folder, without those that lose to WLS."""
    found = {name: folder / name for name in (*ABLATIONS, "fixed") if (folder / name).is_dir()}
    methods: dict[str, Method] = {WLS: BASELINES["wls"].apply}
    for name, run in found.items():
        methods[name] = partial(estimate_tensors, load_tensor_run(run))
    rows = score_methods(methods, scans)
    kept = {name: row for name, row in rows.items() if name == WLS or beats(row, rows[WLS])}
    print("\nTable 5: parts taken away, directions turned at random\n")
    print(error_table(ABLATIONS, kept), flush=True)
    for name in (*ABLATIONS, "fixed"):
        if name not in found:
            print(f"{name}: no run in {folder}")
        elif name not in kept:
            print(f"{name}: left out, not better than WLS in FA and MD")


def beats(row: Row, other: Row) -> bool:
    """Return whether errors of FA and MD are both below those of another row."""
    pairs = [(row.get(key), other.get(key)) for key in ("fa", "md")]
    return all(a is not None and b is not None and a < b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--brains", type=int, default=1)
    parser.add_argument("--sets", type=int, default=3, help="turned sets of directions")
    parser.add_argument("--ablations", type=Path, help="folder of runs, for Table 5")
    parser.add_argument("--tables", type=int, nargs="+", choices=(1, 4, 5), default=(1, 4, 5))
    add_network_options(parser)
    options = parser.parse_args()
    if 4 in options.tables:
        print_table_4()
    is_asked_5 = 5 in options.tables and options.ablations
    if 1 in options.tables or is_asked_5:
        brains = [build_brain(FIRST_BRAIN + k) for k in range(options.brains)]
        flexible = [skare_table(k) for k in range(options.sets)]
    if 1 in options.tables:
        print_table_1(read_methods(options, BASELINE_NAMES), brains, flexible)
    if is_asked_5:
        print_table_5(options.ablations, acquire(brains, flexible))


if __name__ == "__main__":
    main()
