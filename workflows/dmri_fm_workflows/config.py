"""The request: every option of a run as one frozen value object, to and from TOML.

The command line fills it, the logs keep it, and :mod:`dmri_fm_workflows.plan` decides from it
what is done. Builders of workflows see the plan, never the request.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from dmri_fm.errors import ConfigError
from dmri_fm.gradient_options import B_SCALINGS, GradientOptions, check_b0_threshold
from dmri_fm.identity import DEFAULT_MODELS, ENCODERS, TENSOR_NETWORKS, explain_retired, identity
from dmri_fm_workflows.stages import denoise, hmc, sdc

__all__ = [
    "ANALYSIS_LEVELS",
    "DENOISE",
    "DEVICES",
    "HMC",
    "MODELS",
    "NORMALISATIONS",
    "NOT_DECIDING",
    "OUTPUT_SPACES",
    "SDC",
    "RunConfig",
    "read_options",
]

ANALYSIS_LEVELS = ("participant", "group")
SDC = ("auto", *sdc.NAMES)
HMC = ("auto", *hmc.NAMES)
DENOISE = ("auto", *denoise.NAMES)
NORMALISATIONS = ("affine", "syn")
MODELS = (*TENSOR_NETWORKS, *ENCODERS)
OUTPUT_SPACES = ("ACPC", "MNI152NLin2009aSym")
DEVICES = ("auto", "cpu", "cuda")

#: Voxel sizes that make sense for diffusion images of a head, mm.
RESOLUTION_RANGE_MM = (0.5, 5.0)

#: More threads than this in one step do not pay.
MAX_OMP_NTHREADS = 8

#: Share of the memory that a run takes unless told otherwise; the rest is the system's.
MEMORY_SHARE = 0.9

#: Name of the work folder inside the output folder.
DEFAULT_WORK = "work"

#: How filter files (and TOML, which has no null) write "this entity is absent".
NO_ENTITY = "Query.NONE"


def count_cpus() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory_gb() -> float:
    """Return most of the memory of this machine or of the container around us, GB."""
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # No control group there, or no limit ("max"): then all of it.
    with suppress(OSError, ValueError):
        n_bytes = min(n_bytes, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return round(MEMORY_SHARE * n_bytes / 1e9, 1)


def new_run_uuid() -> str:
    """Return a name for a run that sorts by its start."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}_{uuid4()}"


@dataclass(frozen=True)
class RunConfig:
    """One request to the app.

    Attributes
    ----------
    bids_dir
        Raw BIDS dataset.
    output_dir
        Where the derivatives go; the root of a BIDS derivative dataset.
    analysis_level
        `participant` or `group`.
    participant_label, session_label
        Labels without `sub-` and `ses-`; empty means all.
    bids_filters
        Entities by kind of image (`dwi`, `t1w`, `sbref`, `fmap`), as the filter files of
        fmriprep have them; None as value: the entity is absent.
    bids_database_dir
        Folder of a pybids database to read or to make; None: folders are listed.
    skip_bids_validation
        Leave out the check with bids-validator.
    work_dir
        Working files; `output_dir/work` unless given.
    keep_work
        Keep a participant's working files after success.
    nprocs, omp_nthreads
        Processors in all, and threads of one step.
    mem_gb
        Memory that the steps running together may take, GB.
    output_resolution
        Voxel size of the ACPC grid, mm; None: that of the input.
    output_spaces
        Spaces of the derivatives; ACPC is always among them.
    sdc, hmc, denoise
        Engines for susceptibility, head motion and noise; `auto` takes the best one present.
    unring
        Remove Gibbs ringing.
    b_scaling, b0_threshold
        How gradient files are read: :class:`dmri_fm.gradient_options.GradientOptions`.
    normalisation
        `affine`, or `syn` for a non-linear warp to the template.
    models
        Networks to run.
    weights
        Weights file by model name, in place of the packaged one.
    device
        Where the networks run: `auto`, `cpu` or `cuda`.
    random_seed
        Start of every random sequence.
    plugin, plugin_args
        nipype's execution plugin (empty: chosen from `nprocs`) and its arguments.
    dry_run
        Read the dataset, build the graphs, run nothing.
    sloppy
        Coarse and quick settings: for tests and demonstrations only.
    stop_on_first_crash
        Stop at the first failing step instead of going on with other scans.
    verbose
        0: progress and warnings; 1: what each step says; 2: everything.
    run_uuid
        Name of this run's folders below `logs` and `sub-*/log`.

    Raises
    ------
    ConfigError
        If a value is not allowed or two contradict each other.
    """

    bids_dir: Path
    output_dir: Path
    analysis_level: str = "participant"
    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    bids_filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    bids_database_dir: Path | None = None
    skip_bids_validation: bool = False
    work_dir: Path = Path()
    keep_work: bool = False
    nprocs: int = field(default_factory=count_cpus)
    omp_nthreads: int = 0
    mem_gb: float = field(default_factory=available_memory_gb)
    output_resolution: float | None = None
    output_spaces: tuple[str, ...] = OUTPUT_SPACES
    sdc: str = "auto"
    hmc: str = "auto"
    denoise: str = "auto"
    unring: bool = False
    b_scaling: str = "auto"
    b0_threshold: float | None = None
    normalisation: str = "affine"
    models: tuple[str, ...] = DEFAULT_MODELS
    weights: Mapping[str, Path] = field(default_factory=dict)
    device: str = "auto"
    random_seed: int = 0
    plugin: str = ""
    plugin_args: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    sloppy: bool = False
    stop_on_first_crash: bool = False
    verbose: int = 0
    run_uuid: str = field(default_factory=new_run_uuid)

    def __post_init__(self) -> None:
        # The two defaults that follow from other fields.
        if self.work_dir == Path():
            object.__setattr__(self, "work_dir", self.output_dir / DEFAULT_WORK)
        if self.omp_nthreads == 0:
            object.__setattr__(self, "omp_nthreads", min(self.nprocs, MAX_OMP_NTHREADS))
        for name, allowed in (
            ("analysis_level", ANALYSIS_LEVELS),
            ("sdc", SDC),
            ("hmc", HMC),
            ("denoise", DENOISE),
            ("b_scaling", B_SCALINGS),
            ("normalisation", NORMALISATIONS),
            ("device", DEVICES),
        ):
            _check_choice(name, [getattr(self, name)], allowed)
        _check_choice("models", self.models, MODELS)
        _check_choice("weights", self.weights, MODELS)
        for name in self.models:
            if not identity(name).is_packaged and name not in self.weights:
                raise ConfigError(
                    f"no weights of {name} ship with this software",
                    expected=f"--weights {name}=FILE.safetensors",
                    advice="name a file of weights, or leave the model out",
                )
        _check_choice("output_spaces", self.output_spaces, OUTPUT_SPACES)
        for name in ("nprocs", "omp_nthreads", "mem_gb"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}", expected="more than 0")
        if self.omp_nthreads > self.nprocs:
            raise ConfigError(
                f"omp_nthreads is {self.omp_nthreads}, nprocs is {self.nprocs}",
                expected="no more threads in one step than processors in all",
                advice="raise --nprocs or lower --omp-nthreads",
            )
        check_b0_threshold(self.b0_threshold)
        low, high = RESOLUTION_RANGE_MM
        if self.output_resolution is not None and not low <= self.output_resolution <= high:
            raise ConfigError(
                f"output_resolution is {self.output_resolution:g} mm",
                expected=f"{low:g} to {high:g} mm",
            )

    @property
    def gradient_options(self) -> GradientOptions:
        """How gradient files are read."""
        # The choice is checked when the request is made.
        return GradientOptions(self.b_scaling, self.b0_threshold)  # type: ignore[arg-type]

    def to_toml(self) -> str:
        """Return all fields as TOML, without those that are None and a default work folder.

        :func:`read_options` reads it.
        """
        import tomli_w

        values = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        if self.work_dir == self.output_dir / DEFAULT_WORK:
            del values["work_dir"]  # so that the same options can be used with other outputs
        return tomli_w.dumps({name: v for name, v in values.items() if v is not None})

    def fingerprint(self) -> str:
        """Return a hash of all options but :data:`NOT_DECIDING`.

        Input files, program versions and the engines that `auto` resolves to are the caller's
        to add.
        """
        names = sorted({f.name for f in fields(self)} - NOT_DECIDING)
        values = {name: _plain(getattr(self, name)) for name in names}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


#: Fields on which the content of a participant's outputs does not depend: how fast, where and how
#: talkative a run is, and who else is asked for. Every other field counts, so that an option that
#: was forgotten here makes a finished run start again rather than stand for another request.
NOT_DECIDING = frozenset(
    {
        "analysis_level",
        "bids_database_dir",
        "bids_dir",
        "dry_run",
        "keep_work",
        "mem_gb",
        "nprocs",
        "omp_nthreads",
        "output_dir",
        "participant_label",
        "plugin",
        "plugin_args",
        "run_uuid",
        "skip_bids_validation",
        "stop_on_first_crash",
        "verbose",
        "work_dir",
    }
)

_PATHS = ("bids_dir", "output_dir", "bids_database_dir", "work_dir")
_TUPLES = ("participant_label", "session_label", "output_spaces", "models")


def read_options(text: str, *, path: Path | None = None) -> dict[str, Any]:
    """Read fields of :class:`RunConfig` from TOML, as keyword arguments.

    Parameters
    ----------
    text
        TOML, one key per field.
    path
        The file it came from, for error messages.

    Returns
    -------
    dict
        Values of the right types, for the fields that the text names.

    Raises
    ------
    ConfigError
        If the text is no TOML, a key is unknown, or a value has the wrong type.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML ({error})", path=path) from None
    known = {f.name: f for f in fields(RunConfig)}
    if unknown := sorted(set(raw) - set(known)):
        raise ConfigError(
            f"unknown option {', '.join(unknown)}",
            path=path,
            expected=", ".join(known),
            advice="a run's own options are in OUT/logs/*/config.toml: copy from there",
        )
    return {name: _typed(name, value, str(known[name].type), path) for name, value in raw.items()}


def _typed(name: str, value: Any, annotation: str, path: Path | None) -> Any:
    if name in _PATHS and isinstance(value, str):
        return Path(value)
    if name in _TUPLES and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if name == "weights" and isinstance(value, dict):
        return {model: Path(file) for model, file in value.items()}
    if name == "bids_filters" and isinstance(value, dict):
        return _with_nulls(value)
    if annotation.startswith("Mapping") and isinstance(value, dict):
        return value
    if annotation.startswith("float") and isinstance(value, int | float):
        if not isinstance(value, bool):
            return float(value)
    elif annotation in ("str", "int", "bool") and type(value).__name__ == annotation:
        return value
    raise ConfigError(f"{name} = {value!r}", path=path, expected=f"a value of type {annotation}")


def _plain(value: Any) -> Any:
    """Turn a field's value into what TOML and JSON have; sorted where order means nothing."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [NO_ENTITY if v is None else _plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: NO_ENTITY if v is None else _plain(v) for k, v in sorted(value.items())}
    return value


def _with_nulls(filters: Any) -> Any:
    """Undo what :func:`_plain` does to absent entities."""
    if isinstance(filters, list):
        return [_with_nulls(v) for v in filters]
    if isinstance(filters, dict):
        return {k: _with_nulls(v) for k, v in filters.items()}
    return None if filters == NO_ENTITY else filters


def _check_choice(name: str, values: Any, allowed: tuple[str, ...]) -> None:
    for value in values:
        if retired := explain_retired(value):
            raise retired
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r}", expected=", ".join(allowed))
