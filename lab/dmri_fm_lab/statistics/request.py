"""The request of an analysis, read from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dmri_fm.errors import ConfigError


@dataclass(frozen=True)
class MapsRequest:
    """Voxel-wise analysis of scalar maps in template space (section `[maps]`).

    Attributes
    ----------
    derivatives
        Output folder of the app.
    params
        Scalars, as in the names of the maps: "fa", "md", "ad", "rd".
    model
        Model label of the maps, as in their names.
    mask
        NIfTI image on any grid of the template; None: voxels of white and grey matter of the
        template that every scan's map covers.
    permutations
        Permutations of the family-wise error rate over voxels.
    tfce
        Threshold-free cluster enhancement, where rows may be exchanged freely.
    """

    derivatives: Path
    params: tuple[str, ...] = ("fa", "md")
    model: str = "tensor"
    mask: Path | None = None
    permutations: int = 1000
    tfce: bool = True


@dataclass(frozen=True)
class StatsRequest:
    """An analysis: the keys of DESIGN.toml.

    Attributes
    ----------
    participants
        `participants.tsv`.
    formula
        `value ~ age + C(sex) + C(site)`, in the language of formulaic; `value` stands for each
        outcome in turn.
    terms
        Terms or columns of the design that are tested, e.g. `age` or `C(group)`.
    contrasts
        Name and linear combination of columns of the design, e.g.
        `C(group)[T.b] - C(group)[T.c]`.
    tables
        Tables of scans, joined by scan.
    columns
        Patterns (`*`, `?`) of the outcomes among the columns of numbers; `*` alone means all but
        those of protocol, coverage, counts and out-of-distribution scores.
    sessions
        Table of sessions.
    exclude
        Participants or scans by name, or conditions such as `age < 18`.
    repeats
        What is done where a participant has several scans and there is no `random`: "first",
        "mean" (of outcomes and of covariates that are numbers; not for maps), or "refuse".
    random
        "participant_id": a mixed model with an intercept for each participant.
    site
        Columns whose combinations are the sites (scanner, software); the formula knows them as
        `site`; where the participants have another column `site`, as `scanner_software`.
    fit
        "gls": variances of sites and the correlation within families are estimated for each
        outcome and weigh its scans; "ols": all scans count alike. Standard errors are robust
        either way; without sites and families the two are one.
    harmonise
        "none" or "combat" (tables alone).
    preserve
        Terms that ComBat preserves; needed with "combat", may be empty.
    families
        Column whose participants are not independent of each other.
    exchange
        What permutations exchange: "whole" families of the same size, members "within" a family,
        or the signs of whole families ("flip").
    permutations
        Permutations of the family-wise error rate over outcomes; 0: none.
    alpha
        Level of the tests that the page marks.
    seed
        Seed of the permutations.
    maps
        See :class:`MapsRequest`.
    """

    participants: Path
    formula: str
    terms: tuple[str, ...] = ()
    contrasts: Mapping[str, str] = field(default_factory=dict)
    tables: tuple[Path, ...] = ()
    columns: tuple[str, ...] = ("*",)
    sessions: Path | None = None
    exclude: tuple[str, ...] = ()
    repeats: Literal["refuse", "first", "mean"] = "refuse"
    random: Literal["participant_id"] | None = None
    site: tuple[str, ...] = ()
    fit: Literal["gls", "ols"] = "gls"
    harmonise: Literal["none", "combat"] = "none"
    preserve: tuple[str, ...] | None = None
    families: str | None = None
    exchange: Literal["whole", "within", "flip"] = "whole"
    permutations: int = 1000
    alpha: float = 0.05
    seed: int = 0
    maps: MapsRequest | None = None

    def __post_init__(self) -> None:
        for is_wrong, found, advice in (
            (not self.terms and not self.contrasts, "nothing to test", "name terms or contrasts"),
            (not self.tables and self.maps is None, "nothing to analyse", "name tables or [maps]"),
            (not 0 < self.alpha < 1, f"alpha = {self.alpha:g}", "a level between 0 and 1"),
            (self.permutations < 0, f"permutations = {self.permutations}", "0 or more"),
            (
                self.harmonise == "combat" and not self.site,
                "ComBat without sites",
                'name the columns of sites, e.g. site = ["scanner", "software"]',
            ),
            (
                self.harmonise == "combat" and self.preserve is None,
                "ComBat without a word on what it preserves",
                'preserve = ["age"] keeps effects of age; preserve = [] keeps none',
            ),
            (
                self.harmonise == "none" and self.preserve is not None,
                "preserve without harmonise",
                'set harmonise = "combat"',
            ),
            (
                self.random is not None and self.permutations > 0,
                "permutations of a mixed model",
                "set permutations = 0, or leave out random and name families = "
                '"participant_id": its sessions are then exchanged together',
            ),
            (
                self.random is not None and self.families is not None,
                "a mixed model with families",
                'leave out random: with families = "family_id" the standard errors hold for '
                "repeated sessions of its members too",
            ),
            (
                self.random is not None and self.maps is not None,
                "a mixed model of maps",
                "analyse maps with one scan a participant, or with families",
            ),
            (
                self.harmonise == "combat" and self.maps is not None,
                "ComBat of maps",
                'harmonise = "none" and C(site) in the formula of maps; tables in a design '
                "of their own",
            ),
            (
                self.repeats == "mean" and self.maps is not None,
                "the mean of a participant's maps",
                'repeats = "first", or families = "participant_id"',
            ),
        ):
            if is_wrong:
                raise ConfigError(found, expected=advice)


_Request = TypeVar("_Request", MapsRequest, StatsRequest)


def read_request(path: str | Path) -> StatsRequest:
    """Read DESIGN.toml; paths start from its folder.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown, missing or of the wrong type, or keys
        contradict each other.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", path=path, expected="a TOML file"
        ) from None
    except ValueError as error:
        raise ConfigError(f"not TOML ({error})", path=path, expected="a TOML file") from None
    return request_from(values, path=path)


def request_from(values: Mapping[str, Any], *, path: Path) -> StatsRequest:
    """Build a request from the content of a file; errors are those of :func:`read_request`."""
    values = dict(values)
    maps = values.pop("maps", None)
    try:
        if maps is not None and not isinstance(maps, dict):
            raise ConfigError("maps is no section", expected="[maps] with its keys")
        voxels = None if maps is None else _build(MapsRequest, maps, folder=path.parent)
        return _build(StatsRequest, values, folder=path.parent, maps=voxels)
    except ConfigError as error:
        raise ConfigError(
            error.found, path=path, expected=error.expected, advice=error.advice
        ) from None


def _build(
    of: type[_Request], values: Mapping[str, Any], *, folder: Path, **built: Any
) -> _Request:
    types = get_type_hints(of)
    types.pop("maps", None)
    known = {f.name: f for f in fields(of) if f.name in types}
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"unknown key {', '.join(unknown)}", expected=", ".join(known))
    required = {n for n, f in known.items() if f.default is f.default_factory is MISSING}
    if missing := sorted(required - set(values)):
        raise ConfigError(f"no key {', '.join(missing)}", expected=", ".join(sorted(required)))
    return of(**{k: _value(k, v, types[k], folder=folder) for k, v in values.items()}, **built)


def _value(name: str, value: Any, hint: Any, *, folder: Path) -> Any:
    """Return a value as its field has it.

    Raises ConfigError if it is of another type.
    """
    if get_origin(hint) in (UnionType, Union):
        hint = next(h for h in get_args(hint) if h is not type(None))
    origin = get_origin(hint)
    if origin is Literal and value in get_args(hint):
        return value
    if origin is tuple and isinstance(value, list | str):
        items = [value] if isinstance(value, str) else value
        return tuple(_value(name, v, get_args(hint)[0], folder=folder) for v in items)
    if hint is Path and isinstance(value, str):
        return folder / Path(value).expanduser()
    if origin is not None and origin is not Literal and isinstance(value, dict):
        return {str(k): _value(name, v, str, folder=folder) for k, v in value.items()}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    wanted = " or ".join(map(str, get_args(hint))) if origin is Literal else str(hint)
    raise ConfigError(f"{name} = {value!r}", expected=_WORDS.get(hint, wanted))


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    Path: "a path",
    tuple[str, ...]: "a list of texts",
    tuple[Path, ...]: "a list of paths",
}
