"""What file names say about the phase encoding, and whether the metadata agree."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dmri_fm.bids.records import EpiImage

__all__ = ["acquisitions_oppose", "find_contradictions", "has_direction_word"]

#: Direction words and the words that oppose them.
_OPPOSITE_WORD: Mapping[str, str] = {
    word: word[::-1] for word in ("AP", "PA", "LR", "RL", "IS", "SI", "FH", "HF")
}
_LABEL = re.compile(rf"(.*?)({'|'.join(_OPPOSITE_WORD)})", re.IGNORECASE)

#: Phase encodings whose directions in the scanner's frame have a larger cosine are the same.
_SAME_DIRECTION_COSINE = 0.7


def acquisitions_oppose(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Tell whether the `acq` labels of two names differ in a direction word alone.

    Parameters
    ----------
    one, other
        Labels of two names by long name; all but `acquisition`, `direction` and `run` agree.

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
    """Tell whether a name says along which direction the image was encoded.

    Examples
    --------
    >>> has_direction_word({"direction": "PA"}), has_direction_word({"acquisition": "b0"})
    (True, False)
    """
    return any(_LABEL.fullmatch(entities.get(k, "")) for k in ("direction", "acquisition"))


def find_contradictions(images: Sequence[EpiImage]) -> Iterator[str]:
    """Find images of one session whose `dir` labels and PhaseEncodingDirection disagree.

    Directions are compared in the scanner's frame, so that images stored along other axes are
    compared rightly. Which word goes with which sign is left to the lab.

    Parameters
    ----------
    images
        Echo-planar images of one session.

    Yields
    ------
    str
        A warning that names two files: opposite words with one direction, or one label with
        opposite directions. One for each pair of labels.
    """
    known = [
        (image, label, _world_direction(image))
        for image in images
        if image.phase_encoding and (label := image.entities.get("direction"))
    ]
    said: set[frozenset[str]] = set()
    for (one, label, vector), (other, other_label, other_vector) in combinations(known, 2):
        labels = frozenset((label, other_label))
        cosine = float(vector @ other_vector)
        is_opposite_word = _OPPOSITE_WORD.get(label.upper()) == other_label.upper()
        names = (
            f"{one.path.name} and {other.path.name} have "
            f"PhaseEncodingDirection {one.phase_encoding} and {other.phase_encoding}"
        )
        check = "Check it against the protocol: with a wrong sign distortion doubles."
        if labels in said:
            continue
        if is_opposite_word and cosine > _SAME_DIRECTION_COSINE:
            said.add(labels)
            opposed = f"the opposite labels dir-{label} and dir-{other_label}"
            yield f"{names}, one direction, under {opposed}. {check}"
        elif label == other_label and cosine < -_SAME_DIRECTION_COSINE:
            said.add(labels)
            yield f"{names}, opposite directions, under one label, dir-{label}. {check}"


def _world_direction(image: EpiImage) -> NDArray[np.float64]:
    """Return the phase encoding as a unit vector, RAS+."""
    code = image.phase_encoding or "j"
    column = image.affine[:3, "ijk".index(code[0])]
    vector: NDArray[np.float64] = column / np.linalg.norm(column)
    return -vector if code.endswith("-") else vector
