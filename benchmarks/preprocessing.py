"""Score the correction of distortion, motion and eddy currents on simulated scans with truth.

Usage: python benchmarks/preprocessing.py [--only NAME ...] [--json OUT] [--voxel-size MM]

Six scans of simulated participants (trxscan) that no step of the corrections was tuned on: one
thing differs in each, voxel size, noise, phase-encoding axis, movement, lost slices, shells. All
are denoised by MP-PCA and corrected in one interpolation:

uncorrected   nothing
built-in      as the app does: field of the reverse-phase pair, b=0 reference, mask, motion and
              eddy currents, lost slices replaced
ANTs          the field is half of the displacement that SyN finds between both b=0 images along
              phase encoding; every volume is registered to the mean of its shell (affine)
truth         the true field, movement and eddy currents

Printed for each, inside the true brain: mean absolute error of the field, voxels, without a
constant offset (as a movement along phase encoding is); mean distance of weighted volumes from
where they should be, mm, relative to the first volume, and relative to one another (without what
all have in common); that of their stretch and shear alone, as eddy currents cause them; mean angle
of the b-vectors to the truth, degrees; mean absolute errors of FA and MD (1e-3 mm^2/s) in white
matter, by least squares on the first shell; CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.linalg import polar

from dmri_fm.distortion import DistortionField
from dmri_fm.normalise.grid import Grid, affine_map
from dmri_fm.normalise.series import normalise_series
from dmri_fm.preprocess.alignment import align
from dmri_fm.preprocess.anatomical_field import register_along
from dmri_fm.preprocess.denoise import denoise
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.preprocess.motion import MotionEstimate, estimate_motion, no_motion, rotate_bvecs
from dmri_fm.preprocess.slice_replacement import replace_slices
from dmri_fm.preprocess.susceptibility import B0Image, estimate_pair_field, mean_b0_image
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.evaluate.distorted import (
    Conditions,
    DistortedScan,
    differences_mm,
    simulate_distorted,
)
from dmri_fm_lab.markdown_tables import Column, markdown, table_cells

SCANS = {
    "2 mm": Conditions(voxel_mm=2.0),
    "SNR 10": Conditions(snr=10.0),
    "left-right": Conditions(is_left_right=True),
    "moving head": Conditions(step_mm=0.75, step_deg=0.6),
    "lost slices": Conditions(lost_share=0.25),
    "b 1000 and 2500": Conditions(bvals=(1000.0, 2500.0)),
}

FIRST_SEED = 4100

COLUMNS = {
    "field": Column("field, voxels", ".3f"),
    "position": Column("position, mm", ".2f"),
    "among": Column("among volumes, mm", ".2f"),
    "eddy": Column("eddy, mm", ".2f"),
    "bvec": Column("b-vectors, deg", ".2f"),
    "fa": Column("FA", ".4f"),
    "md": Column("MD", ".4f", 1e3),
    "seconds": Column("CPU-s", ".0f"),
}


class Correction(NamedTuple):
    """Series with lost slices replaced or not, field (None: none), and transforms."""

    dwi: Dwi
    field: DistortionField | None
    motion: MotionEstimate


def leave(scan: DistortedScan, dwi: Dwi) -> Correction:
    return Correction(dwi, None, no_motion(len(dwi.gtab), dwi.shape[2]))


def know(scan: DistortedScan, dwi: Dwi) -> Correction:
    return Correction(dwi, scan.field, scan.motion)


def correct_builtin(scan: DistortedScan, dwi: Dwi) -> Correction:
    up = mean_b0_image(dwi, scan.encodings, scan.pair[0].encoding.direction or "")
    found = estimate_pair_field(up, scan.pair[1])
    brain = brain_mask(found.corrected, dwi.affine, contrast="b0").mask
    series = dwi.with_mask(brain)
    motion = estimate_motion(
        series, reference=found.corrected, encodings=scan.encodings, field=found.field, n_threads=2
    )
    replaced = replace_slices(series, motion, encodings=scan.encodings, field=found.field)
    series = Dwi.from_arrays(replaced.data, dwi.affine, dwi.gtab, mask=dwi.mask)
    return Correction(series, found.field, motion)


def correct_by_ants(scan: DistortedScan, dwi: Dwi) -> Correction:
    up = mean_b0_image(dwi, scan.encodings, scan.pair[0].encoding.direction or "")
    field = halve_displacement(up, scan.pair[1])
    affine, gtab = dwi.affine, dwi.gtab
    first = dwi.data[..., 0]
    xfms = np.tile(np.eye(4), (len(gtab), 1, 1))
    for n in np.flatnonzero(gtab.is_b0)[1:]:
        xfms[n] = align(first, dwi.data[..., n], fixed_affine=affine, moving_affine=affine)
    for shell in gtab.shells:
        members = list(shell.index)
        mean = dwi.data[..., members].mean(axis=3)
        to_mean = align(first, mean, fixed_affine=affine, moving_affine=affine)
        for n in members:
            xfms[n] = (
                align(
                    mean, dwi.data[..., n], fixed_affine=affine, moving_affine=affine,
                    freedom="affine",
                )
                @ to_mean
            )  # fmt: skip
    return Correction(dwi, field, replace(no_motion(len(gtab), dwi.shape[2]), xfms=xfms))


def halve_displacement(up: B0Image, down: B0Image) -> DistortionField:
    """Return the field by which SyN along phase encoding lays two b=0 images on one another."""
    axis, sign = up.encoding.axis_and_sign()
    sizes = np.linalg.norm(up.affine[:3, :3], axis=0)
    images = (b0.data / b0.data.mean() for b0 in (up, down))
    shift_mm = register_along(*images, sizes, axis, metric=("CC", 2))
    # From the up image to the down image: the field displaces twice, with opposite signs.
    hz = -shift_mm / np.float32(2 * sizes[axis] * sign * up.encoding.readout_s)
    return DistortionField(hz, up.affine)


METHODS: dict[str, Callable[[DistortedScan, Dwi], Correction]] = {
    "uncorrected": leave,
    "built-in": correct_builtin,
    "ANTs": correct_by_ants,
    "truth": know,
}


def score(scan: DistortedScan, found: Correction) -> dict[str, float]:
    """Compare a correction with the truth, on the grid of the head during the first volume."""
    brain = scan.dwi.brain
    first = found.motion.xfms[0]
    # The reference of an estimate may lie elsewhere than the first volume.
    xfms = found.motion.xfms @ np.linalg.inv(first)
    weighted = ~scan.dwi.gtab.is_b0
    points = apply_affine(scan.dwi.affine, np.argwhere(brain)[::200])
    hz = scan.field.hz if found.field is None else found.field.hz - scan.field.hz
    off = scan.pair[0].encoding.readout_s * hz[brain]
    dwi = found.dwi
    grid = Grid((dwi.shape[0], dwi.shape[1], dwi.shape[2]), dwi.affine)
    corrected = normalise_series(
        dwi,
        grid,
        target2dwiref=affine_map(np.linalg.inv(first)),
        motion=found.motion,
        encodings=scan.encodings,
        field_hz=None if found.field is None else found.field.hz,
        n_threads=2,
    )
    shell = scan.dwi.gtab.shells[0]
    keep = [*np.flatnonzero(scan.dwi.gtab.is_b0), *shell.index]
    maps = fit_tensor(corrected.select(keep).with_mask(brain), shell="all")
    white = scan.is_white & brain
    ours, truth = xfms[weighted], scan.xfms[weighted]
    apart = differences_mm(ours, truth, points)
    stretched = differences_mm(_stretch(ours), _stretch(truth), points)
    bvecs = (
        gtab.bvecs_ras[weighted] for gtab in (corrected.gtab, rotate_bvecs(dwi.gtab, scan.motion))
    )
    cosine = np.clip(np.abs(np.multiply(*bvecs).sum(axis=1)), 0, 1)
    return {
        "field": float(np.abs(off - np.median(off)).mean()),
        "position": float(np.linalg.norm(apart, axis=2).mean()),
        "among": float(np.linalg.norm(apart - apart.mean(axis=0), axis=2).mean()),
        "eddy": float(np.linalg.norm(stretched, axis=2).mean()),
        "bvec": float(np.rad2deg(np.arccos(cosine)).mean()),
        "fa": float(np.abs(maps.fa - scan.fa)[white].mean()),
        "md": float(np.abs(maps.md - scan.md)[white].mean()),
    }


def _stretch(xfms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return stretch and shear of transforms, without rotation and translation."""
    out = np.tile(np.eye(4), (len(xfms), 1, 1))
    out[:, :3, :3] = [polar(x[:3, :3])[1] for x in xfms]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SCANS, default=list(SCANS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--voxel-size", type=float, metavar="MM", help="of all scans, for a trial")
    options = parser.parse_args()
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for number, (name, conditions) in enumerate(SCANS.items()):
        if name not in options.only:
            continue
        if options.voxel_size:
            conditions = replace(conditions, voxel_mm=options.voxel_size)
        scan = simulate_distorted(conditions, seed=FIRST_SEED + number)
        dwi = scan.dwi
        dwi = Dwi.from_arrays(
            denoise(dwi, method="mppca").data, dwi.affine, dwi.gtab, mask=dwi.mask
        )
        rows: dict[str, dict[str, float]] = {}
        for method, correct in METHODS.items():
            start = time.process_time()
            found = correct(scan, dwi)
            seconds = time.process_time() - start
            rows[method] = score(scan, found) | {"seconds": seconds}
        scores[name] = rows
        print(f"\n*{name}*\n\n{markdown(table_cells(rows, COLUMNS))}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
