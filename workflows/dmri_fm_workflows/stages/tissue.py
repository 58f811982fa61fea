"""Tissue stage: grey matter, white matter and fluid of the T1w image of a session."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.tissue import PROBABILITY_FIELDS, SegmentTissue, TakeTissue
from dmri_fm_workflows.outputs.sources import anatomy_uri
from dmri_fm_workflows.plan import SessionPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow

#: Inputs of the segmentation, by field of the graph.
SEGMENTED = {
    "t1w_brain_file": "brain_file",
    "t1w_mask_file": "mask_file",
    "from_mni_file": "from_mni_file",
}

#: The same, where the segmentation of the derivatives is brought into ACPC.
TAKEN = {"t1w_mask_file": "mask_file", "prepared_xfm_file": "xfm_file"}

#: Outputs, and the fields that they become.
TISSUE = {
    "dseg_file": "dseg_file",
    **{field: f"probseg_{field}" for field in PROBABILITY_FIELDS},
    "record": "tissue_record",
}


def init_tissue_wf(
    plan: SessionPlan, resources: Resources, *, name: str = "tissue_wf"
) -> pe.Workflow:
    """Segment the tissue of a T1w image in ACPC, or take its segmentation.

    Inputs
    ------
    t1w_brain_file, t1w_mask_file
        Brain and mask in ACPC; the brain only where it is segmented.
    from_mni_file
        Transform that resamples the template into ACPC; only where the brain is segmented.
    prepared_xfm_file
        Transform that resamples the prepared image into ACPC; only where one is taken.

    Outputs
    -------
    dseg_file
        Labels: 1 grey matter, 2 white matter, 3 cerebrospinal fluid.
    probseg_gm_file, probseg_wm_file, probseg_csf_file
        Probabilities.
    tissue_record
        Method, with its version.
    """
    inputs = SEGMENTED if plan.tissue is None else TAKEN
    workflow, inputnode, outputnode = open_workflow(name, inputs, TISSUE.values())
    interface = SegmentTissue(sloppy=plan.sloppy)
    if plan.tissue is not None:
        assert resources.anatomy_root is not None
        dseg, *probabilities = plan.tissue.files
        interface = TakeTissue(
            dseg_file=str(dseg),
            probability_files=[str(p) for p in probabilities],
            title=plan.tissue_name,
            sources=[anatomy_uri(p, resources.anatomy_root) for p in plan.tissue.files],
        )
    tissue = pe.Node(interface, name="segment_tissue", mem_gb=2)
    workflow.connect([
        (inputnode, tissue, list(inputs.items())),
        (tissue, outputnode, list(TISSUE.items())),
    ])  # fmt: skip
    return workflow
