"""Read one participant after another: open scans, group them, collect problems."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm.content import require_content
from dmri_fm.errors import ImageError, InputError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm_workflows.bids.bare_b0 import open_bare_b0
from dmri_fm_workflows.bids.fields import Candidate
from dmri_fm_workflows.bids.filters import QUERIES, Filters
from dmri_fm_workflows.bids.ignore import BidsIgnore
from dmri_fm_workflows.bids.links import read_statement, tie_to
from dmri_fm_workflows.bids.names import session_of, split_name
from dmri_fm_workflows.bids.records import DwiRun, EpiImage, Problem, Session, UnusedImage
from dmri_fm_workflows.bids.scans import (
    FIELDMAP_SUFFIXES,
    list_fieldmaps,
    open_epi,
    open_run,
    open_t1w,
)
from dmri_fm_workflows.bids.selection import LEFT_OUT, ImageSelector
from dmri_fm_workflows.bids.series import GroupedRuns, OpenedRun, SessionImages, group_runs
from dmri_fm_workflows.bids.sidecars import Sidecars

__all__ = ["ParticipantReader"]

LOGGER = logging.getLogger(__name__)


class ParticipantReader:
    """Turns lists of images into sessions, and remembers what could not be used.

    Parameters
    ----------
    root
        Folder of the dataset, absolute.
    filters
        Conditions on the images.
    sessions
        Labels asked for; all if None.
    is_ignored
        Tells which files are not part of the dataset.
    gradient_options
        How gradient files are read.
    """

    def __init__(
        self,
        root: Path,
        *,
        filters: Filters,
        sessions: Collection[str] | None,
        is_ignored: BidsIgnore,
        gradient_options: GradientOptions,
    ) -> None:
        self.problems: list[Problem] = []
        self._root = root
        self._is_ignored = is_ignored
        self._gradient_options = gradient_options
        self._sidecars = Sidecars(root, is_ignored=is_ignored)
        self._selector = ImageSelector(
            root,
            filters=filters,
            sessions=sessions,
            sidecars=self._sidecars,
            gradient_options=gradient_options,
            note=self.note,
        )

    def note(self, label: str | None, error: InputError) -> None:
        """Add a problem of a participant, or of the dataset, once."""
        # An inherited file may be wrong for several participants, and all of them are told.
        known = {(p.participant, p.path, str(p.error)) for p in self.problems}
        if (label, error.path, str(error)) not in known:
            self.problems.append(Problem(label, error.path, error))

    def read(self, label: str, images: Iterable[Path]) -> tuple[Session, ...]:
        """Read a participant.

        Parameters
        ----------
        label
            Without `sub-`.
        images
            All in its datatype folders.

        Returns
        -------
        tuple of Session
            Those with a usable series, by label.
        """
        images = sorted(images)
        chosen = self._selector.select(label, images)
        visits = []
        for session in sorted({session_of(path) for path in chosen["dwi"]}):
            here = {
                q: [p for p in paths if session_of(p) == session] for q, paths in chosen.items()
            }
            others = [p for p in images if session_of(p) != session]
            found = self._read_series(label, here, others=others)
            if found.series:
                t1w, warnings = self._choose_t1w(label, session, chosen["t1w"])
                warnings = (*warnings, *found.warnings)
                visits.append(Session(session or None, t1w, found.series, warnings))
        return tuple(visits)

    def _choose_t1w(
        self, label: str, session: str, paths: Sequence[Path]
    ) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """Take the session's images, else those above the sessions, else the first other's."""
        others = sorted({session_of(p) for p in paths} - {session, ""})
        for source in (session, "", *others):
            usable = self._rank_t1w(label, [p for p in paths if session_of(p) == source])
            if usable and source in (session, ""):
                return usable, ()
            if usable:
                where = f"ses-{session}" if session else "the participant's folder"
                return usable, (
                    f"{where} has no T1-weighted image that can be used; "
                    f"{usable[0].name} is used.",
                )
        return (), ()

    def _rank_t1w(self, label: str, paths: Sequence[Path]) -> tuple[Path, ...]:
        ranked = []
        for path in paths:
            if split_name(path)[0].get("part", "mag") != "mag":
                continue
            try:
                self._selector.check_name(path, "t1w")
                ranked.append((open_t1w(path, self._sidecars.metadata(path)), path))
            except InputError as error:
                self.note(label, error)
        return tuple(path for _, path in sorted(ranked))

    def _read_series(
        self, label: str, here: Mapping[str, Sequence[Path]], *, others: Sequence[Path]
    ) -> GroupedRuns:
        """Open the images of a session, sorted by query, and group its runs."""
        opened: list[OpenedRun] = []
        bare, epis, sbrefs = [], [], []
        gradient_echo: dict[Path, dict[str, Any]] = {}
        unusable = [UnusedImage(path, "a filter leaves it out") for path in here[LEFT_OUT]]
        # Whether an image without gradients is a reverse-phase one is seen from the others.
        dwi = sorted(here["dwi"], key=lambda path: not self._has_own_gradients(path))
        for path in (*dwi, *here["fmap"]):
            suffix = split_name(path)[1]
            try:
                metadata = self._sidecars.metadata(path)
                if path in here["dwi"] and suffix == "sbref":
                    sbrefs.append(self._open_epi(path, metadata))
                elif path in here["dwi"]:
                    encodings = [o.run.phase_encoding for o in opened]
                    image = self._open_dwi(path, metadata, encodings=encodings)
                    if isinstance(image, OpenedRun):
                        opened.append(image)
                    else:
                        bare.append(image)
                elif suffix == "epi":
                    if reason := self._selector.why_no_signal(path):
                        unusable.append(UnusedImage(path, reason))
                    else:
                        epis.append(self._open_epi(path, metadata))
                else:
                    require_content(path, ImageError)
                    gradient_echo[path] = metadata
            except InputError as error:
                self.note(label, error)
                unusable.append(UnusedImage(path, f"it cannot be read: {error.found}"))
        runs = [o.run for o in opened]
        elsewhere, maps_elsewhere, unread = self._find_elsewhere(runs, others)
        gradient_echo |= maps_elsewhere
        found = group_runs(
            SessionImages(
                opened,
                bare=bare,
                epis=epis,
                sbrefs=sbrefs,
                fieldmaps=list_fieldmaps(gradient_echo, metadata=gradient_echo),
                elsewhere=elsewhere,
                unusable=(*unusable, *unread),
            ),
            root=self._root,
        )
        for refused in found.errors:
            self.note(label, refused)
        return found

    def _has_own_gradients(self, path: Path) -> bool:
        stem = path.name.partition(".")[0]
        own = [path.with_name(stem + e) for e in (".bval", ".bvec")]
        return all(file.is_file() and not self._is_ignored(file) for file in own)

    def _open_dwi(
        self, path: Path, metadata: Mapping[str, Any], *, encodings: Collection[str | None] = ()
    ) -> OpenedRun | EpiImage:
        """Open a run, or an image of b=0 volumes that has no gradients."""
        options = self._gradient_options
        image = open_bare_b0(
            path,
            metadata,
            sidecars=self._sidecars,
            encodings=encodings,
            gradient_options=options,
        )
        return image or OpenedRun(
            *open_run(path, metadata, sidecars=self._sidecars, gradient_options=options)
        )

    def _open_epi(self, path: Path, metadata: Mapping[str, Any]) -> EpiImage:
        return open_epi(
            path, metadata, sidecars=self._sidecars, gradient_options=self._gradient_options
        )

    def _find_elsewhere(
        self, runs: Sequence[DwiRun], others: Sequence[Path]
    ) -> tuple[list[Candidate], dict[Path, dict[str, Any]], list[UnusedImage]]:
        """Find images of other sessions that name runs of this one.

        Echo-planar images outside the sessions are found without a link, too: they are of no
        session that would list them as unused.

        A file of another session that cannot be read is a problem where that session is read.

        Returns
        -------
        candidates
            Echo-planar images.
        gradient_echo
            Images of gradient-echo field maps, with their sidecars.
        unusable
            Images that name a run and cannot be opened.
        """
        candidates: list[Candidate] = []
        gradient_echo: dict[Path, dict[str, Any]] = {}
        unusable: list[UnusedImage] = []
        encodings = [run.phase_encoding for run in runs]
        for path in others:
            metadata = self._links_of(path, runs, is_link_needed=not _is_outside(path))
            if metadata is None:
                continue
            suffix = split_name(path)[1]
            try:
                if suffix in FIELDMAP_SUFFIXES:
                    gradient_echo[path] = metadata
                elif reason := self._selector.why_no_signal(path):
                    unusable.append(UnusedImage(path, reason))
                elif suffix in ("epi", "sbref"):
                    candidates.append(Candidate(self._open_epi(path, metadata), suffix, True))
                else:
                    image = self._open_dwi(path, metadata, encodings=encodings)
                    if isinstance(image, OpenedRun):
                        origin = "b0" if image.gtab.is_b0.all() else "dwi"
                        candidates.append(Candidate(image.run, origin, True))
                    else:
                        candidates.append(Candidate(image, "b0", True))
            except InputError as error:
                unusable.append(UnusedImage(path, f"it cannot be read: {error.found}"))
        return candidates, gradient_echo, unusable

    def _links_of(
        self, path: Path, runs: Sequence[DwiRun], *, is_link_needed: bool
    ) -> dict[str, Any] | None:
        """Return the sidecars of an image that names one of the runs; None if it does not."""
        suffix = split_name(path)[1]
        query = next((q for q, s in QUERIES.items() if suffix in s and q != "t1w"), None)
        if query is None:
            return None
        try:
            if not self._selector.is_candidate(path, query):
                return None
            metadata = self._sidecars.metadata(path)
        except InputError as error:
            LOGGER.debug("%s says nothing of this session: %s", path, error)
            return None
        statement = read_statement(path, [metadata], root=self._root)
        return metadata if not is_link_needed or tie_to(runs, statement).how else None


def _is_outside(path: Path) -> bool:
    """Tell an echo-planar image of the `fmap` folder outside the sessions."""
    return not session_of(path) and path.parent.name == "fmap" and split_name(path)[1] == "epi"
