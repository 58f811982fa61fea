"""Brain masks of b=0 images by each method: `python benchmarks/brain_masks.py BIDS...`.

Every run of the raw datasets is masked on its mean b=0, corrected for intensity bias, by deepbet,
by median_otsu, by the rule of before 2026-11-30 (deepbet's mask, its gaps filled where
median_otsu sees brain; median_otsu alone in slabs), and by the consensus, with the T1w image of
the participant where there is one. Printed are volume, connected parts, and Dice with median_otsu;
where `derivatives/truth` has a mask, Dice with it and the farthest voxel beyond it and of it
beyond the mask, mm. The distortion of a simulated b=0 is undone by its true field before.

`--figures FOLDER` draws the outline of each consensus. About 20 seconds a run on one core.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

from dmri_fm.distortion import DistortionField, correct_image
from dmri_fm.normalise.coregistration import coregister
from dmri_fm.normalise.grid import Image3D, affine_map, resample_image
from dmri_fm.preprocess.dwiref import b0_reference, correct_bias
from dmri_fm.preprocess.mask import BrainMask, brain_mask
from dmri_fm.preprocess.mask_shape import is_slab
from dmri_fm.series import load_image, read_array
from dmri_fm_lab.scans import Scan, find_scans
from dmri_fm_workflows.report.anatomical import plot_mask

Mask = NDArray[np.bool_]

#: Radius of the closing of the earlier rule, mm.
CLOSING_MM = 12.0


def open_truth(root: Path, scan: Scan, what: str) -> Image3D | None:
    """Open an image of the truth of a simulated scan, if it is there."""
    folder = root / "derivatives" / "truth" / f"sub-{scan.participant}" / "dwi"
    found = sorted(folder.glob(f"*desc-truth_{what}*.nii.gz"))
    if not found:
        return None
    image = load_image(found[0])
    return Image3D(read_array(image, path=found[0]), np.asarray(image.affine))


def bring_t1w_mask(root: Path, scan: Scan, b0: Image3D, draft: BrainMask) -> Mask | None:
    """Bring the brain mask of the participant's T1w image to the grid of a b=0 image."""
    found = sorted((root / f"sub-{scan.participant}").glob("**/anat/*_T1w.nii.gz"))
    if not found:
        return None
    t1w, mask = mask_t1w(found[0])
    aligned = coregister(
        Image3D(b0.data * draft.mask, b0.affine),
        Image3D(t1w.data * mask, t1w.affine),
        acpc2t1w=affine_map(np.eye(4)),
    )
    there = affine_map(aligned.xfm)
    brought = resample_image(
        mask.astype(np.float32), t1w.affine, b0.grid, target2source=there, order=1
    )
    return np.asarray(brought > 0.5)


@cache
def mask_t1w(path: Path) -> tuple[Image3D, Mask]:
    """Return a T1w image, corrected for intensity bias, and its brain mask."""
    image = load_image(path)
    t1w = correct_bias(read_array(image, path=path), image.affine)
    return Image3D(t1w, np.asarray(image.affine)), brain_mask(
        t1w, image.affine, contrast="t1w"
    ).mask


def fill_gaps(network: Mask, threshold: Mask, affine: NDArray[np.float64]) -> Mask:
    """Return the mask of the earlier rule."""
    if is_slab(network.shape, affine):
        return threshold
    size_mm = np.linalg.norm(affine[:3, :3], axis=0)
    margin = [int(n) for n in np.ceil(CLOSING_MM / size_mm) + 1]
    padded = np.pad(network, [(n, n) for n in margin])
    grown = distance_transform_edt(~padded, sampling=size_mm) <= CLOSING_MM
    closed = distance_transform_edt(grown, sampling=size_mm) > CLOSING_MM
    inner = tuple(slice(n, -n) for n in margin)
    return np.asarray(network | (binary_fill_holes(closed)[inner] & threshold))


def dice(a: Mask, b: Mask) -> float:
    """Return the overlap of two masks."""
    return 2.0 * int((a & b).sum()) / max(1, int(a.sum() + b.sum()))


def describe(mask: Mask, affine: NDArray[np.float64], otsu: Mask, truth: Mask | None) -> str:
    """Return the numbers of a mask."""
    size_mm = np.linalg.norm(affine[:3, :3], axis=0)
    volume_ml = int(mask.sum()) * abs(np.linalg.det(affine[:3, :3])) / 1000
    text = f"{volume_ml:5.0f} ml  {label(mask)[1]:2d} parts  {dice(mask, otsu):.3f} median_otsu"
    if truth is not None and mask.any():
        beyond = distance_transform_edt(~truth, sampling=size_mm)[mask].max()
        short = distance_transform_edt(~mask, sampling=size_mm)[truth].max()
        text += f"  {dice(mask, truth):.3f} truth  {beyond:3.0f} mm beyond  {short:3.0f} mm short"
    return text


def measure(root: Path, scan: Scan, figures: Path | None) -> None:
    """Mask one run and print the numbers."""
    reference, affine = b0_reference(scan.dwi), scan.dwi.affine
    truth, field = (open_truth(root, scan, what) for what in ("mask", "fieldmap"))
    if field is not None and scan.encoding is not None:
        distortion = DistortionField(field.data, field.affine)
        reference = correct_image(
            reference, affine, field=distortion, encoding=scan.encoding
        ).clip(0)
        affine = np.asarray(field.affine)
    b0 = Image3D(correct_bias(reference, affine), affine)
    draft = brain_mask(b0.data, affine, contrast="b0")
    brain = None if truth is None else truth.data > 0
    otsu = draft.proposals["median_otsu"]
    masks = {
        "deepbet": draft.proposals["deepbet"],
        "median_otsu": otsu,
        "earlier rule": fill_gaps(draft.proposals["deepbet"], otsu, affine),
        "consensus": draft.mask,
    }
    found = draft
    anatomy = bring_t1w_mask(root, scan, b0, draft)
    if anatomy is not None:
        found = brain_mask(b0.data, affine, contrast="b0", anatomy=anatomy)
        masks |= {"T1w": anatomy, "consensus, T1w": found.mask}
    print(f"{scan.name}{', slab' if is_slab(b0.data.shape, affine) else ''}")
    print(f"    agreement      {', '.join(f'{k} {v:.3f}' for k, v in found.agreement.items())}")
    for name, mask in masks.items():
        print(f"    {name:14s} {describe(mask, affine, otsu, brain)}")
    for warning in found.warnings:
        print(f"    warning: {warning}")
    sys.stdout.flush()
    if figures is not None:
        plot_mask(b0.data, found.mask, affine, figures / f"{scan.name}.png", title=scan.name)


def main() -> int:
    """Measure every run of some datasets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bids", nargs="+", type=Path)
    parser.add_argument("--figures", type=Path)
    arguments = parser.parse_args()
    if arguments.figures is not None:
        arguments.figures.mkdir(parents=True, exist_ok=True)
    for root in arguments.bids:
        for scan in find_scans(root):
            measure(root, scan, arguments.figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
