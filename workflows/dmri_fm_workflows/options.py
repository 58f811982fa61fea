"""Arguments of the command line, kept in the fields of the request that they set.

The parser, the checks of the request, its fingerprint and the Boutiques descriptor read them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import Field, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from dmri_fm.errors import ConfigError
from dmri_fm.identity import ENCODERS, TENSOR_NETWORKS

MODELS = (*TENSOR_NETWORKS, *ENCODERS)

#: Folders of the pages of participants.
REPORT_LEVELS = ("root", "subject", "session")

#: Headings of `--help`.
GROUPS = ("what to process", "resources and execution", "outputs",
          "preprocessing and normalisation", "networks", "reports",
          "tables of `group`")  # fmt: skip
SELECTION, RESOURCES, OUTPUTS, PREPROCESSING, NETWORKS, REPORTS, GROUP_LEVEL = GROUPS

#: Families of models, whose stages the options of `NETWORKS` decide about.
MODEL_FAMILIES = ("tensor network", "encoder")

#: More threads than this in one step do not pay.
MAX_OMP_NTHREADS = 8

#: Share of the memory that a run takes unless told otherwise; the rest is the system's.
MEMORY_SHARE = 0.9

#: How filter files (and TOML, which has no null) write "this entity is absent".
NO_ENTITY = "Query.NONE"

#: Units of --mem, GB; a bare number is in megabytes.
_MEMORY_UNITS = {"T": 1e3, "G": 1.0, "M": 1e-3, "K": 1e-6, "": 1e-3}


def new_run_uuid() -> str:
    """Return a name for a run that sorts by its start."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}_{uuid4()}"


def count_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_gb() -> float:
    """Return most of the memory of this machine or of the container around us, GB."""
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # No control group there, or no limit ("max"): then all of it.
    with suppress(OSError, ValueError):
        n_bytes = min(n_bytes, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return round(MEMORY_SHARE * n_bytes / 1e9, 1)


def option(
    default: Any,
    group: str,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    choices: tuple[str, ...] | None = None,
    stages: tuple[str, ...] = (),
    is_repeated: bool = False,
) -> Any:
    """Return a field of the request that is an argument of the command line.

    Parameters
    ----------
    default
        Value, or a function that returns it; `MISSING`: the argument is required.
    group, help
        Heading and text of `--help`; without a heading the argument is positional.
    flags
        Option strings; empty: `--` and the name of the field.
    metavar, parse
        Name of the value in `--help` and converter of its text; None: those of the field's type.
    choices
        Values that are allowed; None: any.
    stages
        Stages of the graph, or families of models, that it decides about.
    is_repeated
        Values of all uses count, not those of the last alone.
    """
    metadata = {
        "group": group,
        "flags": flags,
        "settings": {"help": help, "metavar": metavar, "type": parse, "choices": choices},
        "stages": stages,
        "is_repeated": is_repeated,
    }
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


#: Name in `--help` and converter of a value, by type of the field.
_OF_TYPE: dict[str, tuple[str | None, Callable[[str], Any]]] = {
    "int": ("N", int),
    "float": (None, float),
    "Path": ("DIR", Path),
}


def add_argument(container: argparse._ActionsContainer, field: Field[Any]) -> None:
    """Add the argument of a field of the request to a parser, or to a group of it."""
    annotation = str(field.type).removesuffix(" | None")
    settings = {k: v for k, v in field.metadata["settings"].items() if v is not None}
    if annotation == "bool":
        settings["action"] = "store_true"
    elif annotation.startswith("Mapping") or field.metadata["is_repeated"]:
        settings |= {"nargs": "+", "action": "extend"}
    elif annotation.startswith("tuple"):
        settings["nargs"] = "+"
    if annotation in _OF_TYPE:
        metavar, parse = _OF_TYPE[annotation]
        settings = {"type": parse} | ({"metavar": metavar} if metavar else {}) | settings
    if not field.metadata["group"]:
        container.add_argument(field.name, **{k: v for k, v in settings.items() if k != "metavar"})
        return
    flags = field.metadata["flags"] or (f"--{field.name.replace('_', '-')}",)
    container.add_argument(*flags, dest=field.name, **settings)


def bare(prefix: str) -> Callable[[str], str]:
    """Return a converter that takes `sub-` or `ses-` off a label."""

    def label(text: str) -> str:
        return text.removeprefix(prefix)

    return label


def memory_gb(text: str) -> float:
    """Convert a size of memory, `16G` or `16000` (MB), into GB."""
    number = text.upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in _MEMORY_UNITS else ""
    try:
        return float(number.removesuffix(unit)) * _MEMORY_UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 16G or 16000") from None


def name_and_path(text: str) -> tuple[str, Path]:
    """Split `NAME=PATH` of a model's weights."""
    name, equals, path = text.partition("=")
    if not equals or not path or name not in MODELS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=PATH with NAME one of {', '.join(MODELS)}"
        )
    return name, Path(path)


def plain(value: Any) -> Any:
    """Turn a field's value into what TOML and JSON have; sorted where order means nothing."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [NO_ENTITY if v is None else plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: NO_ENTITY if v is None else plain(v) for k, v in sorted(value.items())}
    return value


def check_choice(name: str, values: Any, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among those allowed.

    Raises
    ------
    ConfigError
        If there is one.
    """
    for value in values:
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r}", expected=", ".join(allowed))
