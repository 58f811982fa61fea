"""Score the field of a reverse-phase pair on simulated scans with their truth.

Usage: python benchmarks/reverse_pair.py BIDS [BIDS ...]

Each dataset has `derivatives/truth`: those of `dmri-fm simulate` (the first site's participants),
or one of another generator. Of each participant the first b=0 image of both directions is used.

Printed for each participant, inside the true mask: the mean absolute error of the displacement
along phase encoding, in voxels, without a constant offset (a head that moves along phase encoding
looks the same as a constant field); that of no field; the offset, voxels; the error of the two
images, which is their mean absolute difference after correction over their mean, and its ratio to
that after correction with the true field; CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmri_fm.distortion import DistortionField, PhaseEncoding, correct_image
from dmri_fm.preprocess.susceptibility import B0Image, estimate_pair_field
from dmri_fm.series import load_image, read_array
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.scans import list_participants


def read_b0(run: Path) -> B0Image:
    """Return the first b=0 volume of a run."""
    stem = run.name.split(".")[0]
    image, sidecar = load_image(run), json.loads(run.with_name(stem + ".json").read_text())
    bvals = np.loadtxt(run.with_name(stem + ".bval")).ravel()
    volume = read_array(image, path=run)[..., int(np.flatnonzero(bvals < 50)[0])]
    encoding = PhaseEncoding(sidecar["PhaseEncodingDirection"], sidecar["TotalReadoutTime"])
    return B0Image(volume, np.asarray(image.affine), encoding)


def only(folder: Path, pattern: str) -> NDArray[np.float32]:
    """Return the voxels of the one image of a folder that a pattern names."""
    (path,) = folder.glob(pattern)
    return read_array(load_image(path), path=path)


def mismatch(
    pair: tuple[B0Image, B0Image], field: DistortionField, inside: NDArray[np.bool_]
) -> float:
    """Return the mean absolute difference of the corrected images over their mean."""
    one, other = (
        correct_image(b0.data, b0.affine, field=field, encoding=b0.encoding)[inside] for b0 in pair
    )
    return float(np.abs(one - other).mean() / np.mean([one, other]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids", type=Path, nargs="+")
    rows = []
    for bids in parser.parse_args().bids:
        for label in list_participants(bids):
            runs = [
                sorted((bids / f"sub-{label}" / "dwi").glob(f"*dir-{d}_dwi.nii.gz"))
                for d in ("AP", "PA")
            ]
            if not all(runs):
                continue
            up, down = (read_b0(found[0]) for found in runs)
            folder = bids / "derivatives" / "truth" / f"sub-{label}" / "dwi"
            truth = DistortionField(only(folder, "*truth_fieldmap*.nii.gz"), up.affine)
            inside = only(folder, "*truth_mask.nii.gz") > 0.5
            before = time.process_time()
            found = estimate_pair_field(up, down).field
            seconds = time.process_time() - before
            voxels = up.encoding.readout_s * (found.hz - truth.hz)[inside]
            none = up.encoding.readout_s * truth.hz[inside]
            ours, best = (mismatch((up, down), field, inside) for field in (found, truth))
            rows.append(
                [
                    f"{bids.name}, {label}",
                    f"{np.abs(voxels - np.median(voxels)).mean():.3f}",
                    f"{np.abs(none - np.median(none)).mean():.3f}",
                    f"{np.median(voxels):.3f}",
                    f"{ours:.3f}",
                    f"{ours / best:.2f}",
                    f"{seconds:.0f}",
                ]
            )
    print(
        markdown(
            [
                ["scan", "error", "no field", "offset", "images", "over truth's", "CPU-s"],
                *rows,
            ]
        )
    )


if __name__ == "__main__":
    main()
