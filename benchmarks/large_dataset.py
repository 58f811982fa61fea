"""CPU-seconds and peak memory of the start of one participant's run in a large dataset.

Usage: python benchmarks/large_dataset.py [PARTICIPANTS] [--all]

Writes a dataset of made-up participants, one tiny series each, into a temporary folder and plans
one of them as a job of a cluster does (`--dry-run --participant-label`); with --all, the whole
dataset as well.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi

ENDINGS = (".nii.gz", ".bval", ".bvec")


def write_dataset(root: Path, n_participants: int) -> None:
    """Write the series once; the participants' files are links to it, as good as copies."""
    rng = np.random.default_rng(0)
    bvecs = rng.normal(size=(13, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvecs[0] = 0
    gtab = GradientTable(1000.0 * (np.arange(13) > 0), bvecs)
    data = rng.uniform(50, 100, (8, 8, 8, 13))
    Dwi.from_arrays(data, np.diag([-2.0, 2, 2, 1]), gtab).save(root.parent / "series")
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "large", "BIDSVersion": "1.10.0"}')
    (root / "dwi.json").write_text('{"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}')
    for i in range(n_participants):
        stem = root / f"sub-{i:06d}" / "dwi" / f"sub-{i:06d}_dwi"
        stem.parent.mkdir(parents=True)
        for ending in ENDINGS:
            os.link(root.parent / f"series{ending}", f"{stem}{ending}")


def measure(*words: str | Path) -> tuple[float, float]:
    """Run the app; return CPU-seconds and peak memory, GiB, of it and its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dmri_fm_workflows", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_maxrss / 2**20


def main() -> None:
    """Write the dataset, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("participants", type=int, nargs="?", default=10_000)
    parser.add_argument("--all", action="store_true", help="plan the whole dataset, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "out"
        write_dataset(raw, options.participants)
        common = [raw, out, "participant", "--dry-run", "--skip-bids-validation"]
        print("| planned | CPU-seconds | peak memory, GiB |\n|---|---|---|")
        runs = {"one": [*common, "--participant-label", "000007"]}
        runs |= {"all": common} if options.all else {}
        for name, words in runs.items():
            seconds, peak_gib = measure(*words)
            print(f"| {name} of {options.participants:,} | {seconds:.1f} | {peak_gib:.2f} |")


if __name__ == "__main__":
    main()
