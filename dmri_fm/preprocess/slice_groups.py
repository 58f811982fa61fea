"""Order of acquisition of slices: which are excited together, and when."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmri_fm.errors import InputError

#: Slices whose times differ by less were excited together, s; shorter than any excitation.
SAME_TIME_S = 0.002


def group_slices(
    times_s: Sequence[float], *, n_slices: int, is_reversed: bool = False
) -> list[list[int]]:
    """Return the slices of each excitation, in the order of acquisition.

    Parameters
    ----------
    times_s
        `SliceTiming` of the sidecar: start of each slice, s, in the order in which slices are
        stored; against it, if `SliceEncodingDirection` is `k-`, which `is_reversed` says.
    n_slices
        Number of slices of the image.
    is_reversed
        The first time is that of the last slice.

    Returns
    -------
    list of list of int
        Slices by their position in the image, from 0; those excited together in one list.

    Raises
    ------
    InputError
        If the number of times is not that of slices, a time is no number, or excitations hold
        different numbers of slices.

    Examples
    --------
    >>> group_slices([0.0, 0.5, 0.0, 0.5], n_slices=4)
    [[0, 2], [1, 3]]
    >>> group_slices([0.0, 0.1, 0.2], n_slices=3, is_reversed=True)
    [[2], [1], [0]]
    """
    times = np.asarray(times_s, dtype=np.float64)
    if times.shape != (n_slices,) or not np.isfinite(times).all():
        unknown = int((~np.isfinite(times)).sum())
        raise InputError(
            f"SliceTiming with {times.size} times, {unknown} of them unknown, for {n_slices} "
            "slices",
            expected="a time in seconds for each slice",
            advice="convert the scan again with dcm2niix",
        )
    if is_reversed:
        times = times[::-1]
    order = np.argsort(times, kind="stable")
    starts = np.flatnonzero(np.diff(times[order]) > SAME_TIME_S) + 1
    groups = [sorted(int(i) for i in group) for group in np.split(order, starts)]
    if len({len(group) for group in groups}) > 1:
        sizes = sorted({len(group) for group in groups})
        raise InputError(
            f"SliceTiming puts {' and '.join(map(str, sizes))} slices into one excitation",
            expected="the same number of slices in every excitation",
            advice="check SliceTiming in the sidecar",
        )
    return groups
