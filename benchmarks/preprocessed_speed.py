"""CPU-seconds of the app for a preprocessed scan, step by step.

Usage: python benchmarks/preprocessed_speed.py WORK [--voxels X Y Z] [--volumes N]
           [--models NAME ...]

Writes a made-up scan in the layout of the HCP's minimal preprocessing into WORK: the template's
brain in voxels that fill its field of view, two shells with fibres that run around the vertical
axis, Rician noise, `grad_dev`, and the template's T1w image. Runs the app on it with two
processors, and prints CPU-seconds of all its processes, seconds that passed, and seconds of each
step (those of a busy machine are longer; CPU-seconds are not, but for its caches).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid, resample_image
from dmri_fm.normalise.template import load_template
from dmri_fm.series import save_image
from dmri_fm_lab.simulate import spread_directions

#: Option of prctl: orphans below this process become its children, so that their time counts.
PR_SET_CHILD_SUBREAPER = 36

#: Eigenvalues in white matter, and diffusivities of grey matter and CSF, mm^2/s.
FIBRE, ACROSS, GREY, FLUID = 1.7e-3, 0.3e-3, 0.8e-3, 3.0e-3

#: b=0 signal of white matter, grey matter and CSF, and standard deviation of the noise.
SIGNALS, NOISE = (500.0, 650.0, 1300.0), 20.0


def make_table(n_volumes: int) -> GradientTable:
    """Return a table of a tenth b=0 and two shells, spread over a sphere."""
    n = n_volumes - n_volumes // 10
    bvecs = spread_directions(np.random.default_rng(0), n)
    bvals = np.where(np.arange(n) % 2, 1000.0, 2000.0)
    empty = np.zeros(n_volumes - n)
    return GradientTable(
        np.concatenate([empty, bvals]), np.vstack([np.zeros((len(empty), 3)), bvecs])
    )


def simulate(grid: Grid, gtab: GradientTable) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the series and its brain."""
    template = load_template(2)
    white, grey, brain = (
        resample_image(image.astype(np.float32), template.grid.affine, grid)
        for image in (template.wm, template.gm, template.brain_mask)
    )
    fluid = np.clip(brain - white - grey, 0, 1)
    x, y, _ = grid.points().T
    radius = np.maximum(np.hypot(x, y), 1e-3)
    axes = np.stack([-y / radius, x / radius], axis=-1)
    rng = np.random.default_rng(0)
    data = np.empty((*grid.shape, len(gtab)), dtype=np.float32)
    for n, (b, g) in enumerate(zip(gtab.bvals, gtab.bvecs_ras, strict=True)):
        cosine = (axes @ g[:2]).reshape(grid.shape)
        decays = (
            np.exp(-b * (ACROSS + (FIBRE - ACROSS) * cosine**2)), np.exp(-b * GREY),
            np.exp(-b * FLUID),
        )  # fmt: skip
        shares = (white, grey, fluid)
        signal = sum(s * p * d for s, p, d in zip(SIGNALS, shares, decays, strict=True))
        noise = rng.normal(0, NOISE, (2, *grid.shape))
        data[..., n] = np.hypot(signal + noise[0], noise[1])
    return data, brain > 0.5


def write_scan(root: Path, shape: tuple[int, int, int], n_volumes: int) -> None:
    """Write the scan in the HCP's layout."""
    template = load_template(1)
    last = np.array(template.t1.shape) - 1
    low, high = (apply_affine(template.grid.affine, corner) for corner in (0 * last, last))
    size_mm = (high - low) / (np.array(shape) - 1)
    affine = np.diag([-size_mm[0], size_mm[1], size_mm[2], 1.0])  # stored LAS, as the HCP's
    affine[:3, 3] = high[0], low[1], low[2]
    gtab = make_table(n_volumes)
    data, brain = simulate(Grid(shape, affine), gtab)
    folder = root / "100307" / "T1w" / "Diffusion"
    folder.mkdir(parents=True)
    save_image(data, affine, folder / "data.nii.gz")
    save_image(brain, affine, folder / "nodif_brain_mask.nii.gz", dtype=np.uint8)
    deviation = np.zeros((*shape, 9), dtype=np.float32)
    deviation[..., [0, 4, 8]] = 0.02  # each coil 2 % too strong
    save_image(deviation, affine, folder / "grad_dev.nii.gz")
    write_gradients(gtab, folder / "bvals", folder / "bvecs", affine=affine)
    head = {"T1w_acpc_dc_restore": 1000 * template.t1, "brainmask_fs": template.brain_mask}
    for name, image in head.items():
        values = image.astype(np.float32)
        save_image(values, template.grid.affine, folder.parent / f"{name}.nii.gz")


def measure(*words: str | Path) -> tuple[float, float]:
    """Run the app; return CPU-seconds of all its processes, and seconds."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "dmri_fm_workflows", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    passed = time.monotonic() - start
    while True:  # the servers that its processes were forked from
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, passed


def main() -> None:
    """Write the scan, run the app and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--voxels", type=int, nargs=3, default=[96, 96, 60])
    parser.add_argument("--volumes", type=int, default=100)
    parser.add_argument("--models", nargs="+", default=["qcg-dti", "drope"])
    options = parser.parse_args()
    raw, out = options.work / "hcp", options.work / "out"
    for folder in (raw, out):
        shutil.rmtree(folder, ignore_errors=True)
    write_scan(raw, tuple(options.voxels), options.volumes)
    words = ["--input-type", "preprocessed", "--nprocs", "2", "--models", *options.models]
    cpu, passed = measure(raw, out, "participant", *words)
    size = " x ".join(map(str, (*options.voxels, options.volumes)))
    print(f"{size}, {' '.join(options.models)}: {cpu:.0f} CPU-seconds, {passed:.0f} s passed")
    (record,) = out.glob("sub-*/log/*/provenance.json")
    content = json.loads(record.read_text(encoding="utf-8"))
    print("\n| step | s | GiB |\n|---|---|---|")
    for step in sorted(content["steps"], key=lambda s: -s["seconds"])[:12]:
        print(f"| {step['stage']} | {step['seconds']:.1f} | {step.get('peak_memory_gb') or ''} |")


if __name__ == "__main__":
    main()
