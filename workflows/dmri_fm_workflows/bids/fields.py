"""Choice of the image that corrects the distortion of a series, and reasons against the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dmri_fm.errors import ImageError, InputError
from dmri_fm_workflows.bids.encoding import acquisitions_oppose
from dmri_fm_workflows.bids.fieldmaps import field_images, match_fieldmaps, why_unused
from dmri_fm_workflows.bids.head_pose import pose_difference
from dmri_fm_workflows.bids.links import (
    Statement,
    Tie,
    give_way,
    list_own_fields,
    read_statement,
    tie_to,
)
from dmri_fm_workflows.bids.metadata import PHASE_ENCODINGS, describe_fault, list_ignored
from dmri_fm_workflows.bids.names import session_of
from dmri_fm_workflows.bids.records import (
    DwiRun,
    EpiImage,
    Fieldmap,
    UnusedImage,
    find_pair,
    is_opposite,
)

#: Largest relative difference of echo times at which runs count as one contrast.
ECHO_TIME_TOLERANCE = 0.03

#: Entities in which a single-band reference may differ from the run that it serves.
_SBREF_FREE = ("direction", "run")


@dataclass(frozen=True, eq=False)
class Candidate:
    """An echo-planar image that may correct a series.

    Attributes
    ----------
    image
        The image.
    origin
        `epi` of the `fmap` folder, `b0` (a run without weighted volumes), `scan` (a run of the
        same scan, kept apart on request), `dwi` (a run of another series), or `sbref`.
    is_elsewhere
        It is of another session, or outside the sessions and the series is of one.
    """

    image: EpiImage
    origin: str
    is_elsewhere: bool = False

    @property
    def is_outside(self) -> bool:
        """It lies outside the sessions, and the series is of one."""
        return self.is_elsewhere and not session_of(self.image.path)


@dataclass(frozen=True, eq=False)
class FieldChoice:
    """Images and field maps that correct a series, and remarks on the others.

    Attributes
    ----------
    reverse
        Images outside the series that can be the other half of its pair, the one used first.
    pair_reason
        Tie between the halves of the pair; empty if there is none.
    fieldmaps
        Gradient-echo field maps meant for the series, usable or not.
    unused
        Images that could have corrected it and are not used.
    errors
        Images meant for it that cannot be used, their path set.
    warnings
        Remarks on the choice, for the reader of the results.
    misplaced
        Images that oppose the series and have another grid or head pose, if there is no pair.
    """

    reverse: tuple[EpiImage, ...] = ()
    pair_reason: str = ""
    fieldmaps: tuple[Fieldmap, ...] = ()
    unused: tuple[UnusedImage, ...] = ()
    errors: tuple[InputError, ...] = ()
    warnings: tuple[str, ...] = ()
    misplaced: tuple[EpiImage, ...] = ()


@dataclass(frozen=True, eq=False)
class _Verdict:
    """A candidate, its tie to the series, and the reasons against it: misfits and difference."""

    candidate: Candidate
    tie: Tie
    misfits: tuple[str, ...]
    difference: str | None

    @property
    def is_usable(self) -> bool:
        return bool(self.tie.how) and not self.misfits and self.difference is None

    @property
    def is_misplaced(self) -> bool:
        return bool(self.tie.how) and not self.misfits and self.difference is not None

    @property
    def reason(self) -> str:
        """All obstacles: that of the link first, then encoding, then grid and pose."""
        against = [part for part in (self.tie.obstacle, *self.misfits, self.difference) if part]
        if self.tie.advice and len(against) == 1:
            against[0] += f": {self.tie.advice}"
        return "; ".join(against)

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Images of the session first, those with a link, and by origin."""
        origin = ("epi", "b0", "scan", "dwi", "sbref").index(self.candidate.origin)
        is_linked = self.tie.how.startswith("linked")
        return self.candidate.is_elsewhere, not is_linked, origin


def choose_images(
    runs: tuple[DwiRun, ...],
    *,
    candidates: Sequence[Candidate],
    fieldmaps: Sequence[Fieldmap],
    others: Sequence[DwiRun],
    root: Path,
) -> FieldChoice:
    """Choose the images that correct the distortion of a series, with reasons against the others.

    Parameters
    ----------
    runs
        Of the series.
    candidates
        Echo-planar images outside it: of its session, and those of others that name its runs.
    fieldmaps
        Gradient-echo field maps, likewise.
    others
        Runs of other series of the session, whose links a reason may name.
    root
        Folder of the dataset, to which `bids::` links are relative.
    """
    sidecars = {c.image.path: [c.image.metadata] for c in candidates}
    sidecars |= {path: [*f.metadata.values()] for f in fieldmaps for path in field_images(f)}
    statements = {p: read_statement(p, merged, root=root) for p, merged in sidecars.items()}
    verdicts = _judge_all(runs, candidates, statements, others=others)
    own_pair = find_pair(runs, runs)
    usable = [] if own_pair else [v for v in verdicts if v.is_usable]
    reverse = tuple(v.candidate.image for v in usable)
    pair = own_pair or find_pair(runs, reverse)
    used = next((v for v in usable if pair and v.candidate.image is pair[1]), None)
    matched = list(match_fieldmaps(runs, fieldmaps, statements, others=others))
    unused = [
        UnusedImage(v.candidate.image.path, v.reason or _name_better(pair))
        for v in sorted(verdicts, key=lambda v: not v.tie.how)
        if v is not used and not _is_own_reference(v.candidate, runs)
    ]
    unused += [image for fieldmap, tie in matched for image in why_unused(fieldmap, tie)]
    return FieldChoice(
        reverse=reverse,
        pair_reason=used.tie.how if used else "both are runs of the series" if own_pair else "",
        fieldmaps=tuple(fieldmap for fieldmap, tie in matched if tie.how),
        unused=(*unused, *(() if pair else _halves_without_b0(runs))),
        errors=() if pair else tuple(_errors(verdicts, runs)),
        warnings=(
            *_missing_sources(runs, statements),
            *_ignored_entries([v.candidate for v in verdicts], fieldmaps),
            *(_remarks(used, runs) if used else ()),
            *(remark for _, tie in matched for remark in tie.remarks),
        ),
        misplaced=() if pair else tuple(v.candidate.image for v in verdicts if v.is_misplaced),
    )


def _judge_all(
    runs: tuple[DwiRun, ...],
    candidates: Sequence[Candidate],
    statements: Mapping[Path, Statement],
    *,
    others: Sequence[DwiRun],
) -> list[_Verdict]:
    """Judge all candidates outside the series, the best one first."""
    own_fields = list_own_fields(runs, statements)
    verdicts = [
        _judge(c, runs, statements[c.image.path], others=others, own_fields=own_fields)
        for c in candidates
        if c.image not in runs
        # Images of other sessions are candidates only by a link.
        and (not c.is_elsewhere or c.is_outside or tie_to(runs, statements[c.image.path]).how)
    ]
    return sorted(verdicts, key=lambda v: (v.rank, v.candidate.image.path))


def _judge(
    candidate: Candidate,
    runs: tuple[DwiRun, ...],
    statement: Statement,
    *,
    others: Sequence[DwiRun],
    own_fields: Collection[str],
) -> _Verdict:
    """Judge a candidate; `own_fields` are the B0 fields of the series' own session."""
    image = candidate.image
    tie = tie_to(runs, statement, others=others)
    if candidate.is_elsewhere and tie.by_field in own_fields:
        tie = give_way(tie, is_outside=candidate.is_outside)
    if statement.is_silent and not tie.how and not candidate.is_elsewhere:
        tie = _tie_by_protocol(candidate, runs) or tie
    opposed = [r for r in runs if is_opposite(image.phase_encoding, r.phase_encoding)]
    misfits = [] if opposed else [_encoding_misfit(image, runs)]
    if not image.has_b0:
        misfits.append("it holds no b=0 volume")
    elif opposed and not any(r.has_b0 for r in opposed):
        misfits.append("the runs it opposes hold no b=0 volume")
    return _Verdict(candidate, tie, tuple(misfits), pose_difference(image, runs[0]))


def _tie_by_protocol(candidate: Candidate, runs: tuple[DwiRun, ...]) -> Tie | None:
    """Tie an image that names no scan to the series by what it is; None if it needs a link."""
    image = candidate.image
    if candidate.origin == "b0":
        return Tie("the second is a run of b=0 volumes only")
    if candidate.origin == "sbref" and _protocol(image) == _protocol(runs[0]):
        return Tie("the second is a single-band reference of the same protocol")
    if candidate.origin == "scan":
        return Tie("the second is a run of the same scan, kept apart on request")
    if candidate.origin == "dwi":
        own = next((r for r in runs if acquisitions_oppose(image.entities, r.entities)), None)
        advice = "to tie them add B0FieldIdentifier and B0FieldSource to the JSON files"
        if own is None:
            return Tie(obstacle="it belongs to another series", advice=advice)
        if not _has_same_echo(image, own):
            obstacle = f"it belongs to another series of another EchoTime, {image.echo_time_s:g} s"
            return Tie(obstacle=obstacle, advice=advice)
        labels = " and ".join(f"acq-{i.entities['acquisition']}" for i in (own, image))
        return Tie(f"labels {labels}, opposite directions of one protocol")
    return None


def _protocol(image: EpiImage) -> dict[str, str]:
    return {k: v for k, v in image.entities.items() if k not in _SBREF_FREE}


def _has_same_echo(one: EpiImage, other: EpiImage) -> bool:
    """Tell whether echo times agree, as far as both are known."""
    first, second = sorted((one.echo_time_s or 0.0, other.echo_time_s or 0.0))
    return first <= 0 or second <= (1 + ECHO_TIME_TOLERANCE) * first


def _encoding_misfit(image: EpiImage, runs: Sequence[DwiRun]) -> str:
    if image.phase_encoding is None:
        return _unknown_encoding("it", [image])
    known = sorted({run.phase_encoding for run in runs if run.phase_encoding})
    if not known:
        return _unknown_encoding("the series", runs)
    if image.phase_encoding in known:
        return f"its phase encoding, {image.phase_encoding}, is that of the series"
    return (
        f"its phase encoding, {image.phase_encoding}, is along another axis than that of the "
        f"series, {', '.join(known)}"
    )


def _unknown_encoding(who: str, images: Sequence[EpiImage]) -> str:
    """Say that the phase encoding is missing or invalid."""
    key = "PhaseEncodingDirection"
    metadata = next((i.metadata for i in images if i.metadata.get(key) is not None), {})
    fault = describe_fault(metadata, key, f"not one of {', '.join(PHASE_ENCODINGS)}")
    return f"{who} has no {key}" if not metadata else f"{who} has {key} {fault}"


def _is_own_reference(candidate: Candidate, runs: Sequence[DwiRun]) -> bool:
    """Tell a single-band reference of a run of the series, which has the same distortion."""
    return any(run.sbref == candidate.image.path for run in runs)


def _name_better(pair: tuple[EpiImage, EpiImage] | None) -> str:
    names = " and ".join(image.path.name for image in pair or ())
    return f"not needed: {names} are used"


def _errors(verdicts: Sequence[_Verdict], runs: Sequence[DwiRun]) -> Iterator[ImageError]:
    """Yield an error for each image that is linked to the series and differs in grid or pose."""
    for verdict in verdicts:
        is_meant = verdict.tie.how.startswith("linked") and not verdict.candidate.is_elsewhere
        if verdict.is_misplaced and is_meant:
            image = verdict.candidate.image
            yield ImageError(
                f"is meant to correct {runs[0].path.name} but {verdict.difference}",
                path=image.path,
                expected="the grid and position of that scan",
                advice="export both with one matrix and position; the scan goes on without it",
            )


def _remarks(used: _Verdict, runs: Sequence[DwiRun]) -> Iterator[str]:
    """Yield warnings about the image that is used."""
    yield from used.tie.remarks
    image, origin = used.candidate.image, used.candidate.origin
    if used.candidate.is_elsewhere:
        where, new = "is of another session", ""
        if used.candidate.is_outside:
            where, new = "lies outside the sessions", "if it is of another visit, "
        yield (
            f"{image.path.name}, which corrects {runs[0].path.name}, {where}: {new}the head was "
            "placed anew and the magnet shimmed anew, so the field may differ. A rigid movement "
            "between the two is estimated. Look at the figure of the correction."
        )
    if origin == "sbref":
        yield (
            f"{image.path.name}, a single-band reference, is the other half of the pair that "
            "corrects distortion: it is taken to be a b=0 image."
        )
    if not _has_same_echo(image, runs[0]):
        times = " and ".join(f"{i.echo_time_s:g}" for i in (runs[0], image))
        yield (
            f"{runs[0].path.name} and {image.path.name}, the pair that corrects distortion, "
            f"differ in EchoTime: {times} s."
        )


def _ignored_entries(
    candidates: Sequence[Candidate], fieldmaps: Sequence[Fieldmap]
) -> Iterator[str]:
    """Yield entries of sidecars whose type cannot be used; other series name their own."""
    sidecars = {
        c.image.path: c.image.metadata
        for c in candidates
        if c.origin not in ("scan", "dwi") or c.is_elsewhere
    }
    sidecars |= {f.paths[suffix]: m for f in fieldmaps for suffix, m in f.metadata.items()}
    for path, metadata in sidecars.items():
        yield from (f"{path.name}: {what}." for what in list_ignored(metadata))


def _halves_without_b0(runs: Sequence[DwiRun]) -> Iterator[UnusedImage]:
    """Yield runs of the series that oppose others and hold no b=0 volume."""
    for run in runs:
        if not run.has_b0 and any(is_opposite(run.phase_encoding, r.phase_encoding) for r in runs):
            yield UnusedImage(run.path, "a run of the series itself, it holds no b=0 volume")


def _missing_sources(
    runs: Sequence[DwiRun], statements: Mapping[Path, Statement]
) -> Iterator[str]:
    """Yield B0 fields that runs name and no image has."""
    owner = {i: run.path.name for run in runs for i in run.b0_identifiers}
    owner |= {
        i: path.name for path, statement in statements.items() for i in statement.identifiers
    }
    asking: dict[str, str] = {}
    for run in runs:
        for source in run.b0_sources:
            asking.setdefault(source, run.path.name)
    for source, name in asking.items():
        if source in owner:
            continue
        near = get_close_matches(source, owner, n=1)
        hint = f" The nearest is {near[0]!r}, of {owner[near[0]]}." if near else ""
        yield (
            f"{name}: B0FieldSource {source!r} is the B0FieldIdentifier of no image of the "
            f"participant.{hint}"
        )
