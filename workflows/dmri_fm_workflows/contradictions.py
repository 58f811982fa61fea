"""Options that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmri_fm.errors import ConfigError
from dmri_fm.identity import identity

if TYPE_CHECKING:
    from dmri_fm_workflows.config import RunConfig


#: Range of voxel sizes for diffusion images of the brain, mm.
RESOLUTION_RANGE_MM = (0.5, 5.0)


def check_preprocessed(config: RunConfig) -> None:
    """Refuse options that ask for what a preprocessed input does without.

    Raises
    ------
    ConfigError
        If there are such options.
    """
    corrections = {"denoise": config.denoise, "sdc": config.sdc, "hmc": config.hmc}
    asked = [f"--{k} {v}" for k, v in corrections.items() if v not in ("auto", "none")]
    asked += ["--unring"] if config.unring else []
    asked += ["--b1-biascorrect-stage"] if config.b1_biascorrect_stage != "none" else []
    asked += [f"--ignore {word}" for word in config.ignore if word != "t1w"]
    asked += ["--bids-filter-file"] if config.bids_filters else []
    asked += ["--eddy-config"] if config.eddy_config else []
    asked += ["--fix-gradients"] if config.gradient_fixes else []
    asked += ["--brain-masks"] if config.brain_masks is not None else []
    asked += ["--bids-database-dir"] if config.bids_database_dir is not None else []
    asked += ["--derivatives"] if config.derivatives is not None else []
    asked += ["--separate-all-dwis"] if config.separate_all_dwis else []
    merge = config.distortion_group_merge
    asked += [f"--distortion-group-merge {merge}"] if merge != "concatenate" else []
    reference = config.subject_anatomical_reference
    asked += [f"--subject-anatomical-reference {reference}"] if reference == "first" else []
    if asked:
        raise ConfigError(
            f"--input-type preprocessed and {', '.join(asked)}",
            expected="no correction, no images for one, no filter, no index and no other anatomy: "
            "such an input was corrected before, and holds its own",
            advice="leave these options out, or give the raw dataset",
        )


def check_together(config: RunConfig) -> None:
    """Refuse numbers that contradict each other or a scan, and options that exclude others.

    Raises
    ------
    ConfigError
        If there are such options.
    """
    for name in ("nprocs", "omp_nthreads", "mem_gb"):
        if getattr(config, name) <= 0:
            raise ConfigError(f"{name} is {getattr(config, name)}", expected="more than 0")
    if config.omp_nthreads > config.nprocs:
        raise ConfigError(
            f"omp_nthreads is {config.omp_nthreads}, nprocs is {config.nprocs}",
            expected="no more threads in one step than processors in all",
            advice="raise --nprocs or lower --omp-nthreads",
        )
    if config.derivatives is not None and "t1w" in config.ignore:
        raise ConfigError(
            "--derivatives and --ignore t1w",
            expected="one of them: the raw T1w image tells where the head lay, and whose it is",
        )
    if config.derivatives is not None and config.subject_anatomical_reference == "first":
        raise ConfigError(
            "--derivatives and --subject-anatomical-reference first",
            expected="one of them: the derivatives say which image a session has",
        )
    if config.boilerplate_only and config.reports_only:
        raise ConfigError("--boilerplate-only and --reports-only", expected="one of them")
    if config.boilerplate_only and config.analysis_level == "group":
        raise ConfigError(
            "--boilerplate-only at the group level",
            expected="the participant level",
            advice="leave it out: the group level writes the methods text of what was run",
        )
    low, high = RESOLUTION_RANGE_MM
    if config.output_resolution is not None and not low <= config.output_resolution <= high:
        raise ConfigError(
            f"output_resolution is {config.output_resolution:g} mm",
            expected=f"{low:g} to {high:g} mm",
        )


def check_weights(config: RunConfig) -> None:
    """Refuse models that ship without weights, and for which none are named.

    Raises
    ------
    ConfigError
        If there is such a model.
    """
    for name in config.models:
        if not identity(name).is_packaged and name not in config.weights:
            raise ConfigError(
                f"no weights of {name} ship with this software",
                expected=f"--weights {name}=FILE.safetensors",
                advice="name a file of weights, or leave the model out",
            )
