"""Print Tables 2 and 3 of the publication of QCG-DTI with our rows beside the published ones.

Usage: python benchmarks/paper_cohorts.py [--newborns 1] [--travellers 1] [--bids BIDS
           --participant-label LABEL ...] [--weights NAME=FILE ...] [--runs FOLDER ...]

Zheng et al. 2025, https://doi.org/10.1631/FITEE.2400766. Table 2 is of dHCP newborns; ours are
simulated: an adult's anatomy in the size, contrast and diffusivities of birth
(`dmri_fm_lab.simulate.subject.NEWBORN`), 1.6 mm, b = 1000 s/mm^2, SNR 12. Table 3 is of subjects
who travelled between scanners; ours are a simulated head with the protocols of three sites
(:data:`SITES`), and the series of a dataset, with the participant beside each: scans of one head,
or of heads that may be one; the title says which networks were trained on the brain. Participants
of held-out scanners are read where --participant-label names them. No network here is trained on
newborns.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from published_tables import NEWBORNS, TRAVELLING
from seven_volumes import (
    Method,
    add_network_options,
    error_table,
    find_series,
    read_methods,
    score_methods,
)

from dmri_fm.series import Dwi
from dmri_fm_lab.evaluate.reference import Reference, make_reference
from dmri_fm_lab.evaluate.scores import mean_rows
from dmri_fm_lab.evaluate.simulated import build_brain, simulated_scan, skare_table
from dmri_fm_lab.evaluate.subsets import choose_subsets

BASELINE_NAMES = ("wls", "gaussian", "mppca")

#: Seeds of brains lie outside those of other benchmarks.
FIRST_BRAIN = 770

NEWBORN_MM, NEWBORN_SNR = 1.6, 12.0


class Site(NamedTuple):
    """Protocol of a simulated scanner: b (s/mm^2), voxel (mm), SNR, sampled share of k-space."""

    bval: float
    voxel_mm: float
    snr: float
    partial_fourier: float


SITES = {
    "site 1": Site(1000.0, 2.5, 25.0, 1.0),
    "site 2": Site(900.0, 2.2, 16.0, 0.75),
    "site 3": Site(1100.0, 3.0, 20.0, 0.875),
}


def print_newborns(methods: Mapping[str, Method], n: int) -> None:
    scans: list[tuple[Dwi, Reference]] = []
    for k in range(n):
        brain = build_brain(FIRST_BRAIN + k, voxel_size_mm=NEWBORN_MM, is_newborn=True)
        reference = brain.reference()
        white = reference.regions.white
        md, fa = (float(m[white].mean()) for m in (brain.truth.md, brain.truth.fa))
        millilitres = brain.subject.fractions.mask.sum() * NEWBORN_MM**3 / 1000
        print(
            f"newborn {k + 1}: {millilitres:.0f} ml, white matter with a true MD of "
            f"{1e3 * md:.2f}e-3 mm^2/s and FA of {fa:.2f}",
            flush=True,
        )
        scan = simulated_scan(brain, snr=NEWBORN_SNR, bvecs=skare_table(k), seed=k)
        scans.append((scan, reference))
    ours = score_methods(methods, scans)
    print(f"\nTable 2: newborns\n\n{error_table(NEWBORNS, ours)}", flush=True)


def print_travellers(methods: Mapping[str, Method], n: int) -> None:
    rows = {}
    for name, site in SITES.items():
        scans: list[tuple[Dwi, Reference]] = []
        for k in range(n):
            seed = FIRST_BRAIN + 10 + k
            brain = build_brain(seed, bval=site.bval, voxel_size_mm=site.voxel_mm)
            scan = simulated_scan(
                brain,
                snr=site.snr,
                bvecs=skare_table(k),
                partial_fourier=site.partial_fourier,
                seed=k,
            )
            scans.append((scan, brain.reference()))
        rows[name] = score_methods(methods, scans)
        print(f"\n{name}: {site}\n\n{error_table({}, rows[name])}", flush=True)
    ours = {m: mean_rows([row[m] for row in rows.values()]) for m in methods}
    print(
        f"\nTable 3: one head at three sites, mean\n\n{error_table(TRAVELLING, ours)}", flush=True
    )


def print_series(methods: Mapping[str, Method], options: argparse.Namespace) -> None:
    """Print the errors of each series of a dataset against its other directions."""
    for scan, title in find_series(options):
        tests: list[tuple[Dwi, Reference]] = []
        for number, subset in enumerate(choose_subsets(scan.dwi.gtab, n_subsets=2, seed=0)):
            brain = scan.brain(subset.reference_b0)
            rng = np.random.default_rng([0, number])
            reference = make_reference(scan.dwi, subset, brain=brain, rng=rng)
            tests.append((scan.dwi.select(subset.volumes).with_mask(brain), reference))
        if not tests:
            print(f"\n{title}: too few directions for six and a reference", flush=True)
            continue
        print(f"\n{title}\n\n{error_table({}, score_methods(methods, tests), 'scan')}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--newborns", type=int, default=1, help="0: no Table 2")
    parser.add_argument("--travellers", type=int, default=1, help="0: no simulated Table 3")
    parser.add_argument("--bids", type=Path, help="dataset with repeated scans")
    parser.add_argument("--participant-label", nargs="+")
    add_network_options(parser)
    options = parser.parse_args()
    methods = read_methods(options, BASELINE_NAMES)
    if options.newborns:
        print_newborns(methods, options.newborns)
    if options.travellers:
        print_travellers(methods, options.travellers)
    if options.bids:
        print_series(methods, options)


if __name__ == "__main__":
    main()
