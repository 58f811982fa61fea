"""q-space: choosing directions of a series, and the coordinates in which encoders read them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from scipy.spatial.transform import Rotation

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable, Shell
from dmri_fm.tensor_design import DIAGONAL_FIRST, FEWEST_DIRECTIONS, quadratic_terms

logger = logging.getLogger(__name__)

#: Directions from which an encoder's features are computed (Kung et al. 2026, section 4.3).
FEATURE_DIRECTIONS = 12

#: Axes of one shell that are closer than this count as one direction that was measured again,
#: degrees.
TWINS_DEG = 5.0

#: Six directions of a higher condition number magnify noise too much to be trusted.
LARGEST_SIX_CONDITION = 3.0

#: The shell nearest to this is preferred, s/mm^2.
PREFERRED_BVAL = 1000.0

#: Largest number of subsets that are all tried; else subsets near rotated ideal sets are.
MOST_SUBSETS = 40_000

#: Rotations of the ideal set that are tried.
N_ROTATIONS = 4_000

#: Number of these rotations, the best ones, that the angle to an ideal set is refined from.
N_PROMISING = 20

_T = sqrt((7.0 - sqrt(21.0)) / 14.0)
_U = sqrt(1.0 - _T**2)

#: Six directions of lowest condition number, sqrt(7)/2 = 1.323, shape (6, 3), unit.
#: Skare et al. 2000, doi:10.1006/jmre.2000.2209; here in the closed form of its minimum.
SKARE_DIRECTIONS: NDArray[np.float64] = np.array(
    [[_U, _T, 0], [0, _U, _T], [_T, 0, _U], [_U, -_T, 0], [0, _U, -_T], [-_T, 0, _U]]
)
SKARE_DIRECTIONS.setflags(write=False)


def condition_numbers(bvecs: ArrayLike) -> NDArray[np.float64]:
    """Return the condition numbers of the tensor's design for sets of directions.

    Parameters
    ----------
    bvecs
        Shape (..., N, 3), unit; the columns are gx^2, gy^2, gz^2, 2gxgy, 2gxgz, 2gygz.

    Returns
    -------
    ndarray
        Shape (...), infinite where the tensor is not determined.

    Examples
    --------
    >>> condition_numbers(SKARE_DIRECTIONS[None]).round(3).tolist()
    [1.323]
    """
    g = np.asarray(bvecs, dtype=np.float64)
    if g.shape[-2] < FEWEST_DIRECTIONS:
        return np.full(g.shape[:-2], np.inf)
    # The order of the columns is part of the rounding, and so of which six directions are best.
    design = np.take(quadratic_terms(g), DIAGONAL_FIRST, axis=-1)
    singular = np.linalg.svd(design, compute_uv=False)
    usable = singular[..., -1] > 1e-6 * singular[..., 0]
    smallest = np.where(usable, singular[..., -1], 1.0)
    return np.where(usable, singular[..., 0] / smallest, np.inf)


def condition_number(bvecs: ArrayLike) -> float:
    """Return the condition number of one set of directions, shape (N, 3).

    Examples
    --------
    >>> condition_number(np.eye(3))
    inf
    """
    return float(condition_numbers(bvecs))


@dataclass(frozen=True)
class SixDirections:
    """Six diffusion-weighted volumes of one shell.

    Attributes
    ----------
    index
        Positions in the series, ascending.
    condition_number
        Condition number of the tensor's design, columns gx^2, gy^2, gz^2, 2gxgy, 2gxgz, 2gygz.
    bval
        Mean b-value, s/mm^2.
    """

    index: tuple[int, ...]
    condition_number: float
    bval: float

    @property
    def problem(self) -> str | None:
        """Warning that they magnify noise too much to be trusted; None if they do not."""
        if self.condition_number < LARGEST_SIX_CONDITION:
            return None
        return (
            f"the best six directions (b = {self.bval:.0f}) have condition number "
            f"{self.condition_number:.2f}; below {LARGEST_SIX_CONDITION:.0f} is expected"
        )


def choose_six(
    gtab: GradientTable, *, exclude: Sequence[int] = (), seed: int = 0
) -> SixDirections:
    """Choose the six directions of one shell that determine a tensor best.

    Of the shells that hold six directions of condition number below
    :data:`LARGEST_SIX_CONDITION`, the one nearest to :data:`PREFERRED_BVAL`; if there is none, the
    best there is, with a warning.

    Parameters
    ----------
    gtab
        Gradient table of the series.
    exclude
        Volumes that are not to be among the six.
    seed
        Seed of the random rotations, where there are too many subsets to try all.

    Raises
    ------
    GradientError
        If no shell has six directions that determine a tensor.
    """
    six = find_six(gtab, exclude=exclude, seed=seed)
    if six is None:
        raise GradientError(
            f"{gtab.count_directions()} distinct directions, none of the shells "
            f"{[round(s.bval) for s in gtab.shells]} with six that determine a tensor",
            expected="one shell with six directions or more, spread over the sphere",
            advice="leave the tensor network out for this series",
        )
    if six.problem is not None:
        logger.warning(six.problem)
    return six


def find_six(
    gtab: GradientTable, *, exclude: Sequence[int] = (), seed: int = 0
) -> SixDirections | None:
    """Return what :func:`choose_six` chooses, without a log message; None where it refuses."""
    found = (_best_of_shell(gtab, shell, exclude=exclude, seed=seed) for shell in gtab.shells)
    best = [six for six in found if six]
    good = [s for s in best if s.condition_number < LARGEST_SIX_CONDITION]
    if good:
        return min(good, key=lambda s: abs(np.log(s.bval / PREFERRED_BVAL)))
    return min(best, key=lambda s: s.condition_number, default=None)


def _best_of_shell(
    gtab: GradientTable, shell: Shell, *, exclude: Sequence[int], seed: int
) -> SixDirections | None:
    left = [i for i in shell.index if i not in exclude]
    volumes = [group[0] for group in gtab.group_axes(left)]
    axes = gtab.bvecs_ras[volumes]
    if len(axes) < FEWEST_DIRECTIONS:
        return None
    subsets = list_subsets(axes, np.random.default_rng(seed))
    conditions = condition_numbers(axes[subsets])
    best = int(conditions.argmin())
    if not np.isfinite(conditions[best]):
        return None
    index = tuple(sorted(volumes[i] for i in subsets[best]))
    return SixDirections(index, float(conditions[best]), shell.bval)


def list_subsets(axes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int_]:
    """Return all subsets (M, 6) of the axes; of many, those near randomly turned ideal sets."""
    if comb(len(axes), 6) <= MOST_SUBSETS:
        return np.array(list(combinations(range(len(axes)), 6)))
    turns = Rotation.random(N_ROTATIONS, random_state=rng).as_matrix()
    ideal = np.einsum("rij,kj->rki", turns, SKARE_DIRECTIONS)
    nearest = np.sort(np.abs(ideal @ axes.T).argmax(axis=2), axis=1)
    distinct = nearest[(np.diff(nearest, axis=1) > 0).all(axis=1)]
    return np.unique(distinct, axis=0) if len(distinct) else np.arange(6)[None]


def skare_angle_deg(axes: ArrayLike) -> float:
    """Return how far six axes are from the nearest turned ideal set of Skare et al.

    Parameters
    ----------
    axes
        Shape (6, 3), unit vectors; their order and signs do not matter.

    Returns
    -------
    float
        Mean angle between an axis and its partner in the ideal set, degrees.

    Examples
    --------
    >>> skare_angle_deg(-SKARE_DIRECTIONS[::-1]) < 1e-3
    True
    """
    own = np.asarray(axes, dtype=np.float64)
    turns = Rotation.random(N_ROTATIONS, random_state=0).as_matrix()
    cosines = np.abs(np.einsum("rij,kj,ni->rkn", turns, SKARE_DIRECTIONS, own))
    promising = np.argsort(-cosines.max(axis=2).sum(axis=1))[:N_PROMISING]
    return min(_refined_angle_deg(own, turns[k]) for k in promising)


def _refined_angle_deg(own: NDArray[np.float64], turn: NDArray[np.float64]) -> float:
    """Pair axes with a turned ideal set, turn it to fit them, and so on until pairs stay."""
    pairs = None
    while True:
        ideal = SKARE_DIRECTIONS @ turn.T
        cosines = own @ ideal.T
        rows, columns = linear_sum_assignment(-np.abs(cosines))
        if pairs is not None and (columns == pairs).all():
            return float(np.rad2deg(np.arccos(np.abs(cosines[rows, columns]).clip(0, 1))).mean())
        pairs = columns
        signs = np.sign(cosines[rows, columns])[:, None]
        turn = Rotation.align_vectors(signs * own, SKARE_DIRECTIONS[columns])[0].as_matrix()


def choose_spread(
    gtab: GradientTable, n_directions: int, *, seed: int = 0, gamma: float = 0.5
) -> NDArray[np.int_]:
    """Choose diffusion-weighted volumes that lie far apart in q-space.

    Starts from a random volume and adds, again and again, the one whose nearest chosen
    neighbour is farthest, by the distance of the D-RoPE network.

    Parameters
    ----------
    gtab
        Gradient table of the series.
    n_directions
        Number of volumes; all of them if there are fewer.
    seed
        Seed of the first choice.
    gamma
        Weight of the squared difference of b / 1000 against the squared angle, rad.

    Returns
    -------
    ndarray
        Positions in the series, ascending.

    Raises
    ------
    GradientError
        If the series has no diffusion-weighted volume.
    """
    weighted = np.flatnonzero(~gtab.is_b0)
    if not weighted.size:
        raise GradientError(
            "no diffusion-weighted volume",
            expected=f"one or more with b >= {gtab.b0_threshold:g} s/mm^2",
        )
    v, rho = gtab.bvecs_ras[weighted], gtab.bvals[weighted] / 1000.0
    angle = np.arccos(np.clip(np.abs(v @ v.T), 0.0, 1.0))
    distance = np.sqrt(gamma * (rho[:, None] - rho) ** 2 + angle**2)
    chosen = [int(np.random.default_rng(seed).integers(weighted.size))]
    nearest = distance[chosen[0]].copy()
    nearest[chosen[0]] = -1.0
    while len(chosen) < min(n_directions, weighted.size):
        farthest = int(nearest.argmax())
        chosen.append(farthest)
        nearest = np.minimum(nearest, distance[farthest])
        nearest[chosen] = -1.0
    return np.sort(weighted[chosen])


def distinct_directions(gtab: GradientTable) -> list[list[int]]:
    """Group weighted volumes: those of one shell within :data:`TWINS_DEG` measure one direction.

    So do volumes that a chain of such pairs connects.

    Examples
    --------
    >>> axes = [[1, 0, 0], [0, 1, 0], [-1, 0, 0]]
    >>> distinct_directions(GradientTable([1000, 1000, 1000], axes))
    [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    for shell in gtab.shells:
        volumes = np.array(shell.index)
        axes = gtab.bvecs_ras[volumes]
        is_near = np.abs(axes @ axes.T) > np.cos(np.deg2rad(TWINS_DEG))
        n, labels = connected_components(is_near, directed=False)
        groups += [volumes[labels == label].tolist() for label in range(n)]
    return sorted(groups)


def one_of_each_direction(gtab: GradientTable) -> NDArray[np.int_]:
    """Return the first weighted volume of each distinct direction, ascending.

    Examples
    --------
    >>> axes = [[1, 0, 0], [0, 1, 0], [-1, 0, 0]]
    >>> one_of_each_direction(GradientTable([1000, 1000, 1000], axes)).tolist()
    [0, 1]
    """
    return np.array([group[0] for group in distinct_directions(gtab)], dtype=int)


def to_qspace(gtab: GradientTable) -> NDArray[np.float32]:
    """Return the spherical q-space coordinates of every volume, as encoders read them.

    Parameters
    ----------
    gtab
        Table in the frame of the image it belongs to, RAS+ axes.

    Returns
    -------
    ndarray
        Shape (N, 3), float32: rho = b / 1000 in ms/um^2, theta = arccos(gz) and
        phi = atan2(gy, gx) in rad. Zeros for b=0.

    References
    ----------
    Chau Loo Kung et al. 2026, arXiv:2603.25977.

    Examples
    --------
    >>> to_qspace(GradientTable([0, 2000], [[0, 0, 0], [0, 1, 0]])).round(4).tolist()
    [[0.0, 0.0, 0.0], [2.0, 1.5707999467849731, 1.5707999467849731]]
    """
    x, y, z = gtab.bvecs_ras.T
    coordinates = np.stack([gtab.bvals / 1000.0, np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)])
    coordinates[:, gtab.is_b0] = 0.0
    return coordinates.T.astype(np.float32)
