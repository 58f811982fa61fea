"""Simulated participants and sites, and the effects of age and group."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.anatomy import Shape
from dmri_fm_lab.simulate.protocol import check_protocol, check_range, draw_protocol
from dmri_fm_lab.simulate.subject import Tissue

#: Age at which the effects of age are nil, years.
MIDDLE_AGE = 50

#: Effects of age and group on tissue, for group statistics. Signs are those of ageing and of
#: small-vessel disease in the literature (Beck et al. 2021, doi:10.1016/j.neuroimage.2020.117441);
#: some forty participants suffice to detect effects of these sizes.
EFFECTS: dict[str, dict[str, float]] = {
    "age": {
        "radial": 0.004,
        "stick_fraction": -0.004,
        "ventricles_mm": 0.03,
        "cortex_mm": -0.006,
        "callosum": -0.003,
        "lesions": 0.06,
    },
    "patient": {
        "radial": 0.12,
        "parallel": 0.08,
        "grey": 0.05,
        "ventricles_mm": 0.4,
        "callosum": -0.05,
        "lesions": 8.0,
    },
}

#: Deviations among participants of one age and group: shares, and mm.
_TISSUE_DEVIATION, _SIZE_DEVIATION_MM = 0.03, 0.3

#: Share of the callosum's fibres that a control in middle age has, and its deviation.
_CALLOSUM, _CALLOSUM_DEVIATION = 0.87, 0.01

_TISSUE_COLUMNS = ("stick_fraction", "stick", "parallel", "radial", "grey")

#: Lesions of a healthy participant in middle age.
_LESIONS = 2.0


@dataclass(frozen=True)
class Participant:
    """One participant and the truth about the tissue."""

    label: str
    age: int
    sex: str
    group: Literal["control", "patient"]
    site: int
    tissue: Tissue
    shape: Shape

    def truth(self) -> dict[str, Any]:
        """Return the true tissue, one value per column of the truth's table."""
        tissue = asdict(self.tissue)
        return {
            **{name: tissue[name] for name in _TISSUE_COLUMNS},
            "ventricles_mm": self.shape.ventricles_mm,
            "cortex_mm": self.shape.cortex_mm,
            "callosum": self.shape.callosum,
            "n_lesions": len(self.shape.lesions),
        }


@dataclass(frozen=True, eq=False)
class Site:
    """A scanner and its protocol.

    Attributes
    ----------
    name
        Level of ``site`` in the participants' table.
    gtab
        Of the series, RAS+, b-values as the files state them.
    voxel_size_mm
        Of the series.
    echo_ms, repetition_s, readout_s, partial_fourier
        Of the series.
    snr
        b=0 signal of white matter over the noise.
    distortion_data
        Distortion data beside the series: b=0 volumes of reversed phase encoding ("pair"), a
        gradient-echo fieldmap ("fieldmap"), or nothing ("none").
    is_las
        Whether its images are stored LAS; RAS otherwise.
    """

    name: str
    gtab: GradientTable
    voxel_size_mm: tuple[float, float, float]
    echo_ms: float
    repetition_s: float
    readout_s: float
    partial_fourier: float
    snr: float
    distortion_data: Literal["pair", "fieldmap", "none"]
    is_las: bool


def draw_sites(
    seed: int,
    n_sites: int,
    *,
    voxel_size_mm: float,
    n_directions: int,
    bval: float,
    gtab: GradientTable | None = None,
) -> list[Site]:
    """Draw sites: the first as asked for, the others with protocols of their own.

    Parameters
    ----------
    seed
        The dataset's.
    voxel_size_mm
        Isotropic voxels of the first site, 1.2 to 6 mm; others have up to a fifth thicker slices.
    n_directions
        Diffusion-weighted volumes, 6 to 300.
    bval
        b-value of the first site, 400 to 3000 s/mm^2; those of others are up to a tenth apart.
    gtab
        The gradient table of all sites, RAS+, in place of drawn ones.

    Raises ConfigError if a number is out of range, or no tensor can be fitted to the table.
    """
    check_range(n_directions, 6, 300, "directions")
    check_range(voxel_size_mm, 1.2, 6.0, "mm voxel size")
    check_range(bval, 400.0, 3000.0, "s/mm^2 as the b-value")
    if gtab is not None:
        check_protocol(gtab)
    sites = []
    for number in range(n_sites):
        rng = np.random.default_rng([seed, 1, number])
        is_first = number == 0
        own_bval = bval if is_first else round(bval * rng.uniform(0.9, 1.1), -1)
        own = draw_protocol(rng, scheme="shell", n_directions=n_directions, bvals=own_bval, n_b0=2)
        slice_mm = voxel_size_mm if is_first else round(voxel_size_mm * rng.uniform(1.0, 1.2), 1)
        if number % 2:
            # Scanners of one vendor state the b-value that each gradient really reaches.
            own = GradientTable(own.bvals * rng.uniform(0.995, 1.005, len(own)), own.bvecs_ras)
        # Thicker voxels hold more signal; the SNR is that of 3 mm, within limits.
        volume = voxel_size_mm**2 * slice_mm
        snr = 25.0 * float(np.clip(volume / 27.0, 0.5, 2.0))
        data: tuple[Literal["pair", "fieldmap", "none"], ...] = ("pair", "fieldmap", "none")
        sites.append(
            Site(
                name=f"site{number + 1}",
                gtab=gtab or own,
                voxel_size_mm=(voxel_size_mm, voxel_size_mm, slice_mm),
                echo_ms=80.0 if is_first else round(rng.uniform(65.0, 100.0), 0),
                repetition_s=6.0 if is_first else round(rng.uniform(4.0, 9.0), 1),
                readout_s=0.05 if is_first else round(rng.uniform(0.03, 0.07), 3),
                partial_fourier=1.0 if is_first else float(rng.choice([0.75, 0.875, 1.0])),
                snr=snr if is_first else snr * rng.uniform(0.8, 1.3),
                distortion_data=data[number % 3],
                is_las=bool(number % 2),
            )
        )
    return sites


def draw_participant(seed: int, number: int, n_sites: int) -> Participant:
    """Draw a participant, who depends on the seed, the number (from 1) and the number of sites.

    Sites take turns, and groups take turns over them, so that both are balanced.
    """
    rng = np.random.default_rng([seed, 0, number])
    age = int(rng.integers(20, 81))
    sex = str(rng.choice(["F", "M"]))
    turn, site = divmod(number - 1, n_sites)
    is_patient = (turn + site) % 2 == 1
    years = age - MIDDLE_AGE

    def effect(name: str) -> float:
        total = EFFECTS["age"].get(name, 0.0) * years
        return total + is_patient * EFFECTS["patient"].get(name, 0.0)

    def vary(healthy: float, name: str) -> float:
        return healthy * (1 + effect(name)) * float(np.exp(rng.normal(0, _TISSUE_DEVIATION)))

    healthy = Tissue()
    parallel = vary(healthy.parallel, "parallel")
    tissue = replace(
        healthy,
        stick_fraction=vary(healthy.stick_fraction, "stick_fraction"),
        stick=vary(healthy.stick, "stick"),
        parallel=parallel,
        radial=min(vary(healthy.radial, "radial"), 0.9 * parallel),
        grey=vary(healthy.grey, "grey"),
    )
    expected = max(0.0, _LESIONS + effect("lesions"))
    shape = Shape(
        ventricles_mm=effect("ventricles_mm") + rng.normal(0, _SIZE_DEVIATION_MM),
        cortex_mm=effect("cortex_mm") + rng.normal(0, _SIZE_DEVIATION_MM),
        callosum=_CALLOSUM + effect("callosum") + rng.normal(0, _CALLOSUM_DEVIATION),
        lesions=tuple(draw_lesion(rng) for _ in range(rng.poisson(expected))),
    )
    return Participant(
        label=f"{number:02d}",
        age=age,
        sex=sex,
        group="patient" if is_patient else "control",
        site=site,
        tissue=tissue,
        shape=shape,
    )


def draw_lesion(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw centre and radius, MNI mm: beside and above the ventricles, mostly in white matter."""
    side = rng.choice([-1.0, 1.0])
    x, y, z = side * rng.uniform(16, 32), rng.uniform(-55, 35), rng.uniform(8, 40)
    return float(x), float(y), float(z), float(rng.uniform(1.5, 4.5))
