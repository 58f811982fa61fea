"""Participants of a table of features whom the encoder's weights were pretrained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dmri_fm.errors import WeightsError
from dmri_fm.identity import ENCODERS
from dmri_fm.participants import PARTICIPANTS, seen_participants
from dmri_fm.registry import load_weights
from dmri_fm.weights import Weights
from dmri_fm_lab.scan_tables import listed, measures_of, read_cells
from dmri_fm_lab.train.seen import Seen, find_seen
from dmri_fm_workflows.group.scalars import map_columns
from dmri_fm_workflows.outputs.tsv import QC_EXCLUDE, SCAN_COLUMNS, SCAN_ID

#: Column of a table of features that says which weights made a row.
WEIGHTS_COLUMN = "weights_sha256"

#: Label of the tensor fit, in the columns of regional tables.
TENSOR = "tensor"


def find_seen_of_table(
    path: Path,
    participants: Iterable[str],
    *,
    dataset: Path,
    weights: Path | None = None,
) -> Seen | None:
    """Compare the participants of a table of features with those its weights list.

    None: all measures of the table are of the tensor fit, which has no weights.

    Parameters
    ----------
    path
        Table of features, of the app's group level or any other.
    participants
        With their prefix.
    dataset
        The raw dataset or the app's output, which has the dataset's name.
    weights
        A `.safetensors` file, besides the shipped ones.

    Raises
    ------
    WeightsError
        If `weights` cannot be used.
    """
    cells = read_cells(path) if path.suffix != ".npz" else None
    if cells is not None and is_tensor_fit(list(cells)):
        return None
    if cells is None or WEIGHTS_COLUMN not in cells:
        return Seen(unknown=f"the table has no column {WEIGHTS_COLUMN}")
    used = set(cells[WEIGHTS_COLUMN].astype(str))
    known = {own.sha256: own for own in _list_weights(weights)}
    if strange := sorted(used - known.keys()):
        return Seen(unknown=f"weights {strange[0][:12]} are not at hand (give --weights)")
    hashes: frozenset[str] | None = None
    if all(PARTICIPANTS in known[sha].training for sha in used):
        hashes = frozenset().union(*(seen_participants(known[sha]) for sha in used))
    return find_seen(hashes, {p: dataset / p / "dwi" for p in participants})


def is_tensor_fit(columns: Sequence[str]) -> bool:
    """Tell whether all measures of a table are maps of the tensor fit, by the group's names.

    Examples
    --------
    >>> is_tensor_fit(["scan_id", "max_bval", "coverage_wm", "tensor_fa_mean_wm"])
    True
    >>> is_tensor_fit(["tensor_fa_mean_wm", "tensorrefiner_fa_mean_wm"])
    False
    """
    keys = (SCAN_ID, *SCAN_COLUMNS, QC_EXCLUDE)
    measures = measures_of(c for c in columns if c not in keys)
    fitted = tuple(f"{start}_" for start, (label, _) in map_columns().items() if label == TENSOR)
    return bool(measures) and all(c.startswith(fitted) for c in measures)


def describe_seen(name: str, seen: Seen) -> str:
    """Return what is known about the pretraining of a table's or row's weights, as a sentence.

    Examples
    --------
    >>> describe_seen("f.tsv", Seen(frozenset({"sub-3"})))
    'f.tsv: SEEN in pretraining, without labels: sub-3'
    >>> describe_seen("f.tsv", Seen())
    'f.tsv: nobody was among the participants of the pretraining'
    >>> describe_seen("f.tsv", Seen(unknown="there is no list"))
    'f.tsv: whom its weights were pretrained on is unknown: there is no list'
    """
    if seen.unknown:
        return f"{name}: whom its weights were pretrained on is unknown: {seen.unknown}"
    if not seen.participants:
        return f"{name}: nobody was among the participants of the pretraining"
    return f"{name}: SEEN in pretraining, without labels: {listed(sorted(seen.participants))}"


def record_seen(name: str, seen: Seen) -> dict[str, Any]:
    """Return what is known for JSON: `participants`, null if nobody can tell, and a `note`."""
    names = None if seen.unknown else sorted(seen.participants)
    return {"participants": names, "note": describe_seen(name, seen)}


def _list_weights(weights: Path | None) -> list[Weights]:
    """Return weights of encoders that ship, and those that are given."""
    found = [] if weights is None else [load_weights(weights)]
    for name in ENCODERS:
        try:
            found.append(load_weights(name))
        except WeightsError:  # ships without weights
            continue
    return found
