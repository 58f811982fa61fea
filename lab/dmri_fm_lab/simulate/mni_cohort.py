"""Participants, scanners and effects of a cohort that is simulated in MNI space.

Age, sex, group and a cognitive score each change white matter in a part of the brain of their own
(:data:`TARGETS`). In one cohort the change shows in FA and MD; in another the diffusivities of
each voxel make up for it, see :mod:`dmri_fm_lab.simulate.voxel_effects`; a third has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.anatomy import Shape, smooth_field
from dmri_fm_lab.simulate.cohort import EFFECTS as ANATOMICAL
from dmri_fm_lab.simulate.cohort import MIDDLE_AGE, draw_lesion
from dmri_fm_lab.simulate.protocol import N_B0, check_range, draw_protocol, spread_directions
from dmri_fm_lab.simulate.subject import Tissue
from dmri_fm_lab.simulate.voxel_tissue import FACTORS

CohortEffect: TypeAlias = Literal["fa-md", "compensated", "none"]

#: Protocols: a shell near 1000 s/mm^2, and at every second site another near 2000; 12 random
#: b-values and directions; one shell of 1000; one of 2500. "shells" differ between sites.
Protocol: TypeAlias = Literal["shells", "random", "b1000", "b2500"]

#: First numbers of seeds.
_PEOPLE, _FAMILIES, _SCANNERS, _SCANS, _LOCAL = range(920_010, 920_015)

#: Range of age, years, its deviation, and years between sessions.
AGES, AGE_DEVIATION, SESSION_YEARS = (20.0, 80.0), 17.3, 2.0

#: Deviations between participants: logarithm of each factor of tissue; lengths of the shape, mm;
#: callosum; local changes of white matter, in units of an effect, and their width, voxels.
TISSUE_DEVIATION, SHAPE_MM, CALLOSUM = 0.04, 0.3, (0.93, 0.01)
LOCAL_DEVIATION, LOCAL_WIDTH = 0.5, 12.0

#: Share of the variance of tissue and shape that members of a family have in common.
FAMILY_SHARE = 0.5

#: Correlation of the score with its effect on the tissue, and the score's mean and deviation.
SCORE_CORRELATION, SCORE_SCALE = 0.8, (20.0, 6.0)

#: Expected number of lesions of a healthy participant in middle age.
_LESIONS = 2.0

#: Random protocol: number of directions and range of b-values, s/mm^2.
RANDOM_DIRECTIONS, RANDOM_BVALS = 12, (500.0, 3000.0)


class Target(NamedTuple):
    """A variable that changes white matter: where, as a function of MNI mm (3, V), and how much.

    `size` is the change, in units of :mod:`~dmri_fm_lab.simulate.voxel_effects`, by one unit of
    the variable's code: a deviation of age or score, one sex or group against the other;
    `deviation` that of individuals of the same code.
    """

    size: float
    deviation: float
    where: Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _rise(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-x)), dtype=np.float32)


#: Effects by variable: frontal, occipital and parietal, temporal, superior parietal.
TARGETS = {
    "age": Target(-0.8, 0.4, lambda mm: _rise((mm[1] + 10) / 10)),
    "sex": Target(0.8, 0.5, lambda mm: _rise((-50 - mm[1]) / 8)),
    "group": Target(-1.0, 0.5, lambda mm: _rise((-8 - mm[2]) / 6)),
    "score": Target(
        0.8,
        0.0,
        lambda mm: np.exp(-(((mm[1] + 32) / 22) ** 2) / 2) * _rise((mm[2] - 22) / 6),
    ),
}


@dataclass(frozen=True)
class CohortRequest:
    """What is simulated.

    Attributes
    ----------
    n_participants, n_sites
        Sites take turns.
    effect
        "fa-md": effects change FA and MD, and anatomy; "compensated": FA and MD of each voxel of
        white matter stay; "none": nothing depends on age, sex, group or score.
    protocols
        Each participant is scanned once with each.
    n_directions
        Of each shell.
    n_sessions, family_size
        Sessions of each participant, two years apart; participants of a family.
    site_age_years
        Difference in mean age between neighbouring sites; 0: sites are balanced.
    n_fibres
        Number of different courses of fibres; participants share them in turn.
    seed
        Of everything.
    """

    n_participants: int = 20
    n_sites: int = 3
    effect: CohortEffect = "fa-md"
    protocols: tuple[Protocol, ...] = ("shells",)
    n_directions: int = 16
    n_sessions: int = 1
    family_size: int = 1
    site_age_years: float = 0.0
    n_fibres: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self.n_participants, 1, 99_999, "participants")
        check_range(self.n_sites, 1, min(20, self.n_participants), "sites")
        check_range(self.n_directions, 6, 300, "directions")
        check_range(self.n_sessions, 1, 20, "sessions")
        check_range(self.family_size, 1, 20, "participants of a family")
        check_range(self.site_age_years, 0, 20, "years between the mean ages of sites")
        check_range(self.n_fibres, 1, 1000, "courses of fibres")
        check_range(self.seed, 0, 2**31, "as the seed")
        if self.effect not in get_args(CohortEffect):
            raise ConfigError(
                f"effect {self.effect!r}", expected=" or ".join(get_args(CohortEffect))
            )
        if not self.protocols or not set(self.protocols) <= set(get_args(Protocol)):
            raise ConfigError(
                f"protocols {', '.join(self.protocols) or 'none'}",
                expected="some of " + ", ".join(get_args(Protocol)),
            )


@dataclass(frozen=True, eq=False)
class Scanner:
    """A site's scanner.

    Attributes
    ----------
    name, vendor
        Level of ``site``, and of the sidecars' manufacturer.
    gtabs
        Of each protocol, as the files state it, RAS+.
    snr
        b=0 signal of white matter over the noise.
    gain
        Scanner units of an intensity of one.
    b_scale
        b-values that are really played over those that the files state.
    """

    name: str
    vendor: str
    gtabs: tuple[GradientTable, ...]
    snr: float
    gain: float
    b_scale: float

    def played(self, protocol: int) -> GradientTable:
        """Return the table that acts on the tissue."""
        stated = self.gtabs[protocol]
        return GradientTable(self.b_scale * stated.bvals, stated.bvecs_ras, stated.b0_threshold)


@dataclass(frozen=True)
class CohortMember:
    """A participant in a session.

    Attributes
    ----------
    number, session
        Both from one.
    site, fibres, family
        Numbers from zero.
    age, sex, group, score
        As in the table of participants.
    effects
        Change of white matter by each of :data:`TARGETS`, in its part of the brain.
    tissue, shape
        Without these effects; the shape holds those of age and group on anatomy.
    """

    number: int
    session: int
    site: int
    fibres: int
    family: int
    age: float
    sex: str
    group: str
    score: float
    effects: dict[str, float]
    tissue: Tissue
    shape: Shape


def draw_scanners(request: CohortRequest) -> list[Scanner]:
    """Draw the sites' scanners; the first has no error of its b-values."""
    scanners = []
    for number in range(request.n_sites):
        rng = np.random.default_rng([_SCANNERS, request.seed, number])
        is_first = number == 0
        scanners.append(
            Scanner(
                f"site{number + 1}",
                ("Alpha", "Beta", "Gamma")[number % 3],
                tuple(
                    _draw_table(request, protocol, place, number)
                    for place, protocol in enumerate(request.protocols)
                ),
                snr=25.0 * (1.0 if is_first else float(rng.uniform(0.75, 1.25))),
                gain=float(np.round(rng.uniform(2000.0, 6000.0))),
                b_scale=1.0 if is_first else float(rng.uniform(0.96, 1.04)),
            )
        )
    return scanners


def _draw_table(
    request: CohortRequest, protocol: Protocol, place: int, site: int
) -> GradientTable:
    """Return the table of a protocol, the same at all sites but for "shells"."""
    own = site if protocol == "shells" else -1
    rng = np.random.default_rng([_SCANNERS, request.seed, 1000 + place, own + 1])
    if protocol == "random":
        axes = spread_directions(rng, RANDOM_DIRECTIONS, n_steps=0)
        bvals = rng.uniform(*RANDOM_BVALS, RANDOM_DIRECTIONS).round(-1)
        return GradientTable(
            np.concatenate([np.zeros(N_B0), bvals]), np.concatenate([np.zeros((N_B0, 3)), axes])
        )
    shells = {"b1000": [1000.0], "b2500": [2500.0]}.get(protocol)
    if shells is None:
        shells = [float(np.round(1000 * rng.uniform(0.9, 1.1), -1)) if site else 1000.0]
        if site % 2:
            shells.append(float(np.round(2000 * rng.uniform(0.9, 1.1), -1)))
    return draw_protocol(
        rng, scheme="multishell", n_directions=request.n_directions, bvals=shells, n_b0=N_B0
    )


def draw_member(request: CohortRequest, number: int, session: int = 1) -> CohortMember:
    """Draw a participant in a session; only the request's seed, sites and effect matter.

    Groups take turns at each site, and in each family.
    """
    own = np.random.default_rng([_PEOPLE, request.seed, number])
    family, member = divmod(number - 1, request.family_size)
    shared = np.random.default_rng([_FAMILIES, request.seed, family])
    visit = np.random.default_rng([_PEOPLE, request.seed, number, session])
    # Families keep to one site.
    turn, site = divmod(family, request.n_sites)
    age = float(own.uniform(*AGES)) + request.site_age_years * (site - (request.n_sites - 1) / 2)
    age = round(float(np.clip(age, 18, 95)), 1) + SESSION_YEARS * (session - 1)
    sex, is_patient = str(own.choice(["F", "M"])), bool((turn + site + member) % 2)
    latent, surplus = own.standard_normal(2)
    noise = np.sqrt(1 - SCORE_CORRELATION**2) * (surplus if session == 1 else visit.normal())
    mean, deviation = SCORE_SCALE
    codes = {
        "age": (age - MIDDLE_AGE) / AGE_DEVIATION,
        "sex": 0.5 if sex == "F" else -0.5,
        "group": 0.5 if is_patient else -0.5,
        "score": float(latent),
    }
    spread = dict(zip(TARGETS, own.standard_normal(len(TARGETS)), strict=True))
    effects = {
        name: (target.size * codes[name] * (request.effect != "none"))
        + target.deviation * float(spread[name])
        for name, target in TARGETS.items()
    }
    kin = 1.0 if request.family_size > 1 else 0.0
    common = np.sqrt(kin * FAMILY_SHARE) * shared.standard_normal(len(FACTORS) + 3)
    alone = np.sqrt(1 - kin * FAMILY_SHARE) * own.standard_normal(len(FACTORS) + 3)
    deviates = common + alone
    usual = Tissue()
    factors = np.exp(TISSUE_DEVIATION * deviates[: len(FACTORS)]).tolist()
    values = {name: getattr(usual, name) * f for name, f in zip(FACTORS, factors, strict=True)}
    return CohortMember(
        number,
        session,
        site,
        fibres=(number - 1) % request.n_fibres,
        family=family,
        age=age,
        sex=sex,
        group="patient" if is_patient else "control",
        score=round(float(mean + deviation * (SCORE_CORRELATION * latent + noise)), 2),
        effects=effects,
        tissue=replace(usual, **values),
        shape=_draw_shape(request, own, age, is_patient, deviates[len(FACTORS) :]),
    )


def _draw_shape(
    request: CohortRequest,
    rng: np.random.Generator,
    age: float,
    is_patient: bool,
    deviates: NDArray[np.float64],
) -> Shape:
    """Draw a shape, whose sizes follow age and group where effects show in FA and MD."""
    years, patient = (age - MIDDLE_AGE, is_patient) if request.effect == "fa-md" else (0.0, False)

    def change(name: str) -> float:
        by_age, by_group = (ANATOMICAL[key].get(name, 0.0) for key in ("age", "patient"))
        return by_age * years + by_group * patient

    lengths = SHAPE_MM * deviates
    # As many lesions are drawn as are expected at most: in a later session they are the same.
    lesions = [draw_lesion(rng) for _ in range(40)]
    n = rng.poisson(max(0.0, _LESIONS + change("lesions")))
    return Shape(
        ventricles_mm=change("ventricles_mm") + float(lengths[0]),
        cortex_mm=change("cortex_mm") + float(lengths[1]),
        callosum=float(
            np.clip(CALLOSUM[0] + change("callosum") + CALLOSUM[1] * deviates[2], 0, 1)
        ),
        lesions=tuple(lesions[: int(n)]),
    )


def effect_map(
    request: CohortRequest,
    member: CohortMember,
    mask: NDArray[np.bool_],
    mni_mm: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the change of white matter of each voxel of a brain (V,), local variation included.

    `mask` (X, Y, Z) is the brain, `mni_mm` (3, V) where its voxels lie in the template.
    """
    rng = np.random.default_rng([_LOCAL, request.seed, member.number])
    shape = (mask.shape[0], mask.shape[1], mask.shape[2])
    local = smooth_field(rng, shape, spacing=LOCAL_WIDTH)[0][mask]
    total = LOCAL_DEVIATION * local.astype(np.float64)
    for name, target in TARGETS.items():
        total += member.effects[name] * target.where(mni_mm)
    return np.asarray(total, dtype=np.float32)


def scan_seed(request: CohortRequest, member: CohortMember, protocol: int) -> np.random.Generator:
    """Return the source of a scan's noise."""
    return np.random.default_rng([_SCANS, request.seed, member.number, member.session, protocol])
