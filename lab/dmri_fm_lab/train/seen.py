"""Participants whom a network was trained on: known by the hashes that its weights list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dmri_fm.errors import InputError
from dmri_fm_lab.scans import hash_participant_of, list_participants
from dmri_fm_lab.train.runs import list_seen


class Seen(NamedTuple):
    """Participants whom weights have seen.

    Attributes
    ----------
    participants
        Those of them, as the caller names them.
    unknown
        Why nobody can tell; empty: it is known.
    """

    participants: frozenset[str] = frozenset()
    unknown: str = ""


def find_seen(hashes: frozenset[str] | None, paths: Mapping[str, str | Path]) -> Seen:
    """Compare participants with the hashes that weights list.

    Parameters
    ----------
    hashes
        See :func:`~dmri_fm_lab.train.runs.list_seen`; None: the weights list nobody, though they
        may have seen real scans.
    paths
        By participant, a path below the folder `sub-<label>` of the dataset.
    """
    if hashes is None:
        return Seen(unknown="the weights list no participants, so that some may have been seen")
    if not hashes:
        return Seen()
    try:
        hashed = {name: hash_participant_of(path) for name, path in paths.items()}
    except InputError as error:
        return Seen(unknown=f"no dataset whose name could be compared ({error})")
    return Seen(frozenset(name for name, own in hashed.items() if own in hashes))


def find_seen_of_dataset(
    bids: Path,
    source: str | Path,
    *,
    model: str,
    participant_labels: Sequence[str] | None = None,
) -> Seen:
    """Return the labels of a dataset's participants that a network was trained on.

    Parameters
    ----------
    bids, participant_labels
        See :func:`dmri_fm_lab.scans.find_scans`.
    source
        Weights (.safetensors), folder of a pretraining run, or the name of shipped weights.
    model
        Name in the registry.

    Raises
    ------
    LayoutError, InputError
        If the dataset cannot be read.
    WeightsError
        If the weights, or the checkpoint of the run, cannot be used.
    """
    hashes = list_seen(source, model=model)
    if not hashes:
        return find_seen(hashes, {})
    labels = list_participants(bids, participant_labels=participant_labels)
    return find_seen(hashes, {label: bids / f"sub-{label}" / "dwi" for label in labels})
