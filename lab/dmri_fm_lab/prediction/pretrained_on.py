"""Participants of a table of features whom the encoder's weights were pretrained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dmri_fm.errors import InputError, WeightsError
from dmri_fm.identity import ENCODERS
from dmri_fm.participants import PARTICIPANTS, hash_participant, seen_participants
from dmri_fm.registry import load_weights
from dmri_fm.weights import Weights
from dmri_fm_lab.scan_tables import read_cells
from dmri_fm_lab.scans import study_name

#: Column of a table of features that says which weights made a row.
WEIGHTS_COLUMN = "weights_sha256"


class SeenParticipants(NamedTuple):
    """Participants whom weights have seen, with their prefix, and what is known, in words."""

    participants: frozenset[str]
    note: str


def find_seen_participants(
    path: Path,
    participants: Iterable[str],
    *,
    weights: Path | None = None,
    dataset: Path | None = None,
) -> SeenParticipants:
    """Compare the participants of a table of features with those its weights list.

    Parameters
    ----------
    path
        Table of features, of the app's group level or any other.
    participants
        With their prefix.
    weights
        A `.safetensors` file, besides the shipped ones.
    dataset
        The raw dataset or the app's output, which has the dataset's name; if None, the folder
        above that of the table.

    Raises
    ------
    WeightsError
        If `weights` cannot be used.
    InputError
        If `dataset` is given and has no name.
    """
    cells = read_cells(path) if path.suffix != ".npz" else None
    if cells is None or WEIGHTS_COLUMN not in cells:
        return _unknown(path, f"has no column {WEIGHTS_COLUMN}")
    used = set(cells[WEIGHTS_COLUMN].astype(str))
    known = {own.sha256: own for own in _list_weights(weights)}
    if strange := sorted(used - known.keys()):
        return _unknown(path, f"weights {strange[0][:12]} are not at hand (give --weights)")
    if not any(PARTICIPANTS in known[sha].training for sha in used):
        return SeenParticipants(
            frozenset(), f"{path.name}: its weights were pretrained on no listed participant"
        )
    try:
        name = study_name(dataset or path.parent.parent)
    except InputError:
        if dataset is not None:
            raise
        return _unknown(path, "no dataset_description.json above it (give --dataset)")
    hashes = frozenset[str]().union(*(seen_participants(known[sha]) for sha in used))
    seen = frozenset(p for p in participants if hash_participant(name, p) in hashes)
    return SeenParticipants(
        seen, f"{path.name}: {len(seen)} participants were among those of the pretraining"
    )


def _unknown(path: Path, why: str) -> SeenParticipants:
    return SeenParticipants(
        frozenset(), f"{path.name}: whom its weights were pretrained on is unknown: {why}"
    )


def _list_weights(weights: Path | None) -> list[Weights]:
    """Return weights of encoders that ship, and those that are given."""
    found = [] if weights is None else [load_weights(weights)]
    for name in ENCODERS:
        try:
            found.append(load_weights(name))
        except WeightsError:  # ships without weights
            continue
    return found
