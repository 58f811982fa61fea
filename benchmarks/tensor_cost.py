"""Cost of tensor networks: parameters, multiplications, processor time, beside least squares.

Usage: python benchmarks/tensor_cost.py [--paper]

Parameters and multiply-adds of the convolutions for a block of 64^3 voxels and six directions
(the paper's Table 4 has 488.30 billion and 19.28 million for its network), and CPU-seconds for a
brain of 96 x 96 x 60 voxels, as the app runs it, over those of the least-squares fit of the same
volumes. `--paper` times the published network too (minutes).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dmri_fm import predict_tensor
from dmri_fm.identity import TENSOR_NETWORKS, identity
from dmri_fm.registry import MODELS
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.weights import save_weights
from dmri_fm_lab.network_cost import block_gmacs
from dmri_fm_lab.simulate import draw_protocol

BRAIN = (96, 96, 60)
BLOCK = (64, 64, 64)


def cpu_seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Return processor and wall time of a second call."""
    run()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def make_scan() -> Dwi:
    """Return a noisy ball in a box, of the size of a brain."""
    rng = np.random.default_rng(0)
    gtab = draw_protocol(rng, bvals=1000.0)
    inside = np.linalg.norm(np.indices(BRAIN).T / np.array(BRAIN) - 0.5, axis=-1).T < 0.49
    data = np.where(gtab.is_b0, 1000.0, 450.0) + 40.0 * rng.standard_normal((*BRAIN, len(gtab)))
    return Dwi.from_arrays(
        data.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]), gtab, mask=inside
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paper", action="store_true", help="time the published network too")
    options = parser.parse_args()
    dwi = make_scan()
    fit_cpu, fit_wall = cpu_seconds(lambda: fit_tensor(dwi))
    print(f"brain of {int(dwi.mask.sum())} voxels in {BRAIN}")  # type: ignore[union-attr]
    print(f"{'least squares':16s} {fit_cpu:7.2f} CPU-s {fit_wall:7.2f} s")
    for name in TENSOR_NETWORKS:
        model = MODELS[name].network(MODELS[name].config)
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        gmacs = block_gmacs(model, BLOCK)
        line = f"{name:16s} {millions:.2f}M parameters, {gmacs:.1f} GMAC a block"
        if identity(name).is_packaged or options.paper:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "w.safetensors"
                save_weights(path, model, name=name, version="0", training={})
                cpu, wall = cpu_seconds(lambda: predict_tensor(dwi, model=name, weights=path))  # noqa: B023
            line += f", {cpu:.1f} CPU-s, {wall:.1f} s, {cpu / fit_cpu:.0f} times least squares"
        print(line, flush=True)


if __name__ == "__main__":
    main()
