"""Repairs of b-vectors that a converter got wrong, confirmed for a scanner and its protocol."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradient_arrangements import AS_STORED, arrangement_matrix, name_arrangement

#: Entries of sidecars that name a scanner, and those (with the `acq` label) that name a protocol:
#: a repair needs one of each.
SCANNER = ("ManufacturersModelName", "DeviceSerialNumber", "StationName", "InstitutionName")
PROTOCOL = ("ProtocolName", "SeriesDescription", "SequenceName", "acquisition")

#: Entries that narrow a repair further.
_FURTHER = ("Manufacturer", "SoftwareVersions", "ConversionSoftware", "ConversionSoftwareVersion")

#: Conditions of a repair. Nothing that names a person or a scan is among them: a fault of a
#: converter is the same in all scans of a protocol, and what one scan's check says may be chance.
#: `Orientation` is that of the raw image: a repair is of its rows, which are its voxel axes.
CONDITIONS = ("Orientation", *SCANNER, *PROTOCOL, *_FURTHER)

_NEEDED = (
    "components, Orientation (such as LAS), one or more of "
    f"{', '.join(SCANNER)}, one or more of {', '.join(PROTOCOL)}, and no more than these and "
    f"{', '.join(_FURTHER)}; all text"
)


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
        Values that a run must have, by key of :data:`CONDITIONS`.
    """

    name: str
    components: str
    conditions: Mapping[str, str]

    def fits(self, known: Mapping[str, str]) -> bool:
        """Tell whether a run, by what :func:`describe_run` says of it, meets all conditions."""
        return all(known.get(key) == value for key, value in self.conditions.items())


def describe_run(
    entities: Mapping[str, str], metadata: Mapping[str, Any], affine: NDArray[np.float64]
) -> dict[str, str]:
    """Return the conditions that a run meets.

    Parameters
    ----------
    entities
        Labels of its name, by long name.
    metadata
        Merged sidecars.
    affine
        Voxel to RAS+ mm, of the raw image.

    Returns
    -------
    dict of str
        By key of :data:`CONDITIONS`, without entries that the sidecar lacks or that are empty.
        `acquisition` is always there, empty for a name without `acq`.

    Examples
    --------
    >>> describe_run({}, {"ProtocolName": "DTI", "StationName": ""}, np.diag([-2.0, 2, 2, 1]))
    {'Orientation': 'LAS', 'ProtocolName': 'DTI', 'acquisition': ''}
    """
    stated = {k: str(v) for k in CONDITIONS if isinstance(v := metadata.get(k), str | int | float)}
    stated |= {
        "Orientation": "".join(nib.aff2axcodes(affine)),
        "acquisition": entities.get("acquisition", ""),
    }
    return {k: stated[k] for k in CONDITIONS if stated.get(k, "").strip() or k == "acquisition"}


def read_fix_file(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read the file of `--fix-gradients`.

    Parameters
    ----------
    path
        TOML: a table for each repair, under a name of the user's own, with `components`, the
        `Orientation` of the raw images, and what names the scanner and the protocol::

            [galan-ortho]
            components = "x,y,-z"
            Orientation = "LAS"
            ManufacturersModelName = "Galan"
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
        If one has other keys, lacks the orientation, the scanner or the protocol, has an empty
        condition, or components that change nothing or are none.

    Examples
    --------
    >>> conditions = {"Orientation": "LAS", "StationName": "MR1", "ProtocolName": "DTI"}
    >>> make_fixes({"a": {"components": "-x,y,z", **conditions}})[0].components
    '-x,y,z'
    """
    return tuple(_make_fix(name, entries, path) for name, entries in content.items())


def _make_fix(name: str, entries: Any, path: str | Path | None) -> GradientFix:
    if fault := _find_fault(entries):
        raise ConfigError(
            f"a repair {name!r} {fault}",
            path=path,
            expected=_NEEDED,
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


def _find_fault(entries: Any) -> str:
    """Say why a table of the file is no repair; empty if it is one."""
    if not isinstance(entries, Mapping) or not all(isinstance(v, str) for v in entries.values()):
        return "that is no table of text"
    if unknown := sorted(set(entries) - {"components", *CONDITIONS}):
        return f"with {', '.join(unknown)}"
    # An empty acquisition stands for names without that label.
    if empty := sorted(k for k, v in entries.items() if not v.strip() and k != "acquisition"):
        return f"with an empty {', '.join(empty)}"
    lacking = [key for key in ("components", "Orientation") if key not in entries]
    lacking += ["what names the scanner"] * (not _has_any(entries, SCANNER))
    lacking += ["what names the protocol"] * (not _has_any(entries, PROTOCOL))
    if lacking:
        return f"without {', '.join(lacking)}"
    if not _is_orientation(entries["Orientation"]):
        return f"with Orientation {entries['Orientation']!r}, which names no three axes"
    return ""


def _has_any(known: Mapping[str, str], keys: Iterable[str]) -> bool:
    return any(known.get(key, "").strip() for key in keys)


def _is_orientation(text: str) -> bool:
    axes = [next((i for i, ends in enumerate(("LR", "PA", "IS")) if c in ends), 3) for c in text]
    return sorted(axes) == [0, 1, 2]


def find_fix(
    fixes: Iterable[GradientFix], known: Mapping[str, str], *, path: Path
) -> GradientFix | None:
    """Return the repair of a run, by what :func:`describe_run` says of it; None if there is none.

    Raises
    ------
    GradientError
        If two repairs of different components fit.
    """
    fitting = [fix for fix in fixes if fix.fits(known)]
    if len({fix.components for fix in fitting}) > 1:
        told = " and ".join(f"{fix.name} ({fix.components})" for fix in fitting)
        raise GradientError(
            f"{told} of --fix-gradients both fit this run",
            path=path,
            expected="one repair for a scanner and its protocol",
            advice="add conditions that tell them apart",
        )
    return fitting[0] if fitting else None


def suggest_fix(components: str, known: Mapping[str, str]) -> str:
    """Return the entry of a `--fix-gradients` file for the scanner and protocol of a run.

    It holds all that is known but what is of one machine alone: serial number, station and
    institution serve where there is no model name. Where the sidecar names no scanner or no
    protocol, the entry says so, and has an empty value for which :func:`make_fixes` refuses it.

    Examples
    --------
    >>> canon = {"Orientation": "LAS", "StationName": "MR1", "acquisition": "b1000"}
    >>> print(suggest_fix("-x,y,z", canon))
    [suggested]
    components = "-x,y,z"
    Orientation = "LAS"
    StationName = "MR1"
    acquisition = "b1000"
    >>> print(suggest_fix("-x,y,z", canon | {"acquisition": ""}).splitlines()[0])
    # The sidecar has no ProtocolName: add it there and here, this entry is refused without it.
    """
    import tomli_w

    model, *others = SCANNER
    kept = {k: v for k, v in known.items() if k not in others or model not in known}
    lacking = {keys[0]: "" for keys in (SCANNER, PROTOCOL) if not _has_any(known, keys)}
    entry = {"components": components, **kept, **lacking}
    told = [
        f"# The sidecar has no {key}: add it there and here, this entry is refused without it.\n"
        for key in lacking
    ]
    return "".join(told) + tomli_w.dumps({"suggested": entry}).strip()
