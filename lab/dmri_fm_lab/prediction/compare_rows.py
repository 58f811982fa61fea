"""Rows of a comparison, prepared: which scans a method can use, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm_lab.feature_cache import FeatureCache
from dmri_fm_lab.prediction.cohort_vectors import VectorRequest, feature_sets, gather_vectors
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
from dmri_fm_lab.prediction.presets import Preset, find_preset
from dmri_fm_lab.prediction.pretrained_on import find_seen_of_table
from dmri_fm_lab.prediction.probe import ProbeSettings, run_probe
from dmri_fm_lab.prediction.rish import rish_table
from dmri_fm_lab.prediction.splits import read_splits
from dmri_fm_lab.prediction.study import StudyFiles, read_series
from dmri_fm_lab.qc_exclusions import read_exclusions
from dmri_fm_lab.scan_tables import LeftOut, ScanTable, listed, read_people, read_scan_table
from dmri_fm_lab.table_selection import choose_columns
from dmri_fm_lab.train.dataset_cache import SCANS
from dmri_fm_lab.train.loop import Hardware
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_lab.train.seen import Seen

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
    seen
        Participants whom its weights were pretrained on; None: there is no pretraining.
    """

    row: Row
    scans: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    state: Any
    run: Callable[[StudyFiles, Path], Scores]
    seen: Seen | None = None


def prepare(row: Row, request: CompareRequest, folder: Path) -> Prepared:
    """Find the input of a row.

    Raises
    ------
    ConfigError, InputError, WeightsError
        If its files, settings or weights cannot be used.
    """
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
    known = list(map(str, table.values))
    columns = choose_columns(patterns, known, where=path.name)
    if not patterns:
        # The first set counts: the class token, as published, where there is one.
        columns = next(iter(feature_sets(known, ()).values()), [])
    if not columns:
        raise ConfigError(
            f"no column of {path.name} is a measure", expected=f"some of {listed(known)}"
        )
    seen = find_seen_of_table(
        path,
        table.scans["participant_id"],
        dataset=request.files.derivatives,
        weights=request.encoder.weights,
    )
    return replace(_prepare_vectors(row, table.select(columns), request), seen=seen)


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
    scans = tuple(map(str, values.index))
    state = [list(map(str, values)), list(scans), values.to_numpy(), defaults]
    left_out = (*table.left_out, *marked, *lacking)
    return Prepared(row, scans, left_out, state, run)


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
        request.encoder.find_seen({name.split("_")[0]: scan for name, scan in scans.items()}),
    )  # fmt: skip


def _origins(scans: Mapping[str, CachedScan]) -> list[dict[str, Any]]:
    """Return the state of the files of scans: results are kept while it is the same."""
    return [dict(scan.origin) for scan in scans.values()]


def _scores_of(record: Mapping[str, Any]) -> Scores:
    names = record["folds"][0]["scores"]
    return {name: [fold["scores"][name] for fold in record["folds"]] for name in names}
