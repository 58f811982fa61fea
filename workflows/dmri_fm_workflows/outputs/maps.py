"""The table of output kinds: `maps.yaml` as frozen objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from dmri_fm.errors import ConfigError
from dmri_fm.identity import identity

__all__ = ["Catalogue", "Kind", "Space", "load_catalogue"]


@dataclass(frozen=True)
class Space:
    """A space that outputs are written in.

    Attributes
    ----------
    name
        Label of the `space` entity.
    description
        For people.
    form_code
        NIfTI code of qform and sform: 2 aligned to another image, 4 a template.
    resolution
        Label of the `res` entity that images in this space carry, or None.
    uri
        Page of the template; None for a space that an image of the participant defines.
    """

    name: str
    description: str
    form_code: int
    resolution: str | None = None
    uri: str | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of output file.

    Attributes
    ----------
    name
        Key in `maps.yaml`, e.g. `tensor_fa`.
    title, description
        For people.
    datatype
        `anat`, `dwi`, `figures`, `group`, or empty for the output folder itself.
    suffix
        Last word of the name; empty for a participant's page.
    extensions
        Allowed ones, the usual one first.
    has_sidecar
        Whether a JSON file stands beside it.
    entities
        Fixed entities by long name.
    spaces
        Spaces the kind exists in; empty if its name has no `space`.
    has_resolution
        Whether the name carries `res` in a space that has one.
    units
        Of the image's values, or None.
    model
        Label of what made it, see :func:`~dmri_fm.identity.identity`, or None.
    value_range
        Smallest and largest possible value, or None.
    citations
        Keys of `references.yaml`: the works of the model, then those of the quantity.
    cited_steps
        Keys of the sidecar that name the method of a step, whose works are cited as well; see
        :mod:`dmri_fm_workflows.outputs.steps`.
    required
        Keys that its sidecar must hold.
    parameter
        Key of `references.yaml`: the work that defines a map's parameter, or None.
    sources
        Direct inputs, see :func:`dmri_fm_workflows.outputs.sources.direct_sources`: by space, by
        both
        ends of a transform in alphabetical order, or under an empty key for all files.
    """

    name: str
    title: str
    description: str
    datatype: str
    suffix: str
    extensions: tuple[str, ...]
    has_sidecar: bool
    entities: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    spaces: tuple[str, ...] = ()
    has_resolution: bool = True
    units: str | None = None
    model: str | None = None
    value_range: tuple[float, float] | None = None
    citations: tuple[str, ...] = ()
    cited_steps: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    parameter: str | None = None
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_transform(self) -> bool:
        """Whether the name has `from` and `to`."""
        return self.suffix == "xfm"

    @property
    def is_group(self) -> bool:
        """Whether there is one for the whole dataset rather than one per participant."""
        return self.datatype == "group"


@dataclass(frozen=True)
class Catalogue:
    """Everything `maps.yaml` says.

    Attributes
    ----------
    kinds, spaces
        By name, in the order of the file.
    frames
        Meaning of the ends of transforms that are no space of outputs, by label.
    descriptions
        Meaning of each `desc` label.
    files
        What the remaining files of the output folder hold, by path.
    bidsignore
        Patterns of `.bidsignore`, with the reason for each.
    """

    kinds: Mapping[str, Kind]
    spaces: Mapping[str, Space]
    frames: Mapping[str, str]
    descriptions: Mapping[str, str]
    files: Mapping[str, str]
    bidsignore: Mapping[str, str]

    def kind(self, name: str) -> Kind:
        """Return a kind by its name.

        Raises
        ------
        ConfigError
            If there is none of that name.
        """
        if name not in self.kinds:
            raise ConfigError(
                f"no output kind is called {name!r}",
                expected="one of " + ", ".join(self.kinds),
                advice="define it in maps.yaml",
            )
        return self.kinds[name]


def _kind(name: str, entry: Mapping[str, Any]) -> Kind:
    low_high = entry.get("range")
    model = identity(entry["model"]) if "model" in entry else None
    cited = (*(model.citations if model else ()), *entry.get("citations", ()))
    return Kind(
        name=name,
        title=entry["title"],
        description=_description(entry),
        datatype=entry["datatype"],
        suffix=entry["suffix"],
        extensions=tuple(entry["extensions"]),
        has_sidecar=bool(entry["sidecar"]),
        entities=MappingProxyType({k: str(v) for k, v in entry.get("entities", {}).items()}),
        spaces=tuple(entry.get("spaces", ())),
        has_resolution=not entry.get("without_resolution", False),
        units=entry.get("units"),
        model=model.label if model else None,
        value_range=None if low_high is None else (float(low_high[0]), float(low_high[1])),
        citations=tuple(dict.fromkeys(cited)),
        cited_steps=tuple(entry.get("cited_steps", ())),
        required=tuple(entry.get("required", ())),
        parameter=entry.get("parameter"),
        sources=MappingProxyType(_sources(entry.get("sources", ()))),
    )


def _description(entry: Mapping[str, Any]) -> str:
    """Return the kind's own description, or the model's words for this output of it."""
    if "words" in entry:
        return identity(entry["model"]).outputs[entry["words"]]
    return str(entry["description"]).strip()


def _sources(entry: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    by_place = entry if isinstance(entry, Mapping) else {"": entry}
    return {place: tuple(listed) for place, listed in by_place.items()}


@cache
def load_catalogue() -> Catalogue:
    """Read `maps.yaml` (once) and return it.

    Examples
    --------
    >>> load_catalogue().kind("tensor_fa").units
    'unitless'
    >>> load_catalogue().kind("tensor_vr")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ConfigError: no output kind is called 'tensor_vr'
      expected: one of t1w, ...
      what to do: define it in maps.yaml
    """
    text = files("dmri_fm_workflows.outputs").joinpath("maps.yaml").read_text(encoding="utf-8")
    page = yaml.safe_load(text)
    return Catalogue(
        kinds=MappingProxyType({n: _kind(n, entry) for n, entry in page["kinds"].items()}),
        spaces=MappingProxyType(
            {
                name: Space(
                    name=name,
                    description=entry["description"].strip(),
                    form_code=int(entry["form_code"]),
                    resolution=entry.get("resolution"),
                    uri=entry.get("uri"),
                )
                for name, entry in page["spaces"].items()
            }
        ),
        frames=MappingProxyType(dict(page["frames"])),
        descriptions=MappingProxyType(dict(page["descriptions"])),
        files=MappingProxyType(dict(page["files"])),
        bidsignore=MappingProxyType(dict(page["bidsignore"])),
    )
