"""The methods text, from the outputs that are there, and the citation files at the root.

A text of all participants needs their sidecars, and thousands of jobs that each read all of them
are too dear. A run at the participant level thus writes the text of its own participants, and
names them in it; of several such runs the last one counts. The group level writes the text of
all that it tabulates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Template

from dmri_fm.identity import IDENTITIES, REGIONS, describe_models
from dmri_fm.json_files import read_object
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.outputs.references import render_methods
from dmri_fm_workflows.outputs.steps import (
    BIAS,
    MOTION,
    QUALITY,
    describe_steps,
    is_left_to_input,
)

#: Largest number of participants that the citation files name; of more they state the number.
N_NAMED = 10


@dataclass(frozen=True)
class Processed:
    """Sidecars and models of some outputs, for the methods text.

    Attributes
    ----------
    series
        Sidecars of preprocessed series.
    anatomies
        Sidecars of preprocessed T1-weighted images.
    tissues
        Sidecars of their segmentations.
    features
        Sidecars of scan features.
    models
        Names of the models that wrote outputs, in the order of their records.
    has_quality
        Whether there are tables of quality measures.
    """

    series: tuple[Mapping[str, Any], ...] = ()
    anatomies: tuple[Mapping[str, Any], ...] = ()
    tissues: tuple[Mapping[str, Any], ...] = ()
    features: tuple[Mapping[str, Any], ...] = ()
    models: tuple[str, ...] = ()
    has_quality: bool = False

    def __add__(self, other: Processed) -> Processed:
        """Return the union of both."""
        return Processed(
            (*self.series, *other.series),
            (*self.anatomies, *other.anatomies),
            (*self.tissues, *other.tissues),
            (*self.features, *other.features),
            tuple(name for name in IDENTITIES if name in (*self.models, *other.models)),
            self.has_quality or other.has_quality,
        )


def find_processed(paths: Collection[Path]) -> Processed:
    """Read the sidecars and the models of some outputs.

    Parameters
    ----------
    paths
        Outputs; sidecars of series and T1-weighted images in ACPC and of scan features are read,
        of others only the name.

    Raises
    ------
    InputError
        If a sidecar cannot be read.
    """

    def read(pattern: str) -> tuple[Mapping[str, Any], ...]:
        return tuple(read_object(path) for path in sorted(p for p in paths if p.match(pattern)))

    labels = {p.name.partition("_model-")[2].partition("_")[0] for p in paths}
    return Processed(
        read("*_space-ACPC_desc-preproc_dwi.json"),
        read("*_space-ACPC_desc-preproc_T[12]w.json"),
        read("*_space-ACPC_dseg.json"),
        read("*_desc-scan_features.json"),
        tuple(name for name, model in IDENTITIES.items() if model.label in labels),
        any(path.match("*_desc-image_qc.tsv") for path in paths),
    )


def describe_methods(processed: Processed) -> str:
    """Return the methods text of some outputs, with citations as `[@key]`.

    It describes the steps that a sidecar states, and the models and the stage of quality measures
    where they wrote outputs.
    """
    text = files("dmri_fm_workflows.outputs").joinpath("methods.md").read_text(encoding="utf-8")
    sidecars = (*processed.series, *processed.anatomies)
    return str(
        Template(text, keep_trailing_newline=True).render(
            bias=BIAS if any("MaskMethod" in s for s in sidecars) else "",
            steps=" ".join(
                describe_steps(processed.series, processed.anatomies, processed.tissues)
            ),
            models=describe_models(processed.models),
            regions=describe_regions(processed.features),
            quality=_describe_quality(processed),
        )
    )


def _describe_quality(processed: Processed) -> str:
    """Return the sentences about tables of quality; those of motion where it was measured."""
    if not processed.has_quality:
        return ""
    motion = [str(s.get("HMCMethod", "")) for s in processed.series]
    is_measured = not motion or not all(map(is_left_to_input, motion))
    return " ".join([*([MOTION] if is_measured else []), QUALITY])


def describe_regions(sidecars: Sequence[Mapping[str, Any]]) -> str:
    """Return which part of the brain each encoder read, by the sidecars of its features.

    Examples
    --------
    >>> describe_regions([{"Model": {"Name": "D-RoPE encoder"}, "Region": "whole"}])
    'Features by the D-RoPE encoder are those of the whole brain.'
    """
    read = dict.fromkeys((s["Model"]["Name"], s["Region"]) for s in sidecars if "Region" in s)
    return " ".join(f"Features by the {name} are those of {REGIONS[part]}." for name, part in read)


def write_citations(
    out: str | Path,
    processed: Processed,
    participants: Sequence[str],
    *,
    is_planned: bool = False,
) -> None:
    """Write `logs/CITATION.*`: the methods text of some participants, with the works to cite.

    Parameters
    ----------
    out
        Output folder.
    processed
        Sidecars and models of their outputs.
    participants
        Whose text it is, with or without the prefix.
    is_planned
        Whether nothing of it has run yet.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    labels = [f"sub-{label.removeprefix('sub-')}" for label in participants]
    number = f"{len(labels)} participant{'' if len(labels) == 1 else 's'}"
    named = f" ({', '.join(labels)})" if 0 < len(labels) <= N_NAMED else ""
    planned = (
        f"This text is of the plan for {number}{named}: nothing has run. What voxels decide, such "
        "as a mask that one method alone has found, stands in the text that the run writes."
    )
    written = (
        f"This text is of the outputs of {number}{named} at the end of the run that wrote it. "
        "The group level writes it for all participants."
    )
    text = f"{describe_methods(processed)}\n{planned if is_planned else written}\n"
    for extension, content in render_methods(text).items():
        publish_text(content, Path(out) / "logs" / f"CITATION.{extension}")
