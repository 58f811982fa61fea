"""Names of output files: from entities to a path, and back.

Paths are relative to the output folder and use forward slashes. Entities carry their long names
(`subject`, `acquisition`), as pybids returns them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from types import MappingProxyType

from dmri_fm.errors import ConfigError
from dmri_fm.identity import label_of
from dmri_fm_workflows.bids.names import SCAN_ENTITIES
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue

#: Entities that a raw scan may have and that its outputs inherit, by long name.
SOURCE_ENTITIES = tuple(SCAN_ENTITIES.values())

#: Long name to the key in file names, in the order of the standard with the draft BEP016.
ENTITY_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **{name: key for key, name in SCAN_ENTITIES.items() if name != "chunk"},
        "from": "from",
        "to": "to",
        "mode": "mode",
        "space": "space",
        "model": "model",
        "param": "param",
        "chunk": "chunk",
        "resolution": "res",
        "label": "label",
        "desc": "desc",
    }
)

#: Keys that pybids reports beside the entities of a name.
_NOT_IN_NAMES = frozenset({"suffix", "extension", "datatype", "fmap"})

_LABEL = re.compile(r"[A-Za-z0-9+]+")


@dataclass(frozen=True)
class OutputName:
    """The parsed name of an output file.

    Attributes
    ----------
    type
        Its output type.
    entities
        All entities by long name.
    extension
        With its dot; `.json` for a sidecar.
    """

    type: OutputType
    entities: Mapping[str, str]
    extension: str

    @property
    def model(self) -> str | None:
        """Label of the model that made it, or None."""
        return self.entities.get("model")

    @property
    def source_entities(self) -> dict[str, str]:
        """Entities of the scan it belongs to."""
        return {k: v for k, v in self.entities.items() if k in SOURCE_ENTITIES}


def output_path(
    entities: Mapping[str, str],
    type_name: str,
    *,
    model: str | None = None,
    space: str | None = None,
    resolution: str | None = None,
    from_space: str | None = None,
    to_space: str | None = None,
    extension: str | None = None,
) -> PurePosixPath:
    """Return the path of an output file, relative to the output folder.

    Parameters
    ----------
    entities
        Entities of the scan by long name, without prefixes (`{"subject": "01"}`). `suffix`,
        `datatype` and `extension` are ignored. Empty for files of the group.
    type_name
        Key in `maps.yaml`.
    model
        Name or label of the model that made it; needed by types that models give.
    space
        Needed by types that exist in several spaces; the only one is taken otherwise.
    resolution
        `res` label; by default that of the space.
    from_space, to_space
        Needed by transforms.
    extension
        By default the type's first; `.json` for its sidecar.

    Raises
    ------
    ConfigError
        If the type is unknown, an entity is unknown or missing, a label is not alphanumeric, or
        the type does not exist in that space, with that extension or of that model.

    Examples
    --------
    >>> scan = {"subject": "01", "session": "a", "direction": "AP"}
    >>> str(output_path(scan, "fa", model="tensor", space="ACPC"))
    'sub-01/ses-a/dwi/sub-01_ses-a_dir-AP_space-ACPC_model-tensor_param-fa_dwimap.nii.gz'
    >>> str(output_path(scan, "figure_sdc"))
    'sub-01/figures/sub-01_ses-a_dir-AP_desc-sdc_dwi.svg'
    >>> output_path(scan, "fa", model="tensor", space="T1w")
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ConfigError: fa does not exist in space 'T1w'
      expected: ACPC or MNI152NLin2009aSym
    """
    of = load_catalogue().output_type(type_name)
    named = _checked(entities, of) | _space_entities(of, space, resolution)
    if of.is_transform:
        named |= _end_entities(of, from_space, to_space)
    named |= _model_entity(of, model) | dict(of.entities)
    extension = extension or of.extensions[0]
    allowed = (*of.extensions, ".json") if of.has_sidecar else of.extensions
    if extension not in allowed:
        raise ConfigError(
            f"{of.name} has no file with extension {extension!r}",
            expected=" or ".join(allowed),
        )
    return _folder(of, named) / _file_name(of, named, extension)


def _checked(entities: Mapping[str, str], of: OutputType) -> dict[str, str]:
    named = {k: str(v) for k, v in entities.items() if k not in _NOT_IN_NAMES and v}
    unknown = sorted(set(named) - set(SOURCE_ENTITIES))
    if unknown:
        raise ConfigError(
            f"entities {', '.join(unknown)} cannot be part of an output's name",
            expected="some of " + ", ".join(SOURCE_ENTITIES),
        )
    for name, label in named.items():
        if not _LABEL.fullmatch(label):
            raise ConfigError(
                f"{name} is {label!r}", expected="letters and digits, without the prefix"
            )
    if of.is_group == bool(named):
        raise ConfigError(
            f"{of.name} {'takes no entities' if named else 'needs the entities of a scan'}"
        )
    if named and "subject" not in named:
        raise ConfigError(f"no subject among the entities for {of.name}")
    return {"subject": named["subject"]} if not of.suffix and named else named


def _space_entities(of: OutputType, space: str | None, resolution: str | None) -> dict[str, str]:
    if space is None and len(of.spaces) == 1:
        space = of.spaces[0]
    if (space is None and of.spaces) or (space is not None and not of.exists_in(space)):
        raise ConfigError(
            f"{of.name} does not exist in space {space!r}",
            expected=" or ".join(of.spaces) or "no space",
        )
    if space is None:
        return {}
    found = load_catalogue().find_space(space)
    resolution = resolution or (found.resolution if found is not None else None)
    carried = {"resolution": resolution} if of.has_resolution and resolution else {}
    return {"space": space, **carried}


def _end_entities(of: OutputType, source: str | None, target: str | None) -> dict[str, str]:
    ends = {"from": of.entities.get("from", source), "to": of.entities.get("to", target)}
    if missing := [k for k, v in ends.items() if not v]:
        raise ConfigError(
            f"no {' and '.join(missing)} for {of.name}",
            expected="the names of both ends of a transform",
        )
    return {k: v for k, v in ends.items() if v}


def _model_entity(of: OutputType, model: str | None) -> dict[str, str]:
    if model is None and (of.has_optional_model or not of.made_by):
        return {}
    if model is None or not of.is_of(model):
        raise ConfigError(
            f"{of.name} of model {model!r}",
            expected=f"a model of the family {' or '.join(of.made_by)} that gives it"
            if of.made_by
            else "no model",
        )
    return {"model": label_of(model)}


def _folder(of: OutputType, named: Mapping[str, str]) -> PurePosixPath:
    if of.is_group:
        return PurePosixPath("group")
    if not of.datatype:
        return PurePosixPath()
    subject = PurePosixPath(f"sub-{named['subject']}")
    if of.datatype != "figures" and "session" in named:
        subject /= f"ses-{named['session']}"
    return subject / of.datatype


def _file_name(of: OutputType, named: Mapping[str, str], extension: str) -> str:
    words = [f"{key}-{named[name]}" for name, key in ENTITY_KEYS.items() if name in named]
    return "_".join([*words, of.suffix] if of.suffix else words) + extension


def sidecar_path(path: PurePath) -> PurePath:
    """Return the path of the JSON file beside an output.

    Examples
    --------
    >>> str(sidecar_path(PurePosixPath("sub-01/dwi/sub-01_dwi.nii.gz")))
    'sub-01/dwi/sub-01_dwi.json'
    """
    return path.with_name(path.name.split(".", 1)[0] + ".json")


def identify(path: str | PurePath) -> OutputName:
    """Read the name of an output file.

    Parameters
    ----------
    path
        Relative to the output folder.

    Returns
    -------
    OutputName
        Type, entities and extension; :func:`output_path` gives the same path from them.

    Raises
    ------
    ConfigError
        If no output type of `maps.yaml` has such a name.

    Examples
    --------
    >>> name = identify("sub-01/dwi/sub-01_acq-b_space-ACPC_desc-brain_mask.nii.gz")
    >>> name.type.name, name.source_entities
    ('dwi_mask', {'subject': '01', 'acquisition': 'b'})
    """
    path = PurePosixPath(*PurePath(path).parts)
    stem, dot, extension = path.name.partition(".")
    words = stem.split("_")
    long_names = {key: name for name, key in ENTITY_KEYS.items()}
    entities: dict[str, str] = {}
    while words and words[0].split("-", 1)[0] in long_names and "-" in words[0]:
        key, label = words.pop(0).split("-", 1)
        entities[long_names[key]] = label
    suffix = "_".join(words)
    source = {k: v for k, v in entities.items() if k in SOURCE_ENTITIES}
    for of in load_catalogue().types.values():
        if of.suffix != suffix or any(entities.get(k) != v for k, v in of.entities.items()):
            continue
        try:
            rebuilt = output_path(
                source,
                of.name,
                model=entities.get("model"),
                space=entities.get("space"),
                resolution=entities.get("resolution"),
                from_space=entities.get("from"),
                to_space=entities.get("to"),
                extension=dot + extension,
            )
        except ConfigError:
            continue
        if rebuilt == path:
            return OutputName(of, MappingProxyType(entities), dot + extension)
    raise ConfigError(
        "no output has such a name",
        path=str(path),
        expected="a name that maps.yaml defines",
        advice="build the path with output_path",
    )
