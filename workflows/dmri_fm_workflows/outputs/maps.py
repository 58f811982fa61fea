"""The table of output types: `maps.yaml` as frozen objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import yaml

from dmri_fm.errors import ConfigError
from dmri_fm.identity import IDENTITIES, identity
from dmri_fm_workflows.templates import is_template


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
class OutputType:
    """A type of output file.

    Attributes
    ----------
    name
        Key in `maps.yaml`, e.g. `fa`.
    title, description
        For people.
    datatype
        `anat`, `dwi`, `figures`, `group`, or empty for the output folder itself.
    suffix
        Last word of the name; empty for a participant's page.
    extensions
        Allowed ones, the default first.
    has_sidecar
        Whether it has a JSON sidecar.
    entities
        Fixed entities by long name.
    spaces
        Spaces the type exists in; empty if its name has no `space`.
    in_templates
        Whether it also exists in spaces of other templates, see :meth:`Catalogue.find_space`.
    has_resolution
        Whether the name carries `res` in a space that has one.
    units
        Of the image's values, or None.
    value_range
        Smallest and largest possible value, or None.
    made_by
        Families of models that give it, see :class:`~dmri_fm.identity.ModelIdentity`; empty for
        outputs of no model.
    has_optional_model
        Whether the name may lack the `model` entity.
    attribute
        Attribute of :class:`~dmri_fm.tensor_maps.TensorMaps` that holds the map, or None.
    needs
        Flag of a model's record without which the model does not give it, or None.
    own_words
        Key of the model's own description of it, or None.
    citations
        Keys of `references.yaml`; works of the model come before them, see :meth:`works`.
    cited_steps
        Keys of the sidecar that name the method of a step, whose works are cited as well; see
        :mod:`dmri_fm_workflows.outputs.steps`.
    required
        Keys that its sidecar must hold.
    parameter
        Key of `references.yaml`: the work that defines a map's parameter, or None.
    sources
        Direct inputs, see :func:`dmri_fm_workflows.outputs.sources.direct_sources`: by space, by
        both ends of a transform in alphabetical order, or under an empty key for all files.
    """

    name: str
    title: str
    description: str
    datatype: str
    suffix: str
    extensions: tuple[str, ...]
    has_sidecar: bool
    entities: Mapping[str, str] = field(default_factory=dict)
    spaces: tuple[str, ...] = ()
    in_templates: bool = False
    has_resolution: bool = True
    units: str | None = None
    value_range: tuple[float, float] | None = None
    made_by: tuple[str, ...] = ()
    has_optional_model: bool = False
    attribute: str | None = None
    needs: str | None = None
    own_words: str | None = None
    citations: tuple[str, ...] = ()
    cited_steps: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    parameter: str | None = None
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def exists_in(self, space: str) -> bool:
        """Tell whether the type exists in a space."""
        return space in self.spaces or (self.in_templates and is_template(space))

    @property
    def is_transform(self) -> bool:
        """Whether the name has `from` and `to`."""
        return self.suffix == "xfm"

    @property
    def is_group(self) -> bool:
        """Whether there is one for the whole dataset rather than one per participant."""
        return self.datatype == "group"

    @property
    def is_map(self) -> bool:
        """Whether it is a map of a tensor."""
        return self.attribute is not None

    @property
    def models(self) -> tuple[str | None, ...]:
        """Labels of the models that give it; None alone for outputs of no model."""
        return tuple(m.label for m in IDENTITIES.values() if self.is_of(m.name)) or (None,)

    def is_of(self, model: str) -> bool:
        """Tell whether a model, by name or label, gives this type of output.

        Examples
        --------
        >>> load_catalogue().output_type("fa_std").is_of("tensor")
        False
        """
        record = identity(model)
        gives = self.needs is None or bool(getattr(record, self.needs))
        return record.family in self.made_by and gives

    def find_in(self, maps: object) -> Any:
        """Return the map in :class:`~dmri_fm.tensor_maps.TensorMaps`; None if it is not there.

        Raises
        ------
        ConfigError
            If `TensorMaps` has no such attribute.
        """
        name, _, part = (self.attribute or "").partition(".")
        try:
            value = getattr(maps, name)
            return value[part] if part and value is not None else value
        except (AttributeError, KeyError):
            raise ConfigError(
                f"{self.name}: TensorMaps has no `{self.attribute}`",
                expected="the `attribute` of the map in maps.yaml",
                advice="define the scalar in SCALARS of dmri_fm/tensor_maps.py",
            ) from None

    def describe(self, model: str | None) -> str:
        """Return the description, in the model's own words if it has any."""
        own = identity(model).outputs if model is not None and self.own_words else {}
        return own.get(self.own_words or "", self.description)

    def works(self, model: str | None) -> tuple[str, ...]:
        """Return the works to cite, keys of `references.yaml`: those of the model come first."""
        of_model = identity(model).citations if model is not None else ()
        return tuple(dict.fromkeys((*of_model, *self.citations)))


@dataclass(frozen=True)
class Catalogue:
    """Contents of `maps.yaml`.

    Attributes
    ----------
    types, spaces
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

    types: Mapping[str, OutputType]
    spaces: Mapping[str, Space]
    frames: Mapping[str, str]
    descriptions: Mapping[str, str]
    files: Mapping[str, str]
    bidsignore: Mapping[str, str]

    def output_type(self, name: str) -> OutputType:
        """Return an output type by its name.

        Raises
        ------
        ConfigError
            If there is none of that name.
        """
        if name not in self.types:
            raise ConfigError(
                f"no output type is called {name!r}",
                expected="one of " + ", ".join(self.types),
                advice="define it in maps.yaml",
            )
        return self.types[name]

    def find_space(self, label: str) -> Space | None:
        """Return a space by its label: one of the table, or of a template of TemplateFlow.

        None where the label is that of neither.
        """
        if label in self.spaces or not is_template(label):
            return self.spaces.get(label)
        return Space(
            label,
            f"The template tpl-{label} of TemplateFlow.",
            # NIfTI has a code for MNI 152; otherwise the image is aligned to another one.
            form_code=4 if label.startswith("MNI152") else 2,
            uri=f"https://templateflow.s3.amazonaws.com/tpl-{label}",
        )

    def maps_of(self, model: str, *, space: str | None = None) -> tuple[OutputType, ...]:
        """Return the tensor maps that a model gives, of one space or of any.

        Examples
        --------
        >>> [t.name for t in load_catalogue().maps_of("qcg-dti-paper")][:3]
        ['diffusivity', 'fa', 'md']
        """
        return tuple(
            t
            for t in self.types.values()
            if t.is_map and t.is_of(model) and (space is None or space in t.spaces)
        )


def _frozen(value: Any) -> Any:
    """Return a value of YAML with tuples for lists and read-only mappings."""
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


@cache
def load_catalogue() -> Catalogue:
    """Read `maps.yaml` (once) and return it.

    Examples
    --------
    >>> load_catalogue().output_type("fa").units
    'unitless'
    >>> load_catalogue().output_type("vr")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ConfigError: no output type is called 'vr'
      expected: one of t1w, ...
      what to do: define it in maps.yaml
    """
    text = files("dmri_fm_workflows.outputs").joinpath("maps.yaml").read_text(encoding="utf-8")
    page = yaml.safe_load(text)
    types = page.pop("output_types")
    for entry in types.values():
        if isinstance(entry.get("sources"), list):
            entry["sources"] = {"": entry["sources"]}
    page["types"] = {name: OutputType(name, **_frozen(entry)) for name, entry in types.items()}
    page["spaces"] = {name: Space(name, **entry) for name, entry in page["spaces"].items()}
    return Catalogue(**_frozen(page))
