"""Preprocessed datasets in the layouts of pipelines, written from a series at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray

from dmri_fm.errors import DmriError
from dmri_fm.gradient_files import write_gradients, write_mrtrix_gradients
from dmri_fm.normalise.grid import Image3D
from dmri_fm.series import Dwi, save_image
from dmri_fm_workflows.bids import Dataset, DwiSeries
from tests.dmri_fm_workflows.tiny_series import make_run

#: Deviation of the x gradient along x and y in FSL's axes, and as a matrix in RAS+: FSL's x is
#: minus that of RAS+ in LAS and RAS images, its y is in LPS images.
COIL_X = (0.05, 0.03)
COIL_RAS = np.array([[0.05, 0, 0], [-0.03, 0, 0], [0, 0, 0]])


@dataclass(frozen=True)
class Scan:
    """A series with its mask, and perhaps a T1w image with its brain mask."""

    dwi: Dwi
    t1w: Image3D | None = None
    t1w_mask: NDArray[np.bool_] | None = None


def tiny_scan(folder: Path, *, has_t1w: bool = True) -> Scan:
    """Return a scan of a few voxels."""
    run = make_run(folder, "AP")
    dwi = run.load().with_mask(np.ones(run.shape[:3]))
    head = Image3D(np.ones((5, 5, 4), np.float32), np.diag([-2.0, 2.0, 2.0, 1.0]))
    return Scan(dwi, head, head.data > 0) if has_t1w else Scan(dwi)


def store(
    data: NDArray[np.float32], affine: NDArray[np.float64], axes: str
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return an image with its voxels in another order, such as `LPS`; points stay in place."""
    image = nib.Nifti1Image(np.asarray(data, np.float32), affine)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axes)))
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), np.asarray(turned.affine)


def write_series(scan: Scan, image: Path, bval: Path, bvec: Path, mask: Path, axes: str) -> None:
    """Write image, gradients and mask, stored along some axes."""
    data, affine = store(scan.dwi.data, scan.dwi.affine, axes)
    save_image(data, affine, image)
    write_gradients(scan.dwi.gtab, bval, bvec, affine=affine)
    inside, _ = store(scan.dwi.brain.astype(np.float32), scan.dwi.affine, axes)
    save_image(inside, affine, mask, dtype=np.uint8)


def write_hcp(
    root: Path, name: str, scan: Scan, *, axes: str = "LAS", deviation: bool = False
) -> Path:
    """Write a participant in the layout of the HCP pipelines; return the folder."""
    folder = root / name
    inside = folder / "T1w" / "Diffusion"
    inside.mkdir(parents=True)
    write_series(
        scan,
        inside / "data.nii.gz",
        inside / "bvals",
        inside / "bvecs",
        inside / "nodif_brain_mask.nii.gz",
        axes,
    )
    (folder / "T1w" / name / "mri").mkdir(parents=True)
    if scan.t1w is not None and scan.t1w_mask is not None:
        brain = scan.t1w.data * scan.t1w_mask
        path = folder / "T1w" / "T1w_acpc_dc_restore_brain.nii.gz"
        save_image(brain, scan.t1w.affine, path)
    if deviation:
        shape, affine = store(scan.dwi.data[..., 0], scan.dwi.affine, axes)
        values = np.zeros((*shape.shape, 9))
        values[..., :2] = COIL_X
        save_image(values, affine, inside / "grad_dev.nii.gz")
    return folder


def write_uk_biobank(root: Path, name: str, scan: Scan, *, axes: str = "LAS") -> Path:
    """Write a participant in the layout of UK Biobank; return the folder."""
    folder = root / name
    inside = folder / "dMRI" / "dMRI"
    masks = folder / "dMRI" / "dMRI.bedpostX"
    for made in (inside, masks, folder / "T1"):
        made.mkdir(parents=True)
    write_series(
        scan,
        inside / "data_ud.nii.gz",
        inside / "bvals",
        inside / "data.eddy_rotated_bvecs",
        masks / "nodif_brain_mask.nii.gz",
        axes,
    )
    if scan.t1w is not None and scan.t1w_mask is not None:
        save_image(scan.t1w.data, scan.t1w.affine, folder / "T1" / "T1.nii.gz")
        mask = folder / "T1" / "T1_brain_mask.nii.gz"
        save_image(scan.t1w_mask, scan.t1w.affine, mask, dtype=np.uint8)
    return folder


def write_qsiprep_vectors(scan: Scan, bvec: Path, axes: str) -> None:
    """Write b-vectors as QSIPrep does: along the axes of an LPS+ image, x and y from RAS+ negated.

    Independent of the code under test, and without FSL's sign rule.
    """
    assert axes == "LPS", "QSIPrep writes LPS+ images"
    np.savetxt(bvec, (scan.dwi.gtab.bvecs_ras * [-1, -1, 1]).T, fmt="%.8f")


def write_derivatives(
    root: Path,
    stem: str,
    scan: Scan,
    *,
    space: str = "space-ACPC_",
    axes: str = "LPS",
    pipeline: str = "QSIPrep",
) -> Path:
    """Write a series of BIDS derivatives, `stem` being `sub-x[_ses-y][_acq-z]`; return its image.

    QSIPrep's gradients are as QSIPrep writes them, this app's as it does; others have FSL's alone.
    """
    root.mkdir(parents=True, exist_ok=True)
    description = {
        "Name": "preprocessed",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": pipeline, "Version": "1.0.1"}],
    }
    (root / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
    words = stem.split("_")
    subject, *sessions = (w for w in words if w.startswith(("sub-", "ses-")))
    folder = root.joinpath(subject, *sessions, "dwi")
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / f"{stem}_{space}desc-preproc_dwi.nii.gz"
    plain = str(image).removesuffix(".nii.gz")
    mask = Path(plain.replace("desc-preproc_dwi", "desc-brain_mask") + ".nii.gz")
    write_series(scan, image, Path(plain + ".bval"), Path(plain + ".bvec"), mask, axes)
    if pipeline.lower() == "qsiprep":
        write_qsiprep_vectors(scan, Path(plain + ".bvec"), axes)
    if pipeline.lower() in ("qsiprep", "drope-bidsapp"):
        write_mrtrix_gradients(scan.dwi.gtab, plain + ".b")
    image.with_name(image.name.replace(".nii.gz", ".json")).write_text(
        '{"EchoTime": 0.09}', encoding="utf-8"
    )
    if scan.t1w is not None and scan.t1w_mask is not None:
        anat = root / subject / "anat"
        anat.mkdir(exist_ok=True)
        head = anat / f"{subject}_{space}desc-preproc_T1w.nii.gz"
        save_image(*store(scan.t1w.data, scan.t1w.affine, axes), head)
        inside, affine = store(scan.t1w_mask.astype(np.float32), scan.t1w.affine, axes)
        mask = anat / f"{subject}_{space}desc-brain_mask.nii.gz"
        save_image(inside, affine, mask, dtype=np.uint8)
    return image


def only_series(dataset: Dataset) -> DwiSeries:
    """Return the series of a dataset that has one, and no problem."""
    assert [str(p.error) for p in dataset.problems] == []
    (participant,) = dataset.participants
    (session,) = participant.sessions
    (series,) = session.series
    return series


def only_error(dataset: Dataset) -> DmriError:
    """Return the error of a dataset that has one problem."""
    (problem,) = dataset.problems
    return problem.error
