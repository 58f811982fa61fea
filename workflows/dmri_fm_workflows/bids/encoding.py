"""Phase encoding in file names: direction words, and contradictions with the metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dmri_fm_workflows.bids.records import EpiImage

#: Opposite of each direction word.
_OPPOSITE_WORD: Mapping[str, str] = {
    word: word[::-1] for word in ("AP", "PA", "LR", "RL", "IS", "SI", "FH", "HF")
}
#: Axis of the scanner's frame, RAS+, by the first letter of a direction word.
_LETTER_AXIS: Mapping[str, int] = {
    "L": 0, "R": 0, "A": 1, "P": 1, "I": 2, "S": 2, "F": 2, "H": 2
}  # fmt: skip
_AXIS_NAMES = ("left-right", "anterior-posterior", "inferior-superior")
#: Direction word at the end of a longer label, `b2000AP`; `SNAP` and `map` hold none.
_TRAILING_WORD = re.compile(rf"(?:.*[^A-Z])?({'|'.join(_OPPOSITE_WORD)})")
_LABEL = re.compile(rf"(.*?)({'|'.join(_OPPOSITE_WORD)})", re.IGNORECASE)

#: Cosine above which two phase encodings have one direction in the scanner's frame.
_SAME_DIRECTION_COSINE = 0.7

#: Cosine with the axis of a label, below which a phase encoding contradicts the label: 60 degrees.
_LEAST_AXIS_COSINE = 0.5

_CHECK = "Check it against the protocol: with a wrong sign distortion doubles."


def acquisitions_oppose(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Tell whether two names differ in the direction word of their `acq` labels alone.

    Labels of `direction` and `run` may differ, too.

    Examples
    --------
    >>> acquisitions_oppose({"acquisition": "AP"}, {"acquisition": "PA"})
    True
    >>> acquisitions_oppose({"acquisition": "b2000AP"}, {"acquisition": "b1000PA"})
    False
    """
    names = ("acquisition", "direction", "run")
    if {k: v for k, v in one.items() if k not in names} != {
        k: v for k, v in other.items() if k not in names
    }:
        return False
    first, second = (_LABEL.fullmatch(e.get("acquisition", "")) for e in (one, other))
    return bool(
        first
        and second
        and first[1] == second[1]
        and _OPPOSITE_WORD[first[2].upper()] == second[2].upper()
    )


def has_direction_word(entities: Mapping[str, str]) -> bool:
    """Tell whether a name holds a direction word.

    Examples
    --------
    >>> has_direction_word({"direction": "PA"}), has_direction_word({"acquisition": "b0"})
    (True, False)
    """
    return any(_LABEL.fullmatch(entities.get(k, "")) for k in ("direction", "acquisition"))


@dataclass(frozen=True, eq=False)
class _Labelled:
    """An image whose name and metadata both hold its phase encoding.

    Attributes
    ----------
    image
        The image.
    label
        As in the name: `dir-AP`, `acq-b2000AP`.
    word
        The direction word, in capitals; else the label, whose meaning only the lab knows.
    vector
        Unit vector of the phase encoding, RAS+.
    """

    image: EpiImage
    label: str
    word: str
    vector: NDArray[np.float64]


def find_contradictions(images: Sequence[EpiImage]) -> Iterator[str]:
    """Yield warnings of echo-planar images whose names and PhaseEncodingDirection disagree.

    A direction word along another axis than the phase encoding is a contradiction, told once a
    label. So are opposite words whose directions are not opposed, and one label with opposite
    directions, told once a pair of labels. The `dir` label counts; without one, a direction word
    in the `acq` label. Directions are compared in the scanner's frame, so that the storage order
    of images does not matter. Which sign a word stands for is the lab's choice.
    """
    known = [labelled for image in images if (labelled := _read_label(image))]
    off_axis: set[str] = set()
    for one in known:
        if one.word not in _OPPOSITE_WORD:
            continue
        axis = _LETTER_AXIS[one.word[0]]
        if abs(one.vector[axis]) >= _LEAST_AXIS_COSINE or one.label in off_axis:
            continue
        off_axis.add(one.label)
        actual = _AXIS_NAMES[int(np.abs(one.vector).argmax())]
        yield (
            f"{one.image.path.name} has PhaseEncodingDirection {one.image.phase_encoding}, along "
            f"the {actual} axis of the scanner, under the label {one.label}. Check both against "
            "the protocol: a wrong axis makes distortion worse."
        )
    told: set[frozenset[str]] = set()
    for one, other in combinations(known, 2):
        pair = frozenset((one.label, other.label))
        is_known = pair in told or not off_axis.isdisjoint(pair)
        if not is_known and (text := _contradict(one, other)):
            told.add(pair)
            yield text


def _read_label(image: EpiImage) -> _Labelled | None:
    """Return an image with the label of its encoding; None if name or metadata lack it."""
    if not image.phase_encoding:
        return None
    if direction := image.entities.get("direction"):
        label, word = f"dir-{direction}", direction
    else:
        acquisition = image.entities.get("acquisition", "")
        match = _TRAILING_WORD.fullmatch(acquisition)
        label, word = f"acq-{acquisition}", match[1] if match else acquisition
    if not direction and word.upper() not in _OPPOSITE_WORD:
        return None
    word = word.upper() if word.upper() in _OPPOSITE_WORD else label
    return _Labelled(image, label, word, _world_direction(image))


def _contradict(one: _Labelled, other: _Labelled) -> str:
    """Say how two images contradict each other; empty if they do not."""
    cosine = float(one.vector @ other.vector)
    codes = f"{one.image.phase_encoding} and {other.image.phase_encoding}"
    names = (
        f"{one.image.path.name} and {other.image.path.name} have PhaseEncodingDirection {codes}"
    )
    if _OPPOSITE_WORD.get(one.word) == other.word and cosine > -_SAME_DIRECTION_COSINE:
        what = "one direction" if cosine > _SAME_DIRECTION_COSINE else "directions not opposed"
        return (
            f"{names}, {what}, under the opposite labels {one.label} and {other.label}. {_CHECK}"
        )
    if one.label == other.label and cosine < -_SAME_DIRECTION_COSINE:
        return f"{names}, opposite directions, under one label, {one.label}. {_CHECK}"
    return ""


def _world_direction(image: EpiImage) -> NDArray[np.float64]:
    """Return the phase encoding as a unit vector, RAS+."""
    code = image.phase_encoding or "j"
    column = image.affine[:3, "ijk".index(code[0])]
    vector: NDArray[np.float64] = column / np.linalg.norm(column)
    return -vector if code.endswith("-") else vector
