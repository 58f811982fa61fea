"""Lengths of b-vectors: what a length other than 1 says about the b-value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradient_options import BScaling, GradientOptions
from dmri_fm.gradients import choose_b0_threshold, group_shells, is_unit_length

__all__ = [
    "VectorLengths",
    "apply_lengths",
    "describe_lengths",
    "describe_range",
    "has_direction",
]

#: A shorter b-vector is no direction.
SHORTEST_VECTOR = 0.01

#: A longer one is no direction either, but a direction times b.
LONGEST_VECTOR = 2.0

#: Lengths within one shell that differ by this share and more vary.
LENGTH_SPREAD = 0.01


@dataclass(frozen=True)
class VectorLengths:
    """Lengths of b-vectors that are not 1, and what was made of them.

    Attributes
    ----------
    method
        `length` or `none`.
    is_asked
        A user decided it, not the file.
    shortest, longest
        Of the diffusion-weighted volumes.
    """

    method: BScaling
    is_asked: bool
    shortest: float
    longest: float

    @property
    def common(self) -> float | None:
        """The length that all vectors share; None if there is none."""
        is_one = self.longest <= (1.0 + LENGTH_SPREAD) * self.shortest
        return (self.shortest + self.longest) / 2 if is_one else None

    def as_facts(self) -> dict[str, Any]:
        """Return what the sidecar says."""
        return {
            "Method": self.method,
            "Reason": "--b-scaling" if self.is_asked else "lengths vary within one shell",
            "VectorLengths": [round(self.shortest, 4), round(self.longest, 4)],
        }


def has_direction(bvecs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which b-vectors (N, 3) are directions; zeros and NaN are not."""
    # NaN compares as False.
    return np.asarray(np.linalg.norm(bvecs, axis=1) >= SHORTEST_VECTOR)


def apply_lengths(
    bvals: NDArray[np.float64],
    bvecs: NDArray[np.float64],
    options: GradientOptions,
    *,
    path: Path,
) -> tuple[NDArray[np.float64], NDArray[np.float64], VectorLengths | None]:
    """Return b-values that lengths of b-vectors have scaled, unit vectors, and what was done.

    Where all lengths are 1 but for rounding, both arrays are returned as they are.
    """
    length = np.linalg.norm(bvecs, axis=1)
    threshold = options.b0_threshold
    threshold = choose_b0_threshold(bvals) if threshold is None else threshold
    judged = np.flatnonzero((bvals >= threshold) & has_direction(bvecs))
    is_scaled = np.zeros(bvals.size, dtype=bool)
    is_scaled[judged] = ~is_unit_length(length[judged])
    # Directions times b are refused where the table is made, as any other nonsense.
    if not is_scaled.any() or (length[judged] > LONGEST_VECTOR).any():
        return bvals, bvecs, None
    shells = [length[judged[shell]] for shell in group_shells(bvals[judged])]
    varies = any(s.max() > (1.0 + LENGTH_SPREAD) * s.min() for s in shells)
    method = options.b_scaling
    if method == "auto":
        if not varies:
            raise _undecided(shells, path)
        method = "length"
    unit = bvecs.copy()
    unit[is_scaled] /= length[is_scaled, None]
    scaled = bvals.copy()
    if method == "length":
        scaled[is_scaled] *= length[is_scaled] ** 2
    lengths = VectorLengths(
        method,
        options.b_scaling != "auto",
        float(length[judged].min()),
        float(length[judged].max()),
    )
    return scaled, unit, lengths


def _undecided(shells: Sequence[NDArray[np.float64]], path: Path) -> GradientError:
    common = np.array([s.mean() for s in shells])
    farthest = float(common[np.argmax(np.abs(np.log(common)))])
    return GradientError(
        f"the b-vectors of a shell share the length {farthest:.3g} (all shells: "
        f"{', '.join(f'{c:.3g}' for c in common)})",
        path=path,
        expected="unit length. The file does not tell whether the length was meant: if so, b is "
        f"{farthest**2:.3f} times what the bval file says and MD {farthest**-2:.3f} times what it "
        "would be otherwise",
        advice="find out from the converter, and give --b-scaling length (b times the squared "
        "length) or --b-scaling none (lengths mean nothing); the run then compares MD of the "
        "ventricles with that of free water",
    )


def describe_lengths(
    name: str, bvals: NDArray[np.float64], lengths: VectorLengths | None
) -> Iterator[str]:
    """Say for a reader of the results what was made of the lengths in a file."""
    if lengths is None:
        return
    made = (
        f"b-values are multiplied by the squared length (now up to {bvals.max():.0f} s/mm^2)"
        if lengths.method == "length"
        else "b-values are taken as they are"
    )
    why = "as --b-scaling says" if lengths.is_asked else "as lengths vary within one shell"
    found = describe_range([lengths.shortest, lengths.longest], ".3f")
    yield f"{name}: b-vectors of length {found} instead of 1: {made}, {why}."


def describe_range(values: ArrayLike, spec: str = "g") -> str:
    """Return the smallest and the largest value in words.

    Examples
    --------
    >>> describe_range([60, 65, 62]), describe_range([1000])
    ('60 to 65', '1000')
    """
    low, high = float(np.min(values)), float(np.max(values))
    words = [format(low, spec), format(high, spec)]
    return words[0] if words[0] == words[1] else " to ".join(words)
