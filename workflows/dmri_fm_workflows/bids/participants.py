"""Participants of a dataset, read one after another: scans, series, problems."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm.content import require_content
from dmri_fm.errors import ImageError, InputError
from dmri_fm_workflows.bids.ages import read_age
from dmri_fm_workflows.bids.bare_b0 import open_bare_b0
from dmri_fm_workflows.bids.fieldmaps import FIELDMAP_SUFFIXES
from dmri_fm_workflows.bids.fields import Candidate
from dmri_fm_workflows.bids.filters import ANATOMICAL, QUERIES
from dmri_fm_workflows.bids.lesions import describe_unused_masks, find_lesion_mask
from dmri_fm_workflows.bids.links import read_statement, tie_to
from dmri_fm_workflows.bids.names import own_file, session_of, split_name
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import (
    DwiRun,
    EpiImage,
    Problem,
    Session,
    UnusedImage,
    describe_t2w,
)
from dmri_fm_workflows.bids.scans import open_epi, open_run, open_t1w
from dmri_fm_workflows.bids.selection import IGNORED, LEFT_OUT, ImageSelector
from dmri_fm_workflows.bids.series import GroupedRuns, SessionImages, group_runs

LOGGER = logging.getLogger(__name__)


class ParticipantReader:
    """Turns lists of images into sessions, and collects problems.

    Parameters
    ----------
    reading
        Of the dataset.
    """

    def __init__(self, reading: Reading) -> None:
        self.problems: list[Problem] = []
        self._reading = reading
        self._selector = ImageSelector(reading, note=self.note)

    def note(self, label: str | None, error: InputError) -> None:
        """Add a problem of a participant, or of the dataset, once."""
        # An inherited file may be wrong for several participants, and all of them are told.
        known = {(p.participant, str(p.error)) for p in self.problems}
        if (label, str(error)) not in known:
            self.problems.append(Problem(label, error))

    def read(self, label: str, images: Iterable[Path]) -> tuple[Session, ...]:
        """Return a participant's sessions that have a usable series, by label.

        Parameters
        ----------
        label
            Without `sub-`.
        images
            All in the participant's datatype folders.
        """
        images = sorted(images)
        chosen = self._selector.select(label, images)
        visits = []
        for session in sorted({session_of(path) for path in chosen["dwi"]}):
            here = {
                q: [p for p in paths if session_of(p) == session] for q, paths in chosen.items()
            }
            others = [p for p in images if session_of(p) != session]
            grouped = self._read_series(label, here, others=others)
            if grouped.series:
                t1w, warnings = self._choose_anatomy(label, session, chosen)
                warnings = (*warnings, *grouped.warnings)
                age = read_age(self._reading.root, label, session)
                try:
                    lesion = find_lesion_mask(t1w[0]) if t1w else None
                except InputError as error:
                    self.note(label, error)
                    continue
                warnings += describe_unused_masks(images, session, lesion)
                visits.append(
                    Session(
                        session or None, t1w, grouped.series, warnings, age, lesion_mask=lesion
                    )
                )
        return tuple(visits)

    def _choose_anatomy(
        self, label: str, session: str, chosen: Mapping[str, Sequence[Path]]
    ) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """Take T1-weighted images; T2-weighted ones only where the participant has no others."""
        t1w, warnings = self._choose_t1w(label, session, chosen["t1w"])
        if t1w:
            return t1w, warnings
        found, warnings = self._choose_t1w(label, session, chosen["t2w"], query="t2w")
        if not found:
            return (), ()
        return found, (describe_t2w(found[0]), *warnings)

    def _choose_t1w(
        self, label: str, session: str, paths: Sequence[Path], *, query: str = "t1w"
    ) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """Take the session's images, else those above the sessions, else the first other's.

        Where sessions share their anatomy, the first that has one gives it: what lies above the
        sessions, then sessions by label.
        """
        if self._reading.shares_anatomy:
            for source in sorted({session_of(p) for p in paths}):
                here = [p for p in paths if session_of(p) == source]
                if usable := self._rank_t1w(label, here, query=query):
                    return usable, ()
            return (), ()
        others = sorted({session_of(p) for p in paths} - {session, ""})
        for source in (session, "", *others):
            here = [p for p in paths if session_of(p) == source]
            usable = self._rank_t1w(label, here, query=query)
            if usable and source in (session, ""):
                return usable, ()
            if usable:
                where = f"ses-{session}" if session else "the participant's folder"
                return usable, (
                    f"{where} has no {query[:2].upper()}-weighted image that can be used; "
                    f"{usable[0].name} is used.",
                )
        return (), ()

    def _rank_t1w(self, label: str, paths: Sequence[Path], *, query: str) -> tuple[Path, ...]:
        ranked = []
        for path in paths:
            if split_name(path)[0].get("part", "mag") != "mag":
                continue
            if fault := self._selector.find_fault(path, query):
                self.note(label, fault)
                continue
            try:
                ranked.append((open_t1w(path, self._reading.sidecars.metadata(path)), path))
            except InputError as error:
                self.note(label, error)
        return tuple(path for _, path in sorted(ranked))

    def _read_series(
        self, label: str, here: Mapping[str, Sequence[Path]], *, others: Sequence[Path]
    ) -> GroupedRuns:
        """Open the images of a session, sorted by query, and group its runs.

        `others` are the participant's images outside the session.
        """
        images = SessionImages()
        images.unusable.extend(UnusedImage(p, "a filter leaves it out") for p in here[LEFT_OUT])
        images.unusable.extend(
            UnusedImage(p, f"--ignore {self._reading.find_ignored(p)} leaves it out")
            for p in here[IGNORED]
        )
        # Runs with gradients come first: they show whether another image is a reverse-phase one.
        dwi = sorted(here["dwi"], key=lambda path: not self._has_own_gradients(path))
        for path in (*dwi, *here["fmap"]):
            try:
                if path.parent.name == "dwi":
                    self._open_from_dwi(path, images)
                elif split_name(path)[1] != "epi":
                    metadata = self._reading.sidecars.metadata(path)
                    require_content(path, ImageError)
                    images.gradient_echo[path] = metadata
                elif reason := self._selector.why_no_signal(path):
                    images.unusable.append(UnusedImage(path, reason))
                else:
                    images.epis.append(open_epi(path, self._reading))
            except InputError as error:
                self.note(label, error)
                images.unusable.append(_unreadable(path, error))
        for path in others:
            self._open_from_elsewhere(path, images)
        grouped = group_runs(images, root=self._reading.root, merging=self._reading.merging)
        for refused in grouped.errors:
            self.note(label, refused)
        return grouped

    def _open_from_dwi(self, path: Path, images: SessionImages) -> None:
        """Open an image of the `dwi` folder and add it to those of its use."""
        if split_name(path)[1] == "sbref":
            images.sbrefs.append(open_epi(path, self._reading))
            return
        image = self._open_dwi(path, images.runs)
        if isinstance(image, DwiRun):
            images.runs.append(image)
        else:
            images.bare.append(image)

    def _has_own_gradients(self, path: Path) -> bool:
        own = [own_file(path, e) for e in (".bval", ".bvec")]
        return all(file.is_file() and not self._reading.is_ignored(file) for file in own)

    def _open_dwi(self, path: Path, runs: Sequence[DwiRun]) -> EpiImage:
        """Open a run, or an image of b=0 volumes without gradients beside these runs."""
        encodings = [run.phase_encoding for run in runs]
        bare = open_bare_b0(path, self._reading, encodings=encodings)
        return bare or open_run(path, self._reading)

    def _open_from_elsewhere(self, path: Path, images: SessionImages) -> None:
        """Open an image of another session if it names a run of this one.

        Echo-planar images outside the sessions are opened without a link, too: no session would
        list them as unused. An image that cannot be read is a problem of its own session.
        """
        if self._reading.find_ignored(path):
            return
        metadata = self._links_of(path, images.runs, is_link_needed=not _is_outside(path))
        if metadata is None:
            return
        suffix = split_name(path)[1]
        try:
            if suffix in FIELDMAP_SUFFIXES:
                images.gradient_echo[path] = metadata
            elif reason := self._selector.why_no_signal(path):
                images.unusable.append(UnusedImage(path, reason))
            elif suffix in ("epi", "sbref"):
                image = open_epi(path, self._reading)
                images.elsewhere.append(Candidate(image, suffix, is_elsewhere=True))
            else:
                image = self._open_dwi(path, images.runs)
                is_weighted = isinstance(image, DwiRun) and not image.gtab.is_b0.all()
                origin = "dwi" if is_weighted else "b0"
                images.elsewhere.append(Candidate(image, origin, is_elsewhere=True))
        except InputError as error:
            images.unusable.append(_unreadable(path, error))

    def _links_of(
        self, path: Path, runs: Sequence[DwiRun], *, is_link_needed: bool
    ) -> dict[str, Any] | None:
        """Return the sidecars of an image that names one of the runs; None if it does not."""
        suffix = split_name(path)[1]
        query = next((q for q, s in QUERIES.items() if suffix in s and q not in ANATOMICAL), None)
        if query is None:
            return None
        try:
            if not self._selector.is_candidate(path, query):
                return None
            metadata = self._reading.sidecars.metadata(path)
        except InputError as error:
            LOGGER.debug("%s says nothing of this session: %s", path, error)
            return None
        statement = read_statement(path, [metadata], root=self._reading.root)
        return metadata if not is_link_needed or tie_to(runs, statement).how else None


def _unreadable(path: Path, error: InputError) -> UnusedImage:
    return UnusedImage(path, f"it cannot be read: {error.found}")


def _is_outside(path: Path) -> bool:
    """Tell an echo-planar image of the `fmap` folder outside the sessions."""
    return not session_of(path) and path.parent.name == "fmap" and split_name(path)[1] == "epi"
