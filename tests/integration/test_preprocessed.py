"""A preprocessed scan through the whole app: the input's tensors, and what is absent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmri_fm.normalise.grid import Grid, Image3D, resample_image
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.series import Dwi, load_image, read_array
from dmri_fm.tensor import fit_tensor
from dmri_fm_workflows.outputs.naming import identify
from dmri_fm_workflows.outputs.sidecars import missing_metadata
from dmri_fm_workflows.outputs.tsv import read_table
from tests.dmri_fm_workflows.preprocessed_layouts import COIL_RAS, Scan, write_hcp

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


@pytest.fixture(scope="module")
def scan(data_dir: Path) -> Scan:
    """A slab of a head on cubic voxels, with its T1w image at 2.5 mm."""
    folder = data_dir / "ds-vendors" / "sub-umr"
    stem = str(folder / "dwi" / "sub-umr_dir-PA_dwi")
    dwi = Dwi.from_files(f"{stem}.nii.gz", f"{stem}.bval", f"{stem}.bvec")
    mask = brain_mask(dwi.mean_b0(), dwi.affine, contrast="b0").mask
    # Axes along those of the scanner, as ACPC has them: then the app keeps the voxels.
    shape, axes = (64, 64, 24), np.diag([-3.5, 3.5, 3.5, 1.0])
    middle = dwi.affine[:3] @ [*(np.array(dwi.shape[:3]) - 1) / 2, 1]
    axes[:3, 3] = middle - axes[:3, :3] @ (np.array(shape) - 1) / 2
    cubes = Grid(shape, axes)
    data = resample_image(dwi.data, dwi.affine, cubes)
    inside = resample_image(mask.astype(np.float32), dwi.affine, cubes) > 0.5
    image = load_image(next(iter(sorted((folder / "anat").glob("*_T1w.nii.gz")))), ndim=3)
    head = read_array(image)[::2, ::2, ::2]
    affine = np.asarray(image.affine) @ np.diag([2, 2, 2, 1])
    brain = resample_image(inside.astype(np.float32), cubes.affine, Grid(head.shape, affine)) > 0.5
    cut = Dwi.from_arrays(data, cubes.affine, dwi.gtab, mask=inside)
    return Scan(cut, Image3D(head, affine), brain)


@pytest.fixture(scope="module")
def out(
    scan: Scan, run_app: Callable[..., tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Outputs of the scan in the layout of the HCP."""
    root = tmp_path_factory.mktemp("hcp")
    write_hcp(root / "data", "100307", scan, deviation=True)
    asked = ("--input-type", "preprocessed", "--sloppy", "--models", "qcg-dti")
    code, text = run_app(root / "data", root / "out", "participant", *asked)
    assert code == 0, text[-3000:]
    return root / "out"


def read_sidecar(out: Path, name: str) -> dict[str, Any]:
    """Read a sidecar of the scan."""
    path = out / "sub-100307" / "dwi" / f"sub-100307_{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_tensor_is_that_of_the_input(out: Path, scan: Scan) -> None:
    stem = out / "sub-100307" / "dwi" / "sub-100307_space-ACPC_model-tensor_param-fa_dwimap.nii.gz"
    image = load_image(stem)
    found = read_array(image)
    deviation = np.broadcast_to(COIL_RAS, (*scan.dwi.shape[:3], 3, 3))
    fa = fit_tensor(scan.dwi, gradient_deviation=deviation).fa
    x, y, z = image.shape
    expected = resample_image(
        fa, scan.dwi.affine, Grid((x, y, z), np.asarray(image.affine)), order=0
    )
    inside = found > 0.05
    assert inside.sum() > 10_000
    # Signals below the floor depend on the brain's median, which may differ in the last digits.
    assert np.quantile(np.abs(found - expected)[inside], 0.99) < 1e-3


def test_sidecars_say_what_was_left_to_the_input(out: Path) -> None:
    series = read_sidecar(out, "space-ACPC_desc-preproc_dwi")
    left = "left to the input: the HCP minimal preprocessing pipelines"
    assert {series[k] for k in ("Denoising", "SDCMethod", "HMCMethod", "GibbsCorrection")} == {
        left
    }
    assert series["GradientCheck"]
    assert series["GradientSource"] == "bvecs: b-vectors along the image's axes by FSL's rule"
    for name in ("data", "nodif_brain_mask", "grad_dev"):
        assert f"bids:raw:100307/T1w/Diffusion/{name}.nii.gz" in series["Sources"]
    tensor = read_sidecar(out, "space-ACPC_model-tensor_param-fa_dwimap")
    assert "b-matrix for each voxel" in json.dumps(tensor)
    network = read_sidecar(out, "space-ACPC_model-qcgdti_param-fa_dwimap")
    assert "nominal b-values" in json.dumps(network)
    assert "preprocessed by the HCP" in json.dumps(network)
    quality = read_sidecar(out, "desc-image_qc")
    assert "no raw series" in quality["NotMeasured"]["mean_fd"]
    (row,) = read_table(out / "sub-100307" / "dwi" / "sub-100307_desc-image_qc.tsv")
    assert row["mean_fd"] == "n/a"
    assert float(row["preproc_neighbor_corr"]) > 0.5


def test_every_file_has_its_metadata_and_none_of_motion_exists(out: Path) -> None:
    files = [p for p in (out / "sub-100307").rglob("*.json") if "log" not in p.parts]
    types = {path: identify(path.relative_to(out)).type.name for path in files}
    assert "preproc_dwi" in types.values()
    assert not {"hmc_xfm", "confounds"} & set(types.values())
    for path, name in types.items():
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        assert not missing_metadata(name, sidecar), path.name
    assert not list((out / "sub-100307").rglob("*carpetplot*"))


def test_t1w_image_of_the_brain_alone_is_said_to_be_stripped(out: Path) -> None:
    path = out / "sub-100307" / "anat" / "sub-100307_space-ACPC_desc-preproc_T1w.json"
    sidecar = json.loads(path.read_text(encoding="utf-8"))
    assert sidecar["SkullStripped"] is True
    assert sidecar["MaskMethod"].startswith("taken from the input")
