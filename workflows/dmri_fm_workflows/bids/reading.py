"""One reading of a dataset: the folder, the request, and how gradient files are read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from dmri_fm.gradient_options import GradientOptions
from dmri_fm_workflows.bids.filters import Filters
from dmri_fm_workflows.bids.gradient_fixes import GradientFix
from dmri_fm_workflows.bids.ignore import BidsIgnore
from dmri_fm_workflows.bids.sidecars import Sidecars

#: Which runs of a scan are merged: all of them, those of one phase encoding, or none.
Merging = Literal["all", "phase encoding", "none"]


@dataclass(frozen=True, eq=False)
class Reading:
    """Dataset folder and request, for every step of reading.

    Attributes
    ----------
    root
        Folder of the dataset, absolute, without links.
    filters
        Conditions on the images, by query.
    sessions
        Requested labels; all if None.
    gradient_options
        How gradient files are read.
    gradient_fixes
        Repairs of b-vectors by scanner and protocol.
    ignored
        Images that are not used: `fieldmaps` (of the `fmap` folder), `sbref`, `t1w`.
    shares_anatomy
        Whether all sessions take the anatomical image of the participant's first one.
    merging
        Which runs of a scan are merged.
    """

    root: Path
    filters: Filters = field(default_factory=dict)
    sessions: Collection[str] | None = None
    gradient_options: GradientOptions = GradientOptions()  # noqa: RUF009 (frozen)
    ignored: tuple[str, ...] = ()
    gradient_fixes: tuple[GradientFix, ...] = ()
    shares_anatomy: bool = False
    merging: Merging = "all"

    @cached_property
    def is_ignored(self) -> BidsIgnore:
        """Tells which files are not part of the dataset."""
        return BidsIgnore(self.root)

    @cached_property
    def sidecars(self) -> Sidecars:
        """Files that describe the images, each read once."""
        return Sidecars(self.root, self.is_ignored)

    def find_ignored(self, path: Path) -> str:
        """Return the word of `--ignore` that leaves an image out; empty if none does."""
        suffix = path.name.split(".")[0].rpartition("_")[2]
        words = {
            "fieldmaps": path.parent.name == "fmap",
            "sbref": suffix == "sbref",
            "t1w": path.parent.name == "anat",
        }
        return next((word for word in self.ignored if words[word]), "")

    def includes(self, session: str) -> bool:
        """Tell whether a session was requested."""
        return self.sessions is None or session in self.sessions
