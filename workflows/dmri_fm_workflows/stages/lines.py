"""Lines of `--dry-run` about each stage: label and text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dmri_fm.identity import DIRECTION_CHOICES, REGIONS, identity
from dmri_fm.tensor_networks.noise_map import name_noise_map
from dmri_fm_workflows.bids import EpiImage
from dmri_fm_workflows.eddy_config import eddy_arguments
from dmri_fm_workflows.outputs.steps import TAKEN_TRANSFORM
from dmri_fm_workflows.plan import SeriesPlan, SessionPlan
from dmri_fm_workflows.plan.records import SMALLEST_BRAIN_ML
from dmri_fm_workflows.stages.base import Line


def describe_anat(session: SessionPlan) -> Iterator[Line]:
    """Describe the processing of a T1w image."""
    assert session.t1w is not None
    prepared = session.prepared_t1w
    unbiased = prepared is not None and prepared.is_unbiased
    is_given = session.user_t1w_mask is not None or (prepared is not None and prepared.mask)
    by = f" of {prepared.by} (--derivatives)" if prepared is not None and prepared.by else ""
    steps = [
        *([] if unbiased else ["bias correction (N4)"]),
        f"brain mask {'' if is_given else 'by '}{session.mask_name}",
        "in ACPC already" if session.is_acpc else "ACPC",
    ]
    template = session.template
    why = f" (made here: {template.reason})" if template.reason else ""
    yield (
        f"{session.contrast} image",
        f"{session.t1w.name}{by}: {', '.join(steps)}; to the template: {template.name}{why}",
    )
    if prepared is not None and prepared.acquired is not None:
        yield (
            "  as acquired",
            f"{prepared.acquired.name}: gives the position in the scanner, by rigid registration; "
            "another head is an error",
        )
    if session.lesion_mask is not None:
        out = "left out of registrations to templates; no primary maps of networks inside"
        if session.template.taken is not None:
            out = f"{TAKEN_TRANSFORM}; no primary maps of networks inside"
        yield "  lesions", f"{session.lesion_mask.name}: {out}"
    for path in session.unused_t1w:
        yield "not used", f"{path.name}: one {session.contrast} image is used"


def describe_tissue(session: SessionPlan) -> Iterator[Line]:
    """Describe the tissue segmentation of a T1w image."""
    yield "  tissue", f"grey matter, white matter and fluid: {session.tissue_name}"


def describe_read(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the images, and the volumes that remain of them."""
    runs, readouts_s = plan.series.runs, plan.readouts_s
    for number, (run, n_usable) in enumerate(zip(runs, plan.run_sizes, strict=True)):
        yield ("files" if number == 0 else ""), _run_text(run, n_usable, readouts_s[number])
    for image, readout_s in zip(plan.sources[len(runs) :], readouts_s[len(runs) :], strict=True):
        yield "  reverse", f"{image.path.name} ({_encoding_text(image, readout_s)})"
    yield "volumes", _volumes_text(plan)


def describe_preprocessed(plan: SeriesPlan) -> Iterator[Line]:
    """Describe a series that was corrected before, and its volumes."""
    assert plan.preprocessing is not None
    (run,) = plan.series.runs
    n_all, (n_usable,) = run.shape[3], plan.run_sizes
    unusable = f", {n_all - n_usable} of them left out" if n_all != n_usable else ""
    yield "files", f"{run.path.name} ({n_all} volumes{unusable})"
    yield "volumes", _volumes_text(plan)
    if plan.preprocessing.gradients:
        yield "gradients", plan.preprocessing.gradients
    yield "corrections", f"left to the input: {plan.preprocessing.by}"


def describe_deviation(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the b-matrix of each voxel."""
    assert plan.preprocessing is not None
    assert plan.preprocessing.gradient_deviation is not None
    yield (
        "coil deviation",
        f"{plan.preprocessing.gradient_deviation.name}: a b-matrix for each voxel of the tensor "
        "fit; networks read the nominal gradients",
    )


def _run_text(run: EpiImage, n_usable: int, readout_s: float) -> str:
    n_all = run.shape[3]
    unusable = f", {n_all - n_usable} of them left out" if n_all != n_usable else ""
    plural = "volume" if n_all == 1 else "volumes"
    return f"{run.path.name} ({n_all} {plural}{unusable}; {_encoding_text(run, readout_s)})"


def _encoding_text(image: EpiImage, readout_s: float) -> str:
    assumed = "" if image.readout_time_s else " (assumed)"
    encoding = image.phase_encoding or "unknown"
    return f"phase encoding {encoding}, readout {readout_s:.4g} s{assumed}"


def _volumes_text(plan: SeriesPlan) -> str:
    gtab = plan.gtab
    shells = ", ".join(f"{len(s.index)} at b = {s.bval:.0f}" for s in gtab.shells)
    return (
        f"{len(gtab)}: {int(gtab.is_b0.sum())} b=0 (b < {plan.b0_threshold:g} s/mm^2), "
        f"{shells or 'none weighted'}"
    )


def describe_denoise(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the removal of noise and Gibbs ringing."""
    yield "denoise", plan.denoising
    yield "Gibbs ringing", plan.unringing


def describe_noise(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the noise maps of the runs."""
    yield "noise map", "; ".join(dict.fromkeys(map(name_noise_map, plan.run_sizes)))


def describe_merge(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the merging of runs; nothing for one run."""
    n_runs = len(plan.series.runs)
    if n_runs > 1:
        yield "merge", f"{n_runs} runs, brought to the b=0 level of the first"


def describe_sdc(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the correction of distortion, its reason, and images without use."""
    yield "distortion", f"{plan.sdc_name}: {plan.sdc.reason}"
    for unused in plan.sdc.unused:
        said = f"{unused.path.name}: {unused.reason}"
        if said not in plan.sdc.reason:
            yield "  not used", said


def describe_mask(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the brain mask."""
    remark = "; one of them alone where the other finds no brain of a possible volume"
    if plan.is_slab:
        remark += " (the field of view is too short for a whole head)"
    if plan.given_mask is not None:
        remark = ""
    if plan.series.user_mask is not None:
        moved = ", moved by the distortion field" if plan.sdc.has_field else ""
        remark = f": {plan.series.user_mask.path.name}{moved}"
    yield "mask", f"of the b=0 reference: {plan.mask_name}{remark}"


def describe_hmc(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the correction of head motion and eddy currents."""
    yield "motion and eddy", plan.hmc_name
    if plan.eddy is not None:
        arguments = " ".join(
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in eddy_arguments(plan.eddy.options).items()
        )
        quality = ", then eddy_quad" if plan.eddy.has_quad else ""
        build = "a GPU" if plan.engines.uses_cuda_eddy else "the CPU"
        yield "  options", f"{arguments}, on {build}{quality}"


def describe_bias(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the correction of the receive-field bias."""
    yield "bias (B1)", plan.bias_name


def describe_normalise(plan: SeriesPlan) -> Iterator[Line]:
    """Describe registrations, interpolation and output spaces."""
    yield "registration", _alignment_text(plan)
    yield "resampling", _resampling_text(plan)
    names = [*plan.output_spaces, *(template.name for template in plan.templates)]
    yield "output spaces", ", ".join(names)


def _alignment_text(plan: SeriesPlan) -> str:
    if plan.t1w is None and plan.is_in_acpc:
        return f"none to ACPC: the input lies there; to the template: {plan.normalisation_name}"
    if plan.t1w is None:
        return f"b=0 reference rigidly to ACPC; to the template: {plan.normalisation_name}"
    source = f" of ses-{plan.t1w_session}" if plan.t1w_session else ""
    return (
        f"b=0 reference to {plan.t1w.name}{source}: {plan.coregistration_name}; to the template "
        f"by that image's: {plan.normalisation_name}"
    )


def _resampling_text(plan: SeriesPlan) -> str:
    size = plan.voxel_size_mm
    if size is None:
        size = float(np.linalg.norm(plan.series.runs[0].affine[:3, :3], axis=0).min())
    others = [f"{space} at 2 mm" for space in plan.output_spaces if space != "ACPC"]
    if plan.keeps_voxels:
        kept = f"none into ACPC, voxels of {size:.3g} mm are kept"
        return f"{kept}; one interpolation into {', '.join(others)}" if others else kept
    asked = " (--output-resolution)" if plan.voxel_size_mm is not None else ""
    spaces = [f"ACPC at {size:.3g} mm{asked}", *others]
    # eddy hands on its own series, built-in motion correction the volumes as they were acquired.
    how = "by eddy on the grid of the series; then " if plan.is_resampled_by_hmc else ""
    return f"{how}one interpolation into each space; {', '.join(spaces)}"


def describe_tensor(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the least-squares fit."""
    table = plan.gtab.select(plan.tensor_volumes)
    which = f"all {len(table)}" if len(table) == len(plan.gtab) else f"{len(table)}"
    shells = " and ".join(f"{s.bval:.0f}" for s in table.shells)
    text = (
        f"weighted least squares on {which} volumes, b=0 and b = {shells} "
        f"({table.count_directions()} directions)"
    )
    yield "tensor", f"{text}; {plan.tensor_widening}" if plan.tensor_widening else text


def describe_gradient_check(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the check of the b-vectors."""
    yield "gradient check", "b-vectors against the fibres, beside other orders and signs"


def describe_free_water(plan: SeriesPlan) -> Iterator[Line]:
    """Describe the check of b-values whose b-vectors are not of length 1."""
    yield "b-value check", "MD of the ventricles beside that of free water"


def describe_network(plan: SeriesPlan, network: str) -> Iterator[Line]:
    """Describe a tensor network and the six directions that it takes."""
    assert plan.six is not None
    volumes = " ".join(map(str, plan.six.index))
    without = "" if plan.is_preprocessed else "without outlier slices, "
    yield (
        "network",
        f"{network}: six of {plan.n_six_candidates} directions at b = {plan.six.bval:.0f}, "
        f"{without}those of lowest condition number once b-vectors are turned into ACPC (as "
        f"{'read' if plan.is_preprocessed else 'acquired'}: volumes {volumes}, counted from 0, "
        f"{plan.six.condition_number:.2f}), {_device(plan)}{_weights_text(plan, network)}",
    )
    yield "  input", plan.network_input
    for reason in plan.network_reasons:
        yield "  experimental", reason
    if plan.age_check == "unknown":
        smallest = f"{SMALLEST_BRAIN_ML:.0f} ml"
        yield "  age", f"unknown; maps are experimental if the brain mask is below {smallest}"


def describe_encoder(plan: SeriesPlan, encoder: str) -> Iterator[Line]:
    """Describe an encoder and the directions that it takes."""
    n_weighted = int((~plan.gtab.is_b0).sum())
    n = plan.n_directions_of(encoder)
    how = DIRECTION_CHOICES[identity(encoder).extraction.directions]
    which = f"{n} of {n_weighted} directions, {how}"
    if n == n_weighted and identity(encoder).extraction.directions != "shell":
        which = f"all {n} directions"
    where = REGIONS[plan.region_of(encoder)]
    own = _weights_text(plan, encoder)
    yield "features", f"{encoder}: {which}, {where}, on the model's MNI grid, {_device(plan)}{own}"


def _weights_text(plan: SeriesPlan, model: str) -> str:
    path = plan.weights.get(model)
    return "" if path is None else f"; own weights {path}"


def _device(plan: SeriesPlan) -> str:
    return f"on {'a GPU' if plan.engines.device == 'cuda' else 'the CPU'}"
