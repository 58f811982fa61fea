"""The stages of a session and of a series, in the order of processing.

Graph, methods text, references and contract tests derive from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import ModuleType

import nipype.pipeline.engine as pe

from dmri_fm_workflows.outputs.steps import Method
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages import denoise, hmc, sdc
from dmri_fm_workflows.stages.anat import init_anat_wf
from dmri_fm_workflows.stages.base import Resources, Stage
from dmri_fm_workflows.stages.features import encoder_stage
from dmri_fm_workflows.stages.figures import (
    DRAWN,
    init_anat_figures_wf,
    init_series_figures_wf,
)
from dmri_fm_workflows.stages.merge import init_mask_wf, init_merge_wf, init_read_wf
from dmri_fm_workflows.stages.normalise import init_normalise_wf
from dmri_fm_workflows.stages.outputs import (
    ANAT_OUTPUTS,
    HMC_OUTPUTS,
    NORMALISE_OUTPUTS,
    QUALITY_OUTPUTS,
    figure_outputs,
    map_outputs,
)
from dmri_fm_workflows.stages.quality import (
    init_free_water_wf,
    init_gradient_check_wf,
    init_quality_wf,
)
from dmri_fm_workflows.stages.tensor import init_tensor_wf, network_stage

__all__ = ["SESSION_STAGES", "anatomy_steps", "list_stages", "series_steps"]


def _masks(image: str) -> tuple[Method, ...]:
    """Return the sentences about a brain mask, by the methods of the core."""
    text = f"The brain in the {image} was masked by {{method}}"
    return (
        Method("median_otsu", f"{text} [@garyfallidis2014]."),
        Method("deepbet.*median_otsu", f"{text} [@fisch2024; @garyfallidis2014]."),
        Method("deepbet", f"{text} [@fisch2024]."),
    )


def _registrations(image: str) -> tuple[Method, ...]:
    text = f"The {image} was registered to the ICBM 152 template [@fonov2011]: {{method}} "
    return (Method("affine", f"{text}[@avants2008]."),)


_UNRINGING = "Gibbs ringing was removed by subvoxel shifts [@kellner2016] with {method}"

#: Stages of the T1w image of a session.
SESSION_STAGES = (
    Stage(
        name="anat",
        builder=init_anat_wf,
        outputs=ANAT_OUTPUTS,
        methods={
            "MaskMethod": _masks("T1-weighted image"),
            "NormalisationMethod": _registrations("T1-weighted brain"),
        },
        record="anat_record",
    ),
    Stage(
        name="figures",
        builder=init_anat_figures_wf,
        outputs=figure_outputs(["t1wmask", "t1wtemplate"]),
    ),
)


def _by_engine(
    package: ModuleType, engine_of: Callable[[SeriesPlan], str]
) -> Callable[..., pe.Workflow]:
    """Return the builder of a stage that several engines can do."""

    def build(plan: SeriesPlan, resources: Resources, *, name: str) -> pe.Workflow:
        return package.load(engine_of(plan)).builder(plan, resources, name=name)

    return build


def _methods(package: ModuleType) -> tuple[Method, ...]:
    """Return the sentences about all engines of a package."""
    return tuple(m for name in package.NAMES for m in package.load(name).methods)


_BEFORE_MODELS = (
    Stage(
        name="read",
        builder=init_read_wf,
        record="read_record",
    ),
    Stage(
        name="denoise",
        builder=_by_engine(denoise, lambda plan: plan.engines.denoise),
        methods={
            "Denoising": _methods(denoise),
            "GibbsCorrection": (
                Method("none", "Gibbs ringing was not removed."),
                Method("MRtrix3 mrdegibbs", f"{_UNRINGING} [@tournier2019]."),
                Method("DIPY gibbs_removal", f"{_UNRINGING} [@garyfallidis2014]."),
            ),
        },
        record="denoise_record",
    ),
    Stage(name="merge", builder=init_merge_wf, record="merge_record"),
    Stage(
        name="sdc",
        builder=_by_engine(sdc, lambda plan: plan.sdc.method),
        methods={"SDCMethod": _methods(sdc)},
        record="sdc_record",
    ),
    Stage(name="mask", builder=init_mask_wf, record="mask_record"),
    Stage(
        name="hmc",
        builder=_by_engine(hmc, lambda plan: plan.engines.hmc),
        outputs=HMC_OUTPUTS,
        # The mask is made before motion is estimated, and told after it.
        methods={"HMCMethod": _methods(hmc), "MaskMethod": _masks("b=0 reference")},
        record="hmc_record",
    ),
    Stage(
        name="normalise",
        builder=init_normalise_wf,
        outputs=NORMALISE_OUTPUTS,
        methods={
            "CoregistrationMethod": (
                Method(
                    "rigid",
                    "The b=0 reference was registered to the T1-weighted image: {method} "
                    "[@avants2008].",
                ),
            ),
            "NormalisationMethod": _registrations("b=0 reference"),
        },
        record="normalise_record",
    ),
    Stage(
        name="tensor",
        builder=init_tensor_wf,
        outputs=map_outputs("tensor"),
        runs=lambda plan: plan.has_tensor,
    ),
    Stage(
        name="gradient_check",
        builder=init_gradient_check_wf,
        record="gradient_check_record",
        runs=lambda plan: plan.has_tensor,
    ),
    Stage(
        name="free_water",
        builder=init_free_water_wf,
        record="free_water_record",
        runs=lambda plan: plan.length_scaling is not None,
    ),
)

_AFTER_MODELS = (
    Stage(name="quality", builder=init_quality_wf, outputs=QUALITY_OUTPUTS),
    Stage(name="figures", builder=init_series_figures_wf, outputs=figure_outputs(DRAWN)),
)


def list_stages(plan: SeriesPlan) -> tuple[Stage, ...]:
    """Return the stages that run for a series, in the order of processing."""
    stages = (
        *_BEFORE_MODELS,
        *(network_stage(n, plan.maps[n]) for n in plan.networks),
        *(encoder_stage(e, plan.features[e]) for e in plan.encoders),
        *_AFTER_MODELS,
    )
    return tuple(stage for stage in stages if stage.runs(plan))


def _steps(stages: Sequence[Stage]) -> Mapping[str, tuple[Method, ...]]:
    return {key: methods for stage in stages for key, methods in stage.methods.items()}


@cache
def series_steps() -> Mapping[str, tuple[Method, ...]]:
    """Return the methods of each step of a series, by key of its sidecar."""
    return _steps(_BEFORE_MODELS)


@cache
def anatomy_steps() -> Mapping[str, tuple[Method, ...]]:
    """Return the methods of each step of a T1w image, by key of its sidecar."""
    return _steps(SESSION_STAGES)
