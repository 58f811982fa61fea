"""Fuzz the readers of images, gradients, sidecars and weights.

python -m tests.fuzz --inputs 100000 --seed 0
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.fuzz.run import limit_memory, run_target
from tests.fuzz.targets import make_targets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all targets, print a table, return 1 if there were failures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="in all (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--memory-mb", type=int, default=512, help="limit beside the imports")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    targets = make_targets()
    limit_memory(options.memory_mb * 2**20)
    n_failures = 0
    print("| target | inputs | refused | accepted | failures | seconds | slowest, s |")
    print("|---|---|---|---|---|---|---|")
    for name, target in targets.items():
        n_inputs = round(options.inputs * target.share)
        with tempfile.TemporaryDirectory() as folder:
            tally = run_target(target, n_inputs=n_inputs, seed=options.seed, folder=Path(folder))
        n_failures += len(tally.failures)
        print(
            f"| {name} | {tally.n_inputs} | {tally.n_refused} | {tally.n_accepted} | "
            f"{len(tally.failures)} | {tally.seconds:.1f} | {tally.slowest_s:.2f} |"
        )
        for failure in tally.failures[:10]:
            print(f"  {failure}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"Largest resident memory, imports included: {peak:.0f} MB")
    return 1 if n_failures else 0


if __name__ == "__main__":
    sys.exit(main())
