"""Plans of a session and a participant: frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmri_fm.preprocess.user_mask import USER_MASK
from dmri_fm_workflows.bids import Problem
from dmri_fm_workflows.bids.names import contrast_of
from dmri_fm_workflows.bids.prepared import PreparedT1w, TissueImages
from dmri_fm_workflows.outputs.steps import LESION_KEY, TAKEN_TRANSFORM
from dmri_fm_workflows.plan.anatomy import (
    TemplateChoice,
    choose_template,
    name_anatomy_mask,
    name_tissue,
)
from dmri_fm_workflows.plan.records import SeriesPlan
from dmri_fm_workflows.templates import TemplateFiles


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionPlan:
    """Plan of one session that has a series.

    Attributes
    ----------
    label
        Without `ses-`; None where the dataset has no sessions.
    t1w
        T1w image that is processed, the T2w image in its place, or None.
    unused_t1w
        Further ones.
    normalisation
        `affine` or `syn`: the registration to the template.
    sloppy
        Coarse and quick settings, for tests.
    series
        Plans of its series.
    prepared_t1w
        What is known of a T1w image that was prepared before; None for a raw one.
    user_t1w_mask
        Brain mask that the user gave for the T1w image, or None.
    templates
        Templates of TemplateFlow that the image is registered to.
    lesion_mask
        Mask of lesions on the raw image, left out of registrations to templates, or None.
    """

    label: str | None
    t1w: Path | None
    unused_t1w: tuple[Path, ...]
    normalisation: str
    sloppy: bool
    series: tuple[SeriesPlan, ...]
    prepared_t1w: PreparedT1w | None = None
    user_t1w_mask: Path | None = None
    templates: tuple[TemplateFiles, ...] = ()
    lesion_mask: Path | None = None

    @property
    def mask_name(self) -> str:
        """Entry `MaskMethod` of the sidecar of the T1w image."""
        if self.user_t1w_mask is not None:
            return USER_MASK
        return name_anatomy_mask(self.prepared_t1w, self.contrast)

    @property
    def contrast(self) -> str:
        """Contrast of the anatomical image: `T1w`, or `T2w` where there is no other."""
        return contrast_of(self.t1w)

    @property
    def lesion_masking(self) -> dict[str, str]:
        """Entry of the sidecars about lesions; none without a mask of them."""
        if self.lesion_mask is None:
            return {}
        name = self.lesion_mask.name
        taken = self.template.taken is not None
        return {LESION_KEY: f"{name}, {TAKEN_TRANSFORM}" if taken else name}

    @property
    def has_tissue(self) -> bool:
        """Whether tissue is segmented or taken: not in a T2w image."""
        return self.t1w is not None and self.contrast == "T1w"

    @property
    def tissue(self) -> TissueImages | None:
        """Tissue segmentation that is taken; None: the tissue is segmented in this run."""
        return self.prepared_t1w.tissue if self.prepared_t1w is not None else None

    @property
    def tissue_name(self) -> str:
        """Entry `TissueMethod` of the sidecars of the segmentation."""
        return name_tissue(self.prepared_t1w)

    @property
    def template(self) -> TemplateChoice:
        """Transform between the T1w image and the template."""
        return choose_template(self.prepared_t1w, self.normalisation)

    @property
    def is_acpc(self) -> bool:
        """Whether the T1w image lies on the axes of a template already."""
        return self.prepared_t1w is not None and self.prepared_t1w.is_acpc


@dataclass(frozen=True, eq=False, kw_only=True)
class ParticipantPlan:
    """Plan of one participant.

    Attributes
    ----------
    label
        Without `sub-`.
    sessions
        Sessions with a series.
    problems
        Series that a named method cannot correct, while the others go on.
    """

    label: str
    sessions: tuple[SessionPlan, ...]
    problems: tuple[Problem, ...] = ()

    @property
    def series(self) -> tuple[SeriesPlan, ...]:
        """Every series of every session."""
        return tuple(plan for session in self.sessions for plan in session.series)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, with versions, of every series."""
        return tuple(name for plan in self.series for name in plan.methods)
