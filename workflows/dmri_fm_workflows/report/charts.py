"""Charts of the report: their style, and reproducible SVG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmri_fm_workflows.report.svg import write_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def chart_svg(figure: Figure, *, title: str | None = None) -> str:
    """Return a chart as an SVG document without a date."""
    buffer = StringIO()
    metadata = {"Date": None} if title is None else {"Date": None, "Title": title}
    figure.savefig(buffer, format="svg", dpi=150, metadata=metadata)
    return buffer.getvalue()


def write_chart(figure: Figure, out: str | Path, *, title: str) -> Path:
    """Write a chart as :func:`~dmri_fm_workflows.report.svg.write_svg` does; return its path."""
    return write_svg(chart_svg(figure, title=title), out)
