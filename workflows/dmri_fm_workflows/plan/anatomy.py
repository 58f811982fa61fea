"""What a plan decides about the T1w image of a session, and how the sidecars name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmri_fm.normalise.registration import name_normalisation
from dmri_fm.normalise.tissue import name_tissue_method
from dmri_fm.preprocess.mask import name_given_mask, name_mask
from dmri_fm_workflows.bids.prepared import PreparedT1w, TemplateTransforms
from dmri_fm_workflows.outputs.steps import OTHER_TEMPLATES
from dmri_fm_workflows.templates import TemplateFiles

#: Key of the sidecar that names the pipeline of a T1w image of `--derivatives`.
SOURCE_KEY = "AnatomySource"


@dataclass(frozen=True)
class TemplateChoice:
    """The transform between a T1w image and the template.

    Attributes
    ----------
    name
        Entry `NormalisationMethod` of the sidecar.
    taken
        Transforms that the derivatives hold; None: the registration is made in this run.
    reason
        Reason why none of the derivatives is taken; empty if one is, or nothing was to be taken.
    """

    name: str
    taken: TemplateTransforms | None = None
    reason: str = ""


def choose_template(prepared: PreparedT1w | None, normalisation: str) -> TemplateChoice:
    """Take the transforms of the derivatives if they are what `--normalisation` asks for.

    Examples
    --------
    >>> choose_template(None, "affine").taken
    """
    own = name_normalisation(normalisation)
    if prepared is None or not prepared.by:
        return TemplateChoice(own)
    found = prepared.transforms
    if found is None:
        others = ", ".join(prepared.templates)
        lead = f"lead to {others} only" if others else "hold no transform that can be taken"
        return TemplateChoice(own, reason=f"the derivatives {lead}")
    if found.method != normalisation:
        words = {"affine": "an affine", "syn": "a warp"}
        return TemplateChoice(
            own,
            reason=f"{found.to_template.name} is {words[found.method]}, and --normalisation is "
            f"{normalisation}",
        )
    name = f"taken from {prepared.by}: {found.to_template.name} ({normalisation})"
    return TemplateChoice(name, found)


def name_other_templates(templates: Sequence[TemplateFiles], normalisation: str) -> dict[str, str]:
    """Return the entry of the sidecar about templates of TemplateFlow; none without any."""
    names = " and ".join(template.name for template in templates)
    return {OTHER_TEMPLATES: name_normalisation(normalisation, names)} if names else {}


def name_tissue(prepared: PreparedT1w | None) -> str:
    """Return the entry `TissueMethod` of the sidecars of a tissue segmentation."""
    if prepared is None or prepared.tissue is None:
        return name_tissue_method()
    return f"taken from {prepared.by}: {prepared.tissue.dseg.name}"


def name_anatomy_mask(prepared: PreparedT1w | None, contrast: str = "T1w") -> str:
    """Return the entry `MaskMethod` of the sidecar of an anatomical image."""
    if prepared is None or prepared.mask is None:
        # A b=0 image is T2-weighted, too: the methods of its masks are taken.
        return name_mask("t1w" if contrast == "T1w" else "b0")
    return name_given_mask(prepared.mask, *([prepared.by] if prepared.by else []))
