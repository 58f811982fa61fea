"""Methods text and works of the processing steps, from the methods that sidecars state.

A sidecar names the method of each step (`Denoising`, `SDCMethod`, ...). Text and `References` of
the sidecar come from one record of that method, so they cannot disagree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmri_fm.preprocess.user_mask import USER_MASK
from dmri_fm_workflows.engines import DENOISE, HMC, SDC, Method

#: Separator between the methods of runs that were merged into one series.
_BETWEEN_RUNS = "; "


#: Key of the sidecar of an anatomical image that is not T1-weighted.
CONTRAST_KEY = "AnatomyContrast"

#: Key of the sidecars about a mask of lesions: its file.
LESION_KEY = "LesionMaskFile"

#: What its entry adds where no registration was made.
TAKEN_TRANSFORM = "not used by the transform to the template, which was taken from derivatives"

#: Key of the sidecar about templates of TemplateFlow.
OTHER_TEMPLATES = "OtherTemplates"

#: Start of the entry of a step that was left to a preprocessed input.
LEFT = "left to the input"


def _left(what: str) -> tuple[Method, ...]:
    """Return the sentence about a correction that was left to a preprocessed input."""
    return (Method(LEFT, f"{what} was {{method}}."),)


def _masks(image: str) -> tuple[Method, ...]:
    """Return the sentences about a brain mask, by the methods of the core."""
    text = f"The brain in the {image} was masked by {{method}}"
    return (
        Method("consensus of median_otsu.*deepbet", f"{text} [@garyfallidis2014; @fisch2024]."),
        Method(USER_MASK, f"The brain mask of the {image} was {{method}}."),
        Method("taken from", f"The brain mask of the {image} was {{method}}."),
        Method("(consensus of )?median_otsu", f"{text} [@garyfallidis2014]."),
        Method("deepbet", f"{text} [@fisch2024]."),
        Method("the T1w brain", f"{text}."),
    )


def _registrations(image: str) -> tuple[Method, ...]:
    text = f"The {image} was registered to the ICBM 152 template [@fonov2011]: {{method}} "
    return (
        Method("affine", f"{text}[@avants2008]."),
        Method(
            "taken from",
            f"The transform of the {image} to the ICBM 152 template [@fonov2011] was {{method}}.",
        ),
    )


def _others(image: str) -> tuple[Method, ...]:
    text = f"The {image} was also registered to templates of TemplateFlow [@ciric2022]: {{method}}"
    return (Method("affine", f"{text} [@avants2008]."),)


def _lesions() -> tuple[Method, ...]:
    """Return the sentences about a mask of lesions."""
    return (
        Method(f".*, {TAKEN_TRANSFORM}", "A mask of lesions was given ({method})."),
        Method(
            "",
            "Lesions were left out of the registration to the template by cost-function masking "
            "[@brett2001], with the masks of the dataset.",
        ),
    )


def _anatomies() -> tuple[Method, ...]:
    """Return the sentences about a T1w image that another pipeline prepared."""
    text = (
        "The T1-weighted image, corrected for intensity bias, was taken from the derivatives of "
        "{method}"
    )
    return (
        Method("(?i)[fs]mriprep", f"{text} [@esteban2019]."),
        Method("(?i)qsiprep", f"{text} [@cieslak2021]."),
        Method("", f"{text}."),
    )


_UNRINGING = "Gibbs ringing was removed by subvoxel shifts [@kellner2016] with {method}"
_COREGISTRATION = (
    "The b=0 reference was registered to the T1-weighted image: {method} [@avants2008]."
)

#: Methods of the steps of a T1w image, by key of its sidecar; the first match counts.
ANATOMY_STEPS: Mapping[str, tuple[Method, ...]] = {
    "AnatomySource": _anatomies(),
    "MaskMethod": _masks("T1-weighted image"),
    "NormalisationMethod": _registrations("T1-weighted brain"),
    LESION_KEY: _lesions(),
    OTHER_TEMPLATES: _others("T1-weighted brain"),
}

#: The same of a T2w image.
T2W_STEPS: Mapping[str, tuple[Method, ...]] = {
    CONTRAST_KEY: (
        Method("", "Without a T1w image, the {method} image was the anatomical reference."),
    ),
    "MaskMethod": _masks("T2-weighted image"),
    "NormalisationMethod": _registrations("T2-weighted brain"),
    LESION_KEY: _lesions(),
    OTHER_TEMPLATES: _others("T2-weighted brain"),
}

#: Methods of the segmentation of a T1w image, likewise.
TISSUE_STEPS: Mapping[str, tuple[Method, ...]] = {
    "TissueMethod": (
        Method(
            "Atropos",
            "The tissue of the T1-weighted image was segmented by {method} [@avants2011; "
            "@fonov2011].",
        ),
        Method("taken from", "The tissue of the T1-weighted image was {method}."),
    ),
}

#: Methods of the steps of a series, likewise, in the order of the text.
SERIES_STEPS: Mapping[str, tuple[Method, ...]] = {
    "Denoising": (*_left("Removal of noise"), *DENOISE.methods),
    "GibbsCorrection": (
        *_left("Removal of Gibbs ringing"),
        Method("none", "Gibbs ringing was not removed."),
        Method("MRtrix3 mrdegibbs", f"{_UNRINGING} [@tournier2019]."),
        Method("DIPY gibbs_removal", f"{_UNRINGING} [@garyfallidis2014]."),
    ),
    "NoiseMap": (
        Method(
            "MP-PCA",
            "The noise of the runs was mapped by {method} [@veraart2016; @garyfallidis2014].",
        ),
        Method("one number", "The noise of a run was estimated as {method}."),
    ),
    "SDCMethod": (*_left("Correction of susceptibility distortion"), *SDC.methods),
    "HMCMethod": (*_left("Correction of head motion and eddy currents"), *HMC.methods),
    "B1Correction": (
        Method("none", "The series were not corrected for the bias of the receive field."),
        Method("N4", "The bias of the receive field was corrected by {method} [@tustison2010]."),
    ),
    "MaskMethod": _masks("b=0 reference"),
    "GradientNonlinearity": (
        Method(
            "not corrected",
            "The deviation of the gradient coils from linearity was not corrected: models read "
            "the nominal gradients.",
        ),
        Method(
            "not in these",
            "In the least-squares fit of the tensor, the deviation of the gradient coils from "
            "linearity was corrected by a b-matrix for each voxel [@bammer2003; "
            "@sotiropoulos2013]; other models read the nominal gradients.",
        ),
    ),
    "CoregistrationMethod": (
        Method("rigid.* to the T2w image", _COREGISTRATION.replace("T1-", "T2-")),
        Method("rigid", _COREGISTRATION),
        Method(
            "none",
            "The b=0 reference was not registered to the T1-weighted image, as the input had "
            "both in one space.",
        ),
    ),
    "NormalisationMethod": _registrations("b=0 reference"),
    OTHER_TEMPLATES: _others("b=0 reference"),
    "NetworkInput": (
        Method(
            "not denoised",
            "Tensor networks read the volumes as acquired, with the transforms that were "
            "estimated from the series above: {method}.",
        ),
        Method("", "Tensor networks read volumes that differ from their training: {method}."),
    ),
}

#: Sentence about the image that a mask is drawn on, for every method of `MaskMethod`.
BIAS = (
    "The images that guide registrations and brain masks were corrected for intensity bias "
    "[@tustison2010]."
)

#: Sentences of the quality stage, which has no choice of method.
QUALITY = (
    "The quality of a series is summarised as the correlation of volumes that are neighbours in "
    "q-space [@yeh2019], in tables named after those of QSIPrep [@cieslak2021]."
)
MOTION = (
    "Head motion is summarised as framewise displacement [@power2012], without the displacement "
    "by eddy currents where it could be told from that of the head."
)


def is_left_to_input(stated: str) -> bool:
    """Tell a step that was left to a preprocessed input, by its entry in the sidecar.

    Examples
    --------
    >>> is_left_to_input("left to the input: QSIPrep 1.0.1"), is_left_to_input("none")
    (True, False)
    """
    return stated.startswith(LEFT)


def _find(methods: Sequence[Method], stated: str) -> Method | None:
    return next((m for m in methods if re.match(m.pattern, stated)), None)


def _sentence(key: str, methods: Sequence[Method], stated: str) -> str:
    method = _find(methods, stated)
    if method is None:
        # Of another version of the app: its sidecar is quoted, and nobody is credited.
        return f"The sidecars state {key}: {stated}."
    return method.sentence.replace("{method}", stated)


def describe_steps(
    series: Sequence[Mapping[str, Any]],
    anatomies: Sequence[Mapping[str, Any]] = (),
    tissues: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Return the sentences of the methods text about the processing steps.

    Parameters
    ----------
    series
        Sidecars of preprocessed series.
    anatomies
        Sidecars of preprocessed T1-weighted images, and of T2-weighted ones in their place.
    tissues
        Sidecars of their segmentations.

    Returns
    -------
    list of str
        In the order of processing, with citations as `[@key]`. Where a step was not the same for
        all, each sentence ends with the number of series or images that it is true of.

    Examples
    --------
    >>> describe_steps([{"GibbsCorrection": "none"}])
    ['Gibbs ringing was not removed.']
    >>> describe_steps([{"SDCMethod": "none"}, {"HMCMethod": "none"}])[0]
    'Distortion by magnetic susceptibility was not corrected (1 of 2 series).'
    """
    # With a T1-weighted image, it is this that was registered to the template.
    own = [
        {k: v for k, v in s.items() if k not in ("NormalisationMethod", OTHER_TEMPLATES)}
        if "CoregistrationMethod" in s
        else s
        for s in series
    ]
    of_t1w = [sidecar for sidecar in anatomies if CONTRAST_KEY not in sidecar]
    of_t2w = [sidecar for sidecar in anatomies if CONTRAST_KEY in sidecar]
    return [
        *_describe(ANATOMY_STEPS, of_t1w, "T1-weighted images"),
        *_describe(T2W_STEPS, of_t2w, "T2-weighted images"),
        *_describe(TISSUE_STEPS, tissues, "T1-weighted images"),
        *_describe(SERIES_STEPS, own, "series"),
    ]


def _describe(
    steps: Mapping[str, tuple[Method, ...]], sidecars: Sequence[Mapping[str, Any]], noun: str
) -> Iterable[str]:
    for key, methods in steps.items():
        counted = Counter(
            sentence
            for sidecar in sidecars
            if key in sidecar
            for sentence in dict.fromkeys(
                _sentence(key, methods, stated)
                for stated in str(sidecar[key]).split(_BETWEEN_RUNS)
            )
        )
        for sentence, n in counted.items():
            is_all = n == len(sidecars) and len(counted) == 1
            share = "" if is_all else f" ({n} of {len(sidecars)} {noun})"
            yield f"{sentence.removesuffix('.')}{share}."


def works_of(keys: Iterable[str], sidecar: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the works of the methods that a sidecar states under some keys.

    Parameters
    ----------
    keys
        Keys of the steps of a T1w image or a series.
    sidecar
        Contents of a sidecar; a key that it lacks adds nothing.

    Returns
    -------
    tuple of str
        Keys of `references.yaml`, each once.

    Examples
    --------
    >>> works_of(["MaskMethod"], {"MaskMethod": "median_otsu (DIPY 1.12.1), slab"})
    ('garyfallidis2014',)
    """
    known = {**ANATOMY_STEPS, **TISSUE_STEPS, **SERIES_STEPS}
    found = [
        method.works
        for key in keys
        if key in sidecar
        for stated in str(sidecar[key]).split(_BETWEEN_RUNS)
        if (method := _find(known[key], stated)) is not None
    ]
    return tuple(dict.fromkeys(work for works in found for work in works))
