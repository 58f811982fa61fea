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

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.outputs.references import Reference, load_references, render_methods
from dmri_fm_workflows.report.content import Fact, ReportData, ReportWarning, SeriesSection
from dmri_fm_workflows.report.slices import CONVENTION

__all__ = ["page_environment", "render_report"]

_LEVELS = ("error", "warning", "note")
_CITATION = re.compile(r"\[(@[\w-]+(?:;\s*@[\w-]+)*)\]")
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
    environment.filters["urlpath"] = _url_path
    return environment


def anchor(words: str) -> str:
    """Turn words into an identifier that a link can point at.

    Examples
    --------
    >>> anchor("sub-01 <dir-AP>")
    'sub-01-dir-AP'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", words).strip("-") or "section"


def _url_path(path: str) -> str:
    from urllib.parse import quote

    return quote(path, safe="/")


def render_report(report: ReportData) -> str:
    """Render the page of a participant.

    Parameters
    ----------
    report
        All that it shows.

    Returns
    -------
    str
        HTML. It depends on `report` alone, so the same content gives the same bytes. Style and
        scripts are inside; figures are referenced by their relative paths.

    Raises
    ------
    ConfigError
        If the methods text cites a work that `references.yaml` does not hold.
    """
    order = {level: rank for rank, level in enumerate(_LEVELS)}
    warnings = sorted(report.warnings, key=lambda warning: order[warning.level])
    methods, cited = _render_methods(report.methods)
    documents = render_methods(report.methods) if report.methods.strip() else {}
    return (
        page_environment()
        .get_template("participant.html.j2")
        .render(
            report=report,
            title=f"sub-{report.participant}: diffusion MRI report",
            warnings=warnings,
            counts={level: sum(w.level == level for w in warnings) for level in _LEVELS},
            of_series=_by_place(warnings),
            table=_fact_table(report.series),
            methods=methods,
            cited=cited,
            documents=documents,
            convention=CONVENTION,
        )
    )


def _by_place(warnings: Sequence[ReportWarning]) -> dict[str, list[ReportWarning]]:
    places: dict[str, list[ReportWarning]] = {}
    for warning in warnings:
        places.setdefault(warning.where, []).append(warning)
    return places


def _fact_table(series: Sequence[SeriesSection]) -> list[tuple[str, list[str]]]:
    """Lay out the facts of all series as lines, one per label, in order of first appearance."""
    labels = list(dict.fromkeys(fact.label for section in series for fact in section.facts))
    values = [_as_mapping(section.facts) for section in series]
    return [(label, [value.get(label, "") for value in values]) for label in labels]


def _as_mapping(facts: Sequence[Fact]) -> dict[str, str]:
    return {fact.label: fact.value for fact in facts}


def _render_methods(text: str) -> tuple[Markup, list[tuple[int, Reference, Markup]]]:
    """Turn a methods text into paragraphs with numbered citations, and list the works."""
    known = load_references()
    numbers: dict[str, int] = {}

    def numbered(match: re.Match[str]) -> str:
        links = []
        for key in (word.strip()[1:] for word in match[1].split(";")):
            if key not in known:
                raise ConfigError(
                    f"the methods text cites {key}",
                    expected="keys of references.yaml",
                    advice="add the work there",
                )
            number = numbers.setdefault(key, len(numbers) + 1)
            label = escape(known[key].label)
            links.append(f'<a href="#ref-{number}" title="{label}">{number}</a>')
        return f'<span class="citation">[{", ".join(links)}]</span>'

    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        words = " ".join(block.split())
        if not words:
            continue
        level = len(words) - len(words.lstrip("#"))
        body = _CITATION.sub(numbered, escape(words.lstrip("# ")))
        tag = f"h{min(level + 2, 6)}" if level else "p"
        blocks.append(f"<{tag}>{body}</{tag}>")
    cited = [(number, known[key], _with_link(known[key])) for key, number in numbers.items()]
    return Markup("\n".join(blocks)), cited


def _with_link(reference: Reference) -> Markup:
    """Return the entry of a reference list with its DOI as a link."""
    entry = escape(reference.text)
    return Markup(_LINK.sub(lambda m: f'<a href="{m[0]}" rel="noreferrer">{m[0]}</a>', entry))
