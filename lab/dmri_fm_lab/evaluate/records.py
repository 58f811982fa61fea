"""Records of an evaluation: a loop over scans, plain types for JSON, and versions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm import __version__
from dmri_fm.errors import ConfigError, OutputError
from dmri_fm_lab.grid_scans import GridScan

#: Packages whose versions are in the output.
_PACKAGES = ("numpy", "scipy", "torch", "dipy", "scikit-image", "scikit-learn", "deepbet")


def versions() -> dict[str, str | None]:
    """Return the versions of this package and of those that the numbers depend on."""
    return {"dmri_fm": __version__, **{name: _version(name) for name in _PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def json_ready(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Return an object for JSON: plain types, and None for what is not finite.

    Examples
    --------
    >>> json_ready({"a": (1, float("nan")), 2: np.float32(0.5)})
    {'a': [1, None], '2': 0.5}
    """
    return {str(key): _plain(value) for key, value in content.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json_ready(value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write an object as JSON.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By rename: numbers that are saved again and again are never half a file.
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error})",
            path=path,
            expected="a file in a folder that you may write to",
        ) from None
    return path


def score_each(
    scans: Iterable[GridScan],
    score: Callable[[GridScan], dict[str, Any] | None],
    *,
    report: Callable[[dict[str, Any]], None] | None,
    fewest_directions: int,
) -> list[dict[str, Any]]:
    """Score scans, and hand on the record of each when it is complete; None: no record.

    Raises ConfigError if there is no record.
    """
    records = []
    for scan in scans:
        if (record := score(scan)) is not None:
            records.append(record)
            if report is not None:
                report(record)
    if not records:
        raise ConfigError(
            "no scan to score",
            expected=f"scans with {fewest_directions} distinct directions or more",
            advice="name a dataset, or ask for simulated scans",
        )
    return records
