"""Peak memory of one training step of `drope-paper`, for slab and batch.

Usage: python benchmarks/drope_memory.py [--batch 1 4] [--precision 32-true bf16-mixed]
       [--slices 4] [--directions 15]
       python benchmarks/drope_memory.py --brain

Each row is a process of its own that takes one whole step with its optimiser, on a processor:
published network, random numbers in place of a slab, half of the directions masked, which needs
more memory than masking patches does. Printed are the largest resident memory of the process, all
that Python and PyTorch load included, and the processor time of the step. The exit code is 1 if
batch 1 in single precision without checkpointing needs 16 GB or more.

`--brain` simulates one brain on the published grid instead, as a run does for which no scans are
given, and prints processor time, peak memory and size on disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from dmri_fm.encoders.drope.config import PAPER
from dmri_fm.encoders.drope.tokens import ScanTokens, patch_centres
from dmri_fm_lab.train.brain_source import simulate_brain
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import build_autoencoder
from dmri_fm_lab.train.masked_steps import step_losses

#: Limit for batch 1 in single precision, without checkpointing, GB.
LIMIT_GB = 16.0


def draw_slab(n_slices: int, n_directions: int) -> ScanTokens:
    """Return a slab of random numbers, all of it brain."""
    rng = np.random.default_rng(0)
    shape = (*PAPER.grid_shape[:2], n_slices)
    centres = patch_centres(PAPER, shape, (0, 0, 88))
    n_voxels = int(np.prod(PAPER.patch))
    patches = rng.random((n_directions, len(centres), n_voxels), dtype=np.float32)
    theta, phi = np.arccos(rng.uniform(-1, 1, n_directions)), rng.uniform(-3, 3, n_directions)
    return ScanTokens(
        patches=torch.from_numpy(patches),
        qspace=torch.from_numpy(np.stack([np.ones(n_directions), theta, phi], axis=1)),
        positions=torch.from_numpy(centres.astype(np.float32)),
        brain=torch.ones(len(centres), n_voxels),
        index=np.arange(len(centres)),
    )


def measure_step(
    batch: int, precision: str, *, is_checkpointed: bool, n_slices: int, n_directions: int
) -> dict[str, float]:
    """Take one step in this process; return peak memory, GB, and processor time, s."""
    settings = replace(read_training(DropePretraining, "drope-paper"), masking="diffusion")
    torch.set_float32_matmul_precision(settings.optimisation.matmul_precision)
    torch.manual_seed(0)
    network = build_autoencoder("drope-paper").train()
    network.checkpoint_blocks(is_checkpointed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.optimisation.learning_rate)
    scans = [draw_slab(n_slices, n_directions)] * batch
    start = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
        losses = step_losses(network, settings, network, scans, 0)
    losses["loss"].backward()
    optimiser.step()
    seconds = time.process_time() - start
    return {"gigabytes": peak_gb(), "seconds": seconds, "loss": float(losses["loss"].detach())}


def peak_gb() -> float:
    """Return the largest resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure_brain() -> None:
    """Simulate a brain on the published grid and print what it costs."""
    n = read_training(DropePretraining, "drope-paper").scan_directions
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        rng = np.random.default_rng(0)
        scan = simulate_brain(rng, PAPER.grid, Path(folder) / "brain", n_directions=n)
        seconds = time.process_time() - start
        size = sum(p.stat().st_size for p in scan.folder.iterdir()) / 1e6
    print(
        f"a simulated brain at 1 mm, {n} directions: {seconds:.0f} CPU-s, "
        f"peak {peak_gb():.1f} GB, {size:.0f} MB on disk"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument(
        "--precision", nargs="+", default=["32-true", "bf16-mixed"], metavar="NAME"
    )
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--directions", type=int, default=15)
    parser.add_argument("--brain", action="store_true", help="a simulated brain instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.brain:
        measure_brain()
        return 0
    sizes = {"n_slices": options.slices, "n_directions": options.directions}
    if options.one:
        batch, precision, is_checkpointed = json.loads(options.one)
        found = measure_step(batch, precision, is_checkpointed=is_checkpointed, **sizes)
        print(json.dumps(found))
        return 0
    print(f"slab of 192 x 224 x {options.slices} voxels, {options.directions} directions")
    print("batch  precision   checkpointing  peak GB  CPU-s a step", flush=True)
    is_small = True
    for batch in options.batch:
        for precision in options.precision:
            for is_checkpointed in (False, True):
                row = json.dumps([batch, precision, is_checkpointed])
                arguments = ["--one", row, "--slices", str(options.slices)]
                arguments += ["--directions", str(options.directions)]
                done = subprocess.run(
                    [sys.executable, __file__, *arguments],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                found = json.loads(done.stdout)
                how = "yes" if is_checkpointed else "no"
                print(
                    f"{batch:5d}  {precision:10s}  {how:13s}  {found['gigabytes']:7.1f}  "
                    f"{found['seconds']:12.1f}",
                    flush=True,
                )
                if (batch, precision, is_checkpointed) == (1, "32-true", False):
                    is_small = found["gigabytes"] < LIMIT_GB
    return 0 if is_small else 1


if __name__ == "__main__":
    raise SystemExit(main())
