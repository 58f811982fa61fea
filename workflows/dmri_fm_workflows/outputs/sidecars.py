"""JSON sidecars: the metadata beside each type of output.

Every function here returns a dictionary and touches no file. Keys with nothing to say are left
out, so that a sidecar never holds a null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from dmri_fm.errors import ConfigError
from dmri_fm.identity import about_model
from dmri_fm.model_metadata import orientation_encoding
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.outputs.publish import to_json
from dmri_fm_workflows.outputs.references import load_references
from dmri_fm_workflows.outputs.root import generated_by, write_root_files
from dmri_fm_workflows.outputs.sources import derivative_uri, raw_uri
from dmri_fm_workflows.outputs.steps import works_of

__all__ = [
    "BVEC_CONVENTION",
    "carry_over",
    "column_metadata",
    "derivative_uri",
    "describe_columns",
    "image_sidecar",
    "missing_metadata",
    "raw_uri",
    "to_json",
    "with_references",
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
    type_name: str,
    *,
    model: str | None = None,
    sources: Iterable[str] = (),
    space: str | None = None,
    ends: tuple[str, str] | None = None,
    spatial_reference: str | None = None,
    columns: Sequence[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the sidecar of an output.

    Parameters
    ----------
    type_name
        Key in `maps.yaml`.
    model
        Name or label of the model that made it; None for what comes of no model.
    sources
        BIDS URIs of what the file was made from directly.
    space
        Space of the image.
    ends
        What a transform resamples from, and into; by default those of the type, if it has them.
    spatial_reference
        URI of the image that defines the space, or the end ACPC of a transform; by default the
        page of a template.
    columns
        Of a table; each that is known gets a description, see :func:`column_metadata`.
    extra
        Further keys; they win. Values from numpy and paths become plain JSON.

    Returns
    -------
    dict
        `Description`, `GeneratedBy`, and where they apply `Units`, `Model`, `Sources`,
        `SpatialReference`, `Resolution`, `References`, `Type` of a mask, `Spaces` of a transform,
        `ParameterURL` of a map, `OrientationEncoding` of a tensor (after BEP016).

    Raises
    ------
    ConfigError
        If the type is unknown, does not exist in the space or does not come of the model.

    Examples
    --------
    >>> found = image_sidecar("md", model="tensor", space="MNI152NLin2009aSym")
    >>> found["Units"], found["Resolution"]
    ('mm^2/s', 'MNI152NLin2009aSym grid with isotropic voxels of 2 mm')
    """
    of = load_catalogue().output_type(type_name)
    if of.made_by and not of.has_optional_model and (model is None or not of.is_of(model)):
        raise ConfigError(
            f"{of.name} of model {model!r}",
            expected=f"a model of the family {' or '.join(of.made_by)} that gives it",
        )
    found: dict[str, Any] = {
        "Description": of.describe(model),
        "GeneratedBy": [generated_by()],
        **({} if model is None else {"Model": about_model(model)}),
        **_inherent(of),
        **_describe_ends(of, ends, spatial_reference),
        **column_metadata(columns),
    }
    if of.units is not None:
        found["Units"] = of.units
    listed = list(dict.fromkeys(sources))
    if listed:
        found["Sources"] = listed
    if space is not None:
        if space not in of.spaces:
            raise ConfigError(
                f"{of.name} does not exist in space {space!r}",
                expected=" or ".join(of.spaces) or "no space",
            )
        grid = load_catalogue().spaces[space]
        if grid.uri is not None:
            found["SpatialReference"] = grid.uri
        if grid.resolution and of.has_resolution:
            found["Resolution"] = f"{space} grid with isotropic voxels of {grid.resolution} mm"
    if spatial_reference is not None and not of.is_transform:
        found["SpatialReference"] = spatial_reference
    return with_references(of, found | dict(to_json(extra or {})), model=model)


def with_references(
    of: OutputType, sidecar: Mapping[str, Any], *, model: str | None = None
) -> dict[str, Any]:
    """Return a sidecar with `References`: works of model, output type and the methods it states.

    Examples
    --------
    >>> mask = load_catalogue().output_type("t1w_mask")
    >>> with_references(mask, {"MaskMethod": "deepbet 1.0.2"})["References"]
    ['https://doi.org/10.1016/j.compbiomed.2024.108845']
    >>> "References" in with_references(mask, {})
    False
    """
    known = load_references()
    keys = dict.fromkeys((*of.works(model), *works_of(of.cited_steps, sidecar)))
    cited = {"References": [f"https://doi.org/{known[key].doi}" for key in keys]} if keys else {}
    return {**sidecar, **cited}


def _inherent(of: OutputType) -> dict[str, Any]:
    """Return the entries that follow from the output type alone."""
    found: dict[str, Any] = {}
    if of.suffix == "mask":
        found["Type"] = "Brain"
    if of.name == "preproc_dwi":
        found["BvecConvention"] = BVEC_CONVENTION
    if of.is_map:
        found["SkullStripped"] = True
    if of.parameter is not None:
        # BEP016: the work that defines the parameter.
        found["ParameterURL"] = f"https://doi.org/{load_references()[of.parameter].doi}"
    if of.name == "diffusivity":
        found["OrientationEncoding"] = orientation_encoding()
        found["TensorElements"] = ["D11", "D12", "D13", "D22", "D23", "D33"]
    if of.value_range is not None:
        found["ValidRange"] = list(of.value_range)
    return found


def _describe_ends(
    of: OutputType, ends: tuple[str, str] | None, reference: str | None
) -> dict[str, Any]:
    """Return what a transform goes from and to, and what the words mean or refer to."""
    if not of.is_transform:
        return {}
    named = ends or (of.entities.get("from"), of.entities.get("to"))
    catalogue = load_catalogue()
    meaning = dict(catalogue.frames)
    for space in catalogue.spaces.values():
        meaning[space.name] = space.uri or reference or space.description
    unknown = [end for end in named if end not in meaning]
    if unknown:
        raise ConfigError(
            f"{of.name} {'without ends' if None in unknown else f'has an end {unknown[0]!r}'}",
            expected="two of " + ", ".join(meaning),
            advice="describe the end under `frames` in maps.yaml",
        )
    source, target = map(str, named)
    return {
        "Description": f"From {source} to {target}. {of.description}",
        "Spaces": {end: meaning[end] for end in (source, target)},
    }


def missing_metadata(type_name: str, sidecar: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that `maps.yaml` requires of an output type and its sidecar lacks.

    Examples
    --------
    >>> missing_metadata("t1w", {"SpatialReference": "bids::x", "Description": "T1w"})
    ('SkullStripped', 'Sources')
    """
    return tuple(k for k in load_catalogue().output_type(type_name).required if k not in sidecar)


#: Part of a pattern that stands for a number: such columns are described once for all.
_NUMBERED = "[0-9]"


@cache
def _column_table() -> tuple[tuple[str, dict[str, Any]], ...]:
    text = files("dmri_fm_workflows.outputs").joinpath("columns.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text).items())


def describe_columns(columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return description and units of every table column that `columns.yaml` knows, by its name.

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


def column_metadata(columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what a table's sidecar says of its columns.

    A column has a key of its own, as BIDS has it. Numbered columns that one pattern of
    `columns.yaml` describes share one key, the pattern, whose text names the first and the last:
    a sidecar with a key for each of hundreds of features gives as many metadata fields to every
    program that indexes the dataset.

    Examples
    --------
    >>> column_metadata(["cls000", "cls001", "bval"])["cls[0-9]*"]["Description"]
    'Feature of the whole scan, class token, no unit (columns cls000 to cls001)'
    """
    found: dict[str, dict[str, Any]] = {}
    numbered: dict[str, list[str]] = {}
    for name in columns:
        for pattern, entry in _column_table():
            if not fnmatchcase(name, pattern):
                continue
            if _NUMBERED in pattern:
                numbered.setdefault(pattern, []).append(name)
                found[pattern] = dict(entry)
            else:
                found[name] = dict(entry)
            break
    for pattern, names in numbered.items():
        span = f"columns {names[0]} to {names[-1]}" if len(names) > 1 else f"column {names[0]}"
        found[pattern]["Description"] += f" ({span})"
    return found
