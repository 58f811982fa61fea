"""Peak memory of the features of one scan by `ssdiff-paper`.

Usage: python benchmarks/ssdiff_memory.py [--model ssdiff-paper] [--volumes 100]

Random weights are written to a temporary file (2.2 GB) by a process of their own. Another one
loads them, prepares a series of random numbers on the encoder's grid, with a rotation of
directions at each voxel as behind a warp, and computes features and sensitivity map, as the app
does. Printed are the largest resident memory of that process, all that Python and PyTorch load
included, and its processor time. The exit code is 1 if it needs 12 GiB or more.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dmri_fm import extract_features
from dmri_fm.encoders.ssdiff.blocks import brain_blocks
from dmri_fm.encoders.ssdiff.config import SsdiffConfig
from dmri_fm.gradients import GradientTable
from dmri_fm.registry import find_model
from dmri_fm.series import Dwi
from dmri_fm.weights import save_weights
from dmri_fm_lab.simulate import spread_directions

#: Limit of one scan, GiB.
LIMIT_GIB = 12.0


def write_random_weights(model: str, path: Path) -> None:
    """Write an untrained network."""
    registered = find_model(model, family="encoder")
    torch.manual_seed(0)
    network = registered.network(registered.config)
    save_weights(path, network, name=model, version="0", training={})


def draw_scan(config: SsdiffConfig, n_volumes: int) -> Dwi:
    """Return random numbers in the template's brain; one volume in ten is b=0."""
    rng = np.random.default_rng(0)
    n_b0 = max(1, n_volumes // 10)
    mask = brain_blocks(config, config.block).mask()
    data = np.zeros((*mask.shape, n_volumes), dtype=np.float32)
    data[mask] = rng.random((int(mask.sum()), n_volumes), dtype=np.float32) + 0.5
    bvals = np.repeat([0.0, 1000.0], [n_b0, n_volumes - n_b0])
    vectors = np.vstack([np.zeros((n_b0, 3)), spread_directions(rng, n_volumes - n_b0)])
    return Dwi.from_arrays(data, config.grid.affine, GradientTable(bvals, vectors), mask=mask)


def measure_scan(model: str, weights: Path, n_volumes: int) -> dict[str, float]:
    """Compute the features of a scan in this process; return memory, GiB, and time, s."""
    config: SsdiffConfig = find_model(model, family="encoder").config
    rotations = np.full((*config.grid_shape, 3), 0.05, dtype=np.float32)
    dwi = draw_scan(config, n_volumes)
    start = time.process_time()
    features = extract_features(
        dwi, model=model, weights=weights, n_directions=None, rotations=rotations
    )
    assert features.sensitivity is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30
    return {"gibibytes": peak, "seconds": time.process_time() - start}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ssdiff-paper")
    parser.add_argument("--volumes", type=int, default=100, metavar="N", help="default 100")
    parser.add_argument("--part", choices=("write", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "write":
        write_random_weights(options.model, options.weights)
        return 0
    if options.part == "measure":
        print(json.dumps(measure_scan(options.model, options.weights, options.volumes)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        common = [sys.executable, __file__, "--model", options.model]
        common += ["--volumes", str(options.volumes)]
        common += ["--weights", str(Path(folder) / "random.safetensors")]
        subprocess.run([*common, "--part", "write"], check=True)
        done = subprocess.run(
            [*common, "--part", "measure"], stdout=subprocess.PIPE, text=True, check=True
        )
    found = json.loads(done.stdout)
    print(
        f"{options.model}, {options.volumes} volumes: peak {found['gibibytes']:.1f} GiB, "
        f"{found['seconds']:.0f} CPU-s"
    )
    return 0 if found["gibibytes"] < LIMIT_GIB else 1


if __name__ == "__main__":
    raise SystemExit(main())
