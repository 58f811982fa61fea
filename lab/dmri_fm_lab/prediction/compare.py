"""Methods compared over one set of splits: the published tables of downstream tasks, on own data.

Every method predicts for the same participants: those that all methods can use. A row that is
done is kept, and computed again only if what it depends on has changed. Each row is compared with
the first.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dmri_fm import __version__
from dmri_fm.errors import InputError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.json_files import read_object
from dmri_fm_lab.feature_cache import digest
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.compare_folds import (
    Comparison,
    compare_pairs,
    format_comparisons,
    undefined_notes,
)
from dmri_fm_lab.prediction.compare_request import CompareRequest
from dmri_fm_lab.prediction.compare_rows import Prepared, Scores, prepare
from dmri_fm_lab.prediction.metrics import TITLES, TaskType, format_summary, summarise
from dmri_fm_lab.prediction.outcomes import Outcome
from dmri_fm_lab.prediction.pretrained_on import record_seen
from dmri_fm_lab.prediction.published import PUBLISHED, check_published
from dmri_fm_lab.prediction.splits import Fold, find_overlap, read_splits, write_splits
from dmri_fm_lab.prediction.study import Study, StudyFiles, read_study
from dmri_fm_lab.qc_exclusions import read_exclusions
from dmri_fm_lab.scan_tables import LeftOut, count_reasons, listed
from dmri_fm_workflows.outputs.publish import publish_json, publish_text

logger = logging.getLogger(__name__)

#: Scores of the table: those of tables 3 and 4 of the publication.
COLUMNS: dict[TaskType, tuple[str, ...]] = {
    "regression": ("rho", "mse"),
    "classification": ("acc", "balanced_accuracy", "auprc", "auroc"),
}


class CompareResult(NamedTuple):
    """A comparison: record for JSON, and text with markdown tables."""

    record: dict[str, Any]
    text: str


@dataclass(frozen=True)
class _Done:
    """A row that has been run: its title, and scores by fold."""

    title: str
    scores: Scores


def compare(request: CompareRequest, folder: Path) -> CompareResult:
    """Run the methods of a comparison; rows that are done are not repeated.

    The folder then holds `splits.tsv` (of the common participants), `compare.json`, `compare.md`,
    and a folder or file for each row.

    Returns
    -------
    CompareResult
        The record has `rows`, each with its titles, `scores` by fold, `summary`, and whom of the
        participants its weights were `pretrained_on`; `comparisons` of each row with the first;
        who was left out; `published` rows if asked for.

    Raises
    ------
    ConfigError, InputError, WeightsError
        If files or settings cannot be used, no participant can be used by all methods, or the
        published task is of another type than the target.
    """
    prepared = [prepare(row, request, folder) for row in request.rows]
    files, folds, outcome, left_out = _common_study(request, prepared, folder)
    if request.published:
        check_published(request.published, outcome.name, outcome.task)
    common = [fold.name for fold in folds], [sorted(f.train) + sorted(f.test) for f in folds]
    excluded = sorted(read_exclusions(request.files.derivatives))
    used = frozenset(p for f in folds for p in f.train | f.val | f.test)
    rows, done = [], []
    for one in prepared:
        key = digest(
            __version__, one.row.kind, repr(sorted(one.row.options.items())), one.state, *common,
            [sorted(f.val) for f in folds], dict(outcome.values), request.seed, excluded,
        )  # fmt: skip
        scores = _cached(folder / "rows" / f"{key}.json", one, files, folder / f"run-{key}")
        summary = {name: summarise(own)._asdict() for name, own in scores.items()}
        pretrained_on = None
        if one.seen is not None:
            own = one.seen._replace(participants=one.seen.participants & used)
            pretrained_on = record_seen(one.row.title, own)
        about = {"scores": scores, "summary": summary, "pretrained_on": pretrained_on}
        rows.append({**one.row.titles, **about})
        done.append(_Done(one.row.title, scores))
    comparisons = compare_pairs([(row, done[0]) for row in done[1:]], folds, outcome.task)
    record = {
        "use": RESEARCH_ONLY,
        "target": outcome.name,
        "task": outcome.task,
        "classes": list(outcome.classes),
        "n_participants": len(used),
        "splits": str(find_overlap(folds)),
        "left_out": {
            "counts": count_reasons(left_out),
            "names": [item._asdict() for item in left_out],
        },
        "rows": rows,
        "comparisons": [c.describe() for c in comparisons],
        "published": [row._asdict() for row in PUBLISHED[request.published]]
        if request.published
        else [],
    }
    publish_json(record, folder / "compare.json")
    undefined = [n for row in done for n in undefined_notes(row, folds, COLUMNS[outcome.task])]
    text = _format(record, comparisons, undefined)
    publish_text(text + "\n", folder / "compare.md")
    return CompareResult(record, text)


def _format(
    record: Mapping[str, Any], comparisons: Sequence[Comparison], undefined: Sequence[str]
) -> str:
    """Return the table of a comparison as markdown, in the form of the published ones."""
    names = COLUMNS[record["task"]]
    header = ["Method", "Features", "Head", "Supervision", *(TITLES[n] for n in names), "Seen"]
    lines = [header]
    for row in record["rows"]:
        cells = [format_summary(n, summarise(row["scores"][n])) for n in names]
        titles = [row[name] for name in ("method", "features", "head", "supervision")]
        lines.append([*titles, *cells, _count_seen(row["pretrained_on"])])
    for row in record["published"]:
        cells = [format_summary(n, row["scores"][n]) if n in row["scores"] else "-" for n in names]
        lines.append([f"published: {row['method']}", "", row["head"], "", *cells, "-"])
    what = f"{record['target']}, {record['n_participants']} participants, {record['splits']}."
    left_out = [
        f"Left out: {n} ({why}): {listed(_named(record['left_out']['names'], why))}."
        for why, n in record["left_out"]["counts"].items()
    ]
    notes = [
        "Seen: participants whose scans, without labels, were among those of the pretraining of "
        "the row's weights; -: nothing was pretrained."
    ]
    if record["published"]:
        notes.append("Published rows are of other participants: they are no baseline here.")
    notes += undefined
    known = [row["pretrained_on"] for row in record["rows"] if row["pretrained_on"]]
    notes += [f"Note: {one['note']}." for one in known if one["participants"] != []]
    tests = format_comparisons(comparisons, record["task"])
    parts = [f"**{record['use']}**", what, *left_out, markdown(lines), *notes, tests]
    return "\n\n".join(part for part in parts if part)


def _named(left_out: Sequence[Mapping[str, str]], reason: str) -> list[str]:
    return [item["name"] for item in left_out if item["reason"] == reason]


def _count_seen(pretrained_on: Mapping[str, Any] | None) -> str:
    if pretrained_on is None:
        return "-"
    names = pretrained_on["participants"]
    return "unknown" if names is None else str(len(names))


def _common_study(
    request: CompareRequest, prepared: Sequence[Prepared], folder: Path
) -> tuple[StudyFiles, list[Fold], Outcome, list[LeftOut]]:
    """Write the splits of the participants that all methods can use."""
    studies = [read_study(request.files, one.scans, one.left_out) for one in prepared]
    common = set.intersection(*(set(study.scans) for study in studies))
    titles = [one.row.title for one in prepared]
    left_out = join_reasons(dict(zip(titles, map(_reasons, studies), strict=True)))
    if not common:
        raise InputError(
            "no participant can be used by all methods: "
            + listed([f"{t}: {len(s.scans)}" for t, s in zip(titles, studies, strict=True)]),
            expected="participants with tables, maps and series",
        )
    folds = [fold.restrict(common) for fold in read_splits(request.files.splits)]
    files = replace(request.files, splits=write_splits(folds, folder / "splits.tsv"))
    outcome = replace(
        studies[0].outcome,
        values={p: v for p, v in studies[0].outcome.values.items() if p in common},
    )
    return files, folds, outcome, left_out


def _reasons(study: Study) -> dict[str, str]:
    """Return the first reason of each participant who is not used."""
    found: dict[str, str] = {}
    for item in study.left_out:
        participant = item.name.split("_")[0]
        if participant not in study.scans:
            found.setdefault(participant, item.reason)
    return found


def join_reasons(by_method: Mapping[str, Mapping[str, str]]) -> list[LeftOut]:
    """Return one reason for each participant whom a method cannot use.

    Parameters
    ----------
    by_method
        Reason by participant, by title of the method.

    Returns
    -------
    list of LeftOut
        In order of the participants. A reason of some methods is followed by their titles.

    Examples
    --------
    >>> found = join_reasons({"A": {"sub-1": "x", "sub-2": "x"}, "B": {"sub-1": "x"}})
    >>> [tuple(item) for item in found]
    [('sub-1', 'x'), ('sub-2', 'x (A)')]
    """
    found = []
    for participant in sorted(set().union(*by_method.values())):
        titles: dict[str, list[str]] = {}
        for title, reasons in by_method.items():
            if participant in reasons:
                titles.setdefault(reasons[participant], []).append(title)
        parts = [
            reason if len(own) == len(by_method) else f"{reason} ({'; '.join(own)})"
            for reason, own in titles.items()
        ]
        found.append(LeftOut(participant, "; ".join(parts)))
    return found


def _cached(path: Path, one: Prepared, files: StudyFiles, folder: Path) -> Scores:
    if path.is_file():
        logger.info("%s: done before", one.row.title)
    else:
        logger.info("%s", one.row.title)
        publish_json({"titles": dict(one.row.titles), "scores": one.run(files, folder)}, path)
    stored: dict[str, list[Any]] = read_object(path)["scores"]
    return {
        name: [v if isinstance(v, int | float) else math.nan for v in own]
        for name, own in stored.items()
    }
