"""Eight tiny participants as derivatives of the app, and a tiny encoder for their grid."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.weights import save_weights
from dmri_fm_lab.prediction.splits import Fold, write_splits
from dmri_fm_lab.simulate import spread_directions

#: Encoder of 14 thousand weights on voxels of 8 mm.
TINY = replace(
    SMALL, grid_shape=(24, 28, 24), voxel_size_mm=8.0, patch=(4, 4, 4), dim=24, depth=3, heads=1
)

#: What the tiny cohort's participants are, by label.
AGES = {f"0{i}": 20.0 + 7.0 * i for i in range(1, 9)}

SPACE = "space-MNI152NLin2009aSym_res-2"


@dataclass(frozen=True)
class TinyCohort:
    """Where the files of the cohort lie."""

    derivatives: Path
    participants: Path
    splits: Path
    weights: Path


def tiny_encoder(seed=0):
    """Return an untrained encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Drope(TINY).eval().requires_grad_(False)


def write_cohort(root, ages=AGES, *, n_directions=16):
    """Write series, masks and maps of a cohort whose diffusivity falls with age.

    Fewer than four participants have no folds.
    """
    rng = np.random.default_rng(0)
    out = root / "derivatives"
    shape, affine = TINY.grid_shape, np.asarray(TINY.grid.affine)
    mask = np.zeros(shape, dtype=bool)
    mask[6:18, 6:22, 5:19] = True
    for label, age in ages.items():
        folder = out / f"sub-{label}" / "dwi"
        folder.mkdir(parents=True)
        stem = f"sub-{label}_{SPACE}"
        bvecs = np.vstack([np.zeros((2, 3)), spread_directions(rng, n_directions)])
        bvals = np.r_[0.0, 0.0, np.full(n_directions, 1000.0)]
        md = (1.2 - 0.008 * age) * 1e-3
        along = (bvecs @ np.array([0.6, 0.8, 0.0])) ** 2
        series = np.zeros((*shape, len(bvals)), dtype=np.float32)
        series[mask] = 1000.0 * np.exp(-bvals * md * (0.6 + 1.2 * along))
        series[mask] += rng.normal(0, 10, series[mask].shape)
        _write(series, affine, folder / f"{stem}_desc-preproc_dwi.nii.gz")
        gradients = folder / f"{stem}_desc-preproc_dwi"
        write_gradients(
            GradientTable(bvals, bvecs), f"{gradients}.bval", f"{gradients}.bvec", affine=affine
        )
        _write(mask.astype(np.uint8), affine, folder / f"{stem}_desc-brain_mask.nii.gz")
        for name, value in (("fa", 0.4 + 0.001 * age), ("md", md)):
            noisy = mask * (value + 0.02 * value * rng.standard_normal(shape))
            path = folder / f"{stem}_model-tensor_param-{name}_dwimap.nii.gz"
            _write(noisy.astype(np.float32), affine, path)
    description = {"Name": "tiny", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (out / "dataset_description.json").write_text(json.dumps(description))
    rows = ["participant_id\tage\tsex"]
    rows += [f"sub-{label}\t{age}\t{'MF'[age > 50]}" for label, age in ages.items()]
    people = root / "participants.tsv"
    people.write_text("\n".join(rows) + "\n")
    names = [f"sub-{label}" for label in ages]
    folds = []
    for number, k in enumerate((3, 1) if len(names) >= 4 else ()):
        test, val = frozenset(names[k::4]), frozenset(names[k - 1 :: 4])
        folds.append(Fold(str(number), frozenset(names) - test - val, val, test))
    splits = write_splits(folds, root / "splits.tsv")
    weights = save_weights(
        root / "tiny.safetensors", tiny_encoder(), name="drope", version="0", training={}
    )
    return TinyCohort(out, people, splits, weights)


def _write(data, affine, path):
    nib.save(nib.Nifti1Image(data, affine), path)
