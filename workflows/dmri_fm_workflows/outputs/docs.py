"""The page `docs/outputs.md`, generated from `maps.yaml`.

`python -m dmri_fm_workflows.outputs docs/outputs.md` writes it.
"""

from __future__ import annotations

from dmri_fm_workflows.outputs.maps import Kind, load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.references import load_references

__all__ = ["outputs_page"]

_SECTIONS = {
    "anat": "Anatomy",
    "dwi": "Diffusion",
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
[How other tools read them](interoperability.md).
"""

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


def _shown_name(kind: Kind) -> str:
    if not kind.datatype:
        return f"`sub-<label>{kind.extensions[0]}`"
    entities = {} if kind.is_group else {"subject": "S"}
    path = output_path(
        entities,
        kind.name,
        space=kind.spaces[0] if kind.spaces else None,
        from_space="A" if kind.is_transform else None,
        to_space="B" if kind.is_transform else None,
    )
    name = path.name.removesuffix(kind.extensions[0]).replace("sub-S", "S")
    endings = [e.removeprefix(".") for e in kind.extensions]
    endings += ["json"] if kind.has_sidecar else []
    ending = endings[0] if len(endings) == 1 else "{" + ",".join(endings) + "}"
    if len(kind.spaces) > 1:
        name = name.replace(f"space-{kind.spaces[0]}", "space-<space>")
    return f"`{path.parts[-2]}/{name}.{ending}`"


def outputs_page() -> str:
    """Return the page in Markdown."""
    catalogue = load_catalogue()
    references = load_references()
    lines = [_INTRO]
    lines += ["| space | what |", "|---|---|"]
    lines += [
        f"| `{s.name}`{f', with `res-{s.resolution}`' if s.resolution else ''} | {s.description} |"
        for s in catalogue.spaces.values()
    ]
    shown = ""
    for kind in catalogue.kinds.values():
        section = _SECTIONS[kind.datatype]
        if section != shown:
            shown = section
            lines += ["", f"## {section}", ""]
            lines += ["| file | what | units | spaces | source |", "|---|---|---|---|---|"]
        works = [
            f"[{references[k].label}](https://doi.org/{references[k].doi})" for k in kind.citations
        ]
        named = ", ".join(f"`{key}`" for key in kind.cited_steps)
        cited = "; ".join([*works, *([f"works of the methods in {named}"] if named else [])])
        lines.append(
            f"| {_shown_name(kind)} | {kind.description} | {kind.units or ''} | "
            f"{', '.join(kind.spaces)} | {cited} |"
        )
    lines += ["", "## Other files", "", "| file | what |", "|---|---|"]
    lines += [f"| `{path}` | {text} |" for path, text in catalogue.files.items()]
    lines += ["", "## Labels of `desc`", "", "| label | meaning |", "|---|---|"]
    lines += [f"| `desc-{label}` | {text} |" for label, text in catalogue.descriptions.items()]
    lines += ["", _VALIDATION, *(f"| {' | '.join(remark)} |" for remark in _REMARKS), _IGNORED]
    lines += [f"| `{pattern}` | {reason} |" for pattern, reason in catalogue.bidsignore.items()]
    return "\n".join(lines) + "\n"
