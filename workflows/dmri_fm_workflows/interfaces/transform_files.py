"""Pairs of transform files that interfaces of registrations write."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dmri_fm.normalise.grid import Image3D
from dmri_fm.normalise.registration import TemplateRegistration
from dmri_fm.normalise.template import Template
from dmri_fm.normalise.transforms import write_affine, write_warp


def write_affine_pair(matrix: np.ndarray, folder: Path) -> dict[str, str]:
    """Write a transform into ACPC, which takes its points to the image's, and its inverse."""
    return {
        "to_acpc_file": str(write_affine(matrix, folder / "to_acpc.txt")),
        "from_acpc_file": str(write_affine(np.linalg.inv(matrix), folder / "from_acpc.txt")),
    }


def write_transforms(
    registered: TemplateRegistration,
    template: Template,
    brain: Image3D,
    folder: Path,
    *,
    stem: str,
) -> tuple[Path, Path]:
    """Write the transform that resamples a brain into a template's space, and its inverse."""
    if registered.displacement_mm is None:
        forward = write_affine(registered.matrix, folder / f"to_{stem}.txt")
        return forward, write_affine(np.linalg.inv(registered.matrix), folder / f"from_{stem}.txt")
    there, back = registered.displacement_mm
    forward = write_warp(there, template.grid, folder / f"to_{stem}.h5")
    return forward, write_warp(back, brain.grid, folder / f"from_{stem}.h5")
