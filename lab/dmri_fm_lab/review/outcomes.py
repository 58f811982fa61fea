"""What an experiment of the review is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

#: Numbers by method, condition and measure, of one seed.
Scores = dict[str, dict[str, dict[str, float]]]

#: Methods that have what no scan gives: the true S0, a scan with the protocol to harmonise to.
KNOWN_S0, REFERENCE_SCAN = "least squares, S0 known", "reference protocol, scanned"
ORACLES = (KNOWN_S0, REFERENCE_SCAN)


class Signature(NamedTuple):
    """A sign of failure: what was measured of which method, and what catches it."""

    sign: str
    method: str
    value: float
    caught_by: str


class Outcome(NamedTuple):
    """Scores and signatures of an experiment with one seed."""

    scores: Scores
    signatures: tuple[Signature, ...]


@dataclass(frozen=True)
class Setting:
    """Size of an experiment.

    Attributes
    ----------
    n_patches, n_tests
        Patches for training and for testing.
    n_steps
        Steps of each training.
    edge
        Voxels along the edge of a patch.
    n_voxels
        Voxels of each test of fibre orientations; a third as many tune.
    n_heads
        Heads that were scanned with both protocols for harmonisation, and as many for testing.
    """

    n_patches: int = 96
    n_tests: int = 24
    n_steps: int = 1500
    edge: int = 16
    n_voxels: int = 1500
    n_heads: int = 8
