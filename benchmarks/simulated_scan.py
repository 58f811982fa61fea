"""Compare FA and MD of a simulated scan with its truth, before and after distortion correction.

Usage: python benchmarks/simulated_scan.py DATASET [--output OUT] [--white-matter 0.8]

DATASET is a raw BIDS dataset with `dir-AP` and `dir-PA` series and its truth under
`derivatives/truth`: one made by `dmri-fm simulate`, or one of the same layout. With `--output`
the maps of the app's run on it are compared as well. Comparisons are made inside the white matter
of the truth, on its undistorted grid; the field of the truth gives the best that any estimate
of the distortion could reach.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nibabel as nib
import nitransforms
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dmri_fm.distortion import DistortionField, PhaseEncoding, correct_image
from dmri_fm.errors import LayoutError
from dmri_fm.preprocess.susceptibility import B0Image, estimate_pair_field
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.evaluate.tensor_errors import scalar_errors

Maps = dict[str, NDArray[np.float32]]

#: File endings of the truth: those of `dmri-fm simulate` first.
TRUTH_NAMES = {
    "fa": ("model-tensor_param-fa_desc-truth_dwimap", "desc-truth_fa"),
    "md": ("model-tensor_param-md_desc-truth_dwimap", "desc-truth_md"),
    "wm": ("label-WM_desc-truth_probseg", "desc-truth_wm"),
    "brain": ("desc-truth_mask",),
    "field": ("desc-truth_fieldmap", "desc-truth_fieldmap_hz"),
}


def read_truth(dataset: Path, subject: str) -> tuple[Maps, NDArray[np.float64]]:
    """Read the truth of a participant and its affine."""
    folder = dataset / "derivatives" / "truth" / subject / "dwi"
    found = {}
    for key, endings in TRUTH_NAMES.items():
        paths = [folder / f"{subject}_{e}.nii.gz" for e in endings]
        path = next((p for p in paths if p.exists()), None)
        if path is None:
            raise LayoutError(f"no truth of {key}", path=folder, expected=f"{paths[0].name}")
        image = nib.load(path)
        found[key] = np.asarray(image.dataobj, dtype=np.float32)
    return found, image.affine


def read_series(dataset: Path, subject: str, direction: str) -> tuple[Dwi, PhaseEncoding]:
    """Read a series and its phase encoding."""
    stem = dataset / subject / "dwi" / f"{subject}_dir-{direction}_dwi"
    dwi = Dwi.from_files(*(stem.with_name(stem.name + e) for e in (".nii.gz", ".bval", ".bvec")))
    sidecar = json.loads(stem.with_name(stem.name + ".json").read_text())
    return dwi, PhaseEncoding(sidecar["PhaseEncodingDirection"], sidecar["TotalReadoutTime"])


def fit_maps(dwi: Dwi) -> Maps:
    """Fit a tensor and return the maps that are compared."""
    maps = fit_tensor(dwi)
    return {"fa": maps.fa, "md": maps.md}


def correct_series(dwi: Dwi, field: DistortionField, encoding: PhaseEncoding) -> Dwi:
    """Correct every volume with one field."""
    volumes = [
        correct_image(v, dwi.affine, field=field, encoding=encoding)
        for v in np.moveaxis(dwi.data, 3, 0)
    ]
    data = np.maximum(np.stack(volumes, axis=3), 0)
    return Dwi.from_arrays(data, field.affine, dwi.gtab, mask=dwi.mask)


def read_app_maps(output: Path, subject: str, grid: tuple[int, ...], affine: NDArray) -> Maps:
    """Sample the app's ACPC maps at the points of the truth's grid."""
    folder = output / subject / "dwi"
    found = sorted(folder.glob(f"{subject}*_space-ACPC_model-tensor_param-fa_dwimap.nii.gz"))
    moves = sorted(folder.glob(f"{subject}*_from-dwiref_to-ACPC_mode-image_xfm.txt"))
    if not found or not moves:
        raise LayoutError(
            f"no tensor maps of {subject} with their transform",
            path=folder,
            expected="the output of `drope-bidsapp` for this dataset",
        )
    acpc2dwiref = nitransforms.linear.load(moves[0], fmt="itk").matrix.reshape(4, 4)
    ijk = np.indices(grid, dtype=np.float64).reshape(3, -1)
    points = affine[:3, :3] @ ijk + affine[:3, 3:]
    maps = {}
    for name in ("fa", "md"):
        image = nib.load(str(found[0]).replace("param-fa", f"param-{name}"))
        pull = np.linalg.inv(image.affine) @ np.linalg.inv(acpc2dwiref)
        voxels = pull[:3, :3] @ points + pull[:3, 3:]
        data = np.asarray(image.dataobj, dtype=np.float32)
        maps[name] = map_coordinates(data, voxels, order=1).reshape(grid)
    return maps


def report(label: str, maps: Maps, truth: Maps, white_matter: NDArray[np.bool_]) -> None:
    cells = []
    for name, unit in (("fa", 1.0), ("md", 1e3)):
        e = scalar_errors(maps[name], truth[name], mask=white_matter)
        cells.append(
            f"{unit * e.median_estimate:6.3f} {unit * e.mean_absolute:6.4f} "
            f"{unit * e.bias:+7.4f} {e.correlation:5.2f}"
        )
    print(f"  {label:26s} {cells[0]}    {cells[1]}")


def compare(dataset: Path, subject: str, *, output: Path | None, least: float) -> None:
    truth, affine = read_truth(dataset, subject)
    up, up_encoding = read_series(dataset, subject, "AP")
    down, down_encoding = read_series(dataset, subject, "PA")
    white_matter = truth["wm"] > least
    print(
        f"{subject}: {white_matter.sum()} voxels of white matter, shells "
        f"{[round(s.bval) for s in up.gtab.shells]}"
    )
    print(f"  {'':26s} FA median, error, bias, r        MD median, error, bias, r (1e-3 mm^2/s)")
    report("truth", truth, truth, white_matter)
    report("before correction", fit_maps(up), truth, white_matter)

    started = time.process_time()
    b0 = int(np.flatnonzero(up.gtab.is_b0)[0])
    pair = estimate_pair_field(
        B0Image(up.data[..., b0], up.affine, up_encoding),
        B0Image(down.data[..., 0], down.affine, down_encoding),
    )
    seconds = time.process_time() - started
    true_field = DistortionField(truth["field"], affine)
    for label, field in (("estimated", pair.field), ("true", true_field)):
        corrected = correct_series(up, field, up_encoding)
        report(f"after, {label} field", fit_maps(corrected), truth, white_matter)
    if output is not None:
        maps = read_app_maps(output, subject, white_matter.shape, affine)
        report("after, the app", maps, truth, white_matter)
    shift = np.abs(pair.field.hz - truth["field"])[white_matter] * up_encoding.readout_s
    before = np.abs(truth["field"])[white_matter] * up_encoding.readout_s
    print(
        f"  displacement of white matter {before.mean():.3f} voxels, error of the estimate "
        f"{shift.mean():.3f} ({seconds:.0f} CPU-s)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--output", type=Path, help="output folder of the app")
    parser.add_argument("--white-matter", type=float, default=0.8, help="least fraction")
    options = parser.parse_args()
    subjects = sorted(p.name for p in options.dataset.glob("sub-*") if p.is_dir())
    if not subjects:
        raise LayoutError("no participants", path=options.dataset, expected="sub-* folders")
    for subject in subjects:
        compare(options.dataset, subject, output=options.output, least=options.white_matter)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
