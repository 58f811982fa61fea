"""Error of the built-in susceptibility field on a simulated reverse-phase pair with truth.

Usage: python benchmarks/distortion.py DATASET

DATASET is one of `benchmarks/simulated_scan.py`, phase-encoded along the second voxel axis.
Prints the mean absolute error of the field inside the brain of the truth, in voxels of
displacement. The baseline is ANTs SyN of one b=0 image to the other, restricted to phase encoding,
halved.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import ants
import nibabel as nib
import numpy as np
from scipy.ndimage import map_coordinates
from simulated_scan import read_series, read_truth

from dmri_fm.preprocess.alignment import to_ants_image
from dmri_fm.preprocess.susceptibility import B0Image, estimate_pair_field


def syn_displacement(up: np.ndarray, down: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the displacement of `up` along its second axis, voxels, on the undistorted grid."""
    fixed, moving = to_ants_image(up, affine), to_ants_image(down, affine)
    with tempfile.TemporaryDirectory() as folder:
        result = ants.registration(
            fixed, moving, type_of_transform="SyNOnly", initial_transform="identity",
            outprefix=str(Path(folder) / "pair"), syn_metric="CC", syn_sampling=4,
            reg_iterations=(100, 70, 30), restrict_transformation=(0, 1, 0), random_seed=20,
        )  # fmt: skip
        warp = next(p for p in result["fwdtransforms"] if p.endswith("Warp.nii.gz"))
        lps = np.asarray(nib.load(warp).dataobj, dtype=np.float64).squeeze()
    ras = lps * [-1, -1, 1]
    axis = affine[:3, 1] / np.linalg.norm(affine[:3, 1]) ** 2
    whole = ras @ axis  # where in `down`, seen from a point of `up`
    grid = np.indices(up.shape, dtype=np.float64)
    shift = np.zeros(up.shape)
    for _ in range(5):  # the signal of the undistorted voxel u lies at u + shift(u) in `up`
        at = grid.copy()
        at[1] += shift
        shift = -map_coordinates(whole, at, order=1, mode="nearest") / 2
    return shift


def main() -> int:
    """Estimate the field of every participant and print the errors."""
    dataset = Path(sys.argv[1])
    for subject in sorted(p.name for p in dataset.glob("sub-*") if p.is_dir()):
        truth, _ = read_truth(dataset, subject)
        up, up_encoding = read_series(dataset, subject, "AP")
        down, down_encoding = read_series(dataset, subject, "PA")
        _, sign = up_encoding.axis_and_sign()
        voxels = sign * truth["field"] * up_encoding.readout_s
        brain = truth["brain"] > 0
        images = up.mean_b0(), down.mean_b0()
        print(f"{subject}: {brain.sum()} voxels of brain")
        print(f"  uncorrected    {np.abs(voxels[brain]).mean():.3f} voxels")
        start = time.process_time()
        pair = estimate_pair_field(
            B0Image(images[0], up.affine, up_encoding),
            B0Image(images[1], up.affine, down_encoding),
        )  # fmt: skip
        own = time.process_time() - start
        error = np.abs(sign * pair.field.hz * up_encoding.readout_s - voxels)[brain].mean()
        print(f"  built in       {error:.3f} voxels, {own:.0f} CPU-s")
        start = time.process_time()
        baseline = syn_displacement(*images, up.affine)
        seconds = time.process_time() - start
        print(f"  ANTs SyN       {np.abs(baseline - voxels)[brain].mean():.3f} voxels, "
              f"{seconds:.0f} CPU-s")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
