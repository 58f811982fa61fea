"""Hashes of participants: weights list whom they were pretrained on without spelling out labels.

The same dataset's name and participant's label give the same hash everywhere, so an evaluation
can tell whether a network was trained on its participants. Somebody who knows a dataset's name can
still find its participants among the hashes, by trying labels.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from dmri_fm.errors import InputError, WeightsError
from dmri_fm.json_files import read_object

if TYPE_CHECKING:
    from dmri_fm.weights import Weights

#: Entry of the `training` of weights: a sorted list of hashes.
PARTICIPANTS = "participants"

#: Start of what is hashed, so that the hashes are not those of other programs.
_SALT = "drope-bidsapp participant"

_HASH = re.compile("[0-9a-f]{64}")


def hash_participant(dataset_name: str, label: str) -> str:
    """Return the hash of a participant.

    Parameters
    ----------
    dataset_name
        `Name` in the `dataset_description.json` of the raw dataset, see
        :func:`read_dataset_name`. Spaces around it do not matter.
    label
        Participant label, with or without `sub-`.

    Returns
    -------
    str
        64 hexadecimal digits: SHA-256 of a fixed salt, name and label.

    Raises
    ------
    InputError
        If name or label is empty.

    Examples
    --------
    >>> hash_participant("My study", "sub-01") == hash_participant("My study ", "01")
    True
    >>> hash_participant("My study", "01") == hash_participant("My other study", "01")
    False
    >>> hash_participant("My study", "sub-")
    Traceback (most recent call last):
    dmri_fm.errors.InputError: a participant without a dataset's name or label...
    """
    name, label = dataset_name.strip(), label.removeprefix("sub-")
    if not name or not label:
        raise InputError(
            "a participant without a dataset's name or label",
            expected="`Name` of dataset_description.json, and a participant label",
        )
    return sha256("\0".join((_SALT, name, label)).encode()).hexdigest()


def read_dataset_name(bids_dir: str | Path) -> str:
    """Return `Name` in the `dataset_description.json` of a dataset.

    Raises
    ------
    InputError
        If there is no such file, or no name in it.
    """
    path = Path(bids_dir) / "dataset_description.json"
    name = read_object(path).get("Name")
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"Name is {name!r}", path=path, expected="the name of the dataset")
    return name.strip()


def seen_participants(weights: Weights) -> frozenset[str]:
    """Return the hashes of the participants that a network was trained on.

    The set is empty for weights that were trained on simulation alone, and for older ones, which
    have no such list.

    Raises
    ------
    WeightsError
        If the list holds anything but hashes.
    """
    listed = weights.training.get(PARTICIPANTS, [])
    if not isinstance(listed, list) or not all(
        isinstance(entry, str) and _HASH.fullmatch(entry) for entry in listed
    ):
        raise WeightsError(
            f"`{PARTICIPANTS}` of the training of {weights.source}",
            expected="a list of hashes of 64 hexadecimal digits",
            advice="use the JSON file that was written with the weights",
        )
    return frozenset(listed)
