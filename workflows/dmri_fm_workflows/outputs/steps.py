"""What ran outside the models, as the sidecars state it: sentences and works of each method.

A sidecar names the method of each step (`Denoising`, `SDCMethod`, ...). The record of a method
holds the sentence of the methods text about it, with the works to cite; the `References` of a
sidecar are the works of the same record. Text and sidecars can thus not disagree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["ANATOMY_STEPS", "SERIES_STEPS", "Method", "describe_steps", "works_of"]

_KEY = re.compile(r"@([\w-]+)")

#: What parts the methods of runs that were merged into one series.
_BETWEEN_RUNS = "; "


@dataclass(frozen=True)
class Method:
    """A method of a step.

    Attributes
    ----------
    pattern
        Regular expression that what the sidecar says begins with.
    sentence
        What the methods text says of it, with citations as `[@key]`; `{method}` stands for what
        the sidecar says, versions included.
    """

    pattern: str
    sentence: str

    @property
    def works(self) -> tuple[str, ...]:
        """Works to cite, keys of `references.yaml`."""
        return tuple(dict.fromkeys(_KEY.findall(self.sentence)))


_OTSU = Method(
    "median_otsu", "The brain in the {image} was masked by {method} [@garyfallidis2014]."
)
_FILLED = Method(
    "deepbet.*median_otsu",
    "The brain in the {image} was masked by {method} [@fisch2024; @garyfallidis2014].",
)
_DEEPBET = Method("deepbet", "The brain in the {image} was masked by {method} [@fisch2024].")


def _masks(image: str) -> tuple[Method, ...]:
    return tuple(
        Method(m.pattern, m.sentence.replace("{image}", image)) for m in (_OTSU, _FILLED, _DEEPBET)
    )


def _registrations(image: str) -> tuple[Method, ...]:
    sentence = f"The {image} was registered to the ICBM 152 template [@fonov2011]: {{method}} "
    return (Method(r"affine", sentence + "[@avants2008]."),)


_VARIATIONAL = (
    "Distortion by magnetic susceptibility was estimated from images of opposite phase encoding "
    "by a variational method [@ruthotto2012]"
)
_EQUAL_READOUTS = (
    f"{_VARIATIONAL}, with readout times that are unknown and were taken to be equal."
)

_ROTATED = "b-vectors were rotated accordingly"
_ONCE = (
    f"all transforms of a volume were composed, its voxels were interpolated once, and {_ROTATED}"
)

#: Methods of each step of a series, by the key of its sidecar; the first that fits counts.
SERIES_STEPS: Mapping[str, tuple[Method, ...]] = MappingProxyType(
    {
        "Denoising": (
            Method("none$", "Noise was not removed."),
            Method("none", "Noise was not removed where a run has too few volumes."),
            Method("MP-PCA", "Noise was removed by {method} [@veraart2016; @garyfallidis2014]."),
            Method(
                "MRtrix3 dwidenoise",
                "Noise was removed by {method} [@veraart2016; @tournier2019].",
            ),
            Method(
                "Patch2Self", "Noise was removed by {method} [@fadnavis2020; @garyfallidis2014]."
            ),
        ),
        "GibbsCorrection": (
            Method("none", "Gibbs ringing was not removed."),
            Method(
                "MRtrix3 mrdegibbs",
                "Gibbs ringing was removed by subvoxel shifts [@kellner2016] with {method} "
                "[@tournier2019].",
            ),
            Method(
                "DIPY gibbs_removal",
                "Gibbs ringing was removed by subvoxel shifts [@kellner2016] with {method} "
                "[@garyfallidis2014].",
            ),
        ),
        "SDCMethod": (
            Method("none", "Distortion by magnetic susceptibility was not corrected."),
            Method(
                "FSL topup",
                "Distortion by magnetic susceptibility was estimated from images of opposite "
                "phase encoding by {method} [@andersson2003].",
            ),
            Method("Variational estimate.*readout times unknown", _EQUAL_READOUTS),
            Method("Variational estimate", f"{_VARIATIONAL}."),
        ),
        "HMCMethod": (
            Method("none", f"Head motion and eddy currents were not corrected; {_ONCE}."),
            Method(
                "FSL eddy",
                "Head motion and eddy currents were corrected by {method} [@andersson2016], which "
                "interpolates the series; its result was interpolated once more into each output "
                f"space, and {_ROTATED}.",
            ),
            Method(
                "registration to leave-one-out",
                f"Head motion and eddy currents were estimated by {{method}}; {_ONCE}.",
            ),
        ),
        "MaskMethod": _masks("b=0 reference"),
        "CoregistrationMethod": (
            Method(
                "rigid",
                "The b=0 reference was registered to the T1-weighted image: {method} "
                "[@avants2008].",
            ),
        ),
        "NormalisationMethod": _registrations("b=0 reference"),
    }
)

#: The same of a T1-weighted image.
ANATOMY_STEPS: Mapping[str, tuple[Method, ...]] = MappingProxyType(
    {
        "MaskMethod": _masks("T1-weighted image"),
        "NormalisationMethod": _registrations("T1-weighted brain"),
    }
)


def _find(methods: Sequence[Method], stated: str) -> Method | None:
    return next((m for m in methods if re.match(m.pattern, stated)), None)


def _sentence(key: str, methods: Sequence[Method], stated: str) -> str:
    found = _find(methods, stated)
    if found is None:
        # Of another version of the app: its sidecar is quoted, and nobody is credited.
        return f"The sidecars state {key}: {stated}."
    return found.sentence.replace("{method}", stated)


def describe_steps(
    series: Sequence[Mapping[str, Any]], anatomies: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Return the sentences of the methods text about what ran outside the models.

    Parameters
    ----------
    series
        Sidecars of preprocessed series.
    anatomies
        Sidecars of preprocessed T1-weighted images.

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
        {k: v for k, v in s.items() if k != "NormalisationMethod"}
        if "CoregistrationMethod" in s
        else s
        for s in series
    ]
    return [
        *_describe(ANATOMY_STEPS, anatomies, "T1-weighted images"),
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
        Keys of :data:`SERIES_STEPS`.
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
    found = [
        method.works
        for key in keys
        if key in sidecar
        for stated in str(sidecar[key]).split(_BETWEEN_RUNS)
        if (method := _find(SERIES_STEPS[key], stated)) is not None
    ]
    return tuple(dict.fromkeys(work for works in found for work in works))
