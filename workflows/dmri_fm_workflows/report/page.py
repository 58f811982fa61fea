"""The page of a participant: one HTML file that needs no network.

NiReports assembles pages of this kind, but its template fetches style sheets and scripts from
public servers, and its sections are found by file name, so that neither warnings nor a summary
can stand first. The page is rendered here instead, from templates that hold their own style.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from html import escape
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_workflows.outputs.references import (
    Reference,
    render_methods,
    replace_citations,
    split_paragraphs,
)
from dmri_fm_workflows.report.content import (
    LEVELS,
    Entry,
    ReportData,
    ReportWarning,
    SeriesSection,
)
from dmri_fm_workflows.report.slices import CONVENTION

_LINK = re.compile(r"https?://[^\s<>&\"']+[^\s<>&\"'.,;:)]")


@cache
def page_environment() -> Environment:
    """Return the template environment of the project's pages.

    Every value is escaped unless it is Markup; an undefined name is an error. A page extends
    `base.html.j2`, which brings the style, the script and the navigation.
    """
    environment = Environment(
        loader=PackageLoader("dmri_fm_workflows.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["anchor"] = anchor
    environment.filters["urlpath"] = quote
    environment.globals["research_only"] = RESEARCH_ONLY
    return environment


def anchor(words: str) -> str:
    """Turn words into an identifier that a link can point at.

    Examples
    --------
    >>> anchor("sub-01 <dir-AP>")
    'sub-01-dir-AP'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", words).strip("-") or "section"


def render_report(report: ReportData) -> str:
    """Render the page of a participant.

    Parameters
    ----------
    report
        Content of the page.

    Returns
    -------
    str
        HTML; the same content gives the same bytes. Style and scripts are inside, figures where
        the content holds them; others are referenced by their relative paths.

    Raises
    ------
    ConfigError
        If the methods text cites a work that `references.yaml` does not hold.
    """
    warnings = sorted(report.warnings, key=lambda warning: LEVELS.index(warning.level))
    of_series: dict[str, list[ReportWarning]] = {}
    for warning in warnings:
        of_series.setdefault(warning.where, []).append(warning)
    methods, cited = methods_html(report.methods)
    return (
        page_environment()
        .get_template("participant.html.j2")
        .render(
            report=report,
            title=f"{report.title}: diffusion MRI report",
            sources={
                figure.path: report.embedded.get(figure.path, report.root + quote(figure.path))
                for figure in report.figures
            },
            warnings=warnings,
            counts=count_levels(warnings),
            of_series=of_series,
            table=_series_table(report.series),
            methods=methods,
            cited=cited,
            documents=render_methods(report.methods) if report.methods.strip() else {},
            software=[Entry(*item) for item in report.run.software.items()],
            convention=CONVENTION,
        )
    )


def count_levels(warnings: Sequence[ReportWarning]) -> dict[str, int]:
    """Return the number of warnings of each level, most serious first."""
    return {level: sum(w.level == level for w in warnings) for level in LEVELS}


def _series_table(series: Sequence[SeriesSection]) -> list[tuple[str, list[str]]]:
    """Return a line per label of the series' entries, with the value of each series."""
    columns = [{entry.label: entry.value for entry in section.entries} for section in series]
    labels = dict.fromkeys(label for column in columns for label in column)
    return [(label, [column.get(label, "") for column in columns]) for label in labels]


def methods_html(text: str) -> tuple[Markup, list[tuple[int, Markup]]]:
    """Return the paragraphs of a methods text, citations numbered, and the list of works.

    Raises ConfigError if the text cites a work that `references.yaml` does not hold.
    """
    numbers: dict[Reference, int] = {}

    def numbered(works: list[Reference]) -> str:
        links = []
        for work in works:
            number = numbers.setdefault(work, len(numbers) + 1)
            links.append(f'<a href="#ref-{number}" title="{escape(work.label)}">{number}</a>')
        return f'<span class="citation">[{", ".join(links)}]</span>'

    blocks = []
    for level, words in split_paragraphs(text):
        tag = f"h{min(level + 2, 6)}" if level else "p"
        blocks.append(f"<{tag}>{replace_citations(escape(words), numbered)}</{tag}>")
    return Markup("\n".join(blocks)), [(n, _with_link(work)) for work, n in numbers.items()]


def _with_link(reference: Reference) -> Markup:
    """Return the entry of a reference list with its DOI as a link."""
    entry = escape(reference.text)
    return Markup(_LINK.sub(lambda m: f'<a href="{m[0]}" rel="noreferrer">{m[0]}</a>', entry))
