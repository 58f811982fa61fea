"""Speed of the training generator: patches of 64^3 voxels and 7 volumes per second.

Usage: python benchmarks/simulator.py [--device cpu] [--batch 4] [--batches 5]

The rival is `draw_sample`, the generator behind `dmri-fm simulate`, in numpy and numba on one
core: simpler fibres, noise and artefacts.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from dmri_fm.simulate import draw_batch, draw_protocol, draw_sample

SHAPE = (64, 64, 64)


def main() -> int:
    """Time both and print samples per second and CPU-seconds per sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--batches", type=int, default=5)
    options = parser.parse_args()
    generator = torch.Generator(options.device).manual_seed(0)
    rng = np.random.default_rng(0)

    def run(n_batches: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(n_batches):
            gtabs = [draw_protocol(rng) for _ in range(options.batch)]
            batch = draw_batch(generator, gtabs, shape=SHAPE)
        float(batch.signal[0, 0, 0, 0, 0])  # waits for the device
        return time.perf_counter() - wall, time.process_time() - cpu

    run(1)
    wall, cpu = run(options.batches)
    n = options.batch * options.batches
    print(f"draw_batch on {options.device}   {n / wall:.2f} samples/s, {cpu / n:.2f} CPU-s each")
    draw_sample(rng, shape=(16, 16, 16))
    start = time.process_time()
    for _ in range(3):
        draw_sample(rng, shape=SHAPE)
    print(f"draw_sample          {(time.process_time() - start) / 3:.2f} CPU-s each")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
