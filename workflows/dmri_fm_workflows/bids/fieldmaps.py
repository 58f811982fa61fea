"""Gradient-echo field maps: the images of each, and the series that it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from dmri_fm.content import require_content
from dmri_fm.errors import ConfigError, ImageError, InputError
from dmri_fm.preprocess.phase_fieldmap import HZ_PER_UNIT, check_echo_times, phase_radians
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.bids.links import Statement, Tie, give_way, list_own_fields, tie_to
from dmri_fm_workflows.bids.metadata import read_number, read_text
from dmri_fm_workflows.bids.names import session_of, split_name
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

#: Suffixes of magnitude images, the one of the best signal first.
MAGNITUDES = ("magnitude1", "magnitude", "magnitude2")

#: Fewest voxels along each axis of a field map.
FEWEST_SLICES = 3

#: Largest difference of affines of the images of one field map, mm.
GRID_TOLERANCE_MM = 0.01

#: Least share of a run's field of view inside that of a field map; voxels decide above it.
LEAST_SHARED_VIEW = 0.25


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
    """Yield the field maps of a series' session, then those of others that name its runs.

    Those that are tied to the series carry what a correction needs, or the reason against it.
    One of another session gives way to images of the series' own with the same B0FieldIdentifier.
    """
    # The folder above that of the datatype is the session's.
    session = runs[0].path.parent.parent
    own_fields = list_own_fields(runs, statements)
    for fieldmap in sorted(fieldmaps, key=lambda f: field_images(f)[0].parent.parent != session):
        first = field_images(fieldmap)[0]
        tie = tie_to(runs, statements[first], others=others)
        is_elsewhere = first.parent.parent != session
        if is_elsewhere and tie.by_field in own_fields:
            is_outside = bool(session_of(runs[0].path)) and not session_of(first)
            yield fieldmap, give_way(tie, is_outside=is_outside)
        elif tie.how:
            yield judge_fieldmap(fieldmap, runs[0]), tie
        elif not is_elsewhere:
            yield fieldmap, tie


def why_unused(fieldmap: Fieldmap, tie: Tie) -> Iterator[UnusedImage]:
    """Yield the reason why each image of a field map cannot be used; nothing if it can."""
    reason = fieldmap.problem
    if not tie.how:
        reason = f"{tie.obstacle}: {tie.advice}" if tie.advice else tie.obstacle
    return (UnusedImage(path, reason) for path in field_images(fieldmap) if reason)


def judge_fieldmap(fieldmap: Fieldmap, run: DwiRun) -> Fieldmap:
    """Return a field map with what a correction needs, or the reason why it cannot correct a run.

    Headers and sidecars are read, and of a field map without fault in them the range of values.
    """
    metadata = fieldmap.metadata
    sources = tuple(field_images(fieldmap))
    named = next((s for s in MAGNITUDES if s in fieldmap.paths), None)
    judged = replace(
        fieldmap,
        sources=sources,
        magnitude=None if named is None else fieldmap.paths[named],
        echo_times_s=_echo_times_s(fieldmap),
        units=read_text(metadata.get(split_name(sources[0])[1], {}), "Units"),
    )
    return replace(judged, problem=_find_problem(judged, run))


def _echo_times_s(fieldmap: Fieldmap) -> tuple[float, float] | None:
    """Return the times of both echoes, s; None if they are not stated, and for a field in Hz."""

    def of(suffix: str, key: str = "EchoTime") -> float | None:
        return read_number(fieldmap.metadata.get(suffix, {}), key)

    pairs = {
        "phasediff": [
            (of("phasediff", "EchoTime1"), of("phasediff", "EchoTime2")),
            (of("magnitude1"), of("magnitude2")),
        ],
        "phase1phase2": [(of("phase1"), of("phase2"))],
    }
    return next(
        ((a, b) for a, b in pairs.get(fieldmap.method, ()) if a is not None and b is not None),
        None,
    )


def _find_problem(fieldmap: Fieldmap, run: DwiRun) -> str:
    """Return the reason why a field map cannot correct a run; empty if it can."""
    if fieldmap.method == "phase1phase2" and len(fieldmap.sources) < 2:
        return "the other of phase1 and phase2 is missing"
    if fieldmap.magnitude is None:
        return f"it has no magnitude image ({' or '.join(MAGNITUDES)}) of the same name"
    if fieldmap.method == "fieldmap":
        if fieldmap.units not in HZ_PER_UNIT:
            stated = f"are {fieldmap.units!r}" if fieldmap.units else "are missing"
            return f"its Units {stated}, not one of {', '.join(HZ_PER_UNIT)}"
    elif fieldmap.echo_times_s is None:
        keys = "EchoTime1 and EchoTime2" if fieldmap.method == "phasediff" else "EchoTime"
        return f"{keys} are missing from its JSON file, or no numbers"
    else:
        try:
            check_echo_times(fieldmap.echo_times_s)
        except ConfigError as error:
            return f"it has {error.found}; expected {error.expected}"
    return _find_misfit(fieldmap.images, run) or _find_fault(fieldmap)


def _find_fault(fieldmap: Fieldmap) -> str:
    """Return what is wrong with the voxels of a field map; empty if their range is sound."""
    for path in fieldmap.images:
        try:
            values = read_array(load_image(path, ndim=3), path=path)
            if path == fieldmap.magnitude:
                if not (values > 0).any():
                    return f"{path.name} is empty"
            elif fieldmap.method != "fieldmap":
                phase_radians(values, units=fieldmap.units, name=path.name)
            elif np.ptp(values) == 0:
                return f"{path.name} is constant"
        except InputError as error:
            return f"{path.name} cannot be used: {error.found}"
    return ""


def _find_misfit(paths: Sequence[Path], run: DwiRun) -> str:
    """Return how grids differ among the images of a field map, or from the space of a run."""
    first: tuple[tuple[int, ...], NDArray[np.float64]] | None = None
    for path in paths:
        try:
            require_content(path, ImageError)
            image = load_image(path, ndim=3)
        except InputError as error:
            return f"{path.name} cannot be read: {error.found}"
        shape, affine = image.shape, np.asarray(image.affine, dtype=np.float64)
        if min(shape) < FEWEST_SLICES:
            return f"{path.name} has {min(shape)} slices, fewer than {FEWEST_SLICES}"
        first = first or (shape, affine)
        if shape != first[0] or not np.allclose(affine, first[1], rtol=0, atol=GRID_TOLERANCE_MM):
            return f"{path.name} lies on another grid than {paths[0].name}"
    assert first is not None
    share = _shared_view(*first, run)
    if share < LEAST_SHARED_VIEW:
        return (
            f"it covers {share:.0%} of the field of view of the series: it is of another space, "
            "or of another part of the body"
        )
    return ""


def _shared_view(shape: Sequence[int], affine: NDArray[np.float64], run: DwiRun) -> float:
    """Return the share of a run's field of view that lies inside that of a field map."""
    # Of a lattice of nine points along each axis, those that lie inside.
    lattice = np.stack(np.meshgrid(*[np.linspace(-0.5, n - 0.5, 9) for n in run.shape[:3]]))
    points = apply_affine(run.affine, lattice.reshape(3, -1).T)
    voxels = apply_affine(np.linalg.inv(affine), points)
    inside = (voxels > -0.5).all(axis=1) & (voxels < np.array(shape) - 0.5).all(axis=1)
    return float(inside.mean())
