"""Participants of a dataset that a network was trained on: an evaluation must not use them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dmri_fm.errors import InputError
from dmri_fm.participants import hash_participant
from dmri_fm_lab.scans import list_participants, study_name
from dmri_fm_lab.train.runs import list_seen

logger = logging.getLogger(__name__)


def find_seen(
    bids: Path,
    source: str | Path,
    *,
    model: str,
    participant_labels: Sequence[str] | None = None,
) -> frozenset[str]:
    """Return the labels of a dataset's participants that a network was trained on.

    Weights and runs of earlier versions, which list no participants, get a warning: nobody knows.

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
    if hashes is None:
        logger.warning("%s: lists no participants; some here may have been seen", source)
        return frozenset()
    if not hashes:
        return frozenset()
    try:
        name = study_name(bids)
    except InputError as error:
        logger.warning("participants cannot be compared with those seen: %s", error)
        return frozenset()
    labels = list_participants(bids, participant_labels=participant_labels)
    return frozenset(label for label in labels if hash_participant(name, label) in hashes)
