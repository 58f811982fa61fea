"""Gradient tables for simulated scans: Skare's six directions, shells, several shells."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ConfigError
from dmri_fm.gradient_files import read_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS, condition_number

#: Highest b-value at which a tensor is usually fitted, s/mm^2.
LARGEST_TENSOR_BVAL = 1500.0

#: b=0 volumes of plain shells.
N_B0 = 2

#: Mean angle by which the directions of a jittered Skare set are displaced, degrees.
SKARE_JITTER_DEG = 5.0

#: A six-direction set is drawn again until its design has a condition number below this.
SKARE_LARGEST_CONDITION = 2.0


def spread_directions(
    rng: np.random.Generator, n_directions: int, *, n_steps: int = 80
) -> NDArray[np.float64]:
    """Draw axes that repel one another over the sphere.

    Parameters
    ----------
    rng
        Source of randomness.
    n_directions
        Number of axes.
    n_steps
        Steps of the descent on the electrostatic energy of the antipodal pairs; few steps
        leave an uneven set. Jones et al. 1999,
        doi:10.1002/(SICI)1522-2594(199909)42:3<515::AID-MRM14>3.0.CO;2-Q.

    Returns
    -------
    ndarray
        Shape (n_directions, 3), unit; signs at random.
    """
    g: NDArray[np.float64] = rng.standard_normal((n_directions, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    step = 0.5 / n_directions**1.5
    for _ in range(n_steps):
        force = np.zeros_like(g)
        for sign in (1.0, -1.0):
            apart = g[:, None] - sign * g[None]
            cubed = (np.einsum("ijk,ijk->ij", apart, apart) + 1e-3) ** 1.5
            np.fill_diagonal(cubed, np.inf)
            force += (apart / cubed[..., None]).sum(axis=1)
        force -= np.einsum("ij,ij->i", force, g)[:, None] * g
        moved = step * force
        # No axis moves further than a tenth of a radian at once: a close pair would fly off.
        moved *= np.minimum(1.0, 0.1 / (np.linalg.norm(moved, axis=1, keepdims=True) + 1e-12))
        g += moved
        g /= np.linalg.norm(g, axis=1, keepdims=True)
    g *= rng.choice([-1.0, 1.0], size=(n_directions, 1))
    return g


def _draw_skare(rng: np.random.Generator) -> NDArray[np.float64]:
    while True:
        g = SKARE_DIRECTIONS @ Rotation.random(random_state=rng).as_matrix().T
        # The angle between a unit vector and itself plus a planar normal of deviation s has
        # the mean s sqrt(pi/2).
        spread = np.deg2rad(rng.uniform(0.0, SKARE_JITTER_DEG)) / sqrt(np.pi / 2)
        g = g + spread * rng.standard_normal((6, 3))
        g /= np.linalg.norm(g, axis=1, keepdims=True)
        if condition_number(g) < SKARE_LARGEST_CONDITION:
            signed: NDArray[np.float64] = rng.choice([-1.0, 1.0], size=(6, 1)) * rng.permutation(g)
            return signed


def truth_bval(gtab: GradientTable) -> float:
    """Return the b-value, s/mm^2, of the shell whose tensor is the truth of a scan.

    The highest one at which a tensor is usually fitted, else the lowest.

    Raises
    ------
    ConfigError
        If the table holds only b=0 or only weighted volumes.
    """
    if not gtab.is_b0.any() or gtab.is_b0.all():
        raise ConfigError("a protocol of one kind of volume", expected="b=0 and weighted volumes")
    below = [s.bval for s in gtab.shells if s.bval <= LARGEST_TENSOR_BVAL]
    return below[-1] if below else gtab.shells[0].bval


def check_protocol(gtab: GradientTable) -> None:
    """Raise ConfigError for a gradient table that no tensor can be fitted to."""
    n_weighted = int((~gtab.is_b0).sum())
    if not gtab.is_b0.any() or not np.isfinite(condition_number(gtab.bvecs_ras[~gtab.is_b0])):
        raise ConfigError(
            f"a gradient table of {len(gtab) - n_weighted} b=0 and {n_weighted} weighted volumes",
            expected="a b=0 volume (below 50 s/mm^2), and weighted volumes of six directions that "
            "determine a tensor",
            advice="add what is missing to the table",
        )


def check_range(value: float, least: float, most: float, what: str) -> None:
    """Raise ConfigError for a number out of its range; `what` follows it in the message."""
    if not least <= value <= most:
        raise ConfigError(f"{value:g} {what}", expected=f"{least:g} to {most:g}")


def read_protocol(bval: str | Path, bvec: str | Path) -> GradientTable:
    """Read the gradient table of a scan to simulate: FSL gradient files of a RAS image.

    Raises
    ------
    GradientError
        If a file cannot be read as such.
    ConfigError
        If no tensor can be fitted to such a scan.
    """
    gtab = read_gradients(bval, bvec, affine=np.eye(4))
    check_protocol(gtab)
    return gtab


def draw_protocol(
    rng: np.random.Generator,
    *,
    scheme: Literal["skare6", "shell", "multishell"] = "skare6",
    n_directions: int | Sequence[int] = 30,
    bvals: float | Sequence[float] | None = None,
    n_b0: int = 1,
) -> GradientTable:
    """Draw a gradient table; its b=0 volumes come first.

    Parameters
    ----------
    rng
        Source of randomness.
    scheme
        `"skare6"`: Skare's set, rotated and jittered (condition number below 2); `"shell"`:
        `n_directions` spread axes at one b-value; `"multishell"`: the same for each b-value.
    n_directions
        Directions per shell: one number, or one for each shell. Not read for `"skare6"`.
    bvals
        b-values of the shells, s/mm^2; drawn between 400 and 3000 if None (two or three
        shells for `"multishell"`).
    n_b0
        Number of b=0 volumes.

    Raises
    ------
    ConfigError
        If a count or b-value is out of range, or the counts do not match the shells.
    """
    if scheme not in ("skare6", "shell", "multishell"):
        raise ConfigError(
            f"protocol of scheme {scheme!r}", expected="'skare6', 'shell' or 'multishell'"
        )
    if n_b0 < 0:
        raise ConfigError(f"{n_b0} b=0 volumes", expected="zero or more")
    if bvals is None:
        n_shells = int(rng.integers(2, 4)) if scheme == "multishell" else 1
        shells = np.sort(rng.uniform(400.0, 3000.0, size=n_shells)).round(-1)
    else:
        shells = np.atleast_1d(np.asarray(bvals, dtype=np.float64))
    if scheme != "multishell" and shells.size != 1:
        raise ConfigError(
            f"{shells.size} b-values for a protocol of scheme {scheme!r}",
            expected="one b-value",
            advice="ask for scheme='multishell'",
        )
    if (shells < 50).any():
        raise ConfigError(f"shells of b = {shells.tolist()}", expected="50 s/mm^2 or more each")
    if scheme == "skare6":
        sets = [_draw_skare(rng)]
    else:
        counts = np.broadcast_to(np.asarray(n_directions, dtype=int), shells.shape)
        if (counts < 1).any():
            raise ConfigError(f"{counts.tolist()} directions", expected="one or more per shell")
        n_steps = int(rng.integers(20, 100))
        sets = [spread_directions(rng, int(n), n_steps=n_steps) for n in counts]
    return _table(sets, shells, n_b0)


def draw_shells(
    rng: np.random.Generator, *, n_directions: int, bvals: tuple[float, ...]
) -> list[GradientTable]:
    """Draw shells, two b=0 first, whose directions are spread and disjoint."""
    return [_table([spread_directions(rng, n_directions)], [bval], N_B0) for bval in bvals]


def _table(
    sets: Sequence[NDArray[np.float64]], bvals: Sequence[float] | NDArray[np.float64], n_b0: int
) -> GradientTable:
    """Return the table of b=0 volumes and one set of directions (n, 3) for each b-value."""
    weighted = [np.full(len(g), b) for g, b in zip(sets, bvals, strict=True)]
    return GradientTable(
        np.concatenate([np.zeros(n_b0), *weighted]), np.concatenate([np.zeros((n_b0, 3)), *sets])
    )
