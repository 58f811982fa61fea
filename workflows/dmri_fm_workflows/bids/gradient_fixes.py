"""Repairs of b-vectors that a converter got wrong, confirmed for a scanner and its protocol."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradient_arrangements import AS_STORED, arrangement_matrix, name_arrangement

#: Entries of sidecars that name a scanner, a protocol or the converter, and the `acq` label.
#: Nothing that names a person or a scan is among them: a fault of a converter is the same in all
#: scans of a protocol, and what one scan's check says may be chance.
CONDITIONS = (
    "Manufacturer", "ManufacturersModelName", "DeviceSerialNumber", "StationName",
    "InstitutionName", "SoftwareVersions", "ProtocolName", "SeriesDescription", "SequenceName",
    "ConversionSoftware", "ConversionSoftwareVersion", "acquisition",
)  # fmt: skip

#: Of these, those that a suggestion names.
SUGGESTED = ("Manufacturer", "ManufacturersModelName", "ProtocolName", "acquisition")


@dataclass(frozen=True)
class GradientFix:
    """A repair of b-vectors.

    Attributes
    ----------
    name
        The user's name for it.
    components
        What the rows of the bvec files should be, see :mod:`dmri_fm.gradient_arrangements`.
    conditions
        Values that a run's sidecar and name must have, by key of :data:`CONDITIONS`.
    """

    name: str
    components: str
    conditions: Mapping[str, str]

    def fits(self, entities: Mapping[str, str], metadata: Mapping[str, Any]) -> bool:
        """Tell whether a run is of this scanner and protocol."""
        known = {**metadata, "acquisition": entities.get("acquisition", "")}
        return all(str(known.get(k, "")) == v for k, v in self.conditions.items())


def read_fix_file(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read the file of `--fix-gradients`.

    Parameters
    ----------
    path
        TOML: a table for each repair, under a name of the user's own, with `components` and one
        or more of :data:`CONDITIONS`::

            [galan-ortho]
            components = "x,y,-z"
            Manufacturer = "Canon"
            ProtocolName = "DTI_AP-ortho"

    Raises
    ------
    ConfigError
        If the file cannot be read, or a repair is none.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"cannot be read ({error})", path=path, expected="TOML, a table for each repair"
        ) from None
    make_fixes(content, path=path)
    return content


def make_fixes(
    content: Mapping[str, Any], *, path: str | Path | None = None
) -> tuple[GradientFix, ...]:
    """Return the repairs of a file.

    Raises
    ------
    ConfigError
        If one has other keys, no condition, or components that change nothing or are none.

    Examples
    --------
    >>> make_fixes({"a": {"components": "-x,y,z", "ProtocolName": "DTI"}})[0].components
    '-x,y,z'
    """
    return tuple(_make_fix(name, entries, path) for name, entries in content.items())


def _make_fix(name: str, entries: Any, path: str | Path | None) -> GradientFix:
    is_text = isinstance(entries, Mapping) and all(isinstance(v, str) for v in entries.values())
    unknown = sorted(set(entries) - {"components", *CONDITIONS}) if is_text else []
    if not is_text or unknown or "components" not in entries or len(entries) < 2:
        found = f"with {', '.join(unknown)}" if unknown else "of another form"
        raise ConfigError(
            f"a repair {name!r} {found}",
            path=path,
            expected=f"components, and one or more of {', '.join(CONDITIONS)}, as text",
            advice="a repair is for a scanner and its protocol, never for single scans",
        )
    try:
        components = name_arrangement(arrangement_matrix(entries["components"]))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.found}", path=path, expected=error.expected) from None
    if components == AS_STORED:
        raise ConfigError(
            f"a repair {name!r} with components {entries['components']!r}, which changes nothing",
            path=path,
            expected="another order or sign, such as -x,y,z",
        )
    conditions = {k: v for k, v in entries.items() if k != "components"}
    return GradientFix(name, components, conditions)


def find_fix(
    fixes: Iterable[GradientFix],
    entities: Mapping[str, str],
    metadata: Mapping[str, Any],
    *,
    path: Path,
) -> GradientFix | None:
    """Return the repair of a run; None if there is none.

    Raises
    ------
    GradientError
        If two repairs of different components fit.
    """
    fitting = [fix for fix in fixes if fix.fits(entities, metadata)]
    if len({fix.components for fix in fitting}) > 1:
        told = " and ".join(f"{fix.name} ({fix.components})" for fix in fitting)
        raise GradientError(
            f"{told} of --fix-gradients both fit this run",
            path=path,
            expected="one repair for a scanner and its protocol",
            advice="add conditions that tell them apart",
        )
    return fitting[0] if fitting else None


def suggest_fix(components: str, scanner: Mapping[str, str]) -> str:
    """Return the entry of a `--fix-gradients` file for a scanner and its protocol.

    Where nothing tells these, the conditions are left to the user.

    Examples
    --------
    >>> print(suggest_fix("-x,y,z", {"Manufacturer": "GE", "ProtocolName": "DTI"}))
    [suggested]
    components = "-x,y,z"
    Manufacturer = "GE"
    ProtocolName = "DTI"
    """
    import tomli_w

    return tomli_w.dumps({"suggested": {"components": components, **scanner}}).strip()
