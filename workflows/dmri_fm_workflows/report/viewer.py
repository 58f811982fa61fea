"""The viewer of a series: one HTML file in which its maps can be sliced in any direction.

NiiVue (https://niivue.com, `niivue/`) draws in the browser. A page that is opened from a disk may
not fetch images, so the maps are inside: cut to the brain, in 255 steps, compressed.
"""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from markupsafe import Markup
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from dmri_fm.identity import TENSOR_NETWORKS, identity
from dmri_fm.json_files import read_object
from dmri_fm.normalise.grid import Image3D
from dmri_fm.series import load_image, read_array
from dmri_fm.tensor_maps import decompose_tensors, fractional_anisotropy
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import output_path, sidecar_path
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.report.diffusion import direction_colours
from dmri_fm_workflows.report.page import page_environment
from dmri_fm_workflows.report.slices import intensity_window

SPACE = "ACPC"

#: Room around the brain that is shown, mm.
MARGIN_MM = 12.0

#: Largest code of a voxel; 0 is outside the brain.
MOST = 255

#: Colours of positive maps and of maps with both signs, by their names in NiiVue.
POSITIVE, SIGNED = "viridis", "blue2red"


@dataclass(frozen=True)
class _Volume:
    """A volume of the viewer.

    Attributes
    ----------
    title, units
        As shown.
    colours
        Name of a colour map of NiiVue; empty: the voxels are colours.
    low, high
        Values at the ends of the colours; of codes 1 and 255 where there is an outside.
    is_background
        Whether it is drawn below, not over, another.
    content
        NIfTI, gzip, base64.
    """

    title: str
    units: str
    colours: str
    low: float
    high: float
    is_background: bool
    content: str


def write_viewer(output_dir: Path, paths: Collection[Path], entities: Mapping[str, str]) -> Path:
    """Write the viewer of a series from its outputs in ACPC.

    Parameters
    ----------
    output_dir
        Root of the output dataset.
    paths
        Outputs that are shown, if the viewer knows them.
    entities
        Entities of the series.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DmriError
        If an image cannot be read, or the file not be written.
    """
    volumes = list(_Gathering(output_dir, paths, entities).volumes())
    script = files("dmri_fm_workflows.report").joinpath("niivue/niivue.umd.js")
    page = (
        page_environment()
        .get_template("viewer.html.j2")
        .render(
            name=scan_name(entities),
            volumes=[asdict(volume) for volume in volumes],
            # A closing tag in the script would end it.
            niivue=Markup(script.read_text(encoding="utf-8").replace("</script", "<\\/script")),
        )
    )
    target = output_dir / output_path(entities, "viewer")
    publish_text(page, target)
    return target


@dataclass(frozen=True)
class _Gathering:
    """Outputs of a series, as volumes of its viewer."""

    output_dir: Path
    paths: Collection[Path]
    entities: Mapping[str, str]

    def volumes(self) -> Iterator[_Volume]:
        """Yield the volumes that are there; none without a brain mask."""
        mask = self._open("dwi_mask")
        if mask is None or not (mask.data > 0).any():
            return
        brain = mask.data > 0
        low, high = _bounds_mm(mask)
        shown = (("dwiref", "b=0 reference"), ("t1w", "T1w image"), ("t2w", "T2w image"))
        for of, title in shown:
            if (image := self._open(of)) is not None:
                yield _grey(_crop(image, low, high), title)
        if (tensor := self._open("diffusivity", model="tensor")) is not None:
            yield _colour_fa(tensor, brain, low, high)
        for title, units, image in self._maps():
            if image.data.shape == brain.shape:
                yield _map(image, brain, title, units, low=low, high=high)

    def _maps(self) -> Iterator[tuple[str, str, Image3D]]:
        """Yield title, units and image of maps in colours."""
        for model in ("tensor", *TENSOR_NETWORKS):
            of_model = "tensor fit" if model == "tensor" else identity(model).title
            for of in ("fa", "md"):
                if (image := self._open(of, model=model)) is not None:
                    yield f"{of.upper()}, {of_model}", _units(of), image
        if (cnr := self._open("cnr")) is not None:
            for number, shell in enumerate(self._shells(cnr.data.shape[3])):
                yield f"CNR, {shell}", "", Image3D(cnr.data[..., number], cnr.affine)
        for of in ("noise", "residual", "fieldmap"):
            if (image := self._open(of)) is not None:
                yield load_catalogue().output_type(of).title, _units(of), image

    def _path(self, of: str, model: str | None) -> Path:
        return self.output_dir / output_path(self._entities(of), of, model=model, space=SPACE)

    def _entities(self, of: str) -> dict[str, str]:
        """Return the entities of an output: an anatomical image has those of its session."""
        kept = ("subject", "session") if of in ("t1w", "t2w") else tuple(self.entities)
        return {k: v for k, v in self.entities.items() if k in kept}

    def _open(self, of: str, *, model: str | None = None) -> Image3D | None:
        path = self._path(of, model)
        if path not in self.paths:
            return None
        image = load_image(path)
        return Image3D(read_array(image, path=path), np.asarray(image.affine))

    def _shells(self, number: int) -> list[str]:
        """Return the names of the shells of the CNR maps: numbers, where their sidecar is odd."""
        sidecar = Path(sidecar_path(self._path("cnr", None)))
        found = read_object(sidecar).get("Shells") if sidecar in self.paths else None
        bvals = found if isinstance(found, list) else []
        if len(bvals) == number and all(isinstance(bval, int | float) for bval in bvals):
            return [f"b = {bval:.0f}" for bval in bvals]
        return [f"shell {n + 1}" for n in range(number)]


def _units(of: str) -> str:
    units = load_catalogue().output_type(of).units or ""
    return "" if units in ("arbitrary", "unitless") else units


def _bounds_mm(mask: Image3D) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and highest coordinates to show, mm."""
    corners = apply_affine(mask.affine, np.argwhere(mask.data > 0))
    return corners.min(axis=0) - MARGIN_MM, corners.max(axis=0) + MARGIN_MM


def _crop(image: Image3D, low: NDArray[np.float64], high: NDArray[np.float64]) -> Image3D:
    """Cut an image to a box."""
    ends = np.array([[low[0], high[0]], [low[1], high[1]], [low[2], high[2]]])
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    voxels = apply_affine(np.linalg.inv(image.affine), corners)
    shape = np.array(image.data.shape[:3])
    first = np.clip(np.floor(voxels.min(axis=0)).astype(int), 0, shape - 1)
    stop = np.clip(np.ceil(voxels.max(axis=0)).astype(int) + 1, first + 1, shape)
    affine = image.affine.copy()
    affine[:3, 3] = apply_affine(image.affine, first)
    return Image3D(image.data[tuple(map(slice, first, stop))], affine)


def _grey(image: Image3D, title: str) -> _Volume:
    low, high = intensity_window(image.data)
    codes = np.clip((image.data - low) / (high - low) * MOST, 0, MOST).round().astype(np.uint8)
    step = (high - low) / MOST
    return _Volume(title, "", "gray", low, high, True, _encode(codes, image.affine, step, low))


def _map(
    image: Image3D, brain: NDArray[np.bool_], title: str, units: str, *, low: Any, high: Any
) -> _Volume:
    """Return a map in colours, code 0 outside the brain and where it has no value."""
    values = np.asarray(image.data, dtype=np.float32)
    known = brain & np.isfinite(values)
    inside = values[known]
    top = float(np.percentile(np.abs(inside), 99)) if inside.size else 0.0
    top = top or 1.0
    is_signed = bool(inside.size) and float(inside.min()) < 0
    bottom = -top if is_signed else 0.0
    step = (top - bottom) / (MOST - 1)
    codes = np.zeros(values.shape, dtype=np.uint8)
    codes[known] = np.clip((inside - bottom) / step, 0, MOST - 1).round().astype(np.uint8) + 1
    cut = _crop(Image3D(codes, image.affine), low, high)
    content = _encode(cut.data, cut.affine, step, bottom - step)
    return _Volume(title, units, SIGNED if is_signed else POSITIVE, bottom, top, False, content)


def _colour_fa(tensor: Image3D, brain: NDArray[np.bool_], low: Any, high: Any) -> _Volume:
    """Return the main direction of diffusion as colours, as bright as FA."""
    values, first = decompose_tensors(np.nan_to_num(tensor.data[brain]))
    colours = np.zeros((*brain.shape, 3), dtype=np.uint8)
    colours[brain] = direction_colours(first, fractional_anisotropy(np.maximum(values, 0)))
    cut = _crop(Image3D(colours, tensor.affine), low, high)
    content = _encode(cut.data, cut.affine, 1.0, 0.0)
    return _Volume("Main direction of diffusion", "", "", 0.0, float(MOST), True, content)


def _encode(
    codes: NDArray[np.uint8], affine: NDArray[np.float64], slope: float, intercept: float
) -> str:
    """Return a volume of bytes, or of colours along a fourth axis, as NIfTI, gzip, base64."""
    header = nib.Nifti1Header()
    is_colour = codes.ndim == 4
    header.set_data_shape(codes.shape[:3])
    header["datatype"], header["bitpix"] = (128, 24) if is_colour else (2, 8)
    header.set_sform(affine, code="aligned")
    header.set_qform(affine, code="aligned")
    header.set_slope_inter(slope, intercept)
    header["magic"], header["vox_offset"] = b"n+1", 352
    # The three colours of a voxel follow one another.
    data = np.moveaxis(codes, -1, 0) if is_colour else codes
    raw = header.binaryblock + bytes(4) + data.tobytes(order="F")
    return b64encode(gzip.compress(raw, 6, mtime=0)).decode("ascii")
