"""JSON sidecars: what stands beside each kind of output.

Every function here returns a dictionary and touches no file. Keys with nothing to say are left
out, so that a sidecar never holds a null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

import yaml

from dmri_fm import __version__
from dmri_fm.derivatives.maps import Kind, load_catalogue
from dmri_fm.derivatives.publish import to_json
from dmri_fm.derivatives.references import load_references
from dmri_fm.derivatives.root import APP_NAME, write_root_files
from dmri_fm.errors import ConfigError
from dmri_fm.models.identity import about_model

__all__ = [
    "BVEC_CONVENTION",
    "carry_over",
    "derivative_uri",
    "describe_columns",
    "image_sidecar",
    "missing_metadata",
    "raw_uri",
    "to_json",
    "write_root_files",
]

#: Raw metadata that stay true after correction and resampling. What describes slices, the phase
#: encoding, the raw grid or the scanner's bookkeeping is left out: none of it fits the new image.
CARRIED_OVER = (
    "Manufacturer",
    "ManufacturersModelName",
    "SoftwareVersions",
    "HardcopyDeviceSoftwareVersion",
    "MagneticFieldStrength",
    "ImagingFrequency",
    "ReceiveCoilName",
    "ReceiveCoilActiveElements",
    "MRTransmitCoilSequence",
    "GradientSetType",
    "NumberShots",
    "MatrixCoilMode",
    "CoilCombinationMethod",
    "MRAcquisitionType",
    "PulseSequenceType",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "SequenceName",
    "PulseSequenceDetails",
    "NonlinearGradientCorrection",
    "DiffusionScheme",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "MTState",
    "SpoilingState",
    "EchoTrainLength",
    "DwellTime",
    "PixelBandwidth",
    "PartialFourier",
    "PartialFourierDirection",
    "ParallelReductionFactorInPlane",
    "ParallelReductionFactorOutOfPlane",
    "ParallelAcquisitionTechnique",
    "MultibandAccelerationFactor",
    "ContrastBolusIngredient",
)

#: How the b-vectors beside a corrected series are to be read.
BVEC_CONVENTION = (
    "FSL: components along the image axes, the first one negated when the determinant of the "
    "affine is positive; rotated with the head of each volume and by the rigid or affine part of "
    "the transform into this space; the local rotations of a nonlinear warp do not fit into one "
    "file and are not in it"
)


def raw_uri(path: str | Path, root: str | Path) -> str:
    """Return the BIDS URI of a file of the raw dataset.

    Examples
    --------
    >>> raw_uri("/data/ds/sub-01/dwi/sub-01_dwi.nii.gz", "/data/ds")
    'bids:raw:sub-01/dwi/sub-01_dwi.nii.gz'
    """
    try:
        relative = Path(path).relative_to(root)
    except ValueError:
        raise ConfigError(
            "file is outside the raw dataset", path=path, expected=f"a path below {root}"
        ) from None
    return f"bids:raw:{relative.as_posix()}"


def derivative_uri(path: str | PurePath) -> str:
    """Return the BIDS URI of an output, given relative to the output folder.

    Examples
    --------
    >>> derivative_uri("sub-01/dwi/sub-01_space-ACPC_dwiref.nii.gz")
    'bids::sub-01/dwi/sub-01_space-ACPC_dwiref.nii.gz'
    """
    if PurePath(path).is_absolute():
        raise ConfigError(
            "path is absolute", path=str(path), expected="relative to the output folder"
        )
    return f"bids::{PurePath(path).as_posix()}"


def carry_over(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the raw metadata that are still true of a series made from these runs.

    Parameters
    ----------
    metadata
        Merged raw sidecars of the runs.

    Returns
    -------
    dict
        Hardware, sequence and contrast fields on which all runs agree. Slice timing, phase
        encoding, readout times and the raw geometry are dropped: the image is on another grid
        and its distortion is gone.

    Examples
    --------
    >>> runs = [{"EchoTime": 0.07, "FlipAngle": 90, "SliceTiming": [0, 1]},
    ...         {"EchoTime": 0.07, "FlipAngle": 78}]
    >>> carry_over(runs)
    {'EchoTime': 0.07}
    """
    if not metadata:
        return {}
    first, *others = metadata
    return {
        key: first[key]
        for key in CARRIED_OVER
        if key in first and all(key in o and o[key] == first[key] for o in others)
    }


def image_sidecar(
    kind_name: str,
    *,
    sources: Iterable[str] = (),
    space: str | None = None,
    spatial_reference: str | Mapping[str, str] | None = None,
    resolution: str | None = None,
    columns: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the sidecar of an output.

    Parameters
    ----------
    kind_name
        Key in `maps.yaml`.
    sources
        BIDS URIs of what the file was made from.
    space
        Space of the image.
    spatial_reference
        URI or text that says what the space is; by default a template's name, else the
        description of the space.
    resolution
        In words; by default that of the space's grid.
    columns
        Of a table; each that is known gets a description.
    extra
        Further keys; they win. Values from numpy and paths become plain JSON.

    Returns
    -------
    dict
        `Description`, `GeneratedBy`, and where they apply `Units`, `Model`, `Sources`,
        `SpatialReference`, `Resolution`, `References`, `Type` of a mask, `OrientationEncoding`
        of a tensor (after BEP016).

    Examples
    --------
    >>> found = image_sidecar("tensor_md", space="MNI152NLin2009aSym", sources=["bids::x"])
    >>> found["Units"], found["Resolution"]
    ('mm^2/s', 'MNI152NLin2009aSym grid with isotropic voxels of 2 mm')
    """
    kind = load_catalogue().kind(kind_name)
    found: dict[str, Any] = {
        "Description": kind.description,
        "GeneratedBy": [{"Name": APP_NAME, "Version": __version__}],
        **_inherent(kind),
        **describe_columns(columns),
    }
    if kind.units is not None:
        found["Units"] = kind.units
    if kind.citations:
        known = load_references()
        found["References"] = [f"https://doi.org/{known[key].doi}" for key in kind.citations]
    listed = list(dict.fromkeys(sources))
    if listed:
        found["Sources"] = listed
    if space is not None:
        if space not in kind.spaces:
            raise ConfigError(
                f"{kind.name} does not exist in space {space!r}",
                expected=" or ".join(kind.spaces) or "no space",
            )
        grid = load_catalogue().spaces[space]
        # BIDS requires a reference for every space that is not one of its standard ones.
        found["SpatialReference"] = space if grid.resolution else grid.description
        if grid.resolution and kind.has_resolution:
            found["Resolution"] = f"{space} grid with isotropic voxels of {grid.resolution} mm"
    if spatial_reference is not None:
        found["SpatialReference"] = spatial_reference
    if resolution is not None:
        found["Resolution"] = resolution
    return found | dict(to_json(extra or {}))


def _inherent(kind: Kind) -> dict[str, Any]:
    """Return the entries that follow from the kind alone."""
    found: dict[str, Any] = {}
    if kind.suffix == "mask":
        found["Type"] = "Brain"
    if kind.name == "preproc_dwi":
        found["BvecConvention"] = BVEC_CONVENTION
    if kind.model is not None:
        found["Model"] = about_model(kind.model)
    if kind.suffix == "dwimap":
        found["SkullStripped"] = True
        if kind.entities["param"] == "diffusivity":
            found["OrientationEncoding"] = {
                "Type": "tensor",
                "Reference": "scanner",
                "EncodingAxis": 3,
                "TensorRank": 2,
                "AntipodalSymmetry": True,
            }
            found["TensorElements"] = ["D11", "D12", "D13", "D22", "D23", "D33"]
    if kind.value_range is not None:
        found["ValidRange"] = list(kind.value_range)
    return found


def missing_metadata(kind_name: str, sidecar: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that `maps.yaml` requires of a kind and its sidecar lacks.

    Examples
    --------
    >>> missing_metadata("t1w", {"SpatialReference": "bids::x", "Description": "T1w"})
    ('SkullStripped', 'Sources')
    """
    return tuple(k for k in load_catalogue().kind(kind_name).required if k not in sidecar)


@cache
def _column_table() -> tuple[tuple[str, dict[str, Any]], ...]:
    # Imported here: it takes scipy.stats with it, and names and sidecars are wanted quickly.
    from dmri_fm.preprocess.quality import QUALITY_COLUMNS

    text = files("dmri_fm.derivatives").joinpath("columns.yaml").read_text(encoding="utf-8")
    measured = {name: dict(entry) for name, entry in QUALITY_COLUMNS.items()}
    return tuple((measured | yaml.safe_load(text)).items())


def describe_columns(columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return description and units of table columns.

    They come from `columns.yaml`, and from the measures of image quality. Numbered columns of one
    meaning share an entry, whose name is a pattern.

    Examples
    --------
    >>> describe_columns(["pooled000", "pooled001"])
    {'pooled*': {'Description': 'Feature of the whole scan, pooled over its patch tokens'}}
    >>> describe_columns(["trans_x", "no_such"])
    {'trans_x': {'Description': 'Head translation, left to right (RAS+)', 'Units': 'mm'}}
    """
    found = {}
    for name in columns:
        for pattern, entry in _column_table():
            if fnmatchcase(name, pattern):
                shared = entry.get("Columns", name)
                found[shared] = {k: v for k, v in entry.items() if k != "Columns"}
                break
    return found
