"""The page `docs/outputs.md`, generated from `maps.yaml`.

`python -m dmri_fm_workflows.outputs docs/outputs.md` writes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from dmri_fm.identity import (
    DEFAULT_MODELS,
    ENCODERS,
    TENSOR_NETWORKS,
    identity,
)
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.outputs.references import find_references

_SECTIONS = {
    "anat": "Anatomy",
    "dwi": "Diffusion",
    "fmap": "Diffusion",
    "figures": "Report",
    "": "Report",
    "group": "Group",
}

_INTRO = """\
<!-- Generated from workflows/dmri_fm_workflows/outputs/maps.yaml: run
     python -m dmri_fm_workflows.outputs docs/outputs.md -->
# Outputs

`S` stands for the entities of a scan, e.g. `sub-01_ses-02_acq-b1000`; entities over which runs
were merged (`dir`, `run`) are dropped. `sub-<label>[/ses-<label>]` stands before each `anat/` and
`dwi/`, `sub-<label>` before `figures/`. Names follow BIDS derivatives, maps of models BEP016.
[How other tools read them](interoperability.md). [Group tables](group_tables.md).

Features (`*_features.*`, their group tables and figures) can re-identify a scan: they can show
that two scans are of one person. They are personal data under the data-use agreement of the
cohort; share them only where the images could be shared. Outputs of experimental models are for
research only, not for diagnosis or treatment, as `Model.Use` of their sidecars says.
"""

#: Row of the table of spaces about other templates.
_OTHER_SPACES = (
    "A volumetric template of TemplateFlow that `--output-spaces` names and that is in its cache, "
    "on the grid of its files: scalar maps and the brain mask, resampled from ACPC, and "
    "transforms both ways. Series and features are not written there."
)

_MODELS = """\
## Models

`<model>` in a name is one of these labels. Every model that runs writes under its own, so that
several networks and encoders can run side by side. Models that do not run by default ship without
weights: `--weights NAME=PATH` names a file. A network that estimates no intervals gives no
`desc-std`; one without an out-of-distribution score gives no `param-ood`.

| label | what | outputs | runs by | source |
|---|---|---|---|---|"""

_VALIDATION = """\
## What the BIDS validator says

The tests validate OUT with bids-validator-deno 3.0.2, by its own schema and by the draft of
BEP016 (the compiled branch `bep016` of the specification, November 2025). It finds no error. What
remains:

| message | schema | reason |
|---|---|---|"""

#: What the validator says and stays: message, by which schema, why.
_REMARKS = (
    (
        "`TOO_FEW_AUTHORS`",
        "both",
        "The authors are those of the raw dataset, which `SourceDatasets` names",
    ),
    (
        "`UNKNOWN_BIDS_VERSION`",
        "draft",
        "The draft branched off before version 1.11.1 of the standard",
    ),
    (
        "`SIDECAR_KEY_REQUIRED` of `EncodingAxis`, `Reference`, `TensorRank`",
        "draft, on tensors, where `*_dwimap.*` is not ignored",
        "The draft's rules look for these keys at the top of the sidecar; its text, and its "
        "schema of `OrientationEncoding`, have them inside that object, where they are",
    ),
)

_IGNORED = """
`OrientationEncoding.Reference` of a tensor is `xyz`: its elements are along the RAS+ axes of the
scanner frame of the file, whichever way the image is stored.

`.bidsignore` lists the names that the released standard does not know. Of these the draft knows
maps (`*_dwimap.*`).

| pattern | reason |
|---|---|"""


def _shown_name(of: OutputType) -> str:
    if not of.datatype:
        return f"`sub-<label>{of.extensions[0]}`"
    model = of.models[0]
    path = output_path(
        {} if of.is_group else {"subject": "S"},
        of.name,
        model=None if of.has_optional_model else model,
        space=of.spaces[0] if of.spaces else None,
        from_space="A" if of.is_transform else None,
        to_space="B" if of.is_transform else None,
    )
    name = path.name.removesuffix(of.extensions[0]).replace("sub-S", "S")
    if model is not None:
        name = name.replace(f"model-{model}", "model-<model>")
    endings = [e.removeprefix(".") for e in of.extensions]
    endings += ["json"] if of.has_sidecar else []
    ending = endings[0] if len(endings) == 1 else "{" + ",".join(endings) + "}"
    if len(of.spaces) > 1:
        name = name.replace(f"space-{of.spaces[0]}", "space-<space>")
    return f"`{path.parts[-2]}/{name}.{ending}`"


def _works(keys: Iterable[str], of: str) -> str:
    works = find_references(keys, citing=of)
    return "; ".join(f"[{work.label}](https://doi.org/{work.doi})" for work in works)


def _type_rows() -> Iterator[str]:
    shown = ""
    for of in load_catalogue().types.values():
        section = _SECTIONS[of.datatype]
        if section != shown:
            shown = section
            yield from ["", f"## {section}", ""]
            yield from ["| file | what | units | spaces | source |", "|---|---|---|---|---|"]
        works = [_works(of.citations, f"output {of.name}")] if of.citations else []
        if of.cited_steps:
            works.append(
                f"works of the methods in {', '.join(f'`{key}`' for key in of.cited_steps)}"
            )
        yield (
            f"| {_shown_name(of)} | {of.description} | {of.units or ''} | "
            f"{', '.join((*of.spaces, *(['template'] if of.in_templates else [])))} | "
            f"{'; '.join(works)} |"
        )


def _model_rows() -> Iterator[str]:
    """Yield a row per model, and one per description of an output that is the model's own."""
    for name in ("tensor", *TENSOR_NETWORKS, *ENCODERS):
        model = identity(name)
        names = {
            f"`param-{of.entities['param']}`"
            if "param" in of.entities
            else f"`desc-{of.entities['desc']}`"
            for of in load_catalogue().types.values()
            if of.is_of(name) and not of.is_group and of.datatype == "dwi"
        }
        if model.has_intervals:
            names.add("`desc-std`")
        run = "default" if name in ("tensor", *DEFAULT_MODELS) else f"`--models {name}`"
        own = "".join(f" **{key}**: {text}" for key, text in model.outputs.items())
        yield (
            f"| `model-{model.label}` | {model.title}. {model.description}{own} | "
            f"{', '.join(sorted(names))} | {run} | {_works(model.citations, f'model {name}')} |"
        )


def outputs_page() -> str:
    """Return the page in Markdown."""
    catalogue = load_catalogue()
    lines = [_INTRO]
    lines += ["| space | what |", "|---|---|"]
    lines += [
        f"| `{s.name}`{f', with `res-{s.resolution}`' if s.resolution else ''} | {s.description} |"
        for s in catalogue.spaces.values()
    ]
    lines.append(f"| `<template>`, with `res-<N>` | {_OTHER_SPACES} |")
    lines += [*_type_rows(), "", _MODELS, *_model_rows()]
    lines += ["", "## Other files", "", "| file | what |", "|---|---|"]
    lines += [f"| `{path}` | {text} |" for path, text in catalogue.files.items()]
    lines += ["", "## Labels of `desc`", "", "| label | meaning |", "|---|---|"]
    lines += [f"| `desc-{label}` | {text} |" for label, text in catalogue.descriptions.items()]
    lines += ["", _VALIDATION, *(f"| {' | '.join(remark)} |" for remark in _REMARKS), _IGNORED]
    lines += [f"| `{pattern}` | {reason} |" for pattern, reason in catalogue.bidsignore.items()]
    return "\n".join(lines) + "\n"


def write_page(page: str, description: str) -> None:
    """Write a generated page to the path that the command line gives."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("path", type=Path, help="file to write")
    target = parser.parse_args().path
    changed = publish_text(page, target)
    print(f"{target}: {'written' if changed else 'already current'}")
