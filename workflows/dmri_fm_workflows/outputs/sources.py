"""Direct inputs of an output, as BIDS URIs.

`Sources` of BIDS names direct inputs only: if A gives B and B gives C, then C names B. `maps.yaml`
lists the direct inputs of each type; a run knows which of them it writes, and under which name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import OutputName, identify
from dmri_fm_workflows.templates import is_template

#: Word of `maps.yaml` for the raw images of a scan; name of the link to their dataset.
RAW = "raw"

#: Word of `maps.yaml` for the space of a template of TemplateFlow, where sources depend on it.
OTHER = "template"

#: Name of the link to the derivatives whose anatomy is taken.
ANATOMY = "anatomy"


def raw_uri(path: str | Path, root: str | Path) -> str:
    """Return the BIDS URI of a file of the raw dataset.

    Examples
    --------
    >>> raw_uri("/data/ds/sub-01/dwi/sub-01_dwi.nii.gz", "/data/ds")
    'bids:raw:sub-01/dwi/sub-01_dwi.nii.gz'
    """
    try:
        relative = Path(path).relative_to(root)
    except ValueError:
        raise ConfigError(
            "file is outside the raw dataset", path=path, expected=f"a path below {root}"
        ) from None
    return f"bids:raw:{relative.as_posix()}"


def anatomy_uri(path: str | Path, root: str | Path) -> str:
    """Return the BIDS URI of a file of the derivatives whose anatomy is taken.

    Examples
    --------
    >>> anatomy_uri("/data/fmriprep/sub-01/anat/sub-01_T1w.nii.gz", "/data/fmriprep")
    'bids:anatomy:sub-01/anat/sub-01_T1w.nii.gz'
    """
    return f"bids:{ANATOMY}:{Path(path).relative_to(root).as_posix()}"


def derivative_uri(path: str | PurePath) -> str:
    """Return the BIDS URI of an output, given relative to the output folder.

    Examples
    --------
    >>> derivative_uri("sub-01/dwi/sub-01_space-ACPC_dwiref.nii.gz")
    'bids::sub-01/dwi/sub-01_space-ACPC_dwiref.nii.gz'
    """
    if PurePath(path).is_absolute():
        raise ConfigError(
            "path is absolute", path=str(path), expected="relative to the output folder"
        )
    return f"bids::{PurePath(path).as_posix()}"


def direct_sources(
    path: str | PurePath, *, raw: Sequence[str], written: Iterable[str | PurePath]
) -> list[str]:
    """Return the BIDS URIs of the direct inputs of an output.

    Parameters
    ----------
    path
        The output, relative to the output folder.
    raw
        BIDS URIs of the raw images of its scan.
    written
        Outputs of the same scan and of its anatomy, relative to the output folder. The first of
        a type and model counts as an input; inputs that are not written are not listed.

    Raises
    ------
    ConfigError
        If a path is not that of an output.

    Examples
    --------
    >>> series = "sub-01/dwi/sub-01_space-ACPC_desc-preproc_dwi.nii.gz"
    >>> direct_sources("sub-01/dwi/sub-01_space-ACPC_dwiref.nii.gz",
    ...                raw=["bids:raw:sub-01/dwi/sub-01_dwi.nii.gz"], written=[series])
    ['bids::sub-01/dwi/sub-01_space-ACPC_desc-preproc_dwi.nii.gz']
    """
    output = identify(path)
    space = output.entities.get("space", "")
    named = [space] if space else _ends(output.entities)
    other = next(filter(is_template, named), "")
    end = " ".join(sorted(OTHER if is_template(e) else e for e in named))
    # The first of each model.
    by_word: dict[str, dict[str | None, str]] = {}
    for path in written:
        name = identify(path)
        by_word.setdefault(_word(name), {}).setdefault(name.model, derivative_uri(path))
    sources: list[str] = []
    for listed in output.type.sources.get(end, output.type.sources.get("", ())):
        word = listed.format(type=output.type.name, space=space, template=other)
        if word == RAW:
            sources += raw
            continue
        if word.split(" ", 1)[0] not in load_catalogue().types:
            raise ConfigError(
                f"{output.type.name} names the source {word!r}",
                expected=f"{RAW}, or an output type of maps.yaml",
            )
        sources += [
            uri
            for model, uri in by_word.get(word, {}).items()
            if output.model is None or model in (None, output.model)
        ]
    return sources


def _ends(entities: Mapping[str, str]) -> list[str]:
    return [entities[key] for key in ("from", "to") if key in entities]


def _word(name: OutputName) -> str:
    """Return how `maps.yaml` names an output: its type, and its space or its ends in order."""
    space = [name.entities["space"]] if "space" in name.entities else []
    return " ".join([name.type.name, *(_ends(name.entities) if name.type.is_transform else space)])
