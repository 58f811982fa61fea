"""Sort a participant's images by what they are for; refuse those whose names do not fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dmri_fm.content import require_content
from dmri_fm.errors import GradientError, ImageError, InputError, LayoutError
from dmri_fm.gradient_files import read_raw_gradients
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.filters import FOLDERS, QUERIES, Filters, passes, wanted_suffixes
from dmri_fm_workflows.bids.folders import (
    check_name,
    claimed_suffix,
    owner_of,
    refuse_foreign_link,
)
from dmri_fm_workflows.bids.names import find_fault, session_of, split_name
from dmri_fm_workflows.bids.scans import SIGNAL_DIRECTIONS, is_diffusion_signal, why_no_signal
from dmri_fm_workflows.bids.sidecars import Sidecars

__all__ = ["LEFT_OUT", "ImageSelector"]

LOGGER = logging.getLogger(__name__)

#: Key of the images that a filter leaves out, among the queries.
LEFT_OUT = "left out"

#: Entities whose labels are numbers: `run-1` and `run-01` are one.
_INDICES = ("run", "echo", "chunk")


class ImageSelector:
    """Sorts images by query.

    Parameters
    ----------
    root
        Folder of the dataset, absolute.
    filters
        Conditions on the images.
    sessions
        Labels asked for; all if None.
    sidecars
        What describes the images.
    gradient_options
        How gradient files are read.
    note
        Takes a participant's label, or None for all, and a problem.
    """

    def __init__(
        self,
        root: Path,
        *,
        filters: Filters,
        sessions: Collection[str] | None,
        sidecars: Sidecars,
        gradient_options: GradientOptions,
        note: Callable[[str | None, InputError], None],
    ) -> None:
        self._root = root
        self._filters = filters
        self._sessions = sessions
        self._sidecars = sidecars
        self._gradient_options = gradient_options
        self._note = note
        self._misnamed: set[Path] = set()

    def select(self, label: str, images: Sequence[Path]) -> dict[str, list[Path]]:
        """Sort images by query; sessions restrict all but the T1-weighted images.

        Images that would correct distortion and that a filter leaves out are under
        :data:`LEFT_OUT`.
        """
        chosen: dict[str, list[Path]] = {query: [] for query in (*QUERIES, LEFT_OUT)}
        for path in images:
            query = self._query_of(path)
            if query != "t1w" and not (
                self._sessions is None or session_of(path) in self._sessions
            ):
                continue
            try:
                if query is None:
                    self._check_other(path)
                elif not self._passes(path, query, self._filters):
                    if query != "t1w" and self._would_correct(path, query):
                        chosen[LEFT_OUT].append(path)
                elif self._is_usable(label, path, query):
                    if path.suffix == ".nii" and path.with_name(path.name + ".gz") in images:
                        self._note(label, _twice(path))
                    else:
                        chosen[query].append(path)
            except InputError as error:
                self._note(label, error)
        for path in (*chosen["dwi"], *chosen["fmap"]):
            for fault in self._sidecars.misnamed(path):
                self._note_misnamed(label, fault)
        chosen["dwi"] = self._drop_doubles(label, chosen["dwi"])
        return chosen

    def check_name(self, path: Path, query: str) -> None:
        """Refuse an image whose name, place or content does not agree with its folder.

        Raises
        ------
        LayoutError
            If it is refused.
        """
        refuse_foreign_link(path, self._root)
        check_name(
            path, self._root, suffix=self._claimed_suffix(path, query), datatype=FOLDERS[query]
        )

    def is_candidate(self, path: Path, query: str) -> bool:
        """Tell whether an image is rightly named and passes the filters."""
        return self._find_fault(path, query) is None and self._passes(path, query, self._filters)

    def _query_of(self, path: Path) -> str | None:
        """Return the query that an image is for by its suffix; that of its folder comes first."""
        claimed = [
            query
            for query in QUERIES
            if claimed_suffix(path.name, wanted_suffixes(query, self._filters))
        ]
        here = [query for query in claimed if FOLDERS[query] == path.parent.name]
        # A single-band reference elsewhere is none of a diffusion series.
        if here or find_fault(path.name) or split_name(path)[1] == "sbref":
            claimed = here
        return claimed[0] if claimed else None

    def _passes(self, path: Path, query: str, filters: Filters) -> bool:
        """Tell whether an image passes filters; one with a wrong name is asked its name alone."""
        owner = owner_of(path.parent, self._root)
        labels = {"subject": owner.subject, "session": owner.session}
        return passes(
            path,
            query,
            filters,
            entities=split_name(path)[0] | {k: v for k, v in labels.items() if v is not None},
            suffix=self._claimed_suffix(path, query),
            metadata=None if self._find_fault(path, query) else self._sidecars.metadata,
        )

    def _is_usable(self, label: str, path: Path, query: str) -> bool:
        """Tell whether an image is what its query asks for."""
        if query == "t1w":
            return True  # few of them are opened, and checked then
        if fault := self._find_fault(path, query):
            self._note_misnamed(label, fault)
            return False
        if query == "dwi" and (reason := self.why_no_signal(path)):
            LOGGER.info("%s is left out: %s", path, reason)
            return False
        return True

    def _would_correct(self, path: Path, query: str) -> bool:
        """Tell whether an image could correct distortion, filters aside."""
        entities, suffix, _ = split_name(path)
        if self._find_fault(path, query) or not self._passes(path, query, {}):
            return False
        metadata: Mapping[str, object] = {}
        try:
            metadata = self._sidecars.metadata(path)
        except InputError as error:
            # What a filter leaves out is no problem of this run.
            LOGGER.debug("%s is left out by a filter: %s", path, error)
        return not suffix.startswith("magnitude") and is_diffusion_signal(entities, metadata)

    def _claimed_suffix(self, path: Path, query: str) -> str:
        return claimed_suffix(path.name, wanted_suffixes(query, self._filters)) or ""

    def _find_fault(self, path: Path, query: str) -> LayoutError | None:
        try:
            self.check_name(path, query)
        except LayoutError as error:
            return error
        return None

    def _check_other(self, path: Path) -> None:
        """Refuse a file in `dwi` that is no known image, unless its name says what it is."""
        if path.parent.name == "dwi":
            entities, suffix, _ = split_name(path)
            is_named = bool(entities) and find_fault(path.name) is None
            check_name(path, self._root, suffix=suffix if is_named else "dwi")

    def _note_misnamed(self, label: str, error: LayoutError) -> None:
        """Add a problem of a name; the files of one name are one problem.

        A file above the participants is nobody's. It is a problem of the dataset, unless images
        lack a file of their own: these are refused, each for its participant.
        """
        assert error.path is not None
        if owner_of(error.path.parent, self._root).subject is None:
            self._note(None, error)
            return
        name = error.path.with_name(error.path.name.partition(".")[0])
        if name not in self._misnamed:
            self._misnamed.add(name)
            self._note(label, error)

    def _drop_doubles(self, label: str, paths: Sequence[Path]) -> list[Path]:
        """Refuse scans whose names say the same: their outputs would have one name."""
        kept = []
        for path in paths:
            same = [p for p in paths if p != path and _meaning(p) == _meaning(path)]
            if same:
                self._note(label, _double(path, same[0]))
            else:
                kept.append(path)
        return kept

    def why_no_signal(self, path: Path) -> str:
        """Say why an image is no measured signal; empty if it is.

        Raises
        ------
        InputError
            If its sidecars cannot be read, or its content was not fetched.
        """
        entities, metadata = split_name(path)[0], self._sidecars.metadata(path)
        reason = why_no_signal(entities, metadata)
        if not reason or not is_diffusion_signal(
            entities, metadata, n_directions=SIGNAL_DIRECTIONS
        ):
            return reason and f"it is no measured signal: {reason}"
        # DERIVED alone speaks against it; gradient files of its own may speak for it.
        return "" if self._has_directions(path) else f"it is no measured signal: {reason}"

    def _has_directions(self, path: Path) -> bool:
        """Tell whether gradient files of an image's own name hold a full set of directions."""
        bval, bvec = (self._sidecars.find_own(path, e) for e in (".bval", ".bvec"))
        if bval is None or bvec is None:
            return False
        for file in (path, bval, bvec):
            require_content(file, ImageError if file == path else GradientError)
        try:
            image = load_image(path, ndim=4)
            found = read_raw_gradients(
                bval,
                bvec,
                affine=image.affine,
                n_volumes=image.shape[3],
                # Directions alone count here; what lengths mean is asked when it is opened.
                options=replace(self._gradient_options, b_scaling="none"),
            )
        except InputError:
            return False
        return found.gtab.count_directions() >= SIGNAL_DIRECTIONS


def _twice(path: Path) -> InputError:
    return InputError(
        f"exists a second time as {path.name}.gz, which is used",
        path=path,
        expected="one file per scan",
        advice="remove the one that is not the original",
    )


def _double(path: Path, other: Path) -> LayoutError:
    return LayoutError(
        f"has the entities of {other.name}, so their outputs would have one name",
        path=path,
        expected="labels that tell the two scans apart; the order of entities and zeros before a "
        "number do not",
        advice="give one of them another `run` or `acq` label, or remove the copy",
    )


def _meaning(path: Path) -> tuple[str, frozenset[tuple[str, str]]]:
    """Return what a name says: entities in no order, indices as numbers."""
    entities, suffix, _ = split_name(path)
    labels = {
        key: label.lstrip("0") or "0" if key in _INDICES and label.isdigit() else label
        for key, label in entities.items()
    }
    return f"{session_of(path)} {suffix}", frozenset(labels.items())
