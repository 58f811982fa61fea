"""Real scans of a pretraining: of training, held out, and the participants that were seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dmri_fm.participants import PARTICIPANTS
from dmri_fm_lab.train.brain_source import hold_out
from dmri_fm_lab.train.config import EncoderPretraining
from dmri_fm_lab.train.dataset_cache import hash_participants
from dmri_fm_lab.train.description import describe_run
from dmri_fm_lab.train.loop import Run
from dmri_fm_lab.train.scan_cache import CachedScan


@dataclass(frozen=True)
class ScanSplit:
    """Real scans of a pretraining.

    Attributes
    ----------
    scans, held_out
        Those of training, and of participants that are held out.
    names
        Of the scans that are drawn.
    participants
        Hashed: those whom the network sees.
    """

    scans: tuple[CachedScan, ...]
    held_out: tuple[CachedScan, ...]
    names: tuple[str, ...]
    participants: tuple[str, ...]

    @property
    def data(self) -> dict[str, object]:
        """The entries of a run's description."""
        return {"scans": list(self.names), PARTICIPANTS: list(self.participants)}


def split_scans(
    scans: Sequence[CachedScan], config: EncoderPretraining, *, selects: bool = False
) -> ScanSplit:
    """Hold participants out; `selects`: they choose the weights, and are seen as well.

    Raises InputError if a dataset that scans come from has no name.
    """
    held_out = hold_out(scans, config)
    kept = tuple(scan for scan in scans if scan not in held_out)
    is_drawn = config.scan_share > 0
    seen = [*kept, *held_out] if selects else list(kept)
    return ScanSplit(
        kept,
        tuple(held_out),
        tuple(scan.name for scan in kept) if is_drawn else (),
        tuple(hash_participants(seen)) if is_drawn else (),
    )


def describe_pretraining(config: EncoderPretraining, run: Run, split: ScanSplit) -> dict[str, Any]:
    """Describe a run for the file of its weights."""
    share = config.scan_share if split.names else 0.0
    described = describe_run(config, run, scans=split.names, scan_share=share, noun="scan")
    return {
        **described,
        PARTICIPANTS: list(split.participants),
        "held_out": [scan.name for scan in split.held_out],
    }
