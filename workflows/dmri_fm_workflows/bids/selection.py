"""Selection of a participant's images, by query; images whose names do not fit are refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmri_fm.content import require_content
from dmri_fm.errors import GradientError, ImageError, InputError, LayoutError
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.fieldmaps import FIELDMAP_SUFFIXES
from dmri_fm_workflows.bids.filters import (
    ANATOMICAL,
    FOLDERS,
    QUERIES,
    Filters,
    passes,
    wanted_suffixes,
)
from dmri_fm_workflows.bids.folders import (
    claimed_suffix,
    find_foreign_link,
    find_misplacement,
    owner_of,
)
from dmri_fm_workflows.bids.lesions import is_lesion_mask
from dmri_fm_workflows.bids.names import find_fault, session_of, split_name
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.scans import SIGNAL_DIRECTIONS, read_gradients, why_no_signal

LOGGER = logging.getLogger(__name__)

#: Key, beside the queries, of the images that a filter leaves out.
LEFT_OUT = "left out"

#: Key, likewise, of those that `--ignore` leaves out.
IGNORED = "ignored"

#: Entities whose labels are numbers: `run-1` and `run-01` are one.
_INDICES = ("run", "echo", "chunk")


class ImageSelector:
    """Sorts images by query.

    Parameters
    ----------
    reading
        Of the dataset.
    note
        Takes a participant's label, or None for all, and a problem.
    """

    def __init__(
        self, reading: Reading, *, note: Callable[[str | None, InputError], None]
    ) -> None:
        self._reading = reading
        self._note = note
        self._misnamed: set[Path] = set()

    def select(self, label: str, images: Sequence[Path]) -> dict[str, list[Path]]:
        """Sort images by query; requested sessions restrict all but the anatomical images.

        Images that would correct distortion and that a filter leaves out are under
        :data:`LEFT_OUT`, those that `--ignore` leaves out under :data:`IGNORED`.
        """
        chosen: dict[str, list[Path]] = {query: [] for query in (*QUERIES, LEFT_OUT, IGNORED)}
        for path in images:
            if is_lesion_mask(path):  # looked for beside the image that it belongs to
                continue
            query = self._query_of(path)
            if query not in ANATOMICAL and not self._reading.includes(session_of(path)):
                continue
            try:
                if query is None:
                    self._check_other(path)
                elif self._reading.find_ignored(path):
                    if query not in ANATOMICAL and self._would_correct(path, query):
                        chosen[IGNORED].append(path)
                elif not self._passes(path, query):
                    if query not in ANATOMICAL and self._would_correct(path, query):
                        chosen[LEFT_OUT].append(path)
                elif self._is_usable(label, path, query):
                    if path.suffix == ".nii" and path.with_name(path.name + ".gz") in images:
                        self._note(label, _twice(path))
                    else:
                        chosen[query].append(path)
            except InputError as error:
                self._note(label, error)
        for path in (*chosen["dwi"], *chosen["fmap"]):
            for fault in self._reading.sidecars.misnamed(path):
                self._note_misnamed(label, fault)
        chosen["dwi"] = self._drop_doubles(label, chosen["dwi"])
        return chosen

    def find_fault(self, path: Path, query: str) -> LayoutError | None:
        """Return the error of an image whose name, folder or link target is wrong."""
        root, suffix = self._reading.root, self._claimed_suffix(path, query)
        return find_foreign_link(path, root) or find_misplacement(
            path, root, suffix=suffix, datatype=FOLDERS[query]
        )

    def is_candidate(self, path: Path, query: str) -> bool:
        """Tell whether an image is rightly named and passes the filters."""
        return self.find_fault(path, query) is None and self._passes(path, query)

    def _query_of(self, path: Path) -> str | None:
        """Return the query of an image's suffix; that of its folder comes first."""
        claimed = [query for query in QUERIES if self._claimed_suffix(path, query)]
        here = [query for query in claimed if FOLDERS[query] == path.parent.name]
        # Single-band references outside `dwi` belong to no diffusion series.
        if here or find_fault(path.name) or split_name(path)[1] == "sbref":
            claimed = here
        return claimed[0] if claimed else None

    def _passes(self, path: Path, query: str, filters: Filters | None = None) -> bool:
        """Tell whether an image passes filters, by default those of the request.

        Of an image with a wrong name only the name is tested, not the sidecars.
        """
        owner = owner_of(path.parent, self._reading.root)
        labels = {"subject": owner.subject, "session": owner.session}
        return passes(
            path,
            query,
            self._reading.filters if filters is None else filters,
            entities=split_name(path)[0] | {k: v for k, v in labels.items() if v is not None},
            suffix=self._claimed_suffix(path, query),
            metadata=None if self.find_fault(path, query) else self._reading.sidecars.metadata,
        )

    def _is_usable(self, label: str, path: Path, query: str) -> bool:
        """Tell whether an image shows measured signal under a name that fits its folder."""
        if query in ANATOMICAL:
            return True  # few of them are opened, and checked then
        if fault := self.find_fault(path, query):
            self._note_misnamed(label, fault)
            return False
        if query == "dwi" and (reason := self.why_no_signal(path)):
            LOGGER.info("%s is left out: %s", path, reason)
            return False
        return True

    def _would_correct(self, path: Path, query: str) -> bool:
        """Tell whether an image could correct distortion, whatever the filters."""
        entities, suffix, _ = split_name(path)
        if self.find_fault(path, query) or not self._passes(path, query, {}):
            return False
        if suffix in FIELDMAP_SUFFIXES:  # phases among them: no diffusion signal is needed
            return bool(FIELDMAP_SUFFIXES[suffix])
        metadata: dict[str, Any] = {}
        try:
            metadata = self._reading.sidecars.metadata(path)
        except InputError as error:
            # Sidecars of images that a filter leaves out are no problem of this run.
            LOGGER.debug("%s is left out by a filter: %s", path, error)
        return not why_no_signal(entities, metadata)

    def _claimed_suffix(self, path: Path, query: str) -> str:
        return claimed_suffix(path.name, wanted_suffixes(query, self._reading.filters)) or ""

    def _check_other(self, path: Path) -> None:
        """Refuse a file in `dwi` that is no known image, unless its name is valid."""
        if path.parent.name == "dwi":
            entities, suffix, _ = split_name(path)
            is_named = bool(entities) and find_fault(path.name) is None
            if error := find_misplacement(
                path, self._reading.root, suffix=suffix if is_named else "dwi"
            ):
                raise error

    def _note_misnamed(self, label: str, error: LayoutError) -> None:
        """Add a problem of a name; the files of one name are one problem.

        A file above the participants is a problem of the dataset. Images that need it are
        refused, each for its participant.
        """
        assert error.path is not None
        if owner_of(error.path.parent, self._reading.root).subject is None:
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
        """Return the reason why an image is no measured signal; empty if it is.

        Raises
        ------
        InputError
            If its sidecars cannot be read, or its content was not fetched.
        """
        entities, metadata = split_name(path)[0], self._reading.sidecars.metadata(path)
        reason = why_no_signal(entities, metadata)
        is_derived_alone = reason and not why_no_signal(
            entities, metadata, n_directions=SIGNAL_DIRECTIONS
        )
        if not reason or (is_derived_alone and self._has_directions(path)):
            return ""
        return f"it is no measured signal: {reason}"

    def _has_directions(self, path: Path) -> bool:
        """Tell whether gradient files of an image's own name hold a full set of directions."""
        bval, bvec = self._reading.sidecars.find_own_gradients(path)
        if bval is None or bvec is None:
            return False
        for file in (path, bval, bvec):
            require_content(file, ImageError if file == path else GradientError)
        # Lengths of the vectors are judged when the run is opened.
        options = replace(self._reading.gradient_options, b_scaling="none")
        try:
            found = read_gradients(load_image(path, ndim=4), bval, bvec, options)
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
