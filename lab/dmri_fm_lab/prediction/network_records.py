"""Records and files of networks that were trained fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmri_fm import __version__
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.prediction.fold_training import NetworkRun
from dmri_fm_lab.prediction.metrics import SCORES, TITLES, Summary, format_summary, summarise
from dmri_fm_lab.prediction.outcomes import Outcome
from dmri_fm_lab.prediction.splits import Fold, find_overlap
from dmri_fm_lab.scan_tables import LeftOut, count_reasons
from dmri_fm_workflows.outputs.publish import publish_json, publish_text
from dmri_fm_workflows.outputs.tsv import format_table

#: Files in the folder of a run.
PREDICTIONS, RECORD = "predictions.tsv", "scores.json"

#: Columns of the table of predictions.
COLUMNS = ("fold", "participant_id", "observed", "predicted", "pretrained_on", "use")


def describe_run(
    run: NetworkRun, outcome: Outcome, folds: Sequence[Fold], left_out: Sequence[LeftOut]
) -> dict[str, Any]:
    """Return the record of a run.

    Returns
    -------
    dict
        `target`, `task`, `classes`; `summary`: mean, deviation over folds and number of folds of
        each score; `folds`: as of :class:`.fold_training.NetworkRun`; `splits`: overlap of the
        test sets; `left_out`: counts by reason, and names.
    """
    names = SCORES[outcome.task]
    summary = {n: summarise([fold["scores"][n] for fold in run.folds])._asdict() for n in names}
    return {
        "use": RESEARCH_ONLY,
        "version": __version__,
        "target": outcome.name,
        "task": outcome.task,
        "classes": list(outcome.classes),
        "n_participants": len({p for fold in folds for p in fold.train | fold.val | fold.test}),
        "splits": str(find_overlap(folds)),
        "selection": "lowest validation loss" if all(f.val for f in folds) else "last epoch",
        "summary": summary,
        "folds": run.folds,
        "left_out": {
            "counts": count_reasons(left_out),
            "names": [item._asdict() for item in left_out],
        },
    }


def write_run(
    folder: Path, record: dict[str, Any], run: NetworkRun, *, seen: frozenset[str] | None
) -> None:
    """Write the record and the predictions of the test sets to a folder.

    Raises OutputError if a file cannot be written.
    """
    rows = [
        {
            **row,
            "pretrained_on": None if seen is None else row["participant_id"] in seen,
            "use": RESEARCH_ONLY,
        }
        for row in run.predictions
    ]
    publish_text(format_table(rows, COLUMNS), folder / PREDICTIONS)
    publish_json(record, folder / RECORD)


def format_run(record: dict[str, Any]) -> str:
    """Return the scores of a record as text, one line each, under what was scored."""
    lines = [
        f"{record['target']} ({record['task']}), {record['n_participants']} participants, "
        f"{record['splits']}; selection: {record['selection']}"
    ]
    for name, summary in record["summary"].items():
        cell = format_summary(name, Summary(**summary))
        lines.append(f"{TITLES[name]:<12} {cell}")
    for reason, n in record["left_out"]["counts"].items():
        lines.append(f"left out: {n}, {reason}")
    if record.get("pretrained_on"):
        lines.append(f"{len(record['pretrained_on'])} participants were seen in pretraining")
    lines.append(record["use"])
    return "\n".join(lines)
