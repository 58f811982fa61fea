"""Drift of the signal over a scan, from b=0 volumes that are spread over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmri_fm.series import Dwi

#: Fewer b=0 volumes do not tell a drift from noise.
FEWEST_B0 = 3

#: The b=0 volumes of a run have to span this share of its volumes.
LEAST_SPAN = 0.5


def measure_signal_drift(raw: Dwi, run_sizes: Sequence[int] = ()) -> float | None:
    """Measure the linear drift of the signal of b=0 over a run, in percent.

    A line is fitted to the mean b=0 signal of the brain over the number of the volume (Vos et al.
    2017, doi:10.1002/mrm.26124); the drift is its change from the first volume to the last, as a
    percentage of its value at the first. A signal that falls from 100 to 95 drifts by -5.

    Parameters
    ----------
    raw
        The series as acquired, with its brain mask, runs one after another.
    run_sizes
        Number of volumes of each run, which may have been scaled differently; by default all are
        one run.

    Returns
    -------
    float or None
        Of several runs the drift farthest from 0; None where no run has three b=0 volumes that
        span half of it.
    """
    sizes = list(run_sizes) or [len(raw.gtab)]
    if sum(sizes) != len(raw.gtab) or not raw.brain.any():
        return None
    stops = np.cumsum(sizes)
    drifts = [
        _drift_of(raw, int(stop) - size, int(stop))
        for size, stop in zip(sizes, stops, strict=True)
    ]
    return max((d for d in drifts if d is not None), key=abs, default=None)


def _drift_of(raw: Dwi, start: int, stop: int) -> float | None:
    """Return the drift of one run, the volumes from `start` to `stop`."""
    index = np.flatnonzero(raw.gtab.is_b0[start:stop])
    last = stop - start - 1
    if index.size < FEWEST_B0 or index[-1] - index[0] < LEAST_SPAN * last:
        return None
    level = [float(raw.data[..., start + i][raw.brain].mean()) for i in index]
    slope, first = np.polyfit(index, level, 1)
    return float(100.0 * slope * last / first) if first > 0 else None
