"""Anatomy of other pipelines' derivatives, written as they write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.series import save_image

MNI = "MNI152NLin2009aSym"

#: Where the template's brain lies in the images that are written: points of the template to them.
SHIFT = np.array([[1.0, 0, 0, 0], [0, 1, 0, 12], [0, 0, 1, -5], [0, 0, 0, 1]])


def describe(root: Path, pipeline: str, version: str = "23.2.1") -> None:
    """Write the description of a dataset of derivatives."""
    root.mkdir(parents=True, exist_ok=True)
    content = {
        "Name": "derivatives",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": pipeline, "Version": version}],
    }
    (root / "dataset_description.json").write_text(json.dumps(content), encoding="utf-8")


def write_anatomy(
    root: Path,
    stem: str = "sub-01",
    *,
    pipeline: str = "fMRIPrep",
    space: str | None = None,
    sidecar: Mapping[str, object] | None = None,
    transforms: bool = False,
    tissue: bool = False,
) -> Path:
    """Write a T1w image, the template's brain moved by :data:`SHIFT`, and its mask; return it.

    `stem` is `sub-x[_ses-y]`. Transforms are those of this app: affine, to its template and back.
    """
    describe(root, pipeline)
    folder = root.joinpath(*stem.split("_"), "anat")
    folder.mkdir(parents=True, exist_ok=True)
    template = load_template(2)
    affine = SHIFT @ np.asarray(template.grid.affine)
    word = "" if space is None else f"_space-{space}"
    image = folder / f"{stem}{word}_desc-preproc_T1w.nii.gz"
    save_image(template.t1, affine, image)
    mask = folder / f"{stem}{word}_desc-brain_mask.nii.gz"
    save_image(template.brain_mask, affine, mask, dtype=np.uint8)
    if sidecar is not None:
        image.with_name(image.name.replace(".nii.gz", ".json")).write_text(
            json.dumps(sidecar), encoding="utf-8"
        )
    if transforms:
        write_transforms(image, SHIFT)
    if tissue:
        write_tissue(image)
    return image


def write_tissue(image: Path) -> list[Path]:
    """Write labels of BIDS and probabilities, those of the template; return their paths."""
    template = load_template(2)
    affine = SHIFT @ np.asarray(template.grid.affine)
    shares = [template.gm, template.wm, 1 - template.gm - template.wm]
    shares = [np.where(template.brain_mask, share, 0).clip(0, 1) for share in shares]
    labels = np.where(template.brain_mask, 1 + np.argmax(shares, axis=0), 0)
    stem = str(image).removesuffix("desc-preproc_T1w.nii.gz")
    paths = [Path(f"{stem}dseg.nii.gz")]
    save_image(labels, affine, paths[0], dtype=np.uint8)
    for name, share in zip(("GM", "WM", "CSF"), shares, strict=True):
        paths.append(Path(f"{stem}label-{name}_probseg.nii.gz"))
        save_image(share, affine, paths[-1])
    return paths


def write_transforms(
    image: Path, matrix: np.ndarray, *, back: np.ndarray | None = None, template: str = MNI
) -> tuple[Path, Path]:
    """Write the transforms of an image to a template and back; return their paths.

    `matrix` takes points of the template to points of the image; `back` is its inverse if it is
    not given.
    """
    stem = image.name.partition("_space-")[0].partition("_desc-")[0]
    frame = "ACPC" if "_space-ACPC_" in image.name else "T1w"
    names = [f"{stem}_from-{frame}_to-{template}", f"{stem}_from-{template}_to-{frame}"]
    there, here = (image.with_name(f"{name}_mode-image_xfm.txt") for name in names)
    write_affine(matrix, there)
    write_affine(np.linalg.inv(matrix) if back is None else back, here)
    return there, here
