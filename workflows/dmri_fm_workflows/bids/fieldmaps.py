"""Gradient-echo field maps: the images of each, and the series that it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm_workflows.bids.links import Statement, Tie, tie_to
from dmri_fm_workflows.bids.names import split_name
from dmri_fm_workflows.bids.records import DwiRun, Fieldmap, UnusedImage

#: Suffixes of gradient-echo field maps, by method; "" for magnitude images. The first method of
#: a set of images is that of the set.
FIELDMAP_SUFFIXES: Mapping[str, str] = {
    "phasediff": "phasediff",
    "phase1": "phase1phase2",
    "phase2": "phase1phase2",
    "fieldmap": "fieldmap",
    "magnitude": "",
    "magnitude1": "",
    "magnitude2": "",
}


def list_fieldmaps(images: Mapping[Path, Mapping[str, Any]]) -> tuple[Fieldmap, ...]:
    """Gather gradient-echo images into field maps, by the entities of their names.

    Parameters
    ----------
    images
        Merged sidecars of each image; its suffix is among :data:`FIELDMAP_SUFFIXES`.

    Returns
    -------
    tuple of Fieldmap
        Without sets of magnitude images alone.
    """
    sets: dict[tuple[tuple[str, str], ...], dict[str, Path]] = {}
    for path in sorted(images):
        entities, suffix, _ = split_name(path)
        sets.setdefault(tuple(entities.items()), {})[suffix] = path
    methods = {
        labels: [m for suffix, m in FIELDMAP_SUFFIXES.items() if m and suffix in paths]
        for labels, paths in sets.items()
    }
    return tuple(
        Fieldmap(
            method=methods[labels][0],
            paths=paths,
            entities=dict(labels),
            metadata={suffix: images[path] for suffix, path in paths.items()},
        )
        for labels, paths in sets.items()
        if methods[labels]
    )


def field_images(fieldmap: Fieldmap) -> list[Path]:
    """Return the images that hold the field, or the phases it is computed from."""
    return [
        fieldmap.paths[suffix]
        for suffix, method in FIELDMAP_SUFFIXES.items()
        if method == fieldmap.method and suffix in fieldmap.paths
    ]


def match_fieldmaps(
    runs: tuple[DwiRun, ...],
    fieldmaps: Sequence[Fieldmap],
    statements: Mapping[Path, Statement],
    *,
    others: Sequence[DwiRun],
) -> Iterator[tuple[Fieldmap, Tie]]:
    """Yield the field maps of a series' session, and those of others that name its runs."""
    for fieldmap in fieldmaps:
        first = field_images(fieldmap)[0]
        tie = tie_to(runs, statements[first], others=others)
        # The folder above that of the datatype is the session's.
        if tie.how or first.parent.parent == runs[0].path.parent.parent:
            yield fieldmap, tie


def why_unused(fieldmap: Fieldmap, tie: Tie) -> Iterator[UnusedImage]:
    """Yield the reason why each image of a field map is not used."""
    because = tie.how or tie.obstacle
    reason = f"correction by gradient-echo field maps is not built in yet ({because})"
    return (UnusedImage(path, reason) for path in field_images(fieldmap))
