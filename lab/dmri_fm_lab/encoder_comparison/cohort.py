"""The cohort of the comparison: participants whose tissue is known, scanned by two protocols.

It is a cohort of :mod:`dmri_fm_lab.evaluate.cohorts`, the compensated one: heads, tissue, CSF and
noise differ between participants, and so does an effect on crossings that leaves FA and MD of
every voxel. Each participant belongs to a site and is scanned there by both protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid
from dmri_fm_lab.encoder_comparison.method import Sample
from dmri_fm_lab.evaluate.cohort_regions import choose_parcels, label_image
from dmri_fm_lab.evaluate.cohorts import (
    CohortRequest,
    Participant,
    draw_heads,
    draw_participants,
    with_more_csf,
)
from dmri_fm_lab.evaluate.galleries import noisy_series
from dmri_fm_lab.grid_scans import EVALUATION
from dmri_fm_lab.simulate.mni_cohort import Scanner
from dmri_fm_lab.simulate.protocol import N_B0, draw_protocol
from dmri_fm_lab.simulate.voxel_effects import EFFECTS, CohortTissue
from dmri_fm_lab.simulate.voxel_tissue import FACTORS, tissue_signal

_Array = NDArray[np.float64]

#: Protocols: probes are trained on the first.
PROTOCOLS = ("A", "B")

#: Ranges of what differs between the scanners of sites: b-values played over those stated, and
#: SNR over the participant's. The first site has neither error.
B_SCALE, SNR_FACTOR = (0.96, 1.04), (0.75, 1.25)

#: What the probes predict, by column of the tables.
FACTOR_TITLES = {
    "stick_fraction": "stick fraction",
    "stick": "stick diffusivity",
    "parallel": "parallel diffusivity",
    "radial": "radial diffusivity",
    "grey": "grey-matter diffusivity",
    "csf": "CSF share",
    "effect": "crossings, FA and MD unchanged",
}


@dataclass(frozen=True)
class ComparisonRequest:
    """Size of the cohort, and its protocols.

    Attributes
    ----------
    cohort
        Participants, heads, seed, and shells and directions of protocol A.
    other_bvals
        Shells of protocol B, s/mm^2, which has as many directions.
    n_sites
        Sites with a scanner each.
    """

    cohort: CohortRequest = field(
        default_factory=lambda: CohortRequest(n_participants=60, n_directions=20)
    )
    other_bvals: tuple[float, ...] = (1200.0, 2600.0)
    n_sites: int = 3

    def __post_init__(self) -> None:
        if self.n_sites < 2 or self.cohort.n_participants < self.n_sites * self.cohort.n_heads:
            raise ConfigError(
                f"{self.cohort.n_participants} participants with {self.cohort.n_heads} heads at "
                f"{self.n_sites} sites",
                expected="two sites or more, and each head at each site: as many participants as "
                "heads times sites",
            )

    def site_of(self, person: Participant) -> int:
        """Return the site: every head is scanned at every site."""
        turn, head = divmod(person.number, self.cohort.n_heads)
        return (turn + head) % self.n_sites


def draw_site_scanners(request: ComparisonRequest) -> list[Scanner]:
    """Draw the sites' scanners: directions of their own, SNR, and an error of the b-values."""
    scanners = []
    for site in range(request.n_sites):
        rng = np.random.default_rng([EVALUATION, 10, request.cohort.seed, site])
        gtabs = tuple(
            draw_protocol(
                rng,
                scheme="multishell",
                n_directions=[request.cohort.n_directions] * len(bvals),
                bvals=list(bvals),
                n_b0=N_B0,
            )
            for bvals in (request.cohort.bvals, request.other_bvals)
        )
        snr, scale = float(rng.uniform(*SNR_FACTOR)), float(rng.uniform(*B_SCALE))
        is_first = site == 0
        scanners.append(
            Scanner(
                f"site{site + 1}",
                "simulated",
                gtabs,
                snr=1.0 if is_first else snr,
                gain=1.0,
                b_scale=1.0 if is_first else scale,
            )
        )
    return scanners


class Cohort(NamedTuple):
    """Participants, with functions that scan one of them and give a site's table, by protocol."""

    people: list[Participant]
    sites: NDArray[np.int_]
    heads: NDArray[np.int_]
    scan: Callable[[int, str], Sample]
    table: Callable[[int, str], GradientTable]
    state: tuple[Any, ...]

    def factors(self) -> dict[str, _Array]:
        """Return what the probes predict, (N,) each, by key of :data:`FACTOR_TITLES`."""
        people = self.people
        found = {n: np.log([getattr(p.tissue, n) for p in people]) for n in FACTORS}
        found["csf"] = np.array([p.csf for p in people])
        found["effect"] = np.array([p.effect for p in people])
        return found


def draw_cohort(request: ComparisonRequest, grid: Grid, *, cache_folder: Path | None) -> Cohort:
    """Draw the cohort on a grid; heads of an earlier call are read from the cache."""
    own = request.cohort
    people, scanners = draw_participants(own), draw_site_scanners(request)
    heads = draw_heads(grid, own, cache=cache_folder)
    parcels = choose_parcels(heads)
    labels = [label_image(head, parcels) for head in heads]
    sites = np.array([request.site_of(p) for p in people])

    # Both scans of a participant are of one tissue, which takes longer than a scan.
    last: dict[int, CohortTissue] = {}

    def tissue_of(person: Participant) -> CohortTissue:
        if person.number not in last:
            last.clear()
            geometry = with_more_csf(heads[person.head], person.csf)
            table = scanners[0].gtabs[0]
            change = EFFECTS["compensated"]
            last[person.number] = change(geometry, person.tissue, table, person.effect)
        return last[person.number]

    def scan(number: int, protocol: str) -> Sample:
        person, scanner = people[number], scanners[sites[number]]
        which = PROTOCOLS.index(protocol)
        tissue = tissue_of(person)
        signal = tissue_signal(
            tissue.geometry, tissue.tissue, scanner.played(which), fibres=tissue.fibres
        )
        rng = np.random.default_rng([EVALUATION, 11, own.seed, number, which])
        dwi = noisy_series(
            tissue.geometry, signal, scanner.gtabs[which], snr=scanner.snr * person.snr, rng=rng
        )
        return Sample(dwi, labels[person.head])

    state = (people, heads, sites, [[s.snr, s.b_scale, list(s.gtabs)] for s in scanners])

    def table(site: int, protocol: str) -> GradientTable:
        return scanners[site].gtabs[PROTOCOLS.index(protocol)]

    return Cohort(people, sites, np.array([p.head for p in people]), scan, table, state)
