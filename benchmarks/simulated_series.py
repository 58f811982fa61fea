"""How long the simulation of a whole scan takes: series of reversed phase encoding, with truth.

Usage: python benchmarks/simulated_series.py [--voxel-size 2] [--directions 58]

The scan is what `dmri-fm simulate` writes for one participant of its first site: anatomy, T1w
image, two b=0 and the weighted volumes phase-encoded AP, two b=0 PA, and the noise-free truth.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from dmri_fm_lab.simulate import simulate_dataset


def main() -> int:
    """Print wall and CPU time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voxel-size", type=float, default=2.0)
    parser.add_argument("--directions", type=int, default=58)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        simulate_dataset(
            Path(folder) / "bids",
            n_participants=1,
            seed=0,
            voxel_size_mm=options.voxel_size,
            n_directions=options.directions,
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{options.voxel_size:g} mm, {options.directions + 2} volumes AP, 2 PA, 17 of truth: "
        f"{wall / 60:.1f} min, {cpu / 60:.1f} CPU-min"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
