"""Methods of the processing steps: sentences and works of the methods that sidecars state.

A sidecar names the method of each step (`Denoising`, `SDCMethod`, ...). Each stage declares the
methods that it can state, as sentences of the methods text with the works to cite; the
`References` of a sidecar are the works of the same sentences. Text and sidecars can thus not
disagree.

The table of stages is imported when it is asked for: stages write sidecars, so they import this
package.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Method", "describe_steps", "works_of"]

_KEY = re.compile(r"@([\w-]+)")

#: Separator between the methods of runs that were merged into one series.
_BETWEEN_RUNS = "; "


@dataclass(frozen=True)
class Method:
    """A method of a step.

    Attributes
    ----------
    pattern
        Regular expression at the start of the sidecar's entry.
    sentence
        Sentence of the methods text, with citations as `[@key]`; `{method}` is replaced by the
        sidecar's entry, versions included.
    """

    pattern: str
    sentence: str

    @property
    def works(self) -> tuple[str, ...]:
        """Works to cite, keys of `references.yaml`."""
        return tuple(dict.fromkeys(_KEY.findall(self.sentence)))


def _find(methods: Sequence[Method], stated: str) -> Method | None:
    return next((m for m in methods if re.match(m.pattern, stated)), None)


def _sentence(key: str, methods: Sequence[Method], stated: str) -> str:
    method = _find(methods, stated)
    if method is None:
        # Of another version of the app: its sidecar is quoted, and nobody is credited.
        return f"The sidecars state {key}: {stated}."
    return method.sentence.replace("{method}", stated)


def describe_steps(
    series: Sequence[Mapping[str, Any]], anatomies: Sequence[Mapping[str, Any]] = ()
) -> list[str]:
    """Return the sentences of the methods text about the processing steps.

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
    from dmri_fm_workflows.stages.table import anatomy_steps, series_steps

    # With a T1-weighted image, it is this that was registered to the template.
    own = [
        {k: v for k, v in s.items() if k != "NormalisationMethod"}
        if "CoregistrationMethod" in s
        else s
        for s in series
    ]
    return [
        *_describe(anatomy_steps(), anatomies, "T1-weighted images"),
        *_describe(series_steps(), own, "series"),
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
        Keys of the steps of a series.
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
    from dmri_fm_workflows.stages.table import series_steps

    steps = series_steps()
    found = [
        method.works
        for key in keys
        if key in sidecar
        for stated in str(sidecar[key]).split(_BETWEEN_RUNS)
        if (method := _find(steps[key], stated)) is not None
    ]
    return tuple(dict.fromkeys(work for works in found for work in works))
