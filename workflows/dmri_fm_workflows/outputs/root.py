"""Files at the root of the output folder: description, README and lists of labels.

Thousands of jobs may write them at once. Their contents depend on the version and the source
dataset only, so every job writes the same bytes, by rename. The methods text is the exception
(:mod:`dmri_fm_workflows.outputs.methods`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmri_fm import __version__
from dmri_fm.errors import ConfigError, InputError
from dmri_fm.json_files import read_object
from dmri_fm.project import DISTRIBUTION, source_url
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.publish import publish_json, publish_text
from dmri_fm_workflows.outputs.sources import ANATOMY, RAW
from dmri_fm_workflows.outputs.tsv import format_table

APP_NAME = DISTRIBUTION

#: What follows a raw dataset's name in the name of the outputs.
DERIVATIVES = f": diffusion MRI derivatives by {APP_NAME}"

BIDS_VERSION = "1.11.1"

#: Environment variable that an image sets to name itself, `type:tag`.
CONTAINER_VARIABLE = "DROPE_CONTAINER"

_DESCRIPTIONS_SIDECAR = {
    "Description": "Meaning of each desc label in the names of this dataset's files",
    "desc_id": {"Description": "The desc entity, with its label"},
    "description": {"Description": "What files with this label hold"},
}

_CONTAINER_TYPES = ("docker", "singularity", "apptainer", "podman")


def read_container(environ: Mapping[str, str]) -> dict[str, str] | None:
    """Return the `Container` object of `GeneratedBy`, or None outside a container.

    Raises
    ------
    ConfigError
        If the variable does not read `type:tag`.

    Examples
    --------
    >>> read_container({"DROPE_CONTAINER": "docker:drope-bidsapp:0.1.0"})
    {'Type': 'docker', 'Tag': 'drope-bidsapp:0.1.0'}
    """
    text = environ.get(CONTAINER_VARIABLE, "")
    if not text:
        return None
    engine, _, tag = text.partition(":")
    if engine not in _CONTAINER_TYPES or not tag:
        raise ConfigError(
            f"{CONTAINER_VARIABLE} is {text!r}",
            expected="type:tag, with a type among " + ", ".join(_CONTAINER_TYPES),
            advice="unset the variable, or name the image, e.g. docker:drope-bidsapp:0.1.0",
        )
    return {"Type": engine, "Tag": tag}


def generated_by() -> dict[str, str]:
    """Return the entry of `GeneratedBy` for this version of the app.

    It has a `CodeURL` where the package's own metadata name the source, see
    :func:`dmri_fm.project.source_url`.
    """
    source = source_url()
    code = {} if source is None else {"CodeURL": source}
    return {"Name": APP_NAME, "Version": __version__, **code}


def _link_to(dataset: Path, out: Path) -> str:
    """Return the link to a dataset: relative from inside it, as the folder travels with it."""
    return os.path.relpath(dataset, out) if dataset in out.parents else dataset.as_uri()


def dataset_description(
    out: str | Path,
    *,
    source: str | Path,
    source_name: str,
    anatomy: str | Path | None = None,
    source_description: Mapping[str, Any] | None = None,
    container: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the contents of `dataset_description.json`.

    Parameters
    ----------
    out, source, source_name, anatomy
        As for :func:`write_root_files`.
    source_description
        `dataset_description.json` of the raw dataset, for licence and DOI.
    container
        Of :func:`read_container`.
    """
    known = source_description or {}
    out, source = Path(out).absolute(), Path(source).absolute()
    link = _link_to(source, out)
    others = {} if anatomy is None else {ANATOMY: _link_to(Path(anatomy).absolute(), out)}
    generator: dict[str, Any] = generated_by() | {
        "Description": "Corrected diffusion MRI, with maps and features of the models that file "
        "names state (`model-<label>`)",
    }
    if container:
        generator["Container"] = dict(container)
    origin = {"URL": link}
    if isinstance(known.get("DatasetDOI"), str):
        origin["DOI"] = known["DatasetDOI"]
    found: dict[str, Any] = {
        "Name": f"{source_name}{DERIVATIVES}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [generator],
        "SourceDatasets": [origin, *({"URL": url} for url in others.values())],
        "DatasetLinks": {RAW: link, **others},
        "HowToAcknowledge": "Cite the works listed in logs/CITATION.md.",
    }
    if isinstance(known.get("License"), str):
        found["License"] = known["License"]
    return found


def _readme(source_name: str) -> str:
    catalogue = load_catalogue()
    shown = [t for t in catalogue.types.values() if t.datatype not in ("figures", "")]
    lines = [
        f"# Diffusion MRI derivatives of {source_name}",
        "",
        f"Written by {APP_NAME} {__version__}. Start with the pages `sub-*.html`, here or "
        "in the folders of participants and sessions; each names its warnings first.",
        "",
        "| what | where | units |",
        "|---|---|---|",
    ]
    for of in shown:
        words = ["model-<model>"] if of.made_by else []
        words += [f"{k}-{v}" for k, v in of.entities.items() if k in ("param", "desc")]
        where = f"`{of.datatype}/*{'_'.join([*words, of.suffix])}{of.extensions[0]}`"
        lines.append(f"| {of.title} | {where} | {of.units or ''} |")
    lines += ["", "## Spaces", ""]
    lines += [f"- `space-{s.name}`: {s.description}" for s in catalogue.spaces.values()]
    lines += [
        "",
        "b-vectors are in FSL's convention. Tensors are D11, D12, D13, D22, D23, D33 in mm^2/s "
        "along RAS+ axes. How each file was made is in its JSON sidecar; methods text and "
        "references are in `logs/CITATION.md`. The tables in `group/` are written by the group "
        "level and join with `participants.tsv` on `participant_id`.",
    ]
    return "\n".join(lines) + "\n"


def _changes(existing: str) -> str:
    if any(line.split()[:1] == [__version__] for line in existing.splitlines()):
        return existing
    return f"{__version__}\n  - Outputs written by {APP_NAME} {__version__}.\n{existing}"


def _read_description(source: Path) -> Mapping[str, Any]:
    # The dataset's reader has already complained about a page that is broken.
    try:
        return read_object(source / "dataset_description.json")
    except InputError:
        return {}


def read_name(dataset: Path) -> str:
    """Return the name of a dataset; that of its folder, if its description has none."""
    return str(_read_description(dataset).get("Name") or dataset.name)


def write_root_files(
    out: str | Path,
    *,
    source: str | Path,
    source_name: str,
    anatomy: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Write description, README, CHANGES, `.bidsignore` and `descriptions.*`.

    Parameters
    ----------
    out
        Output folder, made if missing.
    source
        Folder of the raw dataset.
    source_name
        Its name.
    anatomy
        Folder of the derivatives whose anatomy is taken, or None.
    environ
        Where :data:`CONTAINER_VARIABLE` is looked up; the process's environment by default.

    Raises
    ------
    OutputError
        If the folder cannot be written or the disk is full.
    """
    out, source = Path(out), Path(source)
    catalogue = load_catalogue()
    container = read_container(os.environ if environ is None else environ)
    publish_json(
        dataset_description(
            out,
            source=source,
            source_name=source_name,
            anatomy=anatomy,
            source_description=_read_description(source),
            container=container,
        ),
        out / "dataset_description.json",
    )
    publish_text(_readme(source_name), out / "README.md")
    changes = out / "CHANGES"
    existing = changes.read_text(encoding="utf-8") if changes.is_file() else ""
    publish_text(_changes(existing), changes)
    publish_text("\n".join(catalogue.bidsignore) + "\n", out / ".bidsignore")
    rows = [
        {"desc_id": f"desc-{label}", "description": text}
        for label, text in catalogue.descriptions.items()
    ]
    publish_text(format_table(rows, ["desc_id", "description"]), out / "descriptions.tsv")
    publish_json(_DESCRIPTIONS_SIDECAR, out / "descriptions.json")
