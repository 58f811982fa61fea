"""Records of an evaluation: JSON-ready, with the versions they depend on, and as tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.errors import OutputError

__all__ = ["json_ready", "markdown", "versions", "write_json"]

#: Packages whose versions are in the output.
_PACKAGES = ("numpy", "scipy", "torch", "dipy", "scikit-image", "scikit-learn", "deepbet")


def versions() -> dict[str, str | None]:
    """Return the versions of this package and of those that the numbers depend on."""
    from dmri_fm import __version__

    found: dict[str, str | None] = {"dmri_fm": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def json_ready(value: Any) -> Any:
    """Return a value for JSON: plain types, and None for what is not finite.

    Examples
    --------
    >>> json_ready({"a": (1, float("nan")), 2: np.float32(0.5)})
    {'a': [1, None], '2': 0.5}
    """
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table.

    Examples
    --------
    >>> print(markdown(["method", "x"], [["mean", "1"]]))
    | method | x |
    |---|---|
    | mean | 1 |
    """
    lines = [titles, *rows]
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([text[0], "|---" * len(titles) + "|", *text[1:]])


def write_json(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write an object as JSON.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    path = Path(path)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error})",
            path=path,
            expected="a file in a place that you may write to",
        ) from None
    return path
