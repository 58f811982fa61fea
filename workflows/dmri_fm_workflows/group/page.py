"""The page of the group: status, quality with outliers flagged, distributions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import ChoiceLoader, PackageLoader, Template
from markupsafe import Markup
from numpy.typing import NDArray

from dmri_fm import __version__
from dmri_fm.encoders.features import feature_columns
from dmri_fm.identity import TENSOR_NETWORKS, identity, label_of
from dmri_fm_workflows.group.by_group import find_sites
from dmri_fm_workflows.group.charts import Chart, Panel, draw_features, draw_panels
from dmri_fm_workflows.group.distortion import count_methods, tabulate_methods, warn_of_methods
from dmri_fm_workflows.group.exclusion import tabulate_exclusions
from dmri_fm_workflows.group.outliers import MIN_SCANS, Z_LIMIT, Flag, flag_scans
from dmri_fm_workflows.group.ratings import (
    COMMENTS,
    RATING_COLUMNS,
    summarise_ratings,
    warn_of_ratings,
)
from dmri_fm_workflows.group.tables import GroupTable, GroupTables
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.pages import list_pages
from dmri_fm_workflows.outputs.sidecars import describe_columns
from dmri_fm_workflows.outputs.tsv import MISSING, QC_EXCLUDE, SCAN_COLUMNS, SCAN_ID
from dmri_fm_workflows.report.content import Entry, ReportWarning
from dmri_fm_workflows.report.page import count_levels, page_environment

#: Colour of each status, trouble first.
_BADGES = {"failed": "error", "incomplete": "warning", "unknown": "warning", "complete": "note"}

_VERBS = {"failed": "failed", "incomplete": "lack outputs", "unknown": "have no readable record"}

#: Distributions of maps that are drawn, where they exist.
_DRAWN_MAPS = tuple(
    f"{model}_{param}_median_{tissue}"
    for model in map(label_of, ("tensor", *TENSOR_NETWORKS))
    for param in ("fa", "md")
    for tissue in ("wm", "gm")
)

_RULE = (
    f"A scan stands out where a measure leaves its expected range, or lies more than {Z_LIMIT:g} "
    "robust standard deviations (median and median absolute deviation) on the bad side of the "
    f"scans that it can be compared with, if there are at least {MIN_SCANS}. Measures that depend "
    "on b-values are compared among scans of the same largest b-value."
)


def _protocols(table: pd.DataFrame, tables: GroupTables) -> dict[int, str]:
    """Return the largest b-value of every row's scan, as text."""
    known: dict[str, str] = {}
    for source in (*(f.table for f in tables.features), tables.scalars):
        if "max_bval" in source:
            bvals = source["max_bval"]
            known |= {n: b for n, b in zip(source[SCAN_ID], bvals, strict=True) if b != MISSING}
    return {
        i: f"b={round(float(known[n]), -1):g}" if n in known else ""
        for i, n in enumerate(table[SCAN_ID])
    }


def _numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return np.asarray(pd.to_numeric(table[column], errors="coerce"), dtype=np.float64)


def _measures(table: pd.DataFrame) -> list[str]:
    """Return the numeric columns of a table that hold a value, without flags (`_is_`)."""
    names = (SCAN_ID, *SCAN_COLUMNS, QC_EXCLUDE, *RATING_COLUMNS)
    columns = [c for c in table.columns if c not in names and "_is_" not in c]
    return [c for c in columns if np.isfinite(_numbers(table, c)).any()]


def _panels(
    table: pd.DataFrame,
    columns: Sequence[str],
    flags: Sequence[Flag],
    *,
    sites: Mapping[str, str],
    groups: Mapping[int, str] | None = None,
    titles: Mapping[str, str] | None = None,
    scales: Mapping[str, tuple[float, str]] | None = None,
) -> list[Panel]:
    names = table[SCAN_ID].tolist()
    described = describe_columns(list(columns))
    own = {c: (1.0, str(described.get(c, {}).get("Units", ""))) for c in columns}
    scale = own | dict(scales or {})
    return [
        Panel(
            title=(titles or {}).get(column, column),
            unit=scale[column][1],
            values=_numbers(table, column) * scale[column][0],
            groups=[(groups or {}).get(i, "") for i in range(len(table))],
            sites=_sites_of(names, sites),
            outliers=frozenset(f.row for f in flags if f.column == column),
            names=names,
        )
        for column in columns
    ]


def _sites_of(scans: Sequence[str], sites: Mapping[str, str]) -> list[str]:
    """Return the site of each scan; empty texts where none is known of any participant."""
    return [sites.get(scan.split("_")[0], MISSING if sites else "") for scan in scans]


def _hints(columns: Sequence[str]) -> dict[str, str]:
    """Return the description of each column, shown when the pointer is over its heading."""
    return {
        column: f"{about['Description']}, {about['Units']}"
        if "Units" in about
        else str(about["Description"])
        for column, about in describe_columns(list(columns)).items()
    }


def _named(flags: Sequence[Flag], table: pd.DataFrame) -> list[tuple[str, Flag]]:
    return [(table[SCAN_ID].iloc[flag.row], flag) for flag in flags]


def _map_titles(columns: Sequence[str]) -> dict[str, str]:
    tissues = {"wm": "white", "gm": "grey"}
    titles = {}
    for column in columns:
        model, param, _, tissue = column.split("_")
        titles[column] = f"{param.upper()}, {tissues[tissue]}, {_model_title(model)}"
    return titles


def _model_title(label: str) -> str:
    return "tensor fit" if label == "tensor" else identity(label).title


def _suffix(features: GroupTable, tables: GroupTables) -> str:
    """Return the encoder of a table of features; nothing where there is no other."""
    if len(tables.features) == 1 or features.model is None:
        return ""
    return f", {_model_title(features.model)}"


def _features_charts(
    features: GroupTable, tables: GroupTables, sites: Mapping[str, str]
) -> Iterator[tuple[str, Chart]]:
    """Yield title and chart of each type of features, of the scans of the commonest weights.

    Features that one of these scans lacks (`n/a`) are left out.
    """
    table = features.table
    weights = (
        table["weights_sha256"] if "weights_sha256" in table else pd.Series([""] * len(table))
    )
    names, groups = table[SCAN_ID].tolist(), _protocols(table, tables)
    for of, columns in feature_columns(table.columns).items():
        data = np.stack([_numbers(table, c) for c in columns], axis=1)
        known = np.isfinite(data)
        most = Counter(weights[known.any(axis=1)]).most_common(1)
        rows = np.flatnonzero(known.any(axis=1) & weights.isin([w for w, _ in most]).to_numpy())
        shared = known[rows].all(axis=0)
        if rows.size < 3 or not shared.any():
            continue
        shown = [names[int(i)] for i in rows]
        labels = {"largest b-value": [groups[int(i)] or "b unknown" for i in rows]}
        if sites:
            labels["site"] = _sites_of(shown, sites)
        yield (
            f"{of}{_suffix(features, tables)}",
            draw_features(data[rows][:, shared], groups=labels, names=shown),
        )


def _some(participants: Sequence[str]) -> str:
    """Name participants, up to eight of them."""
    return ", ".join(participants[:8]) + (" and others" if len(participants) > 8 else "")


def _status_warnings(tables: GroupTables) -> Iterator[ReportWarning]:
    status = Counter(tables.status["status"])
    for word in _VERBS:
        if status[word]:
            who = tables.status.loc[tables.status["status"] == word, "participant_id"]
            yield ReportWarning(
                "error" if word == "failed" else "warning",
                f"{len(who)} of {len(tables.status)} participants {_VERBS[word]}: {_some(who)}.",
                advice="See the reasons below; run these participants again.",
            )
    warned = tables.status.loc[~tables.status["n_warnings"].isin(["0", MISSING]), "participant_id"]
    if len(warned):
        yield ReportWarning(
            "warning",
            f"The reports of {len(warned)} of {len(tables.status)} participants hold "
            f"warnings: {_some(warned)}.",
            advice="Read them before using these scans.",
        )
    if tables.problems:
        files = len(tables.problems)
        yield ReportWarning(
            "warning",
            f"{files} file{'s' if files > 1 else ''} could not be used and "
            f"{'are' if files > 1 else 'is'} missing from the tables.",
            advice="The reason stands beside the participant; run it again.",
        )


def _weights_warnings(features: Sequence[GroupTable]) -> Iterator[ReportWarning]:
    for of in features:
        weights = set(of.table.get("weights_sha256", pd.Series(dtype=str))) - {MISSING}
        if len(weights) > 1:
            which = f" of {_model_title(str(of.model))}" if len(features) > 1 else ""
            yield ReportWarning(
                "error",
                f"Scan features{which} come from {len(weights)} different networks.",
                advice="Do not mix them in one analysis: select by weights_sha256, or run again.",
            )


def _protocol_warnings(tables: GroupTables) -> Iterator[ReportWarning]:
    versions = set(tables.status["version"]) - {MISSING}
    if len(versions) > 1:
        yield ReportWarning(
            "warning",
            f"Participants were processed by {len(versions)} versions: "
            f"{', '.join(sorted(versions))}.",
            advice="Process all of them with one version before comparing groups.",
        )
    bvals = set(tables.scalars.get("max_bval", pd.Series(dtype=str))) - {MISSING}
    if len(bvals) > 1:
        shown = ", ".join(sorted(bvals, key=float))
        yield ReportWarning(
            "note",
            f"Scans differ in their largest b-value ({shown} s/mm^2).",
            advice="MD, AD and RD depend on it: model it, or compare within one protocol.",
        )


def render_group_page(
    tables: GroupTables,
    *,
    dataset: str,
    pages: Mapping[str, str] | None = None,
    groups: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Render the page of the group.

    Parameters
    ----------
    tables
        Tables to show.
    dataset
        Name of the dataset.
    pages
        Path of each participant's page, relative to this one, by participant with the prefix.
    groups
        Groups of each participant (:func:`~dmri_fm_workflows.group.by_group.read_groups`).

    Returns
    -------
    str
        HTML with everything inside. The same tables give the same bytes.
    """
    quality, scalars = tables.quality, tables.scalars
    measures = _measures(quality)
    flags = flag_scans(quality, measures, protocol=_protocols(quality, tables))
    drawn = [c for c in _DRAWN_MAPS if c in _measures(scalars)]
    protocols = _protocols(scalars, tables)
    map_flags = flag_scans(scalars, drawn, protocol=protocols)
    scales = {c: (1e3, "10⁻³ mm²/s") for c in drawn if "_md_" in c}
    sites = find_sites(groups or {})
    map_panels = _panels(
        scalars, drawn, map_flags, sites=sites, groups=protocols, titles=_map_titles(drawn),
        scales=scales,
    )  # fmt: skip
    warnings = [
        *_status_warnings(tables),
        *_weights_warnings(tables.features),
        *_protocol_warnings(tables),
        *warn_of_methods(quality),
        *warn_of_ratings(tables.ratings, quality),
    ]
    filled = [
        c
        for c in quality.columns
        if c not in SCAN_COLUMNS and (c == SCAN_ID or (quality[c] != MISSING).any())
    ]
    return _template().render(
        title="Group report: diffusion MRI",
        dataset=dataset,
        version=__version__,
        warnings=warnings,
        counts=count_levels(warnings),
        summary=_summary(tables, n_flagged=len({f.row for f in flags})),
        status=sorted(
            tables.status.to_dict("records"),
            key=lambda row: (list(_BADGES).index(row["status"]), row["participant_id"]),
        ),
        badges=_BADGES,
        links=dict(pages or {}),
        scan_links=[quote(_page_of(scan, pages or {})) for scan in quality[SCAN_ID]],
        columns=filled,
        rows=quality[filled].to_numpy().tolist(),
        flagged={(f.row, f.column): f.reason for f in flags},
        exclusions=tables.exclusions,
        exclusion_tables=tabulate_exclusions(tables.exclusions, tables.scans, groups or {}),
        methods=count_methods(quality),
        method_tables=tabulate_methods(quality, groups or {}),
        flags=_named(flags, quality),
        map_flags=_named(map_flags, scalars),
        hints=_hints(filled),
        words=(COMMENTS,),
        rule=_RULE,
        quality_chart=_shown(draw_panels(_panels(quality, measures, flags, sites=sites)), pages),
        maps_chart=_shown(draw_panels(map_panels), pages),
        has_sites=bool(sites),
        feature_charts=[
            (title, _shown(chart, pages))
            for features in tables.features
            for title, chart in _features_charts(features, tables, sites)
        ],
        files=_list_files(tables),
    )


def _list_files(tables: GroupTables) -> list[tuple[str, str, str, int]]:
    """Return name, name of the Parquet file, title and rows of every table."""
    return [
        (
            item.path().name,
            item.path(".parquet").name,
            load_catalogue().output_type(f"group_{item.type}").title + _suffix(item, tables),
            len(item.table),
        )
        for item in tables.listed
    ]


def _shown(chart: Chart, pages: Mapping[str, str] | None) -> dict[str, str]:
    """Return a drawing, and its points for the script of the page, as JSON."""
    points = {
        "panels": chart.panels,
        "names": list(chart.names),
        "links": [quote(_page_of(name, pages or {})) for name in chart.names],
    }
    return {"svg": Markup(chart.svg), "points": json.dumps(points, separators=(",", ":"))}


def _template() -> Template:
    loaders = [PackageLoader(f"dmri_fm_workflows.{folder}") for folder in ("group", "report")]
    environment = page_environment().overlay(loader=ChoiceLoader(loaders))
    return environment.get_template("group.html.j2")


def _summary(tables: GroupTables, *, n_flagged: int) -> tuple[Entry, ...]:
    status = Counter(tables.status["status"])
    return (
        Entry("Participants", str(len(tables.status))),
        *(Entry(word.capitalize(), str(status[word])) for word in _BADGES if status[word]),
        Entry("Scans with quality tables", str(len(tables.quality))),
        *(
            Entry(f"Scans with features{_suffix(f, tables)}", str(len(f.table)))
            for f in tables.features
        ),
        Entry("Scans with maps in template space", str(len(tables.scalars))),
        Entry("Scans that stand out", str(n_flagged)),
        *summarise_ratings(tables.ratings, tables.quality),
        *(
            [Entry("Scans excluded by quality rules", str(len(tables.exclusions.rule_of)))]
            if tables.exclusions.rules
            else []
        ),
    )


def find_pages(output_dir: str | Path, participants: Sequence[str]) -> dict[str, str]:
    """Return the pages that exist, relative to the group page, by participant.

    Pages of sessions also stand under the participant and session, `sub-01_ses-a`.
    """
    found: dict[str, str] = {}
    for participant in participants:
        for path in list_pages(output_dir, participant):
            found[path.stem] = f"../{path}"
            found.setdefault(participant, f"../{path}")
    return found


def _page_of(scan: str, pages: Mapping[str, str]) -> str:
    """Return the page of a scan's session, or of its participant; empty without one."""
    words = scan.split("_")
    return pages.get("_".join(words[:2])) or pages.get(words[0], "")
