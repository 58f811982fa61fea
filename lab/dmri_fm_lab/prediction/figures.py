"""Figures of predictions and features; matplotlib without its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.identity import RESEARCH_ONLY

#: Endings of figures.
FORMATS = (".png", ".svg", ".pdf")


def new_figure(width: float, height: float, *, columns: int = 1) -> tuple[Figure, Any]:
    """Return a figure of so many inches, and its axis, or axes in a row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure, with :data:`dmri_fm.identity.RESEARCH_ONLY` below it.

    Raises
    ------
    ConfigError
        If the name does not end in one of :data:`FORMATS`.
    OutputError
        If the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"figure {path.name}", expected=f"a name in {', '.join(FORMATS)}")
    figure.supxlabel(RESEARCH_ONLY, fontsize=7, color="0.4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error})", path=path, expected="a folder that you may write to"
        ) from None
    return path
