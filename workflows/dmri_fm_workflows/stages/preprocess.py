"""Preprocess stage: from the raw runs of a series to estimates of every distortion.

Nothing is resampled here by the built-in engine: the stage hands on the denoised volumes as
they were acquired, the distortion field and one transform per volume, and the normalise stage
interpolates once. FSL's eddy interpolates by itself; after it the field is used up and the
transforms are identities.
"""

from __future__ import annotations

import nipype.pipeline.engine as pe
from nipype.interfaces import mrtrix3
from nipype.interfaces import utility as niu

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.engines import SDC_METHODS, name_sdc, name_unringing
from dmri_fm_workflows.interfaces.facts import MergeFacts, MergeRunFacts
from dmri_fm_workflows.interfaces.fsl import (
    CollectEddy,
    CollectTopup,
    RunEddy,
    RunTopup,
    WriteFslFiles,
)
from dmri_fm_workflows.interfaces.motion import EstimateMotion, SkipMotion
from dmri_fm_workflows.interfaces.preprocess import (
    CorrectBias,
    DenoiseDwi,
    DwiDenoise,
    EstimatePairField,
    MakeReference,
    MaskBrain,
    MergeRuns,
    ValidateDwi,
)
from dmri_fm_workflows.plan import SeriesPlan

__all__ = ["init_denoise_wf", "init_hmc_wf", "init_preprocess_wf", "init_sdc_wf"]


def init_preprocess_wf(
    *, plan: SeriesPlan, omp_nthreads: int, mem_gb: float, name: str = "preprocess_wf"
) -> pe.Workflow:
    """Estimate noise, susceptibility distortion, head motion and eddy currents of a series.

    Parameters
    ----------
    plan
        The runs to correct together, and how.
    omp_nthreads
        Threads a node may use.
    mem_gb
        Size of the merged series as float32, GB.
    name
        Name of the workflow.

    Inputs
    ------
    dwi_files, bval_files, bvec_files
        The runs.

    Outputs
    -------
    dwi_file, bval_file, bvec_file
        Denoised, merged volumes; not resampled unless eddy ran.
    raw_file, raw_bvec_file
        Merged volumes before denoising, and their b-vectors before any rotation.
    denoised_file
        Merged volumes after denoising, before eddy.
    volumes_file
        Run, phase encoding and readout of each volume.
    field_file
        Off-resonance that is still to be corrected, Hz; undefined where there is none.
    motion_file
        Transform of each volume.
    dwiref_file, uncorrected_file
        b=0 reference, bias-corrected; the same before distortion correction.
    dwi_brain_file, dwi_mask_file
        Brain of the reference, and its mask.
    confounds_file, confounds_facts, motion_facts, outliers_file
        Confounds table, its column descriptions, what the transforms are, outlier slices.
    facts
        What ran.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface(["dwi_files", "bval_files", "bvec_files"]), name="inputnode"
    )
    outputnode = pe.Node(
        niu.IdentityInterface(
            [
                "dwi_file",
                "bval_file",
                "bvec_file",
                "raw_file",
                "raw_bvec_file",
                "denoised_file",
                "volumes_file",
                "field_file",
                "motion_file",
                "dwiref_file",
                "uncorrected_file",
                "dwi_brain_file",
                "dwi_mask_file",
                "confounds_file",
                "confounds_facts",
                "motion_facts",
                "outliers_file",
                "facts",
            ]
        ),
        name="outputnode",
    )
    validate = pe.MapNode(
        ValidateDwi(b_scaling=plan.b_scaling),
        iterfield=["dwi_file", "bval_file", "bvec_file"],
        name="validate",
        mem_gb=mem_gb,
    )
    denoise_wf = init_denoise_wf(
        method=plan.engines.denoise,
        unring=plan.unring,
        omp_nthreads=omp_nthreads,
        mem_gb=mem_gb,
    )
    series = plan.series
    merge = pe.Node(
        MergeRuns(
            phase_encodings=[run.phase_encoding for run in series.runs],
            readouts_s=list(plan.readouts_s[: len(series.runs)]),
            assumed_readouts_s=plan.assumed_readouts_s,
            needs_tensor=plan.has_tensor,
        ),
        name="merge_runs",
        mem_gb=3 * mem_gb,
    )
    sdc_wf = init_sdc_wf(
        method=plan.sdc.method, series=series, omp_nthreads=omp_nthreads, mem_gb=mem_gb
    )
    unbias = pe.Node(CorrectBias(), name="correct_dwiref_bias", mem_gb=0.5)
    mask = pe.Node(MaskBrain(contrast="b0"), name="mask_dwiref", mem_gb=2)
    hmc_wf = init_hmc_wf(
        method=plan.engines.hmc,
        sdc=plan.sdc.method,
        sloppy=plan.sloppy,
        omp_nthreads=omp_nthreads,
        mem_gb=mem_gb,
    )
    collect = pe.Node(MergeFacts(), name="collect_input_facts", run_without_submitting=True)
    facts = pe.Node(niu.Merge(6), name="list_facts", run_without_submitting=True)
    merge_facts = pe.Node(MergeFacts(), name="merge_facts", run_without_submitting=True)

    workflow.connect([
        (inputnode, validate, [("dwi_files", "dwi_file"), ("bval_files", "bval_file"),
                               ("bvec_files", "bvec_file")]),
        (validate, denoise_wf, [("dwi_file", "inputnode.dwi_files"),
                                ("bval_file", "inputnode.bval_files"),
                                ("bvec_file", "inputnode.bvec_files")]),
        (validate, merge, [("dwi_file", "raw_files"), ("bval_file", "bval_files"),
                           ("bvec_file", "bvec_files")]),
        (denoise_wf, merge, [("outputnode.dwi_files", "dwi_files")]),
    ])  # fmt: skip
    gradients = [("bval_file", "bval_file"), ("bvec_file", "bvec_file")]
    series_files = [("dwi_file", "dwi_file"), *gradients, ("volumes_file", "volumes_file")]
    # nipype keeps and edits the lists it is given: each edge gets its own.
    to_inputnode = [(source, f"inputnode.{target}") for source, target in series_files]
    workflow.connect([
        (merge, sdc_wf, list(to_inputnode)),
        (sdc_wf, unbias, [("outputnode.dwiref_file", "in_file")]),
        (unbias, mask, [("out_file", "in_file")]),
    ])  # fmt: skip
    workflow.connect([
        (merge, hmc_wf, list(to_inputnode)),
        (sdc_wf, hmc_wf, [("outputnode.dwiref_file", "inputnode.dwiref_file"),
                          ("outputnode.field_file", "inputnode.field_file"),
                          ("outputnode.fieldcoef_file", "inputnode.fieldcoef_file"),
                          ("outputnode.movpar_file", "inputnode.movpar_file")]),
        (mask, hmc_wf, [("mask_file", "inputnode.mask_file")]),
    ])  # fmt: skip
    workflow.connect([
        (validate, collect, [("facts", "in_facts")]),
        (collect, facts, [("facts", "in1")]),
        (denoise_wf, facts, [("outputnode.facts", "in2")]),
        (merge, facts, [("facts", "in3")]),
        (sdc_wf, facts, [("outputnode.facts", "in4")]),
        (mask, facts, [("facts", "in5")]),
        (hmc_wf, facts, [("outputnode.facts", "in6")]),
        (facts, merge_facts, [("out", "in_facts")]),
    ])  # fmt: skip
    workflow.connect([
        (merge, outputnode, [("raw_file", "raw_file"), ("volumes_file", "volumes_file"),
                             ("dwi_file", "denoised_file"),
                             ("bval_file", "bval_file"), ("bvec_file", "raw_bvec_file")]),
        (unbias, outputnode, [("out_file", "dwiref_file")]),
        (sdc_wf, outputnode, [("outputnode.uncorrected_file", "uncorrected_file")]),
        (mask, outputnode, [("mask_file", "dwi_mask_file"), ("brain_file", "dwi_brain_file")]),
        (hmc_wf, outputnode, [(f"outputnode.{field}", field) for field in (
            "dwi_file", "bvec_file", "field_file", "motion_file", "confounds_file",
            "confounds_facts", "motion_facts", "outliers_file")]),
        (merge_facts, outputnode, [("facts", "facts")]),
    ])  # fmt: skip
    return workflow


def init_denoise_wf(
    *, method: str, unring: bool, omp_nthreads: int, mem_gb: float, name: str = "denoise_wf"
) -> pe.Workflow:
    """Denoise each run, and remove Gibbs ringing on request.

    Parameters
    ----------
    method
        `dwidenoise` (MRtrix3), `mppca`, `patch2self` or `none`.
    unring
        Remove Gibbs ringing, by `mrdegibbs` beside dwidenoise and by DIPY beside the others.
    omp_nthreads
        Threads a node may use.
    mem_gb
        Size of the series, GB.
    name
        Name of the workflow.

    Inputs
    ------
    dwi_files, bval_files, bvec_files
        The runs.

    Outputs
    -------
    dwi_files
        Denoised runs, in order.
    facts
        What ran.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface(["dwi_files", "bval_files", "bvec_files"]), name="inputnode"
    )
    outputnode = pe.Node(niu.IdentityInterface(["dwi_files", "facts"]), name="outputnode")
    if method == "dwidenoise":
        denoise = pe.MapNode(
            DwiDenoise(nthreads=omp_nthreads, out_file="denoised.nii"),
            iterfield=["in_file"],
            name="dwidenoise",
            n_procs=omp_nthreads,
            mem_gb=3 * mem_gb,
        )
        last = denoise
        if unring:
            last = pe.MapNode(
                mrtrix3.MRDeGibbs(nthreads=omp_nthreads, out_file="unringed.nii"),
                iterfield=["in_file"],
                name="mrdegibbs",
                n_procs=omp_nthreads,
                mem_gb=2 * mem_gb,
            )
            workflow.connect(denoise, "out_file", last, "in_file")
        collect = pe.Node(MergeRunFacts(), name="collect_run_facts", run_without_submitting=True)
        merge = pe.Node(
            MergeFacts(base={"GibbsCorrection": name_unringing(method, unring=unring)}),
            name="collect_facts",
            run_without_submitting=True,
        )
        workflow.connect([
            (inputnode, denoise, [("dwi_files", "in_file")]),
            (denoise, collect, [("facts", "in_facts")]),
            (collect, merge, [("facts", "in_facts")]),
            (last, outputnode, [("out_file", "dwi_files")]),
            (merge, outputnode, [("facts", "facts")]),
        ])  # fmt: skip
        return workflow
    denoise = pe.MapNode(
        DenoiseDwi(method=method, unring=unring, n_threads=omp_nthreads),
        iterfield=["dwi_file", "bval_file", "bvec_file"],
        name="denoise",
        n_procs=omp_nthreads if unring else 1,
        mem_gb=4 * mem_gb,
    )
    collect = pe.Node(MergeRunFacts(), name="collect_facts", run_without_submitting=True)
    workflow.connect([
        (inputnode, denoise, [("dwi_files", "dwi_file"), ("bval_files", "bval_file"),
                              ("bvec_files", "bvec_file")]),
        (denoise, collect, [("facts", "in_facts")]),
        (denoise, outputnode, [("out_file", "dwi_files")]),
        (collect, outputnode, [("facts", "facts")]),
    ])  # fmt: skip
    return workflow


def init_sdc_wf(
    *,
    method: str,
    series: DwiSeries,
    omp_nthreads: int,
    mem_gb: float,
    name: str = "sdc_wf",
) -> pe.Workflow:
    """Make the b=0 reference and, where a reverse-phase image exists, the distortion field.

    Parameters
    ----------
    method
        `topup`, `pepolar` (built in) or `none`.
    series
        The runs and the images that oppose them; a method other than `none` needs such a pair.
    omp_nthreads
        Threads a node may use.
    mem_gb
        Size of the merged series, GB.
    name
        Name of the workflow.

    Inputs
    ------
    dwi_file, bval_file, bvec_file, volumes_file
        Merged series.

    Outputs
    -------
    dwiref_file, uncorrected_file
        b=0 reference, and the image it was corrected from.
    field_file
        Off-resonance, Hz; undefined for `none`.
    fieldcoef_file, movpar_file
        topup's own files; undefined for the other methods.
    facts
        What ran.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface(["dwi_file", "bval_file", "bvec_file", "volumes_file"]),
        name="inputnode",
    )
    outputnode = pe.Node(
        niu.IdentityInterface(
            [
                "dwiref_file",
                "uncorrected_file",
                "field_file",
                "fieldcoef_file",
                "movpar_file",
                "facts",
            ]
        ),
        name="outputnode",
    )
    series_files = [(f, f) for f in ("dwi_file", "bval_file", "bvec_file")]
    if method == "none":
        reference = pe.Node(MakeReference(), name="make_reference", mem_gb=2 * mem_gb)
        outputnode.inputs.facts = {"SDCMethod": name_sdc(method)}
        workflow.connect([
            (inputnode, reference, list(series_files)),
            (reference, outputnode, [("dwiref_file", "dwiref_file"),
                                     ("dwiref_file", "uncorrected_file")]),
        ])  # fmt: skip
        return workflow
    if method == "pepolar":
        estimate = pe.Node(EstimatePairField(), name="estimate_field", mem_gb=2 * mem_gb)
        up, down = series.blip_pair
        estimate.inputs.trait_set(
            up_encoding=up.phase_encoding,
            down_encoding=down.phase_encoding,
            **_reverse_inputs(series),
        )
        workflow.connect([
            (inputnode, estimate, [*series_files, ("volumes_file", "volumes_file")]),
            (estimate, outputnode, [(f, f) for f in (
                "dwiref_file", "uncorrected_file", "field_file", "facts")]),
        ])  # fmt: skip
        return workflow
    files = pe.Node(
        WriteFslFiles(**_reverse_inputs(series)), name="write_fsl_files", mem_gb=2 * mem_gb
    )
    # The usual schedule halves the grid and refuses one that it cannot halve.
    is_even = all(n % 2 == 0 for n in series.runs[0].shape[:3])
    topup = pe.Node(
        RunTopup(config="b02b0.cnf" if is_even else "b02b0_1.cnf", n_threads=omp_nthreads),
        name="topup",
        n_procs=omp_nthreads,
        mem_gb=2,
    )
    collect = pe.Node(CollectTopup(), name="collect_topup")
    workflow.connect([
        (inputnode, files, [*series_files, ("volumes_file", "volumes_file")]),
        (files, topup, [("b0_file", "in_file"), ("b0_acqp_file", "encoding_file")]),
        (topup, collect, [("out_corrected", "corrected_file"), ("out_field", "field_file")]),
        (files, outputnode, [("first_b0_file", "uncorrected_file")]),
        (topup, outputnode, [("out_field", "field_file"), ("out_fieldcoef", "fieldcoef_file"),
                             ("out_movpar", "movpar_file")]),
        (collect, outputnode, [("dwiref_file", "dwiref_file"), ("facts", "facts")]),
    ])  # fmt: skip
    return workflow


def _reverse_inputs(series: DwiSeries) -> dict[str, object]:
    """Return the inputs about the image outside a series that opposes it; none if it has both."""
    image = series.outside_image
    if image is None:
        return {}
    opposed = series.blip_pair[0]
    inputs: dict[str, object] = {
        "epi_file": str(image.path),
        "epi_phase_encoding": image.phase_encoding,
        "epi_readout_s": image.readout_time_s or opposed.readout_time_s,
    }
    if image.bval is not None and image.bvec is not None:
        inputs |= {"epi_bval_file": str(image.bval), "epi_bvec_file": str(image.bvec)}
    if image.gradients is not None:
        inputs["epi_b0_threshold"] = image.gradients.gtab.b0_threshold
    return inputs


def init_hmc_wf(
    *,
    method: str,
    sdc: str,
    sloppy: bool,
    omp_nthreads: int,
    mem_gb: float,
    name: str = "hmc_wf",
) -> pe.Workflow:
    """Estimate head motion and eddy currents.

    Parameters
    ----------
    method
        `eddy`, `builtin` or `none`.
    sdc
        How the field was estimated: :data:`~dmri_fm_workflows.engines.SDC_METHODS` says what of
        it there is. eddy takes topup's own files, or else the field in Hz.
    sloppy
        Coarse and quick, for tests.
    omp_nthreads
        Threads a node may use.
    mem_gb
        Size of the merged series, GB.
    name
        Name of the workflow.

    Inputs
    ------
    dwi_file, bval_file, bvec_file, volumes_file
        Merged series.
    dwiref_file, mask_file
        Reference and brain mask.
    field_file, fieldcoef_file, movpar_file
        Distortion field and topup's own files, where there are any.

    Outputs
    -------
    dwi_file, bvec_file
        The same series, or eddy's.
    field_file
        Distortion still to be corrected; undefined after eddy.
    motion_file, motion_facts, confounds_file, confounds_facts, outliers_file
        Transforms, what they are, and confounds.
    facts
        What ran.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface(
            [
                "dwi_file",
                "bval_file",
                "bvec_file",
                "volumes_file",
                "dwiref_file",
                "mask_file",
                "field_file",
                "fieldcoef_file",
                "movpar_file",
            ]
        ),
        name="inputnode",
    )
    results = [(f, f) for f in (
        "motion_file", "motion_facts", "confounds_file", "confounds_facts", "outliers_file",
        "facts")]  # fmt: skip
    outputnode = pe.Node(
        niu.IdentityInterface(["dwi_file", "bvec_file", "field_file", *dict(results)]),
        name="outputnode",
    )
    series_files = [(f, f) for f in ("dwi_file", "bval_file", "bvec_file", "volumes_file")]
    gives = SDC_METHODS[sdc].gives
    if method != "eddy":
        if method == "builtin":
            estimate = pe.Node(
                EstimateMotion(sloppy=sloppy, n_threads=omp_nthreads),
                name="estimate_motion",
                n_procs=omp_nthreads,
                mem_gb=4 * mem_gb,
            )
            workflow.connect(inputnode, "dwiref_file", estimate, "dwiref_file")
            workflow.connect(inputnode, "mask_file", estimate, "mask_file")
            if gives is not None:
                workflow.connect(inputnode, "field_file", estimate, "field_file")
        else:
            estimate = pe.Node(SkipMotion(), name="skip_motion")
        workflow.connect([
            (inputnode, estimate, list(series_files)),
            (estimate, outputnode, list(results)),
            (inputnode, outputnode, [(f, f) for f in ("dwi_file", "bvec_file", "field_file")]),
        ])  # fmt: skip
        return workflow
    files = pe.Node(WriteFslFiles(), name="write_fsl_files", mem_gb=2 * mem_gb)
    eddy = pe.Node(
        RunEddy(n_threads=omp_nthreads),
        name="eddy",
        n_procs=omp_nthreads,
        mem_gb=6 * mem_gb,
    )
    collect = pe.Node(CollectEddy(), name="collect_eddy", mem_gb=mem_gb)
    if gives == "topup":
        workflow.connect([
            (inputnode, eddy, [("fieldcoef_file", "in_topup_fieldcoef"),
                               ("movpar_file", "in_topup_movpar")]),
        ])  # fmt: skip
    elif gives == "field":
        workflow.connect(inputnode, "field_file", eddy, "field_file")
    workflow.connect([
        (inputnode, files, list(series_files)),
        (inputnode, eddy, [("dwi_file", "in_file"), ("bval_file", "in_bval"),
                           ("bvec_file", "in_bvec"), ("mask_file", "in_mask")]),
        (files, eddy, [("acqp_file", "in_acqp"), ("index_file", "in_index")]),
        (inputnode, collect, [("bval_file", "bval_file"), ("volumes_file", "volumes_file")]),
        (eddy, collect, [("out_corrected", "corrected_file"),
                         ("out_rotated_bvecs", "rotated_bvec_file"),
                         ("out_parameter", "parameter_file"),
                         ("out_outlier_map", "outlier_map_file")]),
        (collect, outputnode, [("dwi_file", "dwi_file"), ("bvec_file", "bvec_file"), *results]),
    ])  # fmt: skip
    return workflow
