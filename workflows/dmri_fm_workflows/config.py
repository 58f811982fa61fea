"""The request: every option of a run as one frozen value object, to and from TOML.

The command line fills it, the logs keep it, and :mod:`dmri_fm_workflows.plan` turns it into
plans. Builders of workflows see the plan, never the request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from dmri_fm.gradient_options import GradientOptions, check_b0_threshold
from dmri_fm.identity import DEFAULT_MODELS, REGIONS
from dmri_fm_workflows.contradictions import check_preprocessed, check_together, check_weights
from dmri_fm_workflows.eddy_config import clean_eddy_config
from dmri_fm_workflows.options import (
    MAX_OMP_NTHREADS,
    MODEL_FAMILIES,
    MODELS,
    NETWORKS,
    OUTPUTS,
    RESOURCES,
    SELECTION,
    available_memory_gb,
    bare,
    check_choice,
    count_cpus,
    memory_gb,
    name_and_path,
    new_run_uuid,
    option,
    plain,
)
from dmri_fm_workflows.preprocessing_options import PreprocessingOptions
from dmri_fm_workflows.report_options import ReportOptions
from dmri_fm_workflows.templates import OWN_SPACES, order_spaces

#: Words of `--ignore`; :meth:`dmri_fm_workflows.bids.reading.Reading.find_ignored` knows them.
IGNORABLE = ("fieldmaps", "sbref", "t1w")

INPUT_TYPES = ("raw", "preprocessed")

#: Name of the work folder inside the output folder.
DEFAULT_WORK = "work"


@dataclass(frozen=True)
class RunConfig(PreprocessingOptions, ReportOptions):
    """One request to the app: a field for each option, with its argument.

    Labels are without `sub-` and `ses-`.

    Attributes
    ----------
    bids_filters
        Entities by query (`dwi`, `t1w`, `fmap`), as the filter files of fmriprep have them; None
        as value: the entity is absent.
    gradient_fixes
        Repairs of b-vectors by name, see :mod:`dmri_fm_workflows.bids.gradient_fixes`.
    eddy_config
        Options of FSL's eddy, see :mod:`dmri_fm_workflows.eddy_config`.
    plugin, plugin_args
        nipype's execution plugin (empty: chosen from `nprocs`) and its arguments.
    verbose
        0: progress and warnings; 1: messages of each step; 2: everything.
    run_uuid
        Name of this run's folders below `logs` and `sub-*/log`.

    Raises
    ------
    ConfigError
        If a value is not allowed or two contradict each other.
    """

    bids_dir: Path = option(
        MISSING,
        "",
        "raw BIDS dataset, or a preprocessed one with --input-type (`group` reads its "
        "participants.tsv alone, if it is there)",
    )
    output_dir: Path = option(MISSING, "", "derivatives dataset to write")
    analysis_level: str = option(
        "participant",
        "",
        "`participant` processes scans; `group` collects tables from OUTPUT_DIR",
        choices=("participant", "group"),
    )
    participant_label: tuple[str, ...] = option(
        (),
        SELECTION,
        "participants, with or without `sub-` (default: all)",
        metavar="LABEL",
        parse=bare("sub-"),
    )
    session_label: tuple[str, ...] = option(
        (),
        SELECTION,
        "sessions, with or without `ses-` (default: all)",
        metavar="LABEL",
        flags=("--session-label", "--session-id"),
        parse=bare("ses-"),
    )
    input_type: str = option(
        "raw",
        SELECTION,
        "`preprocessed`: a dataset corrected before, of QSIPrep, this app, the HCP pipelines or "
        "UK Biobank, which goes straight to registration and models (default: raw)",
        choices=INPUT_TYPES,
    )
    brain_masks: Path | None = option(
        None,
        SELECTION,
        "folder of your own brain masks, sub-*/[ses-*/]{dwi,anat}/*_desc-brain_mask.nii.gz, named "
        "as the raw images that they were drawn on; see docs/inputs.md (default: the app's own)",
        stages=("anat", "mask"),
    )
    bids_filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    gradient_fixes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    eddy_config: Mapping[str, Any] = field(default_factory=dict)
    bids_database_dir: Path | None = option(
        None,
        SELECTION,
        "pybids index to take the images from; made there if there is none (default: folders are "
        "listed)",
    )
    skip_bids_validation: bool = option(
        False,
        SELECTION,
        "do not check the dataset with bids-validator-deno, which happens where that program is "
        "installed and all participants are asked for",
    )
    work_dir: Path = option(
        Path(),
        RESOURCES,
        "working files (default: OUTPUT_DIR/work), removed after success",
        flags=("-w", "--work-dir"),
    )
    keep_work: bool = option(False, RESOURCES, "keep the working files")
    nprocs: int = option(
        count_cpus, RESOURCES, "processors to use (default: all that are allowed)"
    )
    omp_nthreads: int = option(
        0,
        RESOURCES,
        "threads of one step, results do not depend on it (default: --nprocs, at most 8)",
    )
    mem_gb: float = option(
        available_memory_gb,
        RESOURCES,
        "memory for steps that run together, in MB or with a unit as in 16G (default: 90%% of the "
        "machine's or container's)",
        metavar="SIZE",
        flags=("--mem",),
        parse=memory_gb,
    )
    dry_run: bool = option(False, RESOURCES, "print the plan; write nothing")
    stop_on_first_crash: bool = option(
        False, RESOURCES, "stop at the first error (default: other scans go on)"
    )
    sloppy: bool = option(
        False, RESOURCES, "coarse and quick, for trying out only: results are not for use"
    )
    output_resolution: float | None = option(
        None,
        OUTPUTS,
        "voxel size in ACPC space (default: the smallest edge of the input's voxels)",
        metavar="MM",
        stages=("normalise",),
    )
    output_spaces: tuple[str, ...] = option(
        OWN_SPACES,
        OUTPUTS,
        f"spaces of images and maps: {' and '.join(OWN_SPACES)} (default: both; ACPC is always "
        "written); scalar maps, masks and transforms also for templates in TemplateFlow's cache, "
        "such as MNI152NLin2009cAsym:res-2",
        metavar="SPACE[:res-N]",
        stages=("normalise", "templates"),
    )
    ignore: tuple[str, ...] = option(
        (),
        SELECTION,
        "images that are there and not used: `fieldmaps` (all of the fmap folder), `sbref`, `t1w` "
        "(all of the anat folder) (default: none)",
        choices=IGNORABLE,
    )
    derivatives: Path | None = option(
        None,
        SELECTION,
        "derivatives of fmriprep, qsiprep or this app, whose T1w image, brain mask, tissue and "
        "transforms to the template are taken in place of the raw T1w image",
        stages=("anat", "tissue"),
    )
    models: tuple[str, ...] = option(
        DEFAULT_MODELS,
        NETWORKS,
        f"tensor networks and encoders to run (default: {' '.join(DEFAULT_MODELS)}); those "
        "without packaged weights need --weights; `tensor`, the least-squares fit, always runs",
        choices=(*MODELS, "tensor", "none"),
        stages=MODEL_FAMILIES,
    )
    weights: Mapping[str, Path] = option(
        dict,
        NETWORKS,
        "weights file (.safetensors, with its .json) of your own for a model",
        metavar="NAME=PATH",
        parse=name_and_path,
        stages=MODEL_FAMILIES,
    )
    region: str = option(
        "auto",
        NETWORKS,
        "part of the brain that encoders read: `whole`, or `published`, slices 64 to 119 at 1 mm "
        "(default: auto, each encoder's own: `published` for drope-paper)",
        choices=("auto", *REGIONS),
        stages=("encoder",),
    )
    device: str = option(
        "auto",
        NETWORKS,
        "torch device of the networks (default: auto, CUDA if there is any)",
        choices=("auto", "cpu", "cuda"),
        stages=MODEL_FAMILIES,
    )
    random_seed: int = option(
        0, NETWORKS, "start of every random sequence (default: 0)", stages=MODEL_FAMILIES
    )
    plugin: str = ""
    plugin_args: Mapping[str, Any] = field(default_factory=dict)
    verbose: int = 0
    run_uuid: str = field(default_factory=new_run_uuid)

    def __post_init__(self) -> None:
        # Fields that follow from others here, or have keys without effect further down.
        if self.work_dir == Path():
            object.__setattr__(self, "work_dir", self.output_dir / DEFAULT_WORK)
        if self.omp_nthreads == 0:
            object.__setattr__(self, "omp_nthreads", min(self.nprocs, MAX_OMP_NTHREADS))
        check_choice("models", self.models, MODELS)
        check_choice("weights", self.weights, MODELS)
        for f in fields(self):
            if f.metadata and (choices := f.metadata["settings"]["choices"]):
                value = getattr(self, f.name)
                check_choice(f.name, value if isinstance(value, tuple) else [value], choices)
        check_weights(self)
        if self.is_preprocessed:
            check_preprocessed(self)
        check_together(self)
        check_b0_threshold(self.b0_threshold)
        object.__setattr__(self, "output_spaces", order_spaces(self.output_spaces))
        object.__setattr__(self, "eddy_config", clean_eddy_config(self.eddy_config))

    @property
    def is_preprocessed(self) -> bool:
        """Whether the input was corrected before."""
        return self.input_type == "preprocessed"

    @property
    def gradient_options(self) -> GradientOptions:
        """How gradient files are read."""
        # The choice is checked when the request is made.
        return GradientOptions(self.b_scaling, self.b0_threshold)  # type: ignore[arg-type]

    def to_toml(self) -> str:
        """Return all fields as TOML, without those that are None and a default work folder.

        :func:`dmri_fm_workflows.request.read_options` reads it.
        """
        import tomli_w

        values = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        if self.work_dir == self.output_dir / DEFAULT_WORK:
            del values["work_dir"]  # so that the same options can be used with other outputs
        return tomli_w.dumps({name: v for name, v in values.items() if v is not None})

    def fingerprint(self) -> str:
        """Return a hash of all options but :data:`NOT_DECIDING`.

        Input files, program versions and the engines that `auto` resolves to are the caller's
        to add.
        """
        names = sorted({f.name for f in fields(self)} - NOT_DECIDING)
        values = {name: plain(getattr(self, name)) for name in names}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


#: Fields on which the content of a participant's outputs does not depend: speed, place and
#: messages of a run, and other participants of it. Every other field counts, so that an option
#: that was forgotten here repeats a finished run rather than let that stand for another request.
NOT_DECIDING = frozenset({
    "analysis_level", "atlas", "bids_database_dir", "bids_dir", "boilerplate_only", "bundles",
    "dry_run", "keep_work", "mem_gb", "nprocs", "omp_nthreads", "output_dir", "participant_label",
    "plugin", "plugin_args", "qc_exclude", "ratings", "report_output_level", "report_viewer",
    "reports_only", "run_uuid", "self_contained_reports", "skip_bids_validation",
    "stop_on_first_crash", "verbose", "work_dir",
})  # fmt: skip
