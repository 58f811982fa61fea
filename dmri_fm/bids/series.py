"""Group the runs of a session into series, and find what corrects their distortion."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from dmri_fm.bids.names import SCAN_ENTITIES
from dmri_fm.bids.records import (
    DwiRun,
    DwiSeries,
    EpiImage,
    Fieldmap,
    find_pair,
    has_same_pose,
    is_opposite,
)
from dmri_fm.errors import GradientError, ImageError, InputError, LayoutError
from dmri_fm.gradients import GradientTable
from dmri_fm.tensor_design import FEWEST_DIRECTIONS, determines_tensor

__all__ = ["OpenedRun", "group_runs"]

LOGGER = logging.getLogger(__name__)

#: Entities that a series may merge over.
MERGED_OVER = ("direction", "run")

#: Runs whose echo times differ by a larger fraction differ in contrast.
ECHO_TIME_TOLERANCE = 0.03


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run, its gradients (RAS+), and what is doubtful about it."""

    run: DwiRun
    gtab: GradientTable
    warnings: tuple[str, ...] = ()


def group_runs(
    opened: Sequence[OpenedRun],
    *,
    epis: Sequence[EpiImage],
    fieldmaps: Sequence[Fieldmap],
    root: Path,
) -> tuple[tuple[DwiSeries, ...], tuple[InputError, ...]]:
    """Group the runs of one session into series.

    Runs with the same entities but `direction` and `run`, on one grid and in one head pose, are
    one series. A run of b=0 volumes only is no series: it serves as reverse-phase image of
    another, or is an error.

    Parameters
    ----------
    opened
        Runs of the session.
    epis
        Echo-planar images of its `fmap` folder.
    fieldmaps
        Gradient-echo field maps of the session.
    root
        Folder of the dataset, to which `bids::` links are relative.

    Returns
    -------
    series
        By name.
    errors
        One for each run or reverse-phase image that cannot be used, its path set.
    """
    groups: list[list[OpenedRun]] = []
    for item in sorted(opened, key=lambda o: o.run.path.name):
        for group in groups:
            if _merge_key(group[0].run) == _merge_key(item.run) and has_same_pose(
                group[0].run, item.run
            ):
                group.append(item)
                break
        else:
            groups.append([item])
    weighted = [g for g in groups if not all(o.gtab.is_b0.all() for o in g)]
    spare = [o.run for g in groups if all(o.gtab.is_b0.all() for o in g) for o in g]
    errors: list[InputError] = []
    used: set[Path] = set()
    series = []
    for group in weighted:
        if not any(o.run.has_b0 for o in group):
            errors.append(_no_b0(group))
            continue
        runs = tuple(o.run for o in group)
        doubts = [w for o in group for w in o.warnings]
        doubts += _group_doubts(group)
        reverse: tuple[EpiImage, ...] = ()
        if find_pair(runs, runs) is None:
            others = [o.run for g in weighted if g is not group for o in g]
            reverse, refused, more = _find_reverse(
                runs, epis=epis, others=others, spare=spare, root=root
            )
            errors += refused
            doubts += more
        used |= {image.path for image in reverse}
        series.append(
            DwiSeries(
                runs,
                _shared_entities(runs),
                reverse=reverse,
                fieldmaps=tuple(
                    f for f in fieldmaps if any(_is_meant_for(f, r, root) for r in runs)
                ),
                warnings=tuple(doubts),
            )
        )
    errors += [_useless(run, weighted) for run in spare if run.path not in used]
    named, clashes = _name_apart(series)
    unique = {(e.path, e.found): e for e in [*errors, *clashes]}
    return tuple(sorted(named, key=lambda s: s.name)), tuple(unique.values())


def _merge_key(run: DwiRun) -> tuple[tuple[str, str], ...]:
    return tuple((k, v) for k, v in sorted(run.entities.items()) if k not in MERGED_OVER)


def _shared_entities(runs: Sequence[DwiRun]) -> dict[str, str]:
    return {
        name: runs[0].entities[name]
        for name in SCAN_ENTITIES.values()
        if name in runs[0].entities
        and all(r.entities.get(name) == runs[0].entities[name] for r in runs)
    }


def _name_apart(series: Sequence[DwiSeries]) -> tuple[list[DwiSeries], list[InputError]]:
    """Give series whose shared entities agree the full name of their first run."""
    names = [s.name for s in series]
    named = [
        replace(s, entities=_shared_entities(s.runs[:1])) if names.count(s.name) > 1 else s
        for s in series
    ]
    kept: dict[str, DwiSeries] = {}
    clashes: list[InputError] = []
    for s in named:
        if s.name in kept:
            clashes.append(
                LayoutError(
                    f"its outputs would be named as those of {kept[s.name].runs[0].path.name}",
                    path=s.runs[0].path,
                    expected="names that differ in " + ", ".join(SCAN_ENTITIES),
                    advice="tell the two scans apart by an `acq` entity",
                )
            )
        else:
            kept[s.name] = s
    return list(kept.values()), clashes


def _group_doubts(group: Sequence[OpenedRun]) -> Iterator[str]:
    gtab = GradientTable.concatenate([o.gtab for o in group])
    n_directions = gtab.count_directions()
    first = group[0].run
    if n_directions < FEWEST_DIRECTIONS:
        yield (
            f"{first.path.name}: {n_directions} diffusion directions, fewer than the "
            f"{FEWEST_DIRECTIONS} a tensor needs: the tensor is not fitted."
        )
    elif not determines_tensor(gtab):
        yield (
            f"{first.path.name}: its {n_directions} diffusion directions do not determine a "
            "tensor (they may lie in one plane or on one cone): the tensor is not fitted."
        )
    echo_times = sorted(
        {t for o in group if isinstance(t := o.run.metadata.get("EchoTime"), int | float)}
    )
    if echo_times and echo_times[-1] > (1 + ECHO_TIME_TOLERANCE) * echo_times[0]:
        times = ", ".join(f"{t:g}" for t in echo_times)
        yield f"runs merged with {first.path.name} differ in EchoTime: {times} s."


def _no_b0(group: Sequence[OpenedRun]) -> GradientError:
    n_volumes = sum(len(o.gtab) for o in group)
    lowest = min(float(o.gtab.bvals.min()) for o in group)
    return GradientError(
        f"no b=0 volume among {n_volumes}; the lowest b-value is {lowest:g} s/mm^2",
        path=group[0].run.bval,
        expected=f"at least one volume with b < {group[0].gtab.b0_threshold:g} s/mm^2",
        advice="add the b=0 images of the protocol to the series, or as a run of the same `acq`",
    )


def _useless(run: DwiRun, weighted: Sequence[Sequence[OpenedRun]]) -> ImageError:
    grids = "; ".join(
        f"{g[0].run.path.name} has {g[0].run.shape[:3]}, {g[0].run.phase_encoding}"
        for g in weighted
    )
    return ImageError(
        f"holds b=0 volumes only, on a grid of {run.shape[:3]} with phase encoding "
        f"{run.phase_encoding}, and fits no other run of the session",
        path=run.path,
        expected="diffusion-weighted volumes, or the grid, head pose and opposite phase encoding "
        f"of another run ({grids or 'there is none'})",
        advice="export it with the matrix and position of that run, or leave it out by a filter",
    )


def _find_reverse(
    runs: Sequence[DwiRun],
    *,
    epis: Sequence[EpiImage],
    others: Sequence[DwiRun],
    spare: Sequence[DwiRun],
    root: Path,
) -> tuple[tuple[EpiImage, ...], list[InputError], list[str]]:
    """Find images outside a series that were meant for it, or can serve it only."""
    chosen: list[EpiImage] = []
    errors: list[InputError] = []
    doubts: list[str] = []
    for image in (*epis, *spare, *others):
        is_meant = any(_is_meant_for(image, run, root) for run in runs)
        is_free = image in spare and not _targets(image.metadata)
        if not (is_meant or is_free):
            if image in epis and not _targets(image.metadata):
                doubts.append(
                    f"{image.path.name} is not used: it does not say for which scans it is. "
                    "Add IntendedFor or B0FieldIdentifier to its JSON file."
                )
            continue
        if is_meant and image.phase_encoding is None:
            doubts.append(f"{image.path.name} is not used: it has no PhaseEncodingDirection.")
        if not any(is_opposite(image.phase_encoding, run.phase_encoding) for run in runs):
            continue
        if has_same_pose(image, runs[0]):
            chosen.append(image)
        elif is_meant:
            errors.append(
                ImageError(
                    f"is meant to correct {runs[0].path.name} but has another grid or head pose: "
                    f"{image.shape[:3]}",
                    path=image.path,
                    expected=f"the grid and position of that scan, {runs[0].shape[:3]}",
                    advice="export both with one matrix and position; the scan goes on without it",
                )
            )
    return tuple(chosen), errors, doubts


def _targets(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata.get("IntendedFor") or metadata.get("B0FieldIdentifier"))


def _is_meant_for(image: EpiImage | Fieldmap, run: DwiRun, root: Path) -> bool:
    """Tell whether an image says it corrects a run; the run's B0FieldSource decides if set."""
    all_metadata: Iterable[Mapping[str, Any]] = (
        image.metadata.values() if isinstance(image, Fieldmap) else [image.metadata]
    )
    sources = _words(run.metadata.get("B0FieldSource"))
    for metadata in all_metadata:
        if sources:
            if sources & _words(metadata.get("B0FieldIdentifier")):
                return True
        elif any(
            _resolve(link, run, root) == run.path for link in _words(metadata.get("IntendedFor"))
        ):
            return True
    return False


def _words(value: object) -> set[str]:
    if isinstance(value, str):
        return {value}
    return {w for w in value if isinstance(w, str)} if isinstance(value, list) else set()


def _resolve(link: str, run: DwiRun, root: Path) -> Path | None:
    """Return the file a link names: a BIDS URI, or a path below the participant's folder."""
    if link.startswith("bids:"):
        dataset, _, relative = link.removeprefix("bids:").partition(":")
        return root.joinpath(*PurePosixPath(relative).parts) if not dataset else None
    return root.joinpath(f"sub-{run.entities['subject']}", *PurePosixPath(link).parts)
