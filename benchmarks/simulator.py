"""Speed of the training generator: patches of 64^3 voxels and 7 volumes per second.

Usage: python benchmarks/simulator.py [--device cpu] [--batch 4] [--batches 5]

The baseline is the other generator: trxscan, behind `dmri-fm simulate`, on a head of about as many
voxels, 7 volumes and the volumes of its truth.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from dmri_fm_lab.simulate import draw_anatomy, draw_batch, draw_protocol
from dmri_fm_lab.simulate.scanner import Acquisition, acquire
from dmri_fm_lab.simulate.subject import Tissue, place_subject
from dmri_fm_lab.simulate.truth import true_tensor

SHAPE = (64, 64, 64)


def main() -> int:
    """Time both and print samples per second, CPU-seconds per sample, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--batches", type=int, default=5)
    options = parser.parse_args()
    generator = torch.Generator(options.device).manual_seed(0)
    rng = np.random.default_rng(0)

    def draw() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        gtabs = [draw_protocol(rng) for _ in range(options.batch)]
        batch = draw_batch(generator, gtabs, shape=SHAPE)
        float(batch.signal[0, 0, 0, 0, 0])  # waits for the device
        return time.perf_counter() - wall, time.process_time() - cpu

    draw()
    runs = [draw() for _ in range(options.batches)]
    wall, cpu = (statistics.median(times) / options.batch for times in zip(*runs, strict=True))
    print(f"draw_batch on {options.device}   {1 / wall:.2f} samples/s, {cpu:.2f} CPU-s each")

    anatomy = draw_anatomy(rng)
    start = time.process_time()
    subject = place_subject(
        anatomy, Tissue(), voxel_size_mm=(3.0, 3.0, 3.0), rng=rng, field_peak_hz=60.0
    )
    true_tensor(subject, bval=1000.0, echo_ms=85.0)
    acquire(subject, draw_protocol(rng), Acquisition(sigma=10.0))
    baseline = (time.process_time() - start) * np.prod(SHAPE) / np.prod(subject.shape)
    print(f"trxscan             {baseline:.2f} CPU-s each, {baseline / cpu:.0f} times as many")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
