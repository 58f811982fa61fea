"""Methods compared over one set of splits: the published tables of downstream tasks, on own data.

Every method predicts for the same participants: those that all methods can use. A row that is
done is kept, and computed again only if what it depends on has changed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmri_fm import __version__
from dmri_fm.errors import ConfigError, InputError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.json_files import read_object
from dmri_fm_lab.feature_cache import FeatureCache, digest
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.cohort_vectors import VectorRequest, choose_columns, gather_vectors
from dmri_fm_lab.prediction.compare_request import CompareRequest, Row
from dmri_fm_lab.prediction.finetune import Finetuning, finetune
from dmri_fm_lab.prediction.finetune_scans import ViewSettings
from dmri_fm_lab.prediction.heads import HeadSettings
from dmri_fm_lab.prediction.image_networks import (
    DEFAULT_SETTINGS,
    SIZES,
    ImageTraining,
    train_image_network,
)
from dmri_fm_lab.prediction.image_samples import find_maps
from dmri_fm_lab.prediction.metrics import TITLES, TaskType, format_summary, summarise
from dmri_fm_lab.prediction.outcomes import Outcome
from dmri_fm_lab.prediction.presets import Preset, find_preset
from dmri_fm_lab.prediction.probe import ProbeSettings, run_probe
from dmri_fm_lab.prediction.published import PUBLISHED, check_published
from dmri_fm_lab.prediction.rish import rish_table
from dmri_fm_lab.prediction.splits import Fold, find_overlap, read_splits, write_splits
from dmri_fm_lab.prediction.study import Study, StudyFiles, read_series, read_study
from dmri_fm_lab.qc_exclusions import read_exclusions
from dmri_fm_lab.scan_tables import (
    LeftOut,
    ScanTable,
    count_reasons,
    listed,
    read_people,
    read_scan_table,
)
from dmri_fm_lab.train.loop import Hardware
from dmri_fm_lab.train.scan_cache import SCANS, CachedScan
from dmri_fm_workflows.outputs.publish import publish_json, publish_text

logger = logging.getLogger(__name__)

#: Scores of the table: those of tables 3 and 4 of the publication.
COLUMNS: dict[TaskType, tuple[str, ...]] = {
    "regression": ("rho", "mse"),
    "classification": ("acc", "balanced_accuracy", "auprc", "auroc"),
}

#: Scores of each fold, by name.
Scores = dict[str, list[float]]


@dataclass(frozen=True)
class Prepared:
    """A row whose input has been found.

    Attributes
    ----------
    row
        The method.
    scans
        Names of the scans that it can use.
    left_out
        Scans that it cannot use.
    state
        What the row's result depends on, beside splits, target and the version of the code: input
        files and settings, defaults and presets resolved.
    run
        Takes the study with the common splits, and a folder; returns scores by fold.
    """

    row: Row
    scans: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    state: Any
    run: Callable[[StudyFiles, Path], Scores]


def compare(request: CompareRequest, folder: Path) -> dict[str, Any]:
    """Run the methods of a comparison; rows that are done are not repeated.

    The folder then holds `splits.tsv` (of the common participants), `compare.json`, `compare.md`,
    and a folder or file for each row.

    Returns
    -------
    dict
        `rows`, each with its titles, `scores` by fold and `summary`; who was left out; `published`
        rows if asked for.

    Raises
    ------
    ConfigError, InputError, WeightsError
        If files or settings cannot be used, no participant can be used by all methods, or the
        published task is of another type than the target.
    """
    prepared = [_prepare(row, request, folder) for row in request.rows]
    files, folds, outcome, left_out = _common_study(request, prepared, folder)
    if request.published:
        check_published(request.published, outcome.name, outcome.task)
    common = [fold.name for fold in folds], [sorted(f.train) + sorted(f.test) for f in folds]
    excluded = sorted(read_exclusions(request.files.derivatives))
    rows = []
    for one in prepared:
        key = digest(
            __version__, one.row.kind, repr(sorted(one.row.options.items())), one.state, *common,
            [sorted(f.val) for f in folds], dict(outcome.values), request.seed, excluded,
        )  # fmt: skip
        scores = _cached(folder / "rows" / f"{key}.json", one, files, folder / f"run-{key}")
        summary = {name: summarise(own)._asdict() for name, own in scores.items()}
        rows.append({**one.row.titles, "scores": scores, "summary": summary})
    record = {
        "use": RESEARCH_ONLY,
        "target": outcome.name,
        "task": outcome.task,
        "classes": list(outcome.classes),
        "n_participants": len({p for f in folds for p in f.train | f.val | f.test}),
        "splits": str(find_overlap(folds)),
        "left_out": {
            "counts": count_reasons(left_out),
            "names": [item._asdict() for item in left_out],
        },
        "rows": rows,
        "published": [row._asdict() for row in PUBLISHED[request.published]]
        if request.published
        else [],
    }
    publish_json(record, folder / "compare.json")
    publish_text(format_comparison(record) + "\n", folder / "compare.md")
    return record


def format_comparison(record: Mapping[str, Any]) -> str:
    """Return the table of a comparison as markdown, in the form of the published ones."""
    names = COLUMNS[record["task"]]
    header = ["Method", "Features", "Head", "Supervision", *(TITLES[n] for n in names)]
    lines = [header]
    for row in record["rows"]:
        cells = [format_summary(n, summarise(row["scores"][n])) for n in names]
        titles = [row[name] for name in ("method", "features", "head", "supervision")]
        lines.append([*titles, *cells])
    for row in record["published"]:
        cells = [format_summary(n, row["scores"][n]) if n in row["scores"] else "-" for n in names]
        lines.append([f"published: {row['method']}", "", row["head"], "", *cells])
    what = f"{record['target']}, {record['n_participants']} participants, {record['splits']}."
    left_out = [f"Left out: {n} ({why})." for why, n in record["left_out"]["counts"].items()]
    note = (
        ["Published rows are of other participants: they are no baseline here."]
        if record["published"]
        else []
    )
    return "\n\n".join([f"**{record['use']}**", what, *left_out, markdown(lines), *note])


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


def _prepare(row: Row, request: CompareRequest, folder: Path) -> Prepared:
    match row.kind:
        case "table":
            return _prepare_table(row, request)
        case "rish":
            return _prepare_rish(row, request, folder)
        case "network":
            return _prepare_network(row, request, folder)
        case "finetune":
            return _prepare_finetune(row, request, folder)


def _prepare_table(row: Row, request: CompareRequest) -> Prepared:
    path = Path(row.options["table"])
    table = read_scan_table(path)
    patterns = row.options.get("columns", [])
    found = choose_columns(list(map(str, table.values)), patterns)
    # Without patterns the first set counts: the class token, as published, where there is one.
    sets = list(found.values()) if patterns else list(found.values())[:1]
    columns = list(dict.fromkeys(c for own in sets for c in own))
    if not columns:
        raise ConfigError(
            f"no column of {path.name} fits {listed(patterns) or 'a measure'}",
            expected=f"patterns of {listed(list(map(str, table.values)))}",
        )
    return _prepare_vectors(row, table.select(columns), request)


def _prepare_rish(row: Row, request: CompareRequest, folder: Path) -> Prepared:
    cache = FeatureCache(folder / SCANS / "rish")
    return _prepare_vectors(row, rish_table(request.files.derivatives, cache=cache), request)


def _prepare_vectors(row: Row, table: ScanTable, request: CompareRequest) -> Prepared:
    excluded = read_exclusions(request.files.derivatives)
    marked = tuple(excluded[s] for s in table.values.index if s in excluded)
    kept = ~table.values.index.isin(list(excluded))
    table = replace(table, scans=table.scans[kept], values=table.values[kept])
    usable = table.values.notna().all(axis=1)
    lacking = [LeftOut(str(s), "a missing value in the table") for s in usable.index[~usable]]
    defaults = HeadSettings("regression", seed=request.seed)

    def run(files: StudyFiles, _: Path) -> Scores:
        people = read_people(files.participants, sessions=files.sessions)
        asked = VectorRequest(files.target, files.classes, columns=("*",))
        cohort = gather_vectors({row.title: table}, people, asked)
        settings = replace(
            defaults, task=cohort.task, is_weighted=row.options.get("is_weighted", False)
        )
        heads = ProbeSettings((row.options["head"],), settings)
        (found,) = run_probe(cohort, read_splits(files.splits), heads)
        return found.scores

    values = table.values[usable]
    state = [list(map(str, values)), values.to_numpy(), defaults]
    left_out = (*table.left_out, *marked, *lacking)
    return Prepared(row, tuple(map(str, values.index)), left_out, state, run)


def _prepare_network(row: Row, request: CompareRequest, folder: Path) -> Prepared:
    options = dict(row.options)
    own = {k: options.pop(k) for k in ("size", "maps", "n_directions", "n_views") if k in options}
    name = options.pop("network")
    training = ImageTraining(
        name,
        encoder=request.encoder,
        settings=replace(DEFAULT_SETTINGS, **options, seed=request.seed),
        hardware=Hardware(request.accelerator),
        cache=folder / SCANS,
        **own,
    )

    def run(files: StudyFiles, out: Path) -> Scores:
        return _scores_of(train_image_network(out, files, training))

    encoder, origin = request.encoder.load()
    resolved = [
        repr(sorted(origin.items())), training.settings, training.hardware, training.maps,
        training.n_directions, training.n_views, SIZES[training.size],
    ]  # fmt: skip
    if name != "vit-raw":
        maps, lacking = find_maps(request.files.derivatives, model=training.maps)
        state = [
            [str(p), p.stat().st_size, p.stat().st_mtime_ns] for m in maps.values() for p in m
        ]
        return Prepared(row, tuple(maps), tuple(lacking), [state, resolved], run)
    scans, few = read_series(
        request.files.derivatives, folder / SCANS, encoder, fewest_directions=training.n_directions
    )
    return Prepared(row, tuple(scans), tuple(few), [_origins(scans), resolved], run)


def _prepare_finetune(row: Row, request: CompareRequest, folder: Path) -> Prepared:
    options = dict(row.options)
    preset = find_preset(options.pop("finetune"))
    views = {k: options.pop(k) for k in ("n_directions", "slab_slices", "n_views") if k in options}
    changed: Preset = preset.replaced(**options, seed=request.seed)
    asked = Finetuning(
        request.encoder,
        changed.tuning,
        changed.settings,
        ViewSettings(**views),
        Hardware(request.accelerator),
        cache=folder / SCANS,
    )
    encoder, origin = request.encoder.load()
    scans, few = read_series(request.files.derivatives, folder / SCANS, encoder)
    return Prepared(
        row,
        tuple(scans),
        tuple(few),
        [
            _origins(scans), repr(sorted(origin.items())),
            asked.tuning, asked.settings, asked.views, asked.hardware,
        ],
        lambda files, out: _scores_of(finetune(out, files, asked)),
    )  # fmt: skip


def _origins(scans: Mapping[str, CachedScan]) -> list[dict[str, Any]]:
    """Return the state of the files of scans: results are kept while it is the same."""
    return [dict(scan.origin) for scan in scans.values()]


def _scores_of(record: Mapping[str, Any]) -> Scores:
    names = record["folds"][0]["scores"]
    return {name: [fold["scores"][name] for fold in record["folds"]] for name in names}
