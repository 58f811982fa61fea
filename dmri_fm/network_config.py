"""Configurations of networks as JSON, read strictly."""

from __future__ import annotations

import reprlib
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from dmri_fm.errors import WeightsError

#: A frozen dataclass of numbers, texts and tuples of numbers.
NetworkConfig: TypeAlias = Any

#: Fields that are younger than the format of weights; files without them mean the default.
LATER_FIELDS = {"rotary", "patch_centre"}

#: Largest number and longest list.
LARGEST, LONGEST = 100_000, 16


def read_config(default: NetworkConfig, values: dict[str, Any], path: Path) -> NetworkConfig:
    """Read a configuration from JSON.

    Parameters
    ----------
    default
        A configuration of the same class; values have its types.
    values
        By field.
    path
        The JSON file, for messages.

    Raises
    ------
    WeightsError
        If a field is missing or unknown, or a value is none that the class takes.
    """
    known = {f.name for f in fields(default)}
    if (set(values) ^ known) - (LATER_FIELDS & known):
        raise WeightsError(
            f"configuration with {sorted(values)}",
            path=path,
            expected=f"the fields {sorted(known)}",
        )
    for key, value in values.items():
        if not _is_like(value, getattr(default, key)):
            raise WeightsError(
                f"impossible configuration ({key} is {reprlib.repr(value)})",
                path=path,
                expected=f"a value like {getattr(default, key)!r}, no number beyond {LARGEST}",
            )
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return type(default)(**tuples)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"impossible configuration ({error})", path=path) from None


def _is_like(value: object, default: object) -> bool:
    """Tell whether a configuration's value has the type of another, and a usable size."""
    if isinstance(default, tuple):
        return (
            isinstance(value, list)
            and len(value) <= LONGEST
            and all(_is_like(v, default[0]) for v in value)
        )
    if isinstance(default, float):
        return type(value) in (int, float) and abs(value) <= LARGEST  # type: ignore[arg-type]
    if type(default) is int:
        return type(value) is int and abs(value) <= LARGEST
    return type(value) is type(default)
