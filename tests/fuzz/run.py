"""Feed damaged files to a reader, and count.

A file may be refused, with one of our errors, or accepted, if the values read are possible.
Everything else is a failure: another exception, a warning, a line in the log, memory beyond the
limit, voxels of a damaged gzip stream that differ from those written, a value that no scan has.
"""

from __future__ import annotations

import logging
import resource
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.errors import DmriError

#: Contents by file name: what one reader reads together.
Files = Mapping[str, bytes]


@dataclass
class Tally:
    """Counts of the inputs of one target that were accepted, refused, or failed."""

    n_accepted: int = 0
    n_refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.n_accepted + self.n_refused + len(self.failures)


@dataclass(frozen=True)
class Target:
    """A reader, its inputs, and the check of the values that it reads.

    Attributes
    ----------
    seeds
        Valid inputs.
    damage
        Function of a generator and an input: returns a damaged input, and whether it must give
        the values of the undamaged one, if it is accepted.
    read
        Reader of the folder that holds an input's files.
    judge
        Function that names an impossible value among those read; None if there is none.
    is_same
        Whether two inputs gave the same values.
    share
        Share of all inputs.
    """

    seeds: Sequence[Files]
    damage: Callable[[np.random.Generator, Files], tuple[Files, bool]]
    read: Callable[[Path], Any]
    judge: Callable[[Any], str | None]
    share: float
    is_same: Callable[[Any, Any], bool] = lambda one, other: True


def run_target(target: Target, *, n_inputs: int, seed: int, folder: Path) -> Tally:
    """Feed a reader with damaged inputs.

    Parameters
    ----------
    target
        Reader and inputs.
    n_inputs
        Number of inputs; input i of a seed is always the same.
    seed
        Seed of the damage.
    folder
        Empty folder for the files.
    """
    tally = Tally()
    logged = _LogRecords()
    start = time.perf_counter()
    undamaged = [_try(target, files, folder) for files in target.seeds]
    for i in range(n_inputs):
        rng = np.random.default_rng([seed, i])
        which = int(rng.integers(len(target.seeds)))
        files, must_agree = target.damage(rng, target.seeds[which])
        before = time.perf_counter()
        try:
            with logged:
                value = _try(target, files, folder)
            fault = target.judge(value)
            if fault is None and must_agree and not target.is_same(value, undamaged[which]):
                fault = "damage was not noticed"
            fault = fault or logged.first
        except DmriError as error:
            str(error).encode()
            if logged.first is None:
                tally.n_refused += 1
            else:
                tally.failures.append(f"input {i}: {logged.first}")
        except Exception as error:  # what the fuzz is for
            tally.failures.append(f"input {i}: {type(error).__name__}: {str(error)[:200]}")
        else:
            if fault is None:
                tally.n_accepted += 1
            else:
                tally.failures.append(f"input {i}: accepted: {fault}")
        tally.slowest_s = max(tally.slowest_s, time.perf_counter() - before)
    tally.seconds = time.perf_counter() - start
    return tally


class _LogRecords(logging.Handler):
    """Handler that keeps the first warning that any package logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: str | None = None

    def __enter__(self) -> None:
        self.first = None
        logging.getLogger().addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first record."""
        self.first = self.first or f"logged: {record.getMessage()[:200]}"


def _try(target: Target, files: Files, folder: Path) -> Any:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return target.read(folder)


def limit_memory(n_bytes: int) -> None:
    """Limit the address space of this process to its present size and `n_bytes` more."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
