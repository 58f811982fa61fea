"""Links from an image to the scans it corrects: IntendedFor, and names of B0 fields."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from dmri_fm_workflows.bids.metadata import words
from dmri_fm_workflows.bids.records import DwiRun

#: Least similarity of names, 0 to 1, at which one is offered as the nearest of another.
_LIKENESS = 0.8

#: Largest number of scans that a reason names.
_N_NAMED = 2

#: Largest number of characters of an entry that a reason quotes.
_LONGEST_SHOWN = 200

_EXTENSIONS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Link:
    """One entry of IntendedFor.

    Attributes
    ----------
    text
        As written.
    target
        The file it means; None if it leads nowhere.
    right_form
        The form that BIDS has for it; empty if `text` has that form.
    problem
        Reason why it leads nowhere; empty if it does not.
    """

    text: str
    target: Path | None = None
    right_form: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Statement:
    """Entries of an image's sidecars about the scans that it corrects.

    Attributes
    ----------
    path
        The image.
    links
        Entries of IntendedFor.
    identifiers
        Its B0FieldIdentifier, one or several.
    unusable_link
        Description of an IntendedFor that names nothing: `[]`.
    """

    path: Path
    links: tuple[Link, ...] = ()
    identifiers: tuple[str, ...] = ()
    unusable_link: str = ""

    @property
    def is_silent(self) -> bool:
        """Whether it names no scan and no field."""
        return not (self.links or self.identifiers)


@dataclass(frozen=True)
class Tie:
    """Tie of an image to a series, or the reason why there is none.

    Attributes
    ----------
    how
        "linked by IntendedFor"; empty if they are not tied.
    by_field
        The B0 field that both name; empty if IntendedFor ties them.
    obstacle
        Reason why they are not tied.
    advice
        Change of the metadata that would tie them.
    remarks
        Warnings about metadata that were followed and should be written otherwise.
    """

    how: str = ""
    by_field: str = ""
    obstacle: str = ""
    advice: str = ""
    remarks: tuple[str, ...] = ()


def read_statement(path: Path, sidecars: Sequence[Mapping[str, Any]], *, root: Path) -> Statement:
    """Read the links of an image.

    `sidecars` is one merged sidecar for an echo-planar image, several for a field map.
    """
    texts = dict.fromkeys(t for m in sidecars for t in words(m.get("IntendedFor")))
    identifiers = dict.fromkeys(t for m in sidecars for t in words(m.get("B0FieldIdentifier")))
    return Statement(
        path,
        links=tuple(resolve_link(text, image=path, root=root) for text in texts),
        identifiers=tuple(identifiers),
        unusable_link=""
        if texts
        else next((_describe(m["IntendedFor"]) for m in sidecars if "IntendedFor" in m), ""),
    )


def _describe(value: object) -> str:
    """Describe the value of an entry that names nothing."""
    is_empty = value in (None, "", [], [""])
    return "empty" if is_empty else f"{reprlib.repr(value)}, not text or a list of texts"


def resolve_link(text: str, *, image: Path, root: Path) -> Link:
    """Find the file that an entry of IntendedFor, in the sidecar of an image, means.

    BIDS has two forms: a URI from the dataset's root, `bids::sub-01/dwi/sub-01_dwi.nii.gz`, and
    a path from the participant's folder, `ses-1/dwi/sub-01_ses-1_dwi.nii.gz`. Other forms are
    followed where they lead to an existing file of the participant: with `sub-01/` in front,
    without `ses-1/` or `ses-1_`, `.nii` for `.nii.gz` or the reverse, `./` or `/` in front, an
    absolute path, a path from the image's folder, a bare file name.
    """
    is_uri = text.startswith("bids:")
    dataset, colon, rest = text.removeprefix("bids:").partition(":")
    named = f"IntendedFor names {_quoted([text])}"
    if is_uri and dataset and colon:
        return Link(text, problem=f"{named}, in another dataset")
    folder = root / image.relative_to(root).parts[0]
    relative = (rest if colon else dataset) if is_uri else text
    parts = PurePosixPath(relative.strip().replace("\\", "/")).parts
    parts = tuple(p for p in parts if p not in ("/", "."))
    for path in _spellings(parts, image=image, folder=folder, is_uri=is_uri):
        # Unlike pathlib's, these answer for any text, however long or odd.
        if os.path.isfile(path) or os.path.islink(path):
            uri = f"bids::{path.relative_to(root).as_posix()}"
            is_right = text in (uri, path.relative_to(folder).as_posix())
            return Link(text, path, right_form="" if is_right else uri)
    others = [p for p in parts[:-1] if p.startswith("sub-")]
    if others and folder.name not in others:
        return Link(text, problem=f"{named}, of another participant")
    problem = f"{named}, which does not exist"
    patterns = ("dwi/*.nii*", "ses-*/dwi/*.nii*")
    scans = [p.name for pattern in patterns for p in sorted(folder.glob(pattern))]
    near = get_close_matches(parts[-1] if parts else "", scans, n=1, cutoff=_LIKENESS)
    return Link(text, problem=f"{problem}; the nearest name is {near[0]}" if near else problem)


def _spellings(
    parts: tuple[str, ...], *, image: Path, folder: Path, is_uri: bool
) -> Iterator[Path]:
    """Yield the paths below the participant's folder that a link may mean, the likeliest first."""
    if not parts:
        return
    session = next((p for p in image.relative_to(folder).parts[:-1] if p.startswith("ses-")), None)
    bases = [folder.parent, folder] if is_uri else [folder, folder.parent]
    paths = [base.joinpath(*parts) for base in bases]
    if folder.name in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index(folder.name)
        paths.append(folder.parent.joinpath(*parts[last:]))
    visit = folder / session if session else folder
    paths += [visit.joinpath(*parts), image.parent.joinpath(*parts)]
    if len(parts) == 1:
        paths.append(visit / "dwi" / parts[0])
    seen = set()
    for path in (Path(os.path.normpath(p)) for p in paths):
        if not path.is_relative_to(folder):
            continue
        for name in _names(path.name, subject=folder.name, session=session):
            candidate = path.with_name(name)
            if candidate not in seen:
                seen.add(candidate)
                yield candidate


def _names(name: str, *, subject: str, session: str | None) -> Iterator[str]:
    """Yield a file name, with the other extension, and with the session it may lack."""
    stem = name.removesuffix(".gz").removesuffix(".nii")
    own = name[len(stem) :]
    for start in (stem, stem.replace(f"{subject}_", f"{subject}_{session}_", 1)):
        if own in _EXTENSIONS and (start == stem or (session and session not in stem)):
            yield from (start + e for e in sorted(_EXTENSIONS, key=lambda e: e != own))


def tie_to(runs: Sequence[DwiRun], statement: Statement, *, others: Sequence[DwiRun] = ()) -> Tie:
    """Tie an image to a series by its links, or say why it is not tied.

    The B0FieldSource of a run decides if it is set; else IntendedFor of the image; else a
    B0FieldIdentifier that run and image share, as the images that one field is estimated from.
    A reason may name runs of `others`, which are of other series.
    """
    for run in runs:
        if tie := _tie_to_run(run, statement):
            return tie
    advice = ""
    if statement.is_silent:
        advice = "add IntendedFor or B0FieldIdentifier to its JSON file"
    elif statement.identifiers and not any(run.metadata.get("B0FieldSource") for run in runs):
        source = json.dumps(statement.identifiers[0])
        advice = f'add "B0FieldSource": {source} to the JSON file of the series'
    return Tie(obstacle="; ".join(_obstacles(runs, statement, others)), advice=advice)


def list_own_fields(runs: Sequence[DwiRun], statements: Mapping[Path, Statement]) -> set[str]:
    """Return the B0 fields of the runs of a series, and of the other images of its session."""
    session = runs[0].path.parent.parent
    own = {i for run in runs for i in run.b0_identifiers}
    return own.union(
        *(s.identifiers for path, s in statements.items() if path.parent.parent == session)
    )


def give_way(tie: Tie, *, is_outside: bool) -> Tie:
    """Return the obstacle of an image elsewhere: the own session has images of its field."""
    where = "lies outside the sessions" if is_outside else "is of another session"
    return Tie(
        obstacle=f"it {where}, and the series' own session has images with "
        f"B0FieldIdentifier {tie.by_field!r}"
    )


def _tie_to_run(run: DwiRun, statement: Statement) -> Tie | None:
    """Tie an image to one run; None if nothing links them."""
    shared = [i for i in statement.identifiers if i in run.b0_sources]
    if shared:
        return Tie(f"linked by B0FieldSource {shared[0]!r}", by_field=shared[0])
    if run.b0_sources:
        return None
    link = next((link for link in statement.links if link.target == run.path), None)
    if link is not None:
        remark = (
            f"{statement.path.name}: IntendedFor {link.text!r} was followed as "
            f"{link.right_form!r}. Write it so: other programs may not find the scan."
        )
        return Tie("linked by IntendedFor", remarks=(remark,) if link.right_form else ())
    own = next((i for i in statement.identifiers if i in run.b0_identifiers), None)
    if own is None:
        return None
    remark = (
        f"{run.path.name} has no B0FieldSource; {statement.path.name} is used because both have "
        f'B0FieldIdentifier {own!r}. Add "B0FieldSource": {json.dumps(own)} to the JSON file of '
        "the run."
    )
    how = f"linked by B0FieldIdentifier {own!r} of both"
    return Tie(how, by_field=own, remarks=(remark,))


def _obstacles(
    runs: Sequence[DwiRun], statement: Statement, others: Sequence[DwiRun]
) -> Iterator[str]:
    """Yield what keeps an image from being tied to a series."""
    sources = tuple(dict.fromkeys(s for run in runs for s in run.b0_sources))
    if statement.identifiers:
        elsewhere = [run.path for run in others if {*run.b0_sources} & {*statement.identifiers}]
        if elsewhere:
            use = f"is for {_names_of(elsewhere)}"
        elif sources:
            use = f"is not the B0FieldSource of the series, {_quoted(sources)}"
        else:
            use = "is the B0FieldSource of no run of this session"
        yield f"its B0FieldIdentifier, {_quoted(statement.identifiers)}, {use}"
    targets = [link.target for link in statement.links if link.target is not None]
    if sources and any(run.path in targets for run in runs):
        yield (
            f"IntendedFor names the series, whose B0FieldSource, {_quoted(sources)}, decides"
            + ("" if statement.identifiers else ", and it has no B0FieldIdentifier")
        )
    else:
        if targets:
            yield f"IntendedFor names other scans: {_names_of(targets)}"
        problems = [link.problem for link in statement.links if link.problem]
        yield from problems[:_N_NAMED]
        if len(problems) > _N_NAMED:
            yield f"and {len(problems) - _N_NAMED} more of its links lead nowhere"
    if statement.is_silent and statement.unusable_link:
        yield f"IntendedFor is {statement.unusable_link}"
    elif statement.is_silent:
        yield "it does not say for which scans it is"


def _quoted(labels: Iterable[str]) -> str:
    shown = (t if len(t) <= _LONGEST_SHOWN else t[:_LONGEST_SHOWN] + "..." for t in labels)
    return ", ".join(map(repr, shown))


def _names_of(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _N_NAMED} more" if len(paths) > _N_NAMED else ""
    return ", ".join(path.name for path in paths[:_N_NAMED]) + more
