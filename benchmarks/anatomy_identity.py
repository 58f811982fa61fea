"""Whose head is in derivatives? `python benchmarks/anatomy_identity.py BIDS`

Printed for every pair of participants of a raw dataset: the correlation by which `--derivatives`
tells a head from another one, where the first's T1w image, corrected for bias and turned by 18
degrees, is compared with the second's as acquired; for one head the error of the position, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from dmri_fm.normalise.given_anatomy import SAME_HEAD, locate_head
from dmri_fm.normalise.grid import Image3D
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.interfaces.normalise import open_image
from dmri_fm_workflows.interfaces.preprocess import CorrectBias, MaskBrain

#: Points in and around a brain at which positions are compared, mm from its centre.
POINTS_MM = np.array([[0.0, 0, 0], [60, 0, 0], [0, 80, 0], [0, 0, 60]])


def prepare(path: Path, work: Path) -> tuple[Image3D, Image3D]:
    """Return the image corrected for bias, and its mask; kept in a folder for the next time."""
    work.mkdir(parents=True, exist_ok=True)
    unbiased, mask = work / "unbiased.nii.gz", work / "mask.nii.gz"
    if not mask.exists():
        unbiased = Path(CorrectBias(in_file=str(path)).run(cwd=str(work)).outputs.out_file)
        mask = Path(
            MaskBrain(contrast="t1w", in_file=str(unbiased)).run(cwd=str(work)).outputs.mask_file
        )
    return open_image(str(unbiased)), open_image(str(mask))


def turn() -> np.ndarray:
    """Return the movement that the prepared images get, RAS+ mm."""
    xfm = np.eye(4)
    xfm[:3, :3] = Rotation.from_euler("xyz", [18, 5, -8], degrees=True).as_matrix()
    xfm[:3, 3] = 5, -20, 35
    return xfm


def compare(one: tuple[Image3D, Image3D], acquired: Image3D) -> tuple[float, float]:
    """Return the correlation, and the largest distance from the true position, mm."""
    xfm = turn()
    head, mask = (Image3D(image.data, xfm @ image.affine) for image in one)
    found = locate_head(head, acquired, mask)
    points = POINTS_MM + one[1].centre_mm()
    back = apply_affine(found.xfm, apply_affine(xfm, points))
    return found.correlation, float(np.linalg.norm(back - points, axis=1).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--work", type=Path, default=Path("anatomy_identity"), help="cache")
    arguments = parser.parse_args()
    images = {
        participant.label: participant.sessions[0].t1w[0]
        for participant in read_dataset(arguments.bids).participants
        if participant.sessions[0].t1w
    }
    rows = []
    for label, path in images.items():
        prepared = prepare(path, arguments.work / label)
        for other, raw in images.items():
            correlation, off_mm = compare(prepared, open_image(str(raw)))
            position = f"{off_mm:.2f}" if other == label else "-"
            rows.append([f"sub-{label}", f"sub-{other}", f"{correlation:.3f}", position])
    print(markdown([["prepared", "as acquired", "correlation", "position off by, mm"], *rows]))
    print(f"\nBelow {SAME_HEAD:g} the app refuses the derivatives.")


if __name__ == "__main__":
    main()
