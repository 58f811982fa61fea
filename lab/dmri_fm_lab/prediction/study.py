"""A study of scans: who has a scan and a target, in which folds, and whom the encoder has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.qspace import distinct_directions
from dmri_fm_lab.prediction.outcomes import Outcome
from dmri_fm_lab.prediction.splits import Fold, match_folds, read_splits
from dmri_fm_lab.prediction.targets import choose_classes
from dmri_fm_lab.qc_exclusions import read_exclusions
from dmri_fm_lab.scan_tables import (
    LeftOut,
    ScanTable,
    join_people,
    one_scan_each,
    read_people,
)
from dmri_fm_lab.train.dataset_cache import cache_scans, find_unusable
from dmri_fm_lab.train.runs import list_seen, load_encoder
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_lab.train.seen import Seen, find_seen


@dataclass(frozen=True)
class StudyFiles:
    """Scans, target and splits of a study.

    Attributes
    ----------
    derivatives
        Output folder of the app (or a raw dataset: scans are then registered affinely).
    participants
        `participants.tsv`, or a table like it.
    target
        Its column that is predicted.
    splits
        Folds, see :func:`dmri_fm_lab.prediction.splits.read_splits`.
    sessions
        A table with a row per session, whose columns replace those of `participants`.
    classes
        Negative and positive class; participants of others are left out. If empty, a target of
        text has its two values in order.
    """

    derivatives: Path
    participants: Path
    target: str
    splits: Path
    sessions: Path | None = None
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncoderSource:
    """Name in the registry, and weights in place of the packaged ones: a file or a run."""

    model: str = "drope"
    weights: Path | None = None
    pretraining: Path | None = None

    @property
    def source(self) -> str | Path:
        """What the weights come from."""
        return self.pretraining or self.weights or self.model

    def find_seen(self, scans: Mapping[str, CachedScan]) -> Seen:
        """Return the participants, of those with scans, whom the encoder was pretrained on."""
        hashes = list_seen(self.source, model=self.model)
        return find_seen(hashes, {p: str(scan.origin["file"]) for p, scan in scans.items()})

    def load(self) -> tuple[Drope, dict[str, Any]]:
        """Return the encoder and a description; errors as of :func:`load_encoder`."""
        return load_encoder(self.model, weights=self.weights, folder=self.pretraining)


class Study(NamedTuple):
    """Participants with a scan and a target, and their folds.

    Attributes
    ----------
    scans
        Name of the scan of each participant.
    outcome
        Target of each.
    folds
        Of these participants.
    left_out
        Scans and participants that are not used.
    """

    scans: dict[str, str]
    outcome: Outcome
    folds: list[Fold]
    left_out: tuple[LeftOut, ...]


def read_study(files: StudyFiles, scans: Sequence[str], unusable: Sequence[LeftOut] = ()) -> Study:
    """Join scans, by their names, with target and splits; one scan a participant, the first.

    `unusable` are scans that were left out before. Those that quality control excluded at the
    group level are left out here.

    Raises
    ------
    InputError
        If a file cannot be read, or no scan has a participant in the table or in the splits.
    ConfigError
        If there is no such target, or it is constant or of more than two classes.
    """
    excluded = read_exclusions(files.derivatives)
    unusable = [*unusable, *(excluded[name] for name in scans if name in excluded)]
    scans = [name for name in scans if name not in excluded]
    entities = [dict(part.split("-", 1) for part in name.split("_")) for name in scans]
    keys = pd.DataFrame(
        {
            "participant_id": [f"sub-{e['sub']}" for e in entities],
            "session_id": [f"ses-{e['ses']}" if "ses" in e else "n/a" for e in entities],
        },
        index=pd.Index(scans, name="scan_id"),
    )
    table = ScanTable(keys, pd.DataFrame(index=keys.index), source=files.derivatives)
    cohort = join_people(table, read_people(files.participants, sessions=files.sessions))
    cohort = one_scan_each(cohort.complete([files.target]), how="first")
    cohort = choose_classes(cohort, files.target, files.classes)
    folds, unmatched = match_folds(read_splits(files.splits), cohort.people["participant_id"])
    own = cohort.people.reset_index().set_index("participant_id")
    used = own.loc[[p for p in own.index if any(p in f.train | f.val | f.test for f in folds)]]
    outcome = Outcome.of(used[files.target], classes=files.classes)
    return Study(
        dict(zip(used.index, used["scan_id"], strict=True)),
        outcome,
        folds,
        (*unusable, *cohort.left_out, *unmatched),
    )


def read_series(
    derivatives: Path, cache: Path, encoder: Drope, *, fewest_directions: int = 1
) -> tuple[dict[str, CachedScan], list[LeftOut]]:
    """Return the series on an encoder's grid by name, and those that cannot be used.

    Parameters
    ----------
    derivatives
        See :class:`StudyFiles`.
    cache
        Folder of the scans, which are laid on the grid once.
    encoder
        Its grid counts.
    fewest_directions
        Fewest distinct directions of a series that is used.

    Raises InputError if no series can be laid on the grid.
    """
    cached = cache_scans(derivatives, cache, encoder.config.grid, prefers_template=True)
    enough = [len(distinct_directions(s.gtab)) >= fewest_directions for s in cached]
    few = [
        LeftOut(s.name, f"fewer than {fewest_directions} directions")
        for s, is_usable in zip(cached, enough, strict=True)
        if not is_usable
    ]
    few += find_unusable(derivatives, [s.name for s in cached])
    return {s.name: s for s, is_usable in zip(cached, enough, strict=True) if is_usable}, few
