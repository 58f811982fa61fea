"""JSON sidecars: the metadata beside each type of output, as dictionaries without nulls."""

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
from dmri_fm_workflows.outputs.references import find_references
from dmri_fm_workflows.outputs.root import generated_by
from dmri_fm_workflows.outputs.steps import works_of

#: Raw metadata that stay true after correction and resampling: hardware, sequence, contrast. Slice
#: timing, phase encoding, readout times and raw geometry do not fit the new image.
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

#: Suffixes of maps that are 0 outside the brain.
_IN_THE_BRAIN = ("dwimap", "noisemap", "residualmap", "cnrmap")

#: How the b-vectors beside a corrected series are to be read.
BVEC_CONVENTION = (
    "FSL: components along the image axes, the first one negated when the determinant of the "
    "affine is positive; rotated with the head of each volume and by the rigid or affine part of "
    "the transform into this space; the local rotations of a nonlinear warp do not fit into one "
    "file and are not in it"
)


def carry_over(metadata: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the raw metadata that are still true of a series, from the sidecars of its runs.

    They are the entries of :data:`CARRIED_OVER` on which all runs agree.

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
        Name or label of the model that made it; None for outputs of no model.
    sources
        BIDS URIs of the direct inputs.
    space
        Space of the image.
    ends
        Both ends of a transform, source first; by default those of the type.
    spatial_reference
        URI of the image that defines the space, or the end ACPC of a transform; by default the
        page of a template.
    columns
        Of a table, see :func:`column_metadata`.
    extra
        Further keys; they win. Values from numpy and paths become plain JSON.

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
    sidecar: dict[str, Any] = {
        "Description": of.describe(model),
        "GeneratedBy": [generated_by()],
        "Model": None if model is None else about_model(model),
        "Units": of.units,
        "Sources": list(dict.fromkeys(sources)) or None,
        **_type_entries(of),
        **_space_entries(of, space),
        **_ends_entries(of, ends, spatial_reference),
        **column_metadata(columns),
    }
    if spatial_reference is not None and not of.is_transform:
        sidecar["SpatialReference"] = spatial_reference
    stated = {key: value for key, value in sidecar.items() if value is not None}
    return with_references(of, stated | dict(to_json(extra or {})), model=model)


def with_references(
    of: OutputType, sidecar: Mapping[str, Any], *, model: str | None = None
) -> dict[str, Any]:
    """Return a sidecar with `References`: works of model, output type and stated methods.

    Examples
    --------
    >>> mask = load_catalogue().output_type("t1w_mask")
    >>> with_references(mask, {"MaskMethod": "deepbet 1.0.2"})["References"]
    ['https://doi.org/10.1016/j.compbiomed.2024.108845']
    >>> "References" in with_references(mask, {})
    False
    """
    keys = dict.fromkeys((*of.works(model), *works_of(of.cited_steps, sidecar)))
    links = _links_to(keys, of)
    return {**sidecar, **({"References": links} if links else {})}


def _links_to(works: Iterable[str], of: OutputType) -> list[str]:
    return [f"https://doi.org/{w.doi}" for w in find_references(works, citing=f"output {of.name}")]


def _type_entries(of: OutputType) -> dict[str, Any]:
    """Return the entries that follow from the output type alone; None where they do not apply."""
    is_tensor = of.name == "diffusivity"
    return {
        "Type": _mask_type(of),
        "BvecConvention": BVEC_CONVENTION if of.name == "preproc_dwi" else None,
        "SkullStripped": True if of.suffix in _IN_THE_BRAIN else None,
        # BEP016: the work that defines the parameter.
        "ParameterURL": _links_to([of.parameter], of)[0] if of.parameter else None,
        "OrientationEncoding": orientation_encoding() if is_tensor else None,
        "TensorElements": ["D11", "D12", "D13", "D22", "D23", "D33"] if is_tensor else None,
        "ValidRange": None if of.value_range is None else list(of.value_range),
    }


def _mask_type(of: OutputType) -> str | None:
    """Return what a mask shows, in BIDS' words."""
    if of.suffix != "mask":
        return None
    return "Lesion" if of.entities.get("label") == "lesion" else "Brain"


def _space_entries(of: OutputType, space: str | None) -> dict[str, Any]:
    if space is None:
        return {}
    grid = load_catalogue().find_space(space)
    if grid is None or not of.exists_in(space):
        raise ConfigError(
            f"{of.name} does not exist in space {space!r}",
            expected=" or ".join(of.spaces) or "no space",
        )
    resolution = f"{space} grid with isotropic voxels of {grid.resolution} mm"
    return {
        "SpatialReference": grid.uri,
        "Resolution": resolution if grid.resolution and of.has_resolution else None,
    }


def _ends_entries(
    of: OutputType, ends: tuple[str, str] | None, reference: str | None
) -> dict[str, Any]:
    """Return description and both spaces of a transform."""
    if not of.is_transform:
        return {}
    named = ends or (of.entities.get("from"), of.entities.get("to"))
    catalogue = load_catalogue()
    meaning = dict(catalogue.frames)
    others = map(catalogue.find_space, (end for end in named if end is not None))
    for space in (*catalogue.spaces.values(), *others):
        if space is not None:
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


#: Mark of a pattern whose numbered columns are described once for all.
_NUMBERED = "[0-9]"


@cache
def _column_table() -> tuple[tuple[str, dict[str, Any]], ...]:
    text = files("dmri_fm_workflows.outputs").joinpath("columns.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text).items())


def _find_column(name: str) -> tuple[str, dict[str, Any]] | None:
    """Return the first pattern that fits a column, and a copy of its entry."""
    return next(((p, dict(e)) for p, e in _column_table() if fnmatchcase(name, p)), None)


def describe_columns(columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return description and units of every table column that `columns.yaml` knows, by its name.

    Examples
    --------
    >>> describe_columns(["rot_x", "no_such"])
    {'rot_x': {'Description': 'Head rotation about the left-right axis (RAS+)', 'Units': 'rad'}}
    """
    return {name: match[1] for name in columns if (match := _find_column(name))}


def column_metadata(columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the entries of a table's sidecar about its columns.

    A column has a key of its own, as BIDS has it. Numbered columns share one key, their pattern
    in `columns.yaml`, whose text names the first and the last: a key for each of hundreds of
    features would become as many metadata fields in every program that indexes the dataset.

    Examples
    --------
    >>> column_metadata(["cls000", "cls001", "bval"])["cls[0-9]*"]["Description"]
    'Feature of the whole scan, class token, no unit (columns cls000 to cls001)'
    """
    described: dict[str, dict[str, Any]] = {}
    numbered: dict[str, list[str]] = {}
    for name in columns:
        if match := _find_column(name):
            pattern, entry = match
            is_numbered = _NUMBERED in pattern
            described[pattern if is_numbered else name] = entry
            if is_numbered:
                numbered.setdefault(pattern, []).append(name)
    for pattern, names in numbered.items():
        span = f"columns {names[0]} to {names[-1]}" if len(names) > 1 else f"column {names[0]}"
        described[pattern]["Description"] += f" ({span})"
    return described
