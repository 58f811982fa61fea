"""What the features of a cohort go with: tables, heat maps and embeddings, from files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.cohort_vectors import (
    choose_columns,
    drop_missing,
    note_no_measures,
)
from dmri_fm_lab.prediction.correlations import correlate, draw_correlations, principal_components
from dmri_fm_lab.prediction.embedding import draw_embedding, embed
from dmri_fm_lab.scan_tables import (
    Cohort,
    count_reasons,
    join_people,
    listed,
    one_scan_each,
    read_people,
    read_scan_table,
)

#: Columns that are no variables.
_KEYS = ("participant_id", "session_id")

#: Sidecar of a table of correlations.
_ABOUT = {
    "Use": RESEARCH_ONLY,
    "feature": {"Description": "Dimension of the features, or PC<n>, a principal component"},
    "column": {"Description": "What is known of the scan or its participant"},
    "statistic": {"Description": "r: Pearson correlation; eta: correlation ratio of classes"},
    "value": {"Description": "Of the statistic"},
    "n": {"Description": "Scans"},
    "p": {"Description": "Two-sided p value"},
    "q": {"Description": "False discovery rate"},
}

#: False discovery rate up to which a correlation counts, and columns that are printed.
RATE, N_SHOWN = 0.05, 20


@dataclass(frozen=True)
class ExplainRequest:
    """Files and settings.

    Attributes
    ----------
    features
        Table of vectors.
    participants, sessions
        See :func:`dmri_fm_lab.scan_tables.read_people`.
    measures
        Tables of other measures of the same scans: regions, quality.
    columns
        Patterns of feature columns, each a set of its own; `cls` and `pooled`, or all, if empty.
    colours
        Columns by which embeddings are coloured.
    methods
        Of :data:`~dmri_fm_lab.prediction.embedding.METHODS`.
    n_components
        Principal components that are correlated and drawn.
    several
        What is done with several scans of a participant.
    seed
        Of UMAP.
    """

    features: Path
    participants: Path
    sessions: Path | None = None
    measures: tuple[Path, ...] = ()
    columns: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("pca",)
    n_components: int = 10
    several: Literal["first", "mean"] = "first"
    seed: int = 0


class Explanation(NamedTuple):
    """Text with tables, and the files that were written."""

    text: str
    paths: list[Path]


def explain_features(request: ExplainRequest, folder: Path) -> Explanation:
    """Correlate and draw the features of a cohort, one scan of each participant or session.

    Writes, for each set of features, `<set>_correlations.tsv` (all dimensions and components with
    all columns) with a sidecar, `<set>_correlations.png` (components), and
    `<set>_<method>_<column>.png`.

    Raises
    ------
    ConfigError
        If a column is unknown, or nothing can be correlated.
    InputError
        If a file cannot be used.
    OutputError
        If a file cannot be written.
    """
    people = read_people(request.participants, sessions=request.sessions)
    table = read_scan_table(request.features)
    cohort = join_people(table, people)
    columns = _add_measures(cohort, request.measures)
    if unknown := [c for c in request.colours if c not in columns]:
        raise ConfigError(
            f"no column {listed(unknown)}", expected=f"some of {listed(list(columns))}"
        )
    by = ["participant_id", *(["session_id"] if request.sessions else [])]
    parts, paths = [f"**{RESEARCH_ONLY}**"], []
    for name, own in choose_columns(list(table.values), request.columns).items():
        notes = note_no_measures(name, own, list(table.values))
        part = drop_missing(
            Cohort(cohort.people, cohort.values[own], cohort.left_out), name, notes
        )
        part = one_scan_each(part, by=by, how=request.several)
        described = columns.loc[part.people.index]
        stem = folder / name.replace("*", "").replace("/", "-").replace(" ", "-")
        text, written = _explain_set(part.values, described, stem, request)
        counts = [f"Not used: {n} ({r})." for r, n in count_reasons(part.left_out).items()]
        heading = f"## {name}: {part.values.shape[1]} dimensions of {len(part)} scans"
        parts += [heading, "\n".join([*counts, *(f"Note: {n}." for n in notes)]), text]
        paths += written
    if not paths:
        raise ConfigError(
            f"no column fits {listed(request.columns) or 'a measure'}",
            expected=listed(list(table.values)),
        )
    return Explanation("\n\n".join(p for p in parts if p), paths)


def _add_measures(cohort: Cohort, paths: Sequence[Path]) -> pd.DataFrame:
    """Return what is known of each scan: its participant's columns, and other tables' measures."""
    known = cohort.people.drop(columns=[c for c in _KEYS if c in cohort.people])
    for path in paths:
        values = read_scan_table(path).values
        if twice := [c for c in values if c in known]:
            raise ConfigError(
                f"column {listed(twice)} in two tables", path=path, expected="different names"
            )
        known = known.join(values)
    return known


def _explain_set(
    values: pd.DataFrame, columns: pd.DataFrame, stem: Path, request: ExplainRequest
) -> tuple[str, list[Path]]:
    scores, shares = principal_components(values.to_numpy(), request.n_components)
    names = [f"PC{k + 1}" for k in range(scores.shape[1])]
    components = pd.DataFrame(scores, columns=names, index=values.index)
    table, unused = correlate(components.join(values), columns)
    paths = [_write_table(table, stem.with_name(f"{stem.name}_correlations.tsv"))]
    figure = stem.with_name(f"{stem.name}_correlations.png")
    paths.append(draw_correlations(table, names, figure, q=RATE))
    for method in request.methods if request.colours else ():
        points, titles = embed(values.to_numpy(), method, seed=request.seed)
        for colour in request.colours:
            path = stem.with_name(f"{stem.name}_{method}_{colour}.png")
            paths.append(draw_embedding(points, titles, columns[colour], path))
    return _format(table, shares, unused), paths


def _write_table(table: pd.DataFrame, path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.6g")
        text = json.dumps(_ABOUT, indent=2) + "\n"
        path.with_suffix(".json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error})", path=path, expected="a folder that you may write to"
        ) from None
    return path


def _format(table: pd.DataFrame, shares: NDArray[np.float64], unused: Sequence[str]) -> str:
    """Return the strongest correlation of each column, and how many there are in all."""
    n_found = int((table["q"] <= RATE).sum())
    by_size = table.reindex(table["value"].abs().sort_values(ascending=False).index)
    strongest = by_size.drop_duplicates("column").head(N_SHOWN)
    lines = [["column", "feature", "statistic", "value", "n", "q"]]
    lines += [
        [r.column, r.feature, r.statistic, f"{r.value:.2f}", str(r.n), f"{r.q:.2g}"]
        for r in strongest.itertuples()
    ]
    share = ", ".join(f"{100 * s:.0f}" for s in shares[:5])
    sentences = [
        f"{n_found} of {len(table)} correlations have a false discovery rate of {RATE:g} or "
        f"less. The first components hold {share} % of the variance. The strongest of each of "
        f"{table['column'].nunique()} columns, {len(strongest)} shown:",
        markdown(lines),
    ]
    if unused:
        sentences.append(f"Columns that are not used: {listed(unused)}.")
    return "\n\n".join(sentences)
