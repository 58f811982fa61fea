"""Headers of NIfTI files, checked before they are believed.

A header is refused where it cannot describe a scan, before any memory is asked for.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from zlib import error as ZlibError

import nibabel as nib
import numpy as np
from nibabel.nifti1 import data_type_codes
from nibabel.spatialimages import HeaderDataError
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.voxel_file import DAMAGED, VoxelFile, open_stream

#: Plausible voxel edges, mm: from microscopy of a mouse brain to one thick slice of a head.
SMALLEST_EDGE_MM, LARGEST_EDGE_MM = 0.01, 100.0

#: No voxel lies further from the scanner's isocentre than this, mm.
FARTHEST_VOXEL_MM = 10_000.0

#: Axes are dependent if they span less than this share of the box of their lengths.
LEAST_SPAN = 1e-3

#: A deflate stream expands by at most this factor (1032:1, for runs of one byte).
DEFLATE_EXPANSION = 1032

#: Header size to class; the first number of every NIfTI file.
_HEADERS: dict[int, Any] = {348: nib.Nifti1Image, 540: nib.Nifti2Image}

#: Four bytes in a NIfTI-2 header that a transfer as text would have changed; some leave them 0.
_LINE_ENDS = (b"\r\n\x1a\n", bytes(4))

#: Lowest three bits of `xyzt_units`.
_UNITS = {0: "unknown", 1: "metre", 2: "mm", 3: "micron"}

_CONVERT = "convert the scan again"


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file whose header describes a possible scan.

    Parameters
    ----------
    path
        A `.nii` or `.nii.gz` file, NIfTI-1 or NIfTI-2.

    Returns
    -------
    Nifti1Image
        Its voxels are a :class:`VoxelFile`.

    Raises
    ------
    ImageError
        If the file cannot be read, is no NIfTI image, or its header is refused: see
        `docs/inputs.md`.
    """
    try:
        with open_stream(path) as stream:
            block = stream.read(max(_HEADERS))
    except (OSError, EOFError, ZlibError) as error:
        if _is_plain_nifti(path):
            raise _refuse(
                path,
                "the file is not compressed, and its name ends in .gz",
                "a gzip stream",
                "rename it to end in .nii, or compress it",
            ) from None
        raise _refuse(path, f"cannot be opened as an image ({error})") from None
    header, image_class = _parse_header(block, path)
    voxels = _describe_voxels(header, path)
    affine = _find_affine(header, path)
    file_map = image_class.filespec_to_file_map(str(path))
    image: nib.Nifti1Image = image_class(voxels, affine, header, file_map=file_map)
    return image


def _is_plain_nifti(path: Path) -> bool:
    """Tell a file that starts with a NIfTI header, not compressed."""
    try:
        with path.open("rb") as stream:
            block = stream.read(max(_HEADERS))
    except OSError:
        return False
    return any(
        int.from_bytes(block[:4], order) in _HEADERS  # type: ignore[arg-type]
        for order in ("little", "big")
    )


def _refuse(
    path: Path | None, found: str, expected: str = "a NIfTI image", advice: str = _CONVERT
) -> ImageError:
    return ImageError(found, path=path, expected=expected, advice=advice)


def _parse_header(block: bytes, path: Path) -> tuple[Any, Any]:
    for order, code in (("little", "<"), ("big", ">")):
        size = int.from_bytes(block[:4], order)  # type: ignore[arg-type]
        if size in _HEADERS and len(block) >= size:
            image_class = _HEADERS[size]
            header = image_class.header_class(block[:size], code, check=False)
            is_whole = size == 348 or header["eol_check"].tobytes() in _LINE_ENDS
            if header["magic"].item() == header.single_magic and is_whole:
                return header, image_class
    raise _refuse(path, "cannot be opened as an image (no NIfTI header)")


def _describe_voxels(header: Any, path: Path) -> VoxelFile:
    """Check what the header says of the array; return where and how it is stored."""
    dims = [int(n) for n in header["dim"]]
    shape = tuple(dims[1 : 1 + max(dims[0], 0)])
    if not 3 <= dims[0] <= 7 or min(shape) < 1:
        raise _refuse(
            path, f"{dims[0]} dimensions, {shape}", "3 to 7 axes of at least one voxel each"
        )
    code = int(header["datatype"])
    known: Any = data_type_codes.dtype
    if code not in data_type_codes.value_set() or not known[code].itemsize:
        raise _refuse(path, f"voxels of the unknown type {code}", "a data type of NIfTI")
    offset, slope, inter = (float(header[k]) for k in ("vox_offset", "scl_slope", "scl_inter"))
    if not (offset.is_integer() and header.single_vox_offset <= offset):
        raise _refuse(
            path,
            f"the voxels start at byte {offset:g}",
            f"a start behind the header, at {header.single_vox_offset} or later",
        )
    if not math.isfinite(slope) or (slope != 0 and not math.isfinite(inter)):
        raise _refuse(
            path,
            f"the scale factors are {slope:g} and {inter:g}",
            "finite numbers; a slope of 0 where nothing is scaled",
        )
    dtype = header.get_data_dtype()
    scaling = (slope, inter) if slope != 0 else (1.0, 0.0)
    voxels = VoxelFile(path, shape, dtype, int(offset), *scaling)
    _check_size(voxels)
    # nibabel complains of other values, which nothing here depends on.
    header["bitpix"] = 8 * dtype.itemsize
    header["vox_offset"] = header.single_vox_offset
    return voxels


def _check_size(voxels: VoxelFile) -> None:
    """Refuse a header that promises more than the file can hold."""
    promised = voxels.offset + voxels.n_bytes
    size = voxels.path.stat().st_size
    is_compressed = voxels.path.name.lower().endswith(".gz")
    if promised > size * (DEFLATE_EXPANSION if is_compressed else 1):
        raise _refuse(
            voxels.path,
            f"the header describes {promised} bytes, {voxels.shape}; the file has {size}"
            + (" compressed" if is_compressed else ""),
            "a complete file",
            DAMAGED,
        )


def _find_affine(header: Any, path: Path) -> NDArray[np.float64]:
    """Check what the header says of space; return voxel to RAS+ mm, shape (4, 4)."""
    units = int(header["xyzt_units"]) & 7
    if _UNITS.get(units) not in ("unknown", "mm"):
        raise _refuse(
            path,
            f"lengths in {_UNITS.get(units, f'the unknown unit {units}')}",
            "lengths in mm",
            "convert the image to mm, header and affine: not every program heeds the unit",
        )
    codes = {key: int(header[key]) for key in ("qform_code", "sform_code")}
    if not all(0 <= code <= 5 for code in codes.values()):
        raise _refuse(path, f"orientation codes {codes}", "codes from 0 to 5")
    sizes = np.asarray(header["pixdim"][:4], dtype=np.float64)
    _check_edges(sizes[1:], path, "pixdim")
    if not math.isfinite(sizes[0]):
        raise _refuse(path, f"pixdim[0] is {sizes[0]:g}", "1 or -1")
    # As the reference implementation reads it; 0 occurs, and means 1.
    header["pixdim"][0] = -1.0 if sizes[0] < 0 else 1.0
    if codes["qform_code"] > 0:
        _check_quaternion(header, path)
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    check_affine(affine, tuple(header.get_data_shape()), path)
    return affine


def _check_quaternion(header: Any, path: Path) -> None:
    names = [f"quatern_{c}" for c in "bcd"] + [f"qoffset_{c}" for c in "xyz"]
    try:
        is_good = all(math.isfinite(float(header[name])) for name in names)
        header.get_qform()
    except (ValueError, HeaderDataError):
        is_good = False
    if not is_good:
        raise _refuse(
            path,
            "the quaternion of the qform is no rotation",
            "components whose squares sum to at most 1",
            "if the sform is right: fslorient -copysform2qform; else convert the scan again",
        )


def _check_edges(edges: NDArray[np.float64], path: Path | None, what: str) -> None:
    if not ((edges >= SMALLEST_EDGE_MM) & (edges <= LARGEST_EDGE_MM)).all():
        raise _refuse(
            path,
            f"voxel edges of {' x '.join(f'{e:g}' for e in edges)} mm ({what})",
            f"{SMALLEST_EDGE_MM:g} to {LARGEST_EDGE_MM:g} mm along each axis",
        )


def check_affine(affine: ArrayLike, shape: tuple[int, ...], path: Path | None) -> None:
    """Refuse an affine that no scan has.

    Parameters
    ----------
    affine
        Shape (4, 4), voxel to RAS+ mm.
    shape
        Shape of the image, for the positions of its corners.
    path
        For the message.

    Raises
    ------
    ImageError
        If it is not finite, its axes are dependent, an edge is outside :data:`SMALLEST_EDGE_MM`
        to :data:`LARGEST_EDGE_MM`, or a corner further away than :data:`FARTHEST_VOXEL_MM`.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    # Numbers of 1e300 overflow here, into what is refused.
    with np.errstate(all="ignore"):
        edges = np.linalg.norm(matrix[:3, :3], axis=0)
        span, box = abs(np.linalg.det(matrix[:3, :3])), np.prod(edges)
        reach = np.abs(matrix[:3, 3]) + np.abs(matrix[:3, :3]) @ (np.array(shape[:3]) - 1.0)
    if not np.isfinite(matrix).all() or not span > LEAST_SPAN * box:
        raise _refuse(
            path, "the affine is singular or not finite", "an invertible voxel-to-mm matrix"
        )
    _check_edges(edges, path, "affine")
    if reach.max() > FARTHEST_VOXEL_MM:
        raise _refuse(
            path,
            f"voxels as far as {reach.max():g} mm from the origin",
            f"at most {FARTHEST_VOXEL_MM:g} mm",
        )
