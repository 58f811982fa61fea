"""Stage of the noise map and the residual map of denoising, as outputs."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.noise_maps import BringNoiseMaps
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow


def has_residual(plan: SeriesPlan) -> bool:
    """Tell whether noise or Gibbs ringing is to be removed."""
    return plan.engines.denoise != "none" or plan.unring


def init_noise_maps_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "noise_maps_wf"
) -> pe.Workflow:
    """Bring the noise of the runs, and what denoising removed from them, into ACPC.

    Inputs
    ------
    noise_files, run_scales
        Noise and intensity factor of each run.
    raw_file, denoised_file
        Merged series before and after denoising; only where something is to be removed.
    volumes_file
        Run and phase encoding of each volume.
    field_file
        Distortion field, Hz, if there is any.
    bias_file
        Receive-field bias that the series is divided by, if asked for.
    to_acpc_file, acpc_mask_file
        Transform that resamples the reference into ACPC; brain there, gives the grid.

    Outputs
    -------
    acpc_noise_file
        Standard deviation of one volume's noise, as acquired.
    acpc_residual_files
        Root mean square of what was removed; none where the run finds that nothing could be.
    """
    inputs = {f: f for f in ("noise_files", "run_scales", "volumes_file")}
    inputs |= {"to_acpc_file": "xfm_file", "acpc_mask_file": "mask_file"}
    inputs |= {"field_file": "field_file"} if plan.sdc.has_field else {}
    inputs |= {"bias_file": "bias_file"} if plan.unbias else {}
    outputs = {"noise_file": "acpc_noise_file"}
    if has_residual(plan):
        inputs |= {f: f for f in ("raw_file", "denoised_file")}
        outputs["residual_files"] = "acpc_residual_files"
    workflow, inputnode, outputnode = open_workflow(name, inputs, outputs.values())
    bring = pe.Node(BringNoiseMaps(), name="bring_noise_maps", mem_gb=1 + 3 * plan.size_gb)
    workflow.connect([
        (inputnode, bring, list(inputs.items())),
        (bring, outputnode, list(outputs.items())),
    ])  # fmt: skip
    return workflow
