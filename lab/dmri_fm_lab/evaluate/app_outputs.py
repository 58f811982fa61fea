"""Outputs of the app for a simulated participant, and the truth in their space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import LayoutError
from dmri_fm.gradient_files import write_gradients
from dmri_fm.identity import label_of
from dmri_fm.json_files import read_object
from dmri_fm.normalise.grid import Grid, affine_map, compose
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.motion_table import read_motion_tsv
from dmri_fm.qspace import choose_six
from dmri_fm.series import Dwi, load_image, read_array, save_image
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.bootstrap import ReferenceNoise
from dmri_fm_lab.evaluate.truth import Truth, read_truth
from dmri_fm_lab.scans import PREPROC, Scan, find_scans


@dataclass(frozen=True, eq=False)
class AppOutput:
    """One series of a participant as the app wrote it, in ACPC space.

    Attributes
    ----------
    stem
        Folder and entities of the files.
    dwi
        The corrected series with its brain mask.
    truth
        On the grid of the series.
    """

    stem: Path
    dwi: Dwi
    truth: Truth

    @classmethod
    def read(cls, out: Path, raw: Path, participant: str) -> AppOutput:
        """Read the only series of a participant, and bring the truth to its space.

        The truth is that of the head during the first volume of the series, on the undistorted
        grid: a point x in ACPC is at r = dwiref(x) of the b=0 reference, and at A_0 r there.

        Raises
        ------
        LayoutError
            If there is no truth, or not one series.
        """
        truth = read_truth(raw, participant)
        scans = list(find_scans(out, participant_labels=[participant]))
        paths = sorted((out / f"sub-{participant}").rglob(f"*{PREPROC}"))
        if truth is None or len(scans) != 1 or len(paths) != 1:
            raise LayoutError(
                f"{len(scans)} series of sub-{participant}, {'no ' if truth is None else ''}truth",
                path=out,
                expected="one corrected series, and the truth beside the raw dataset",
            )
        stem = paths[0].with_name(paths[0].name.removesuffix(PREPROC))
        motion = read_motion_tsv(f"{stem}_from-orig_to-dwiref_mode-image_desc-eddy_xfm.tsv")
        acpc2truth = compose(
            read_point_map(f"{stem}_from-dwiref_to-ACPC_mode-image_xfm.txt"),
            affine_map(motion.xfms[0]),
        )
        dwi = scans[0].dwi
        x, y, z = dwi.shape[:3]
        grid = Grid((x, y, z), dwi.affine)
        return cls(stem, dwi, truth.resample(grid, target2truth=acpc2truth))

    def network_maps(self, model: str) -> tuple[TensorMaps, list[int]]:
        """Return the maps of a network, and the volumes of the series that it read."""

        def image(param: str, desc: str = "") -> NDArray[np.float32]:
            path = self._map(model, param, desc)
            return read_array(load_image(path), path=path)

        maps = TensorMaps.from_tensor(
            image("diffusivity"), self.dwi.brain, affine=self.dwi.affine, model=label_of(model)
        )
        if self._map(model, "fa", "_desc-std").is_file():
            std = {name: image(name, "_desc-std") for name in ("fa", "md")}
            maps = maps.with_uncertainty(std=std, ood_percentile=None)
        used = self.parameters(model)
        return maps, [*used["B0Volumes"], *used["Volumes"]]

    def parameters(self, model: str) -> dict[str, Any]:
        """Return how a network ran, from the sidecar of its tensor."""
        sidecar = self._map(model, "diffusivity", "").name.removesuffix(".nii.gz") + ".json"
        used: dict[str, Any] = read_object(self.stem.with_name(sidecar))["Model"]["Parameters"]
        return used

    def _map(self, model: str, param: str, desc: str) -> Path:
        name = f"{self.stem.name}_space-ACPC_model-{label_of(model)}_param-{param}{desc}"
        return self.stem.with_name(f"{name}_dwimap.nii.gz")


def with_intervals(
    maps: TensorMaps, noise: ReferenceNoise, where: NDArray[np.bool_]
) -> TensorMaps:
    """Return maps with the standard deviations of FA and MD that a bootstrap found.

    Parameters
    ----------
    maps
        The fit.
    noise
        In the voxels of `where`, shape (X, Y, Z).
    """
    std = {name: np.zeros(where.shape, dtype=np.float32) for name in ("fa", "md")}
    for name, image in std.items():
        image[where] = np.sqrt(noise.variance[name])
    return maps.with_uncertainty(std=std, ood_percentile=None)


def cut_to_seven(raw: Path, target: Path, participants: Sequence[str]) -> Path:
    """Copy a dataset whose weighted series are cut to one b=0 and six directions.

    Series without weighted volumes, such as those of reversed phase encoding, become images of
    the `fmap` folder: there they correct the distortion and join no series.

    Parameters
    ----------
    raw
        Raw dataset; its truth is left where it is.
    target
        Folder to create.
    participants
        Labels, without `sub-`, to copy.

    Raises
    ------
    GradientError
        If a series has no six directions that determine a tensor.
    """
    for label in participants:
        source = raw / f"sub-{label}"
        for path in (p for p in source.rglob("*") if p.is_file()):
            copy = target / path.relative_to(raw)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        scans = list(find_scans(raw, participant_labels=[label]))
        weighted = [scan for scan in scans if not scan.dwi.gtab.is_b0.all()]
        folder = target / source.name
        for scan in weighted:
            _write_seven(scan, folder / "dwi" / f"{scan.name}_dwi")
        for scan in (scan for scan in scans if scan not in weighted):
            _move_to_fmap(folder, scan.name, corrected=[other.name for other in weighted])
    # The description comes last: without it, no one takes the folder for a dataset.
    shutil.copyfile(raw / "dataset_description.json", target / "dataset_description.json")
    return target


def _write_seven(scan: Scan, stem: Path) -> None:
    """Write one b=0 volume and six directions over a copied series."""
    gtab = scan.dwi.gtab
    first_b0 = int(np.flatnonzero(gtab.is_b0)[0])
    seven = scan.dwi.select([first_b0, *choose_six(gtab).index])
    save_image(seven.data, seven.affine, f"{stem}.nii.gz")
    write_gradients(seven.gtab, Path(f"{stem}.bval"), Path(f"{stem}.bvec"), affine=seven.affine)


def _move_to_fmap(folder: Path, name: str, *, corrected: Sequence[str]) -> None:
    """Move a copied series of b=0 volumes to the `fmap` folder, linked to those it corrects."""
    stem, target = folder / "dwi" / f"{name}_dwi", folder / "fmap" / f"{name}_epi"
    target.parent.mkdir(exist_ok=True)
    sidecar = read_object(Path(f"{stem}.json")) | {
        "IntendedFor": [f"bids::{folder.name}/dwi/{other}_dwi.nii.gz" for other in corrected]
    }
    Path(f"{target}.json").write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    Path(f"{stem}.nii.gz").rename(f"{target}.nii.gz")
    for ending in (".json", ".bval", ".bvec"):
        Path(f"{stem}{ending}").unlink(missing_ok=True)
