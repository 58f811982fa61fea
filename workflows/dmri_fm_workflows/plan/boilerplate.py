"""What the sidecars will state about methods, as far as the plan decides it."""

from __future__ import annotations

from dmri_fm.gradient_deviation import DEVIATION_KEY, UNCHANGED
from dmri_fm.identity import identity
from dmri_fm.tensor_networks.noise_map import name_noise_map
from dmri_fm_workflows.outputs.methods import Processed
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.steps import CONTRAST_KEY
from dmri_fm_workflows.plan.anatomy import SOURCE_KEY, name_other_templates
from dmri_fm_workflows.plan.records import SeriesPlan
from dmri_fm_workflows.plan.visits import ParticipantPlan, SessionPlan


def foresee_outputs(plan: ParticipantPlan) -> Processed:
    """Return what the methods text reads of a participant's outputs, before there are any."""
    by_path = {output_path(s.entities, "preproc_dwi", space="ACPC"): s for s in plan.series}
    return Processed(
        series=tuple(_foresee_series(by_path[path]) for path in sorted(by_path)),
        anatomies=tuple(_foresee_anatomy(s) for s in plan.sessions if s.t1w is not None),
        tissues=tuple({"TissueMethod": s.tissue_name} for s in plan.sessions if s.has_tissue),
        features=tuple(
            {"Model": {"Name": identity(encoder).title}, "Region": series.region_of(encoder)}
            for series in plan.series
            for encoder in series.encoders
        ),
        models=tuple(
            dict.fromkeys(
                model
                for series in plan.series
                for model in (
                    *(("tensor",) if series.has_tensor else ()),
                    *series.networks,
                    *series.encoders,
                )
            )
        ),
        has_quality=bool(plan.series),
    )


def _foresee_series(plan: SeriesPlan) -> dict[str, str]:
    stated = plan.stated_methods | plan.model_base
    if plan.has_gradient_deviation:
        stated[DEVIATION_KEY] = UNCHANGED
    if not plan.is_preprocessed:
        stated["NoiseMap"] = "; ".join(dict.fromkeys(map(name_noise_map, plan.run_sizes)))
    return stated


def _foresee_anatomy(plan: SessionPlan) -> dict[str, str]:
    by = plan.prepared_t1w.by if plan.prepared_t1w is not None else ""
    stated = {"MaskMethod": plan.mask_name, "NormalisationMethod": plan.template.name}
    stated |= {CONTRAST_KEY: plan.contrast} if plan.contrast != "T1w" else {}
    stated |= plan.lesion_masking
    stated |= name_other_templates(plan.templates, plan.normalisation)
    return stated | ({SOURCE_KEY: by} if by else {})
