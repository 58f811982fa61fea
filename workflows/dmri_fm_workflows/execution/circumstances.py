"""With what a run is made: inputs and weights by checksum, versions, machine, settings."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dmri_fm.errors import OutputError
from dmri_fm.weights import find_weights
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.inputs import InputFile
from dmri_fm_workflows.outputs.manifest import digest_file
from dmri_fm_workflows.plan import ParticipantPlan
from dmri_fm_workflows.report.writing import PACKAGES

#: The driver's description of each NVIDIA card; no library that would occupy the card is loaded.
_CARDS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Circumstances:
    """With what a run was made.

    Attributes
    ----------
    inputs
        sha256 of the files that the graph read, by path: relative to the dataset, or absolute.
    weights
        sha256 of the weights file of each network and encoder, by name of the model.
    methods
        Methods of each step, with versions of programs.
    versions
        Versions of Python and of packages that decide the numbers.
    hardware
        Processor, memory and graphics cards of the machine, and its system.
    settings
        Random seed; processors, threads and memory that were granted; device of the networks.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def describe_circumstances(
    config: RunConfig, root: Path, inputs: Iterable[InputFile], plan: ParticipantPlan | None
) -> Circumstances:
    """Return what a participant's run is made with.

    Parameters
    ----------
    config
        The request.
    root
        The dataset.
    inputs
        Files that the graph reads.
    plan
        None, if nothing can be planned.
    """
    return Circumstances(
        inputs={
            f.path.relative_to(root).as_posix() if f.path.is_relative_to(root) else str(f.path): (
                f.sha256
            )
            for f in inputs
        },
        weights={name: _digest_weights(name, config.weights) for name in config.models},
        methods=() if plan is None else plan.methods,
        versions={"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        hardware=describe_hardware(),
        settings={
            "random_seed": config.random_seed,
            "nprocs": config.nprocs,
            "omp_nthreads": config.omp_nthreads,
            "mem_gb": config.mem_gb,
            "device": config.device,
        },
    )


def _digest_weights(name: str, given: Mapping[str, Path]) -> str:
    path = find_weights(given.get(name, name))
    try:
        return digest_file(path)
    except OSError as error:
        raise OutputError(
            f"cannot be read for its checksum ({error.strerror})",
            path=path,
            expected="the weights that this run used",
            advice="put the file back, then run the same command again",
        ) from None


def describe_hardware() -> dict[str, Any]:
    """Return processor, memory, graphics cards and system of this machine, without its name."""
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _find_line(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "n_cpus": os.cpu_count(),
        "memory_gb": round(n_bytes / 1e9, 1),
        "gpus": [_find_line(p, "Model") for p in sorted(_CARDS.glob("*/information"))],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def _find_line(path: Path, key: str) -> str:
    """Return the value of the first line `key : value` of a file of the system; or nothing."""
    with suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace")
        if match := re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE):
            return match[1].strip()
    return ""
