"""Compare the field of a gradient-echo field map with that of a reverse-phase pair of one scan.

    python benchmarks/fieldmaps.py BIDS/sub-prisma --figure fields.png

The participant has two diffusion runs of opposite phase encoding and a phase difference. Printed,
inside the brain: correlation and root mean square difference of both fields; agreement of the two
b=0 images after correction with either field, with none, and with the measured field reversed;
and, where there is a T1w image, mutual information with it, which neither field was made for.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.distortion import DistortionField, PhaseEncoding, correct_image
from dmri_fm.preprocess.alignment import align, mutual_information, resample_affine
from dmri_fm.preprocess.dwiref import correct_bias
from dmri_fm.preprocess.fieldmap_placement import place_field
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.preprocess.phase_fieldmap import measure_field, phase_radians
from dmri_fm.preprocess.susceptibility import B0Image, estimate_pair_field
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.report.slices import tissue_boundary

Array = NDArray[np.float32]


def read(path: Path) -> tuple[Array, NDArray[np.float64], dict[str, Any]]:
    """Return voxels, affine and sidecar of an image."""
    image = load_image(path)
    sidecar = path.with_name(path.name.split(".")[0] + ".json")
    return read_array(image, path=path), np.asarray(image.affine), json.loads(sidecar.read_text())


def read_b0(path: Path) -> tuple[B0Image, dict[str, Any]]:
    """Return the first b=0 volume of a run, and its sidecar."""
    data, affine, sidecar = read(path)
    bvals = np.loadtxt(path.with_name(path.name.split(".")[0] + ".bval")).ravel()
    encoding = PhaseEncoding(sidecar["PhaseEncodingDirection"], sidecar["TotalReadoutTime"])
    return B0Image(data[..., int(np.flatnonzero(bvals < 50)[0])], affine, encoding), sidecar


def correlation(one: Array, other: Array, inside: NDArray[np.bool_]) -> float:
    return float(np.corrcoef(one[inside], other[inside])[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("participant", type=Path)
    parser.add_argument("--figure", type=Path, help="PNG: both fields and the corrected images")
    given = parser.parse_args()
    (up, said), (down, _) = (
        read_b0(next((given.participant / "dwi").glob(f"*dir-{d}_dwi.nii.gz")))
        for d in ("AP", "PA")
    )
    phase, _, about = read(next((given.participant / "fmap").glob("*_phasediff.nii.gz")))
    magnitude, affine, _ = read(next((given.participant / "fmap").glob("*_magnitude1.nii.gz")))
    measured = measure_field(
        phase_radians(phase),
        magnitude,
        affine,
        echo_times_s=(about["EchoTime1"], about["EchoTime2"]),
    )
    placed = place_field(measured, up)
    pair = estimate_pair_field(up, down)
    brain = brain_mask(pair.corrected, up.affine, contrast="b0").mask
    seen = resample_affine(
        measured.mask.astype(np.float32), placed.xfm, fixed_affine=up.affine,
        moving_affine=affine, shape=up.data.shape,
    ) > 0.99  # fmt: skip
    for where, inside in (("measured brain", brain & seen), ("whole brain", brain)):
        off = placed.field.hz[inside] - pair.field.hz[inside]
        rms = np.sqrt(np.mean(pair.field.hz[inside] ** 2))
        print(
            f"{where}, {int(inside.sum())} voxels: correlation "
            f"{correlation(placed.field.hz, pair.field.hz, inside):.3f}, rms difference "
            f"{np.sqrt(np.mean(off**2)):.1f} Hz, median {np.median(off):.1f} Hz; rms of the "
            f"pair's field {rms:.1f} Hz"
        )
    print(f"position: {'registered' if placed.is_registered else 'of the scanner'}")
    apart = 1e6 * (said["ImagingFrequency"] - about["ImagingFrequency"])
    print(f"stated frequencies differ by {apart:.0f} Hz")
    for warning in placed.warnings:
        print("warning:", warning)
    t1w = next((given.participant / "anat").glob("*_T1w.nii.gz"), None)
    fields = {
        "none": np.zeros_like(pair.field.hz),
        "pair": pair.field.hz,
        "measured": placed.field.hz,
        "measured, reversed": -placed.field.hz,
    }
    anatomy = None if t1w is None else bring_t1w(t1w, pair.corrected * brain, up.affine)
    shown = {}
    print("field | correlation of AP and PA | mutual information of AP with T1w")
    for name, hz in fields.items():
        field = DistortionField(hz, up.affine)
        one, other = (
            correct_image(b0.data, b0.affine, field=field, encoding=b0.encoding)
            for b0 in (up, down)
        )
        shown[name] = one
        with_t1w = "n/a"
        if anatomy is not None:
            with_t1w = f"{mutual_information(one[brain], anatomy[brain]):.4f}"
        print(f"{name} | {correlation(one, other, brain):.3f} | {with_t1w}")
    if given.figure:
        draw(given.figure, {k: fields[k] for k in ("pair", "measured")}, shown, brain, anatomy)


def register_t1w(
    path: Path, b0: Array, affine: NDArray[np.float64]
) -> tuple[Array, NDArray[np.float64], NDArray[np.float64]]:
    """Return the T1w brain, its affine, and the matrix from points of a b=0 brain to its own."""
    data, t1w_affine, _ = read(path)
    data = correct_bias(data, t1w_affine)
    data *= brain_mask(data, t1w_affine, contrast="t1w").mask
    xfm = align(b0, data, fixed_affine=affine, moving_affine=t1w_affine)
    return data, t1w_affine, xfm


def bring_t1w(path: Path, b0: Array, affine: NDArray[np.float64]) -> Array:
    """Return the T1w brain on the grid of the b=0 image as the pair's field corrects it."""
    data, t1w_affine, xfm = register_t1w(path, b0, affine)
    return resample_affine(
        data, xfm, fixed_affine=affine, moving_affine=t1w_affine, shape=b0.shape
    )


def draw(
    out: Path,
    fields: dict[str, Array],
    images: dict[str, Array],
    brain: NDArray[np.bool_],
    anatomy: Array | None,
) -> None:
    """Draw axial slices: fields in one colour scale, then b=0 images with white matter of T1w."""
    from matplotlib.figure import Figure

    lines = None if anatomy is None else tissue_boundary(anatomy, anatomy > 0)
    levels = np.flatnonzero(brain.any((0, 1)))
    chosen = np.linspace(levels[0], levels[-1], 9)[1:-1].astype(int)
    figure = Figure(figsize=(14, 2.1 * (len(fields) + len(images))), layout="constrained")
    axes = figure.subplots(len(fields) + len(images), len(chosen))
    limit = float(np.percentile(np.abs(fields["pair"][brain]), 99))
    for row, (name, volume) in enumerate([*fields.items(), *images.items()]):
        is_field = row < len(fields)
        for column, k in enumerate(chosen):
            axis, tile = axes[row, column], volume[..., k]
            tile = np.where(brain[..., k], tile, np.nan) if is_field else tile
            look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if is_field else {
                "cmap": "gray", "vmin": 0, "vmax": float(np.percentile(images["pair"][brain], 99))
            }  # fmt: skip
            axis.imshow(tile.T, origin="lower", **look)
            if not is_field and lines is not None:
                axis.contour(lines[..., k].T, [0.5], colors="orange", linewidths=0.7)
            axis.set_xticks([])
            axis.set_yticks([])
        axes[row, 0].set_ylabel(f"{'field' if is_field else 'AP'}: {name}", fontsize=8)
    figure.suptitle(f"Fields to ±{limit:.0f} Hz; b=0 images with white matter of the T1w image")
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main()
