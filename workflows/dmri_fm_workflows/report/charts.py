"""How charts look, and how they become SVG that is the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmri_fm.errors import OutputError
from dmri_fm_workflows.report.svg import check_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["chart_style", "chart_svg", "write_chart"]

#: Letters become outlines, so that the page looks the same with any installed fonts.
STYLE: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "dmri-fm",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": "#222222",
    "path.simplify": True,
}


@contextmanager
def chart_style() -> Iterator[None]:
    """Apply the look of the report's charts inside a `with` block."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def chart_svg(figure: Figure) -> str:
    """Return a chart as an SVG document without a date."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return buffer.getvalue()


def write_chart(figure: Figure, out: str | Path, *, title: str) -> Path:
    """Write a chart; return its path.

    Raises
    ------
    ConfigError
        If the path does not end in `.svg`.
    OutputError
        If the file cannot be written.
    """
    out = check_target(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, format="svg", dpi=150, metadata={"Date": None, "Title": title})
    except OSError as error:
        raise OutputError(
            f"the figure cannot be written ({error.strerror})",
            path=out,
            expected="a writable folder with free space",
        ) from None
    return out
