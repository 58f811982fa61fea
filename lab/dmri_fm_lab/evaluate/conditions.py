"""Tensor methods on the generator that networks do not train on, condition by condition.

From one condition (SNR 20, b = 1000 s/mm^2, 2.5 mm, no lesions) one thing at a time is changed.
Scans are compared where the app gives them to networks: on a grid in another pose, to which cubic
splines interpolate them. Methods that denoise do so before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.app_grid import AppGrid
from dmri_fm_lab.evaluate.baselines import DIRECTION_ROWS, N_DIRECTIONS, fit_directions
from dmri_fm_lab.evaluate.comparison import Request, compare_methods, mean_of, row_titles
from dmri_fm_lab.evaluate.simulated import SimulatedBrain, build_brain, simulated_scan
from dmri_fm_lab.simulate import draw_protocol

#: Share of k-space that is sampled.
PARTIAL_FOURIER = 0.8

#: Seeds of brains lie outside those of other benchmarks.
FIRST_BRAIN = 700

#: Ratios at which fits to more directions than six are made.
DIRECTION_SNRS = (12.0, 20.0, 45.0)


@dataclass(frozen=True)
class Condition:
    """How a simulated brain is acquired.

    Attributes
    ----------
    snr
        Median b=0 signal of white matter over the noise of one channel.
    bval
        s/mm^2.
    voxel_mm
        Edge of the voxels.
    has_lesions
        Whether there are lesions in white matter.
    """

    snr: float = 20.0
    bval: float = 1000.0
    voxel_mm: float = 2.5
    has_lesions: bool = False

    @property
    def name(self) -> str:
        """What differs from the first condition; of that, the SNR."""
        parts = [
            "lesions" if self.has_lesions else "",
            f"b {self.bval:g}" if self.bval != Condition.bval else "",
            f"{self.voxel_mm:g} mm" if self.voxel_mm != Condition.voxel_mm else "",
        ]
        named = ", ".join(part for part in parts if part)
        snr = f"SNR {self.snr:g}"
        return snr if not named else named if self.snr == Condition.snr else f"{named}, {snr}"


BASE = Condition()

#: Conditions of the whole benchmark; those that share a brain follow one another.
CONDITIONS = (
    *(replace(BASE, snr=snr) for snr in (20.0, 8.0, 12.0, 30.0, 45.0, 60.0, 80.0)),
    *(replace(BASE, bval=bval) for bval in (600.0, 1500.0, 2000.0, 3000.0)),
    *(replace(BASE, voxel_mm=size) for size in (2.0, 3.5)),
    replace(BASE, has_lesions=True),
)

#: A few conditions in voxels of 6 mm, to try the benchmark out: their numbers mean little.
QUICK = (
    replace(BASE, voxel_mm=6.0),
    replace(BASE, voxel_mm=6.0, snr=60.0),
    replace(BASE, voxel_mm=6.0, has_lesions=True),
)


def compare_conditions(
    request: Request,
    *,
    conditions: Sequence[Condition] = CONDITIONS,
    n_brains: int = 2,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Compare methods on simulated brains.

    Networks get what they get in the app: interpolated volumes, and the noise that the app
    estimates from the volumes as acquired; baselines that smooth get the same.

    Parameters
    ----------
    request
        Methods; rows of more directions are made at :data:`DIRECTION_SNRS` of the first
        condition's brain.
    conditions
        What to acquire.
    n_brains
        Brains of each condition, the same for all.
    report
        Function that receives a line for each brain and condition.

    Returns
    -------
    list of dict
        By condition: `name`, `condition`, `titles`, and means over the brains as of
        :func:`~dmri_fm_lab.evaluate.comparison.mean_of`.
    """
    found: dict[Condition, list[dict[str, Any]]] = {c: [] for c in conditions}
    for seed in range(FIRST_BRAIN, FIRST_BRAIN + n_brains):
        brain, built = None, None
        for condition in conditions:
            wanted = replace(condition, snr=BASE.snr)
            if brain is None or wanted != built:
                built = wanted
                brain = build_brain(
                    seed,
                    bval=condition.bval,
                    voxel_size_mm=condition.voxel_mm,
                    has_lesions=condition.has_lesions,
                )
            found[condition].append(_compare(brain, condition, request, seed))
            report(f"{condition.name}: brain {len(found[condition])}")
    titles = row_titles(request)
    return [
        {"name": c.name, "condition": asdict(c), "titles": titles, **mean_of(records)}
        for c, records in found.items()
    ]


def _compare(
    brain: SimulatedBrain, condition: Condition, request: Request, seed: int
) -> dict[str, Any]:
    place = AppGrid.draw(brain, np.random.default_rng([seed, 4]))
    reference = place.reference()
    # Without a mask: the app denoises, and measures noise, before it knows the brain.
    scan = replace(
        simulated_scan(brain, snr=condition.snr, partial_fourier=PARTIAL_FOURIER, seed=seed),
        mask=None,
    )
    more = {}
    if replace(condition, snr=BASE.snr) == BASE and condition.snr in DIRECTION_SNRS:
        more = _more_directions(place, condition, request, seed)
    noise = place.noise(scan)
    compared = compare_methods(scan, reference, request, bring=place.bring, noise=noise, more=more)
    return {
        "n_voxels": {name: int(region.sum()) for name, region in reference.regions.items()},
        "network_snrs": compared.snrs,
        "network_ood_fractions": compared.ood_fractions,
        "floor": {},
        "methods": compared.rows,
        "uncertainties": compared.uncertainties,
    }


def _more_directions(
    place: AppGrid, condition: Condition, request: Request, seed: int
) -> dict[str, TensorMaps]:
    rows = [name for name in DIRECTION_ROWS if name in request.methods]
    if not rows:
        return {}
    rng = np.random.default_rng([seed, 3])
    gtab = draw_protocol(
        rng, scheme="shell", n_directions=max(N_DIRECTIONS), bvals=condition.bval, n_b0=2
    )
    scan = simulated_scan(
        place.brain,
        snr=condition.snr,
        bvecs=gtab.bvecs_ras[~gtab.is_b0],
        n_b0=2,
        partial_fourier=PARTIAL_FOURIER,
        seed=seed,
    )
    return fit_directions(replace(scan, mask=None), rows, bring=place.bring)
