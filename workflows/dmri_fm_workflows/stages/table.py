"""The stages of a session and of a series, in the order of processing.

Graph, `--dry-run` and contract tests derive from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import nipype.pipeline.engine as pe

from dmri_fm_workflows.engines import DENOISE, HMC, SDC
from dmri_fm_workflows.engines.base import StageEngines
from dmri_fm_workflows.plan import SeriesPlan, SessionPlan
from dmri_fm_workflows.stages.anat import init_anat_wf
from dmri_fm_workflows.stages.base import Engine, Resources, Stage
from dmri_fm_workflows.stages.bias import init_bias_wf
from dmri_fm_workflows.stages.features import encoder_stage
from dmri_fm_workflows.stages.field import init_field_wf
from dmri_fm_workflows.stages.figures import (
    DRAWN,
    init_anat_figures_wf,
    init_series_figures_wf,
)
from dmri_fm_workflows.stages.lines import (
    describe_anat,
    describe_bias,
    describe_denoise,
    describe_deviation,
    describe_free_water,
    describe_gradient_check,
    describe_hmc,
    describe_mask,
    describe_merge,
    describe_noise,
    describe_normalise,
    describe_preprocessed,
    describe_read,
    describe_sdc,
    describe_tensor,
    describe_tissue,
)
from dmri_fm_workflows.stages.merge import (
    init_mask_wf,
    init_merge_wf,
    init_read_preprocessed_wf,
    init_read_wf,
)
from dmri_fm_workflows.stages.network_input import init_network_input_wf, init_noise_wf
from dmri_fm_workflows.stages.noise_maps import init_noise_maps_wf
from dmri_fm_workflows.stages.normalise import init_deviation_wf, init_normalise_wf
from dmri_fm_workflows.stages.outputs import (
    CHECK_OUTPUTS,
    FIELD_OUTPUTS,
    HMC_OUTPUTS,
    NOISE_OUTPUTS,
    NORMALISE_OUTPUTS,
    QUALITY_OUTPUTS,
    TISSUE_OUTPUTS,
    anat_outputs,
    figure_outputs,
    map_outputs,
)
from dmri_fm_workflows.stages.quality import (
    init_free_water_wf,
    init_gradient_check_wf,
    init_quality_wf,
)
from dmri_fm_workflows.stages.templates import registration_stage, template_stage
from dmri_fm_workflows.stages.tensor import init_tensor_wf, network_stage
from dmri_fm_workflows.stages.tissue import init_tissue_wf

_SESSION_STAGES = (
    Stage(
        name="anat",
        builder=init_anat_wf,
        outputs=anat_outputs(),
        record="anat_record",
        describe=describe_anat,
    ),
    Stage(
        name="tissue",
        builder=init_tissue_wf,
        outputs=TISSUE_OUTPUTS,
        record="tissue_record",
        describe=describe_tissue,
    ),
    Stage(
        name="figures",
        builder=init_anat_figures_wf,
        outputs=figure_outputs(["t1wmask", "t1wtemplate"]),
    ),
)


def _by_engine(
    engines: StageEngines[Engine], engine_of: Callable[[SeriesPlan], str]
) -> Callable[..., pe.Workflow]:
    """Return the builder of a stage that several engines can do."""

    def build(plan: SeriesPlan, resources: Resources, *, name: str) -> pe.Workflow:
        return engines.load(engine_of(plan)).builder(plan, resources, name=name)

    return build


def _is_raw(plan: SeriesPlan) -> bool:
    """Tell a series that is corrected in this run."""
    return not plan.is_preprocessed


_BEFORE_MODELS = (
    Stage(
        name="read",
        builder=init_read_wf,
        record="read_record",
        describe=describe_read,
        runs=_is_raw,
    ),
    Stage(
        name="read_preprocessed",
        builder=init_read_preprocessed_wf,
        record="read_preprocessed_record",
        describe=describe_preprocessed,
        runs=lambda plan: plan.is_preprocessed,
    ),
    Stage(
        name="denoise",
        builder=_by_engine(DENOISE, lambda plan: plan.engines.denoise),
        record="denoise_record",
        describe=describe_denoise,
        runs=_is_raw,
    ),
    Stage(
        name="noise",
        builder=init_noise_wf,
        record="noise_record",
        describe=describe_noise,
        runs=_is_raw,
    ),
    Stage(
        name="merge",
        builder=init_merge_wf,
        record="merge_record",
        describe=describe_merge,
        runs=_is_raw,
    ),
    Stage(
        name="sdc",
        builder=_by_engine(SDC, lambda plan: plan.sdc.method),
        record="sdc_record",
        describe=describe_sdc,
        runs=_is_raw,
    ),
    Stage(name="mask", builder=init_mask_wf, record="mask_record", describe=describe_mask),
    Stage(
        name="hmc",
        builder=_by_engine(HMC, lambda plan: plan.engines.hmc),
        outputs=HMC_OUTPUTS,
        record="hmc_record",
        describe=describe_hmc,
        runs=_is_raw,
    ),
    Stage(
        name="bias",
        builder=init_bias_wf,
        record="bias_record",
        describe=describe_bias,
        runs=lambda plan: plan.unbias,
    ),
    Stage(
        name="normalise",
        builder=init_normalise_wf,
        outputs=NORMALISE_OUTPUTS,
        record="normalise_record",
        describe=describe_normalise,
    ),
    Stage(
        name="field",
        builder=init_field_wf,
        outputs=FIELD_OUTPUTS,
        runs=lambda plan: plan.sdc.has_field,
    ),
    Stage(
        name="noise_maps",
        builder=init_noise_maps_wf,
        outputs=NOISE_OUTPUTS,
        runs=_is_raw,
    ),
    Stage(
        name="deviation",
        builder=init_deviation_wf,
        describe=describe_deviation,
        runs=lambda plan: plan.has_gradient_deviation,
    ),
    Stage(
        name="tensor",
        builder=init_tensor_wf,
        outputs=map_outputs("tensor"),
        describe=describe_tensor,
        runs=lambda plan: plan.has_tensor,
    ),
    Stage(
        name="gradient_check",
        builder=init_gradient_check_wf,
        outputs=CHECK_OUTPUTS,
        record="gradient_check_record",
        describe=describe_gradient_check,
        runs=lambda plan: plan.has_tensor,
    ),
    Stage(
        name="free_water",
        builder=init_free_water_wf,
        record="free_water_record",
        describe=describe_free_water,
        runs=lambda plan: plan.length_scaling is not None,
    ),
    Stage(
        name="network_input",
        builder=init_network_input_wf,
        record="network_input_record",
        runs=lambda plan: bool(plan.networks),
    ),
)

_AFTER_MODELS = (
    Stage(name="quality", builder=init_quality_wf, outputs=QUALITY_OUTPUTS),
    Stage(name="figures", builder=init_series_figures_wf, outputs=figure_outputs(DRAWN)),
)


def list_session_stages(plan: SessionPlan) -> tuple[Stage, ...]:
    """Return the stages of the T1w image of a session, in the order of processing."""
    anat, tissue, figures = _SESSION_STAGES
    return (
        replace(anat, outputs=anat_outputs(plan.contrast)),
        *([tissue] if plan.has_tissue else []),
        figures,
        *([registration_stage(plan)] if plan.templates else []),
    )


def list_stages(plan: SeriesPlan) -> tuple[Stage, ...]:
    """Return the stages that run for a series, in the order of processing."""
    stages = (
        *_BEFORE_MODELS,
        *(network_stage(n, plan.maps[n]) for n in plan.networks),
        *map(encoder_stage, plan.encoders),
        *([registration_stage(plan)] if plan.templates and not plan.has_t1w else []),
        *(template_stage(plan, template) for template in plan.templates),
        *_AFTER_MODELS,
    )
    return tuple(stage for stage in stages if stage.runs(plan))
