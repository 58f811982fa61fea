"""Time and memory of each step of a graph, measured in the process that runs it."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Node
from nipype.pipeline.plugins.multiproc import run_node

#: Written into it, `5` sets the largest resident size of this process back to the present one.
_CLEAR_REFS = Path("/proc/self/clear_refs")

#: Key of the usage in the result that a worker returns.
USAGE_KEY = "usage"

#: Attribute of a node that is an iteration of a MapNode: the full name of that.
ITERATION_OF = "iteration_of"


@dataclass(frozen=True)
class Usage:
    """What one node took.

    Attributes
    ----------
    node
        Its full name.
    seconds
        Wall-clock time.
    peak_memory_gb
        Largest resident size of its process, libraries included; or that of a program which it
        started, if that was larger than those of all earlier nodes of the process. None where
        the system does not tell.
    """

    node: str
    seconds: float
    peak_memory_gb: float | None


def run_measured(node: Node, updatehash: bool, taskid: int) -> dict[str, Any]:
    """Run a node as nipype's pool does, and add its :class:`Usage` to the result."""
    is_known = _reset_peak()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    started = time.monotonic()
    result: dict[str, Any] = run_node(node, updatehash, taskid)
    seconds = time.monotonic() - started
    peaks = [_read_peak_gb()] if is_known else []
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peaks += [after * 1024 / 1e9] if after > children else []
    peak = max((p for p in peaks if p is not None), default=None)
    # nipype gives an iteration a name without the workflow it is in.
    result[USAGE_KEY] = Usage(getattr(node, ITERATION_OF, node.fullname), seconds, peak)
    return result


def _reset_peak() -> bool:
    """Forget the largest resident size so far; return whether the system can."""
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _read_peak_gb() -> float | None:
    with suppress(OSError):
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        if match := re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE):
            return int(match[1]) * 1024 / 1e9
    return None


def join_iterations(usages: Iterable[Usage]) -> list[Usage]:
    """Return one usage per node: seconds of its iterations added, the largest peak of them.

    Examples
    --------
    >>> join_iterations([Usage("a.b", 1.0, 0.5), Usage("a.b", 2.5, 0.7)])
    [Usage(node='a.b', seconds=3.5, peak_memory_gb=0.7)]
    """
    found: dict[str, Usage] = {}
    for usage in usages:
        before = found.get(usage.node, Usage(usage.node, 0.0, None))
        peaks = [p for p in (before.peak_memory_gb, usage.peak_memory_gb) if p is not None]
        seconds = before.seconds + usage.seconds
        found[usage.node] = Usage(usage.node, seconds, max(peaks, default=None))
    return list(found.values())
