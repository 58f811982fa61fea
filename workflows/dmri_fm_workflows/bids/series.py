"""Series: grouped runs of a session, with the images that correct their distortion."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
from dmri_fm_workflows.bids.fieldmaps import list_fieldmaps
from dmri_fm_workflows.bids.fields import (
    ECHO_TIME_TOLERANCE,
    Candidate,
    FieldChoice,
    choose_images,
)
from dmri_fm_workflows.bids.head_pose import has_same_pose, pose_difference
from dmri_fm_workflows.bids.names import SCAN_ENTITIES
from dmri_fm_workflows.bids.reading import Merging
from dmri_fm_workflows.bids.records import DwiRun, DwiSeries, EpiImage, UnusedImage

#: Entities that a series is merged over; with a MultipartID also `acquisition`.
MERGED_OVER = ("direction", "run")


@dataclass(frozen=True, eq=False)
class SessionImages:
    """Opened images of one session; the lists are filled while they are opened.

    Attributes
    ----------
    runs
        Diffusion runs with gradients.
    bare
        b=0 images of the `dwi` folder without a gradient table.
    epis
        Echo-planar images of the `fmap` folder.
    sbrefs
        Single-band references of the `dwi` folder.
    gradient_echo
        Merged sidecars of gradient-echo images, those of other sessions that name a run included.
    elsewhere
        Candidates of other sessions that name a run.
    unusable
        Images that could not be opened, or that a filter leaves out.
    """

    runs: list[DwiRun] = field(default_factory=list)
    bare: list[EpiImage] = field(default_factory=list)
    epis: list[EpiImage] = field(default_factory=list)
    sbrefs: list[EpiImage] = field(default_factory=list)
    gradient_echo: dict[Path, dict[str, Any]] = field(default_factory=dict)
    elsewhere: list[Candidate] = field(default_factory=list)
    unusable: list[UnusedImage] = field(default_factory=list)


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
        Remarks on the session, for the reader of any series' results.
    """

    series: tuple[DwiSeries, ...]
    errors: tuple[InputError, ...]
    warnings: tuple[str, ...]


def group_runs(images: SessionImages, *, root: Path, merging: Merging = "all") -> GroupedRuns:
    """Group the runs of one session into series, and choose the images that correct distortion.

    Runs with one `MultipartID` are one series, or runs with the same entities but `direction` and
    `run`; all on one grid and in one head pose. A run of b=0 volumes alone is no series: it may
    be the reverse-phase image of another.

    Parameters
    ----------
    images
        Images of the session.
    root
        Folder of the dataset, to which `bids::` links are relative.
    merging
        Which runs of a scan are merged. Those that are kept apart may correct one another.
    """
    groups = _gather(images.runs, merging)
    fieldmaps = list_fieldmaps(images.gradient_echo)
    weighted = [g for g in groups if not all(run.gtab.is_b0.all() for run in g)]
    spare = [*(run for g in groups if g not in weighted for run in g), *images.bare]
    errors: list[InputError] = []
    series: list[DwiSeries] = []
    misplaced: set[Path] = set()
    without_b0: list[DwiRun] = []
    for runs in weighted:
        if not any(run.has_b0 for run in runs):
            errors.append(_no_b0(runs, images.bare))
            without_b0 += runs
            continue
        others = [run for g in weighted if g is not runs for run in g]
        choice = choose_images(
            runs,
            candidates=_list_candidates(images, runs, spare, others, merging),
            fieldmaps=fieldmaps,
            others=others,
            root=root,
        )
        errors += choice.errors
        misplaced |= {image.path for image in choice.misplaced}
        doubts = [*(w for run in runs for w in run.warnings), *_group_doubts(runs, groups)]
        series.append(_make_series(runs, choice, doubts, images.unusable))
    settled = {error.path for error in errors}
    settled |= {s.outside_image.path for s in series if s.outside_image}
    errors += [
        _useless(image, weighted)
        for image in spare
        if image.path not in settled
        and (not series or image.path in misplaced)
        # An image that fits a refused run is not itself at fault.
        and not any(has_same_pose(image, run) for run in without_b0)
    ]
    named, clashes = _name_apart(series)
    unique = {(e.path, e.found): e for e in [*errors, *clashes]}
    labelled = [*images.runs, *images.bare, *images.epis, *images.sbrefs]
    return GroupedRuns(
        tuple(sorted(named, key=lambda s: s.name)),
        tuple(unique.values()),
        tuple(find_contradictions(labelled)),
    )


def _make_series(
    runs: tuple[DwiRun, ...],
    choice: FieldChoice,
    doubts: Sequence[str],
    unusable: Sequence[UnusedImage],
) -> DwiSeries:
    return DwiSeries(
        runs,
        _shared_entities(runs),
        reverse=choice.reverse,
        fieldmaps=choice.fieldmaps,
        warnings=(*doubts, *choice.warnings),
        unused=(*choice.unused, *unusable),
        pair_reason=choice.pair_reason,
    )


def _gather(runs: Sequence[DwiRun], merging: Merging) -> list[tuple[DwiRun, ...]]:
    """Group runs that belong to one scan and lie on one grid in one head pose."""
    if merging == "none":
        return [(run,) for run in sorted(runs, key=lambda run: run.path.name)]
    of_encoding = merging == "phase encoding"
    groups: list[list[DwiRun]] = []
    for run in sorted(runs, key=lambda run: run.path.name):
        for group in groups:
            first = group[0]
            is_apart = of_encoding and _distortion(first) != _distortion(run)
            if _is_of_one_scan(first, run) and not is_apart:
                group.append(run)
                break
        else:
            groups.append([run])
    return [tuple(group) for group in groups]


def _distortion(run: DwiRun) -> tuple[str | None, float | None]:
    """Return what makes the distortion of a run: direction and readout time, to 10 us."""
    readout_s = run.readout_time_s
    return run.phase_encoding, None if readout_s is None else round(readout_s, 5)


def _is_of_one_scan(one: DwiRun, other: DwiRun) -> bool:
    """Tell whether runs belong to one scan and lie on one grid in one head pose."""
    return _merge_key(one) == _merge_key(other) and has_same_pose(one, other)


def _list_candidates(
    images: SessionImages,
    runs: Sequence[DwiRun],
    spare: Sequence[EpiImage],
    others: Sequence[DwiRun],
    merging: Merging,
) -> list[Candidate]:
    """Return what may correct a series, given spare b=0 images and the runs of other series."""
    is_parted = merging != "all"
    return [
        *(Candidate(image, "epi") for image in images.epis),
        *(Candidate(image, "b0") for image in spare),
        *(
            Candidate(image, "scan" if is_parted and _is_of_one_scan(runs[0], image) else "dwi")
            for image in others
        ),
        *(Candidate(image, "sbref") for image in images.sbrefs),
        *images.elsewhere,
    ]


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


def _group_doubts(runs: Sequence[DwiRun], groups: Sequence[Sequence[DwiRun]]) -> Iterator[str]:
    """Yield warnings of a series as a whole: directions, echo times, parts kept apart."""
    gtab = GradientTable.concatenate([run.gtab for run in runs])
    n_directions = gtab.count_directions()
    first = runs[0]
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
    echo_times = sorted({t for run in runs if (t := run.echo_time_s) is not None})
    if echo_times and echo_times[-1] > (1 + ECHO_TIME_TOLERANCE) * echo_times[0]:
        times = ", ".join(f"{t:g}" for t in echo_times)
        yield f"runs merged with {first.path.name} differ in EchoTime: {times} s."
    for other in (group[0] for group in groups if group is not runs):
        is_of_scan = _multipart_id(first) and _merge_key(other) == _merge_key(first)
        if is_of_scan and not has_same_pose(other, first):
            yield (
                f"{first.path.name} and {other.path.name} have one MultipartID, "
                f"{_multipart_id(first)!r}, and are kept apart: of the second, "
                f"{pose_difference(other, first)}."
            )


def _no_b0(runs: Sequence[DwiRun], bare: Sequence[EpiImage]) -> GradientError:
    """Return the error of a series without b=0, with every remedy that may apply."""
    n_volumes = sum(len(run.gtab) for run in runs)
    # Volumes without a direction are left out, and may be the missing b=0.
    lowest = float(
        min(b for run in runs for b in (*run.gtab.bvals, *run.gradients.left_out_bvals))
    )
    without = [
        f"{list_volumes(run.gradients.left_out)} of {run.path.name}, b = "
        f"{describe_range(run.gradients.left_out_bvals)} s/mm^2"
        for run in runs
        if run.gradients.left_out
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
        path=runs[0].bval,
        expected=f"at least one volume with b < {runs[0].gtab.b0_threshold:g} s/mm^2",
        advice=advice,
    )


def _useless(image: EpiImage, weighted: Sequence[Sequence[DwiRun]]) -> ImageError:
    """Return the error of a b=0 image that corrects no series."""
    firsts = (group[0] for group in weighted)
    grids = "; ".join(f"{r.path.name} has {r.shape[:3]}, {r.phase_encoding}" for r in firsts)
    return ImageError(
        f"holds b=0 volumes only, on a grid of {image.shape[:3]} with phase encoding "
        f"{image.phase_encoding}, and fits no other run of the session",
        path=image.path,
        expected="diffusion-weighted volumes, or the grid, head pose and opposite phase encoding "
        f"of another run ({grids or 'there is none'})",
        advice="export it with the matrix and position of that run, or leave it out by a filter",
    )
