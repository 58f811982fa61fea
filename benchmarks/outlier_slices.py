"""Sensitivity and specificity of the slices that motion correction calls lost, on a real scan.

Usage: python benchmarks/outlier_slices.py DWI BVAL BVEC

The poses of the volumes are estimated once. Then slices of weighted volumes, one in fifty of
those that hold brain, lose a share of their signal, and are looked for. Slices that are called
lost before that do not count. Printed by lost share: sensitivity (lost slices that are
found), specificity (others that are not called lost), and the error of the signal in lost slices,
over the mean signal of the brain, before and after they are replaced.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from dmri_fm.distortion import PhaseEncoding
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.preprocess.motion import estimate_motion
from dmri_fm.preprocess.motion_scene import MotionScene, find_outlier_slices
from dmri_fm.preprocess.slice_replacement import replace_slices
from dmri_fm.series import Dwi

#: Shares of the signal that slices lose, and share of the slices that do.
LOSSES, SHARE = (0.2, 0.3, 0.5, 0.8), 0.02

#: Fewest brain voxels of a slice that is spoilt.
FEWEST_VOXELS = 200

N_POINTS = 60_000


def main() -> int:
    """Print the table."""
    dwi = Dwi.from_files(*sys.argv[1:4])
    mask = brain_mask(dwi.mean_b0(), dwi.affine, contrast="b0").mask
    dwi = dwi.with_mask(mask)
    reference = dwi.data[..., int(np.flatnonzero(dwi.gtab.is_b0)[0])]
    encodings = [PhaseEncoding("j", 0.05)] * len(dwi.gtab)
    motion = estimate_motion(dwi, reference=reference, encodings=encodings)
    poses = motion.parameters.copy()
    poses[:, :3] += np.nan_to_num(motion.eddy.shift_mm)
    slices = np.flatnonzero(mask.sum(axis=(0, 1)) >= FEWEST_VOXELS)
    weighted = np.flatnonzero(~dwi.gtab.is_b0)
    judged = np.zeros_like(motion.is_outlier)
    judged[np.ix_(weighted, slices)] = True
    judged &= ~motion.is_outlier
    print(f"{int(motion.is_outlier.sum())} slices are called lost before any is spoilt")
    print("| lost signal | sensitivity | specificity | error before | error after |")
    print("|---|---|---|---|---|")
    for loss in LOSSES:
        rng = np.random.default_rng(0)
        lost = judged & (rng.random(judged.shape) < SHARE)
        data = dwi.data.copy()
        for n, z in np.argwhere(lost):
            data[:, :, z, n] *= 1 - loss
        spoilt = Dwi.from_arrays(data, dwi.affine, dwi.gtab, mask=mask)
        scene = MotionScene.build(
            spoilt, field=None, encodings=encodings, n_points=N_POINTS, n_threads=2
        )
        found = find_outlier_slices(scene, poses, dwi.gtab)
        hit, spared = found[lost].mean(), 1 - found[judged & ~lost].mean()
        put = replace_slices(spoilt, replace(motion, is_outlier=lost), encodings=encodings).data
        inside = mask[None] & lost[:, None, None, :]
        true = np.moveaxis(dwi.data, 3, 0)[inside]
        errors = (
            np.abs(np.moveaxis(d, 3, 0)[inside] - true).mean() / true.mean() for d in (data, put)
        )
        numbers = " | ".join(f"{v:.3f}" for v in (hit, spared, *errors))
        print(f"| {100 * loss:.0f}% | {numbers} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
