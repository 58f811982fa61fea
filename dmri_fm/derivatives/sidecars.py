"""JSON sidecars: what stands beside each kind of output.

Every function here returns a dictionary and touches no file. Keys with nothing to say are left
out, so that a sidecar never holds a null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

import yaml

from dmri_fm import __version__
from dmri_fm.derivatives.maps import load_catalogue
from dmri_fm.derivatives.publish import to_json
from dmri_fm.derivatives.references import load_references
from dmri_fm.derivatives.root import APP_NAME, write_root_files
from dmri_fm.errors import ConfigError

__all__ = [
    "Corrections",
    "carry_over",
    "derivative_uri",
    "describe_columns",
    "feature_sidecar",
    "image_sidecar",
    "map_sidecar",
    "mask_sidecar",
    "preproc_sidecar",
    "raw_uri",
    "reference_sidecar",
    "table_sidecar",
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
    "affine is positive; rotated with the head of each volume and into this space"
)


@dataclass(frozen=True)
class Corrections:
    """What was done to a series, in words for its sidecar.

    Attributes
    ----------
    sdc_method, sdc_reason
        Correction of susceptibility distortion, and why this one.
    hmc_method
        Correction of head motion and eddy currents.
    denoising, gibbs_correction
        What ran, `none` if nothing.
    gradient_check
        Result of the check of the b-vectors against fibre continuity; empty if not done.
    b0_normalization_scale
        Mean b=0 signal by which the models' input was divided, scanner units.
    extra
        Anything else, by its JSON key.
    """

    sdc_method: str
    sdc_reason: str
    hmc_method: str
    denoising: str = "none"
    gibbs_correction: str = "none"
    gradient_check: Mapping[str, Any] = field(default_factory=dict)
    b0_normalization_scale: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


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
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what every output's sidecar holds.

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
    extra
        Further keys; they win.

    Returns
    -------
    dict
        `Description`, `GeneratedBy`, and where they apply `Units`, `Model`, `Sources`,
        `SpatialReference`, `Resolution`, `References`.
    """
    kind = load_catalogue().kind(kind_name)
    found: dict[str, Any] = {
        "Description": kind.description,
        "GeneratedBy": [{"Name": APP_NAME, "Version": __version__}],
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


def preproc_sidecar(
    corrections: Corrections,
    *,
    space: str,
    sources: Iterable[str],
    raw_metadata: Sequence[Mapping[str, Any]],
    spatial_reference: str | Mapping[str, str] | None = None,
    resolution: str | None = None,
    skull_stripped: bool = False,
) -> dict[str, Any]:
    """Return the sidecar of a preprocessed series: what was done, and what stays true.

    Parameters
    ----------
    corrections
        What was done.
    space, sources, spatial_reference, resolution
        See :func:`image_sidecar`.
    raw_metadata
        Merged raw sidecars of the runs; see :func:`carry_over`.
    skull_stripped
        Whether voxels outside the brain were set to zero.
    """
    done = {
        "SkullStripped": skull_stripped,
        "SDCMethod": corrections.sdc_method,
        "SDCReason": corrections.sdc_reason,
        "HMCMethod": corrections.hmc_method,
        "Denoising": corrections.denoising,
        "GibbsCorrection": corrections.gibbs_correction,
        "BvecConvention": BVEC_CONVENTION,
    }
    if space != "ACPC":
        done["BvecRotation"] = (
            "b-vectors carry the rigid or affine part of the transform into this space; the local "
            "rotations of a nonlinear warp do not fit into one file and are not in it"
        )
    if corrections.gradient_check:
        done["GradientCheck"] = dict(corrections.gradient_check)
    if corrections.b0_normalization_scale is not None:
        done["B0NormalizationScale"] = corrections.b0_normalization_scale
    return carry_over(raw_metadata) | image_sidecar(
        "preproc_dwi",
        sources=sources,
        space=space,
        spatial_reference=spatial_reference,
        resolution=resolution,
        extra=done | dict(corrections.extra),
    )


def reference_sidecar(
    kind_name: str = "dwiref",
    *,
    space: str,
    sources: Iterable[str],
    spatial_reference: str | Mapping[str, str] | None = None,
    skull_stripped: bool = False,
) -> dict[str, Any]:
    """Return the sidecar of a b=0 reference or a T1w image."""
    return image_sidecar(
        kind_name,
        sources=sources,
        space=space,
        spatial_reference=spatial_reference,
        extra={"SkullStripped": skull_stripped},
    )


def mask_sidecar(
    kind_name: str = "dwi_mask",
    *,
    space: str,
    sources: Iterable[str],
    method: str,
    spatial_reference: str | Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the sidecar of a brain mask; `method` says what drew it."""
    return image_sidecar(
        kind_name,
        sources=sources,
        space=space,
        spatial_reference=spatial_reference,
        extra={"Type": "Brain", "MaskMethod": method} | dict(extra or {}),
    )


def map_sidecar(
    kind_name: str,
    *,
    space: str,
    sources: Iterable[str],
    model: Mapping[str, Any],
    spatial_reference: str | Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the sidecar of a model's map, after BEP016.

    Parameters
    ----------
    kind_name
        A `dwimap` kind of `maps.yaml`.
    space, sources, spatial_reference, extra
        See :func:`image_sidecar`.
    model
        How the model was fitted or the network ran: goes under `Model.Parameters`.

    Returns
    -------
    dict
        With `OrientationEncoding` where the image is a tensor.
    """
    kind = load_catalogue().kind(kind_name)
    if kind.suffix != "dwimap":
        raise ConfigError(f"{kind_name} is not a map", expected="a dwimap kind")
    names = {"tensor": "Diffusion tensor", "qcgdti": "Diffusion tensor by QCG-DTI"}
    own: dict[str, Any] = {
        "SkullStripped": True,
        "Model": {
            "Name": names[kind.model or "tensor"],
            "Label": kind.model,
            "Parameters": dict(model),
        },
    }
    if kind.entities["param"] == "diffusivity":
        own["OrientationEncoding"] = {
            "Type": "tensor",
            "Reference": "scanner",
            "EncodingAxis": 3,
            "TensorRank": 2,
            "AntipodalSymmetry": True,
        }
        own["TensorElements"] = ["D11", "D12", "D13", "D22", "D23", "D33"]
    if kind.value_range is not None:
        own["ValidRange"] = list(kind.value_range)
    return image_sidecar(
        kind_name,
        sources=sources,
        space=space,
        spatial_reference=spatial_reference,
        extra=own | dict(extra or {}),
    )


def feature_sidecar(
    kind_name: str,
    *,
    sources: Iterable[str],
    model: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    seed: int,
    columns: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the sidecar of scan or patch features.

    Parameters
    ----------
    kind_name
        `cls_features` or `patch_features`.
    sources, extra
        See :func:`image_sidecar`.
    model
        Name, Weights, SHA256, License, Precision, Device.
    preprocessing
        Grid, normalisation and clipping of the encoder's input.
    seed
        Of the choice of directions.
    columns
        Of the table; each gets a description.
    """
    return image_sidecar(
        kind_name,
        sources=sources,
        space="MNI152NLin2009aSym",
        extra=describe_columns(columns)
        | {"Model": dict(model), "Preprocessing": dict(preprocessing), "Seed": seed}
        | dict(extra or {}),
    )


def table_sidecar(
    kind_name: str,
    columns: Sequence[str],
    *,
    sources: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the sidecar of a table: one entry per column that has a description."""
    return image_sidecar(
        kind_name, sources=sources, extra=describe_columns(columns) | dict(extra or {})
    )


@cache
def _column_table() -> tuple[tuple[str, dict[str, Any]], ...]:
    text = files("dmri_fm.derivatives").joinpath("columns.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text).items())


def describe_columns(columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return description and units of table columns, from `columns.yaml`.

    Examples
    --------
    >>> describe_columns(["trans_x", "no_such"])
    {'trans_x': {'Description': 'Head translation, left to right (RAS+)', 'Units': 'mm'}}
    """
    found = {}
    for name in columns:
        for pattern, entry in _column_table():
            if fnmatchcase(name, pattern):
                found[name] = dict(entry)
                break
    return found
