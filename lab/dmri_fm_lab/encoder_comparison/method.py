"""A method: a function from a scan to vectors, and what a scan costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm_lab.feature_cache import Vectors
from dmri_fm_lab.prediction.rish import Labels

#: Key of the cost of a scan among its vectors: CPU seconds, and MiB.
COST = "cost"

#: Files of Linux by which the peak of a process's memory is read and set back.
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Sample(NamedTuple):
    """A scan that methods read: a series with a brain mask, scanner units, and regions."""

    dwi: Dwi
    labels: Labels


def _applies(_: GradientTable) -> str | None:
    return None


@dataclass(frozen=True)
class Method:
    """A way from a scan to one or several vectors.

    Attributes
    ----------
    title
        Name in tables; vectors whose key is not empty add it.
    compute
        Function from a scan to vectors by key.
    state
        What vectors depend on beside the scan, see :func:`~dmri_fm_lab.feature_cache.digest`.
    obstacle
        Function from the gradient table of a scan to the reason why the method does not apply to
        it, or None.
    """

    title: str
    compute: Callable[[Sample], Vectors]
    state: tuple[Any, ...]
    obstacle: Callable[[GradientTable], str | None] = _applies

    def row(self, key: str) -> str:
        """Return the title of the row of a vector."""
        return f"{self.title} {key}".strip()


class Absent(NamedTuple):
    """A row without numbers, and the reason."""

    title: str
    reason: str


def measured(method: Method, sample: Sample) -> Vectors:
    """Return the vectors of a scan, and its cost under :data:`COST`, shape (2,).

    CPU seconds of all threads, and by how many MiB the peak of the process's resident memory
    exceeds what was in use before (weights and the scan were); NaN where the system does not tell.
    """
    before = _reset_peak()
    started = time.process_time()
    vectors = dict(method.compute(sample))
    seconds = time.process_time() - started
    return {**vectors, COST: np.array([seconds, _read_mib("VmHWM") - before])}


def _reset_peak() -> float:
    """Set the peak of resident memory back, and return what is in use, MiB."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return float("nan")
    return _read_mib("VmRSS")


def _read_mib(name: str) -> float:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return float("nan")
    kib = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return float(kib[0]) / 1024 if kib else float("nan")
