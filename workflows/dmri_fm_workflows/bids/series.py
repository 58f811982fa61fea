"""Group the runs of a session into series."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dmri_fm.errors import GradientError, ImageError, InputError, LayoutError
from dmri_fm.gradient_options import B0_THRESHOLD_RANGE
from dmri_fm.gradients import GradientTable
from dmri_fm.tensor_design import (
    FEWEST_DIRECTIONS,
    describe_widening,
    determines_tensor,
    select_shells,
)
from dmri_fm.vector_lengths import describe_range, list_volumes
from dmri_fm_workflows.bids.encoding import find_contradictions
from dmri_fm_workflows.bids.fields import (
    ECHO_TIME_TOLERANCE,
    Candidate,
    choose_images,
    echo_time_s,
)
from dmri_fm_workflows.bids.names import SCAN_ENTITIES
from dmri_fm_workflows.bids.records import (
    DwiRun,
    DwiSeries,
    EpiImage,
    Fieldmap,
    UnusedImage,
    has_same_pose,
    pose_difference,
)

__all__ = ["GroupedRuns", "OpenedRun", "SessionImages", "group_runs"]

#: Entities that a series may merge over; with a MultipartID also over `acquisition`.
MERGED_OVER = ("direction", "run")


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run, its gradients (RAS+), and what is doubtful about it."""

    run: DwiRun
    gtab: GradientTable
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class SessionImages:
    """Images of one session, opened.

    Attributes
    ----------
    runs
        Diffusion runs with gradients.
    bare
        Images of the `dwi` folder that hold b=0 volumes and have no gradient table.
    epis
        Echo-planar images of the `fmap` folder.
    sbrefs
        Single-band references of the `dwi` folder.
    fieldmaps
        Gradient-echo field maps of this session, and those of others that name its runs.
    elsewhere
        Candidates of other sessions that name its runs.
    unusable
        Images of the session that could not be opened, or that a filter leaves out.
    """

    runs: Sequence[OpenedRun]
    bare: Sequence[EpiImage] = ()
    epis: Sequence[EpiImage] = ()
    sbrefs: Sequence[EpiImage] = ()
    fieldmaps: Sequence[Fieldmap] = ()
    elsewhere: Sequence[Candidate] = ()
    unusable: Sequence[UnusedImage] = ()


@dataclass(frozen=True, eq=False)
class GroupedRuns:
    """The series of a session.

    Attributes
    ----------
    series
        By name.
    errors
        One for each run or reverse-phase image that cannot be used, its path set.
    warnings
        What a reader of the results of any series should know.
    """

    series: tuple[DwiSeries, ...]
    errors: tuple[InputError, ...]
    warnings: tuple[str, ...] = ()


def group_runs(images: SessionImages, *, root: Path) -> GroupedRuns:
    """Group the runs of one session into series, and choose what corrects their distortion.

    Runs with one `MultipartID` are one series; else those with the same entities but
    `direction` and `run`; all on one grid and in one head pose. A run of b=0 volumes only is no
    series: it may serve as reverse-phase image of another.

    Parameters
    ----------
    images
        Images of the session.
    root
        Folder of the dataset, to which `bids::` links are relative.
    """
    groups = _gather(images.runs)
    weighted = [g for g in groups if not all(o.gtab.is_b0.all() for o in g)]
    spare: list[EpiImage] = [o.run for g in groups if g not in weighted for o in g]
    spare += images.bare
    errors: list[InputError] = []
    series: list[DwiSeries] = []
    misplaced: set[Path] = set()
    without_b0: list[DwiRun] = []
    for group in weighted:
        if not any(o.run.has_b0 for o in group):
            errors.append(_no_b0(group, images.bare))
            without_b0 += [o.run for o in group]
            continue
        runs = tuple(o.run for o in group)
        others = [o.run for g in weighted if g is not group for o in g]
        candidates = [
            Candidate(image, origin)
            for origin, listed in (
                ("epi", images.epis), ("b0", spare), ("dwi", others), ("sbref", images.sbrefs)
            )
            for image in listed
        ]  # fmt: skip
        choice = choose_images(
            runs,
            candidates=[*candidates, *images.elsewhere],
            fieldmaps=images.fieldmaps,
            others=others,
            root=root,
        )
        errors += choice.errors
        misplaced |= {image.path for image in choice.misplaced}
        series.append(
            DwiSeries(
                runs,
                _shared_entities(runs),
                reverse=choice.reverse,
                fieldmaps=choice.fieldmaps,
                warnings=(
                    *(w for o in group for w in o.warnings),
                    *_group_doubts(group, groups),
                    *choice.warnings,
                ),
                unused=(*choice.unused, *images.unusable),
                pair_reason=choice.pair_reason,
            )
        )
    refused = {error.path for error in errors}
    used = {s.outside_image.path for s in series if s.outside_image}
    errors += [
        _useless(image, weighted)
        for image in spare
        if image.path not in refused | used
        and (not series or image.path in misplaced)
        # An image that fits a run refused for want of b=0 is no fault of its own.
        and not any(has_same_pose(image, run) for run in without_b0)
    ]
    named, clashes = _name_apart(series)
    unique = {(e.path, e.found): e for e in [*errors, *clashes]}
    known = [*(o.run for o in images.runs), *images.bare, *images.epis, *images.sbrefs]
    return GroupedRuns(
        tuple(sorted(named, key=lambda s: s.name)),
        tuple(unique.values()),
        tuple(find_contradictions(known)),
    )


def _gather(opened: Sequence[OpenedRun]) -> list[list[OpenedRun]]:
    """Group runs that belong to one scan and lie on one grid in one head pose."""
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
    return groups


def _multipart_id(run: DwiRun) -> str:
    """Return the run's MultipartID; empty if it has none."""
    value = run.metadata.get("MultipartID")
    return value.strip() if isinstance(value, str) else ""


def _merge_key(run: DwiRun) -> tuple[tuple[str, str], ...]:
    scan = _multipart_id(run)
    merged_over = (*MERGED_OVER, *(("acquisition",) if scan else ()))
    labels = tuple((k, v) for k, v in sorted(run.entities.items()) if k not in merged_over)
    return (("MultipartID", scan), *labels)


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
    kept: list[DwiSeries] = []
    clashes: list[InputError] = []
    for s in named:
        others = [o for o in named if o is not s and o.name == s.name]
        if not others:
            kept.append(s)
            continue
        clashes.append(
            LayoutError(
                f"its outputs would be named as those of {others[0].runs[0].path.name}",
                path=s.runs[0].path,
                expected="names that differ in " + ", ".join(SCAN_ENTITIES),
                advice="tell the two scans apart by an `acq` entity",
            )
        )
    return kept, clashes


def _group_doubts(
    group: Sequence[OpenedRun], groups: Sequence[Sequence[OpenedRun]]
) -> Iterator[str]:
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
    elif (widening := describe_widening(gtab, select_shells(gtab))) is not None:
        yield f"{first.path.name}: the tensor is fitted to {widening}. Kurtosis makes its MD low."
    echo_times = sorted({t for o in group if (t := echo_time_s(o.run)) is not None})
    if echo_times and echo_times[-1] > (1 + ECHO_TIME_TOLERANCE) * echo_times[0]:
        times = ", ".join(f"{t:g}" for t in echo_times)
        yield f"runs merged with {first.path.name} differ in EchoTime: {times} s."
    for other in groups:
        is_same_scan = other is not group and _merge_key(other[0].run) == _merge_key(first)
        if _multipart_id(first) and is_same_scan:
            yield (
                f"{first.path.name} and {other[0].run.path.name} have one MultipartID, "
                f"{_multipart_id(first)!r}, and are kept apart: of the second, "
                f"{pose_difference(other[0].run, first)}."
            )


def _no_b0(group: Sequence[OpenedRun], bare: Sequence[EpiImage]) -> GradientError:
    n_volumes = sum(len(o.gtab) for o in group)
    # Volumes left out for want of a direction may be the b=0 that is missed.
    lowest = float(min(b for o in group for b in (*o.gtab.bvals, *o.run.gradients.left_out_bvals)))
    without = [
        f"{list_volumes(o.run.gradients.left_out)} of {o.run.path.name}, b = "
        f"{describe_range(o.run.gradients.left_out_bvals)} s/mm^2"
        for o in group
        if o.run.gradients.left_out
    ]
    found = f"no b=0 volume among {n_volumes}; the lowest b-value is {lowest:g} s/mm^2"
    advice = (
        "add the b=0 images of the protocol to the series, or as a run of the same `acq` or "
        "MultipartID"
    )
    if bare:
        advice += f"; {bare[0].path.name} needs .bval and .bvec files of zeros for that"
    if without:
        found += f"; left out, as they have no direction: {'; '.join(without)}"
        advice += (
            "; if those without a direction are b=0, write 0 for them into the .bval file (a "
            "trace image or an ADC map is none)"
        )
    if (least := math.floor(lowest) + 1) <= B0_THRESHOLD_RANGE[1]:
        advice += (
            f"; if b = {lowest:g} s/mm^2 is what this protocol measures as b=0, say so by "
            f"--b0-threshold {least} or more, up to {B0_THRESHOLD_RANGE[1]:g}"
        )
    return GradientError(
        found,
        path=group[0].run.bval,
        expected=f"at least one volume with b < {group[0].gtab.b0_threshold:g} s/mm^2",
        advice=advice,
    )


def _useless(run: EpiImage, weighted: Sequence[Sequence[OpenedRun]]) -> ImageError:
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
