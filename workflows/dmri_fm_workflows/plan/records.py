"""Plan of a series: a frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from dmri_fm.normalise.coregistration import NO_COREGISTRATION, name_coregistration
from dmri_fm.normalise.grid import has_cubic_axes
from dmri_fm.preprocess.denoise import name_gibbs_removal
from dmri_fm.preprocess.dwiref import name_bias_correction
from dmri_fm.preprocess.mask import name_given_mask, name_mask
from dmri_fm.preprocess.mask_shape import is_slab
from dmri_fm.preprocess.quality import RAW_MEASURES
from dmri_fm.preprocess.user_mask import USER_MASK
from dmri_fm_workflows.bids import EpiImage, Fieldmap
from dmri_fm_workflows.bids.names import contrast_of
from dmri_fm_workflows.engines import DENOISE, HMC, SDC
from dmri_fm_workflows.outputs.steps import LEFT
from dmri_fm_workflows.outputs.tsv import SDC_METHOD
from dmri_fm_workflows.plan.anatomy import name_other_templates
from dmri_fm_workflows.plan.eddy import EddyPlan
from dmri_fm_workflows.plan.models import YOUNGEST_YEARS, ModelPlan
from dmri_fm_workflows.plan.sdc import SdcChoice, list_readouts, list_sources

#: Volume of the brain mask below which these maps are experimental where no age is known, ml. A
#: newborn brain has about 340 ml and grows by 64 % in 90 days (doi:10.1001/jamaneurol.2014.1638),
#: by 101 % in the first year and by 15 % in the second (doi:10.1523/JNEUROSCI.3479-08.2008): so
#: this finds most infants below one year. Older ones need an age in the tables.
SMALLEST_BRAIN_ML = 800.0

SLOPPY_WARNING = "Made with --sloppy: coarse and quick, for trying out; not for use."


@dataclass(frozen=True, eq=False, kw_only=True)
class SeriesPlan(ModelPlan):
    """Plan of one series.

    Attributes
    ----------
    t1w
        The T1w image that the b=0 reference is registered to; None: it is aligned to the
        template itself.
    t1w_session
        Session that this image comes from; empty outside the sessions.
    sdc
        Susceptibility correction, its reason, and images that are not used.
    eddy
        What FSL's eddy is told; None if another engine corrects head motion.
    is_denoiser_named
        Whether the user named the denoiser, in place of `auto`.
    unring, unbias, repol
        Whether Gibbs ringing is removed, the receive-field bias is divided out, and lost slices
        are replaced (built-in correction).
    b_scaling
        Reading of b-vectors whose length is not 1: `auto`, `length` or `none`.
    normalisation
        `affine` or `syn`: the registration to the template.
    normalisation_name
        Entry `NormalisationMethod` of the sidecar.
    voxel_size_mm
        Requested voxel size in ACPC; None: that of the series.
    output_spaces
        Spaces of series and maps: ACPC, and the packaged template's if it is asked for.
    tensor_widening
        Reason for shells above the usual b-values of a tensor fit; None without such shells.
    lesion_mask
        Mask of lesions in the anatomical image of the session, or None.
    sloppy
        Coarse and quick settings, for tests.
    warnings
        Remarks for the reader of the results, repeated in the sidecars.
    """

    t1w: Path | None
    t1w_session: str
    sdc: SdcChoice
    eddy: EddyPlan | None
    is_denoiser_named: bool
    unring: bool
    unbias: bool
    repol: bool
    b_scaling: str
    normalisation: str
    normalisation_name: str
    voxel_size_mm: float | None
    output_spaces: tuple[str, ...]
    tensor_widening: str | None
    lesion_mask: Path | None = None
    sloppy: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Stem of the outputs."""
        return self.series.name

    @property
    def entities(self) -> dict[str, str]:
        """Entities of the outputs, long names."""
        return {key: str(value) for key, value in self.series.entities.items()}

    @property
    def is_on_t1w(self) -> bool:
        """Whether the series lies in the space of its T1w image already."""
        return self.has_t1w and self.preprocessing is not None and bool(self.preprocessing.space)

    @property
    def keeps_voxels(self) -> bool:
        """Whether the voxels of the input are those of the output in ACPC."""
        is_free = self.voxel_size_mm is None and has_cubic_axes(self.series.runs[0].affine)
        return self.is_in_acpc and is_free

    @property
    def has_gradient_deviation(self) -> bool:
        """Whether the tensor is fitted with a b-matrix for each voxel."""
        return self.has_tensor and self.deviation_file is not None

    @property
    def not_measured(self) -> dict[str, str]:
        """Reason by quality measure that the input does not allow."""
        of_mask = {} if self.given_mask is None else {"mask_agreement_dice": self.mask_name}
        if self.preprocessing is None:
            return of_mask
        reason = "the input is preprocessed: no raw series, no motion"
        of_field = {SDC_METHOD: f"{LEFT}: {self.preprocessing.by}"}
        of_raw = dict.fromkeys((*RAW_MEASURES, "raw_kspace_extent"), reason)
        return of_raw | of_mask | of_field

    @property
    def has_t1w(self) -> bool:
        """Whether there is a T1w image, or a T2w image in its place, to register to."""
        return self.t1w is not None

    @property
    def contrast(self) -> str:
        """Contrast of that image: `T1w`, or `T2w` where there is no other."""
        return contrast_of(self.t1w)

    @property
    def is_masked_by_t1w(self) -> bool:
        """Whether the mask of the T1w image counts for that of the series."""
        return self.has_t1w and self.contrast == "T1w" and self.given_mask is None

    @property
    def sources(self) -> tuple[EpiImage, ...]:
        """Raw images behind the outputs: the runs, and the image that corrects them."""
        return list_sources(self.series, self.sdc)

    @property
    def fieldmap(self) -> Fieldmap | None:
        """Gradient-echo field map that corrects the series; None if none does."""
        return self.series.usable_fieldmap if self.sdc.uses_fieldmap else None

    @property
    def source_paths(self) -> tuple[Path, ...]:
        """Files behind the outputs: `sources`, the field map, and what a prepared series has."""
        images = self.fieldmap.images if self.fieldmap else ()
        beside = self.preprocessing.files if self.preprocessing else ()
        return (*(image.path for image in self.sources), *images, *beside)

    @property
    def field_identifiers(self) -> tuple[str, ...]:
        """B0FieldIdentifier of the images that the distortion field comes from."""
        if self.fieldmap:
            return self.fieldmap.b0_identifiers
        pair = self.series.blip_pair if self.sdc.uses_pair else None
        return tuple(
            dict.fromkeys(label for image in pair or () for label in image.b0_identifiers)
        )

    @property
    def readouts_s(self) -> tuple[float, ...]:
        """Total readout time of every image of `sources`, s; assumed where no sidecar has one."""
        return list_readouts(self.series, self.sdc)

    @property
    def assumed_readouts_s(self) -> dict[str, float]:
        """Assumed readout times by name of the image, s."""
        return {
            image.path.name: readout_s
            for image, readout_s in zip(self.sources, self.readouts_s, strict=True)
            if not image.readout_time_s
        }

    @property
    def size_gb(self) -> float:
        """Size of all runs as float32, GB."""
        return sum(4 * prod(run.shape) / 1e9 for run in self.series.runs)

    @cached_property
    def run_sizes(self) -> tuple[int, ...]:
        """Number of usable volumes of each run, by its gradients."""
        return tuple(len(run.gtab) for run in self.series.runs)

    @property
    def denoising(self) -> str:
        """Entry `Denoising` of the sidecar."""
        return DENOISE.load(self.engines.denoise).describe(self)

    @property
    def unringing(self) -> str:
        """Entry `GibbsCorrection` of the sidecar."""
        return DENOISE.load(self.engines.denoise).name_unringing(unring=self.unring)

    @property
    def bias_name(self) -> str:
        """Entry `B1Correction` of the sidecar."""
        return name_bias_correction() if self.unbias else "none"

    @property
    def sdc_name(self) -> str:
        """Entry `SDCMethod` of the sidecar."""
        return SDC.load(self.sdc.method).describe(self)

    @property
    def hmc_name(self) -> str:
        """Entry `HMCMethod` of the sidecar."""
        return HMC.load(self.engines.hmc).describe(self)

    @property
    def is_resampled_by_hmc(self) -> bool:
        """Whether the motion engine interpolates the series, and corrects distortion with it."""
        return HMC.load(self.engines.hmc).resamples

    @property
    def has_remaining_field(self) -> bool:
        """Whether a distortion field is left to the normalise stage."""
        return self.sdc.has_field and not self.is_resampled_by_hmc

    @property
    def reads_noise_maps(self) -> bool:
        """Whether tensor networks read the noise maps of the runs."""
        return bool(self.networks) and self.is_raw_for_networks

    @property
    def is_raw_for_networks(self) -> bool:
        """Whether tensor networks read the volumes as acquired."""
        return not self.is_resampled_by_hmc and not self.is_preprocessed

    @property
    def network_input(self) -> str:
        """Entry `NetworkInput` of the sidecar: treatment of the volumes of tensor networks."""
        if self.preprocessing is not None:
            again = "not interpolated" if self.keeps_voxels else "interpolated again"
            return f"preprocessed by {self.preprocessing.by}, {again} into ACPC"
        if self.is_resampled_by_hmc:
            is_denoised = any(not d.startswith("none") for d in self.denoising.split("; "))
            denoising = self.denoising.replace("; ", " or ")
            first = f"denoised by {denoising}, then " if is_denoised else ""
            return f"{first}interpolated by {self.hmc_name} and again into ACPC"
        ringing = f", Gibbs ringing removed by {name_gibbs_removal()}" if self.unring else ""
        return f"not denoised{ringing}, interpolated once into ACPC"

    @property
    def network_reasons(self) -> tuple[str, ...]:
        """Reasons why maps of tensor networks are experimental, as far as the plan knows them."""
        reasons = []
        if self.unring or not self.is_raw_for_networks:
            reasons.append(f"the input, unlike training data, was {self.network_input}")
        if self.age.years is not None and self.age.years < YOUNGEST_YEARS:
            reasons.append(f"never primary below {YOUNGEST_YEARS:g} years of age")
        if self.age.problem:
            reasons.append(self.age.problem)
        return tuple(reasons)

    @property
    def is_slab(self) -> bool:
        """Whether the field of view is too short along the body for a whole brain."""
        first = self.series.runs[0]
        return is_slab(first.shape, first.affine)

    @property
    def mask_name(self) -> str:
        """Entry `MaskMethod` of the sidecar, unless the voxels decide otherwise."""
        if self.series.user_mask is not None:
            return USER_MASK
        if self.given_mask is not None:
            return name_given_mask(self.given_mask)
        return name_mask("b0", has_anatomy=self.is_masked_by_t1w)

    @property
    def coregistration_name(self) -> str | None:
        """Entry `CoregistrationMethod` of the sidecar; None without a T1w image."""
        if self.is_on_t1w:
            return NO_COREGISTRATION
        if not self.has_t1w:
            return None
        return name_coregistration(self.contrast)

    @property
    def stated_methods(self) -> dict[str, str]:
        """Methods of every step that the plan decides, with versions, by key of the sidecar."""
        steps = {"Denoising": self.denoising, "GibbsCorrection": self.unringing,
                 "SDCMethod": self.sdc_name, "HMCMethod": self.hmc_name,
                 "B1Correction": self.bias_name}  # fmt: skip
        own = {"MaskMethod": self.mask_name, "NormalisationMethod": self.normalisation_name}
        own |= name_other_templates(self.templates, self.normalisation)
        stated = (self.earlier_steps or steps) | own
        if self.networks:
            stated["NetworkInput"] = self.network_input
        on_t1w = self.coregistration_name
        return stated if on_t1w is None else stated | {"CoregistrationMethod": on_t1w}

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of these methods, and what the plan decides about maps of networks."""
        age = (self.age_check,) if self.networks else ()
        of_t1w = () if self.coregistration_name is None else (name_mask("t1w"),)
        return (*self.stated_methods.values(), *age, *of_t1w)
