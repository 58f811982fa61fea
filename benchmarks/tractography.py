"""Tractography from seven volumes, compared with that from all directions.

Usage: python benchmarks/tractography.py BIDS [--participant-label LABEL ...] [--subsets 2]
           [--weights NAME=FILE ...] [--runs FOLDER ...]

For each series that `dmri-fm evaluate tensor` can judge: FACT (Mori et al. 1999; voxel border to
voxel border, FA above .2, turns below 45 degrees, a streamline from each voxel of white matter) on
the tensors of each method and of all directions. Prints the Dice overlap of the voxels that more
than five streamlines cross, as Zheng et al. 2025 (doi:10.1631/FITEE.2400766, Figure 7) score it:
one line for a series and method, which says whether a network was trained on the brain;
participants of held-out scanners are read where --participant-label names them. The reference
holds the six test volumes here, as theirs does.
Their figure has no table of numbers, and scores single tracts of an atlas beside the whole
brain; here it is the whole brain.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from seven_volumes import add_network_options, find_series, read_methods

from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.evaluate.fact import count_streamlines, dice
from dmri_fm_lab.evaluate.subsets import choose_subsets

MORE_THAN = 5
BASELINE_NAMES = ("wls", "gaussian", "nlmeans", "tv", "mppca")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--participant-label", nargs="+")
    parser.add_argument("--subsets", type=int, default=2)
    add_network_options(parser)
    options = parser.parse_args()
    methods = read_methods(options, BASELINE_NAMES)
    for scan, title in find_series(options):
        scores: dict[str, list[float]] = defaultdict(list)
        for subset in choose_subsets(scan.dwi.gtab, n_subsets=options.subsets, seed=0):
            brain = scan.brain(subset.reference_b0)
            volumes = sorted({*subset.volumes, *subset.reference})
            reference = fit_tensor(scan.dwi.select(volumes).with_mask(brain), shell="all")
            crossed = count_streamlines(reference) > MORE_THAN
            test = scan.dwi.select(subset.volumes).with_mask(brain)
            for name, method in methods.items():
                found = count_streamlines(method(test)) > MORE_THAN
                scores[name].append(dice(found, crossed))
        if not scores:
            print(f"{title}: too few directions", flush=True)
        for name, values in scores.items():
            print(f"{title}, {name}: Dice {np.mean(values):.3f}", flush=True)


if __name__ == "__main__":
    main()
