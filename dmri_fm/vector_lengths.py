"""Lengths of b-vectors: a length other than 1 may carry part of the b-value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradient_options import BScaling, GradientOptions
from dmri_fm.gradients import choose_b0_threshold, group_shells, is_unit_length

#: A shorter b-vector is no direction.
SHORTEST_VECTOR = 0.01

#: A longer one is no direction either, but a direction times b.
LONGEST_VECTOR = 2.0

#: Lengths within this share of their median are one length but for rounding: components written
#: with two decimals scatter by 0.7%, and a shell in its own right differs by far more.
LENGTH_JITTER = 0.02


@dataclass(frozen=True)
class VectorLengths:
    """Lengths of b-vectors other than 1, and how they were read.

    Attributes
    ----------
    method
        `length` or `none`.
    is_asked
        A user decided it, not the file.
    shortest, longest
        Extremes of the diffusion-weighted volumes.
    common
        The length that all of them share but for rounding; None if there is none.
    unweighted
        Positions of volumes of length zero whose b-value became 0, ascending, from 0.
    """

    method: BScaling
    is_asked: bool
    shortest: float
    longest: float
    common: float | None = None
    unweighted: tuple[int, ...] = ()

    @property
    def is_rounding(self) -> bool:
        """The lengths scatter about 1, and b-values are not in doubt."""
        return self.method == "none" and not self.is_asked

    def as_record(self) -> dict[str, Any]:
        """Return the entries of the sidecar."""
        reason = "lengths scatter about 1" if self.is_rounding else "lengths vary within one shell"
        record: dict[str, Any] = {
            "Method": self.method,
            "Reason": "--b-scaling" if self.is_asked else reason,
            "VectorLengths": [round(self.shortest, 4), round(self.longest, 4)],
        }
        return record | ({"UnweightedVolumes": [*self.unweighted]} if self.unweighted else {})


class ScaledGradients(NamedTuple):
    """Result of :func:`apply_lengths`."""

    bvals: NDArray[np.float64]  # (N,), s/mm^2
    bvecs: NDArray[np.float64]  # (N, 3), FSL's frame; unit length where the length scaled b
    lengths: VectorLengths | None  # their reading; None if all are 1


def share_length(lengths: ArrayLike) -> float | None:
    """Return the length that vectors share but for rounding; None if they share none.

    Parameters
    ----------
    lengths
        Shape (N,), N at least 1.

    Examples
    --------
    >>> share_length([0.923, 0.93, 0.934]), share_length([0.93, 1.0])
    (0.93, None)
    """
    values = np.asarray(lengths, dtype=np.float64)
    middle = float(np.median(values))
    is_shared = (np.abs(values - middle) <= (LENGTH_JITTER + 1e-9) * middle).all()
    return middle if is_shared else None


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
) -> ScaledGradients:
    """Scale b-values by the lengths of their b-vectors, where these mean it.

    Where all lengths are 1 but for rounding, both arrays are returned unchanged. Where lengths
    vary within one shell and scale its b-value, a vector of length zero makes it 0, unless the
    file has other volumes of b=0.
    """
    length = np.linalg.norm(bvecs, axis=1)
    threshold = options.b0_threshold
    threshold = choose_b0_threshold(bvals) if threshold is None else threshold
    is_weighted = bvals >= threshold
    is_judged = is_weighted & has_direction(bvecs)
    is_scaled = is_judged & ~is_unit_length(length)
    # Directions times b are refused where the table is made, as any other nonsense.
    if not is_scaled.any() or (length[is_judged] > LONGEST_VECTOR).any():
        return ScaledGradients(bvals, bvecs, None)
    # NaN is neither a direction nor zero.
    placed = np.flatnonzero(is_weighted & np.isfinite(length))
    shells = [placed[shell] for shell in group_shells(bvals[placed])]
    shells = [shell for shell in shells if is_judged[shell].any()]
    common = [share_length(length[shell[is_judged[shell]]]) for shell in shells]
    method = options.b_scaling
    if method == "auto":
        method = _choose_method(common, path)
    scaled, unit = bvals.copy(), bvecs.copy()
    unit[is_scaled] /= length[is_scaled, None]
    unweighted: list[int] = []
    if method == "length":
        scaled[is_scaled] *= length[is_scaled] ** 2
        # A file that states b=0 elsewhere needs no such reading: there it is a trace image.
        states_b0 = not is_weighted.all()
        varied = [
            shell
            for shell, one in zip(shells, common, strict=True)
            if one is None and not states_b0
        ]
        unweighted = [int(v) for shell in varied for v in shell if not is_judged[v]]
        scaled[unweighted] = 0.0
        unit[unweighted] = 0.0
    lengths = VectorLengths(
        method,
        options.b_scaling != "auto",
        float(length[is_judged].min()),
        float(length[is_judged].max()),
        share_length(length[is_judged]),
        tuple(sorted(unweighted)),
    )
    return ScaledGradients(scaled, unit, lengths)


def _choose_method(common: Sequence[float | None], path: Path) -> BScaling:
    """Decide by the length that each shell shares, None where lengths vary within it."""
    shared = [one for one in common if one is not None]
    if len(shared) < len(common):
        return "length"
    if is_unit_length(shared).all():
        return "none"
    farthest = max(shared, key=lambda length: abs(np.log(length)))
    raise GradientError(
        f"the b-vectors of a shell share the length {farthest:.3g} (all shells: "
        f"{', '.join(f'{c:.3g}' for c in shared)})",
        path=path,
        expected="unit length. The file does not tell whether the length was meant: if so, b is "
        f"{farthest**2:.3f} times what the bval file says and MD {farthest**-2:.3f} times what it "
        "would be otherwise",
        advice="find out from the converter, and give --b-scaling length (b times the squared "
        "length) or --b-scaling none (lengths mean nothing); drope-bidsapp then compares MD of "
        "the ventricles with that of free water",
    )


def describe_lengths(
    name: str, bvals: NDArray[np.float64], lengths: VectorLengths | None
) -> Iterator[str]:
    """Yield warnings of the report on how the lengths in a file were read."""
    if lengths is None:
        return
    made = (
        f"b-values are multiplied by the squared length (now up to {bvals.max():.0f} s/mm^2)"
        if lengths.method == "length"
        else "b-values are taken as they are"
    )
    why = "as --b-scaling says"
    if not lengths.is_asked:
        why = (
            f"as lengths scatter about 1 by no more than {LENGTH_JITTER:.0%}"
            if lengths.is_rounding
            else "as lengths vary within one shell"
        )
    span = describe_range([lengths.shortest, lengths.longest], ".3f")
    yield f"{name}: b-vectors of length {span} instead of 1: {made}, {why}."
    if lengths.unweighted:
        yield (
            f"{name}: {list_volumes(lengths.unweighted)} counted as b=0: the b-vector has length "
            "0, and the b-value is multiplied by its square. A trace image would look the same: "
            "remove it from the series."
        )


def list_volumes(volumes: Iterable[int]) -> str:
    """Return the numbers of volumes as text.

    Examples
    --------
    >>> list_volumes([64]), list_volumes([3, 4])
    ('volume 64 (counted from 0)', 'volumes 3, 4 (counted from 0)')
    """
    numbers = [str(int(v)) for v in volumes]
    return f"volume{'s' * (len(numbers) > 1)} {', '.join(numbers)} (counted from 0)"


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
