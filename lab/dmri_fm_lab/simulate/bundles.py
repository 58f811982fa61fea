"""Fibres of a simulated brain: the brain's major bundles as streamlines in MNI space.

Bundles are tubes about hand-laid centre lines, with a radius at every control point, so that
they fan out towards the cortex. Their courses follow the descriptions of the atlases (Catani and
Thiebaut de Schotten 2008, doi:10.1016/j.cortex.2008.05.004; Wakana et al. 2004,
doi:10.1148/radiol.2301021640), to a few millimetres; they are no one's data. Fibres of the gyri
run from the cortex inwards, and gaps in white matter are filled along their neighbours.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from dmri_fm.tensor_design import to_matrices
from dmri_fm_lab.simulate.template import AnatomyMaps, load_anatomy_maps


class Bundle(NamedTuple):
    """A bundle's course: control points and radii, MNI mm, shape (N, 4), and relative density.

    Bundles on the right are mirrored to the left. Commissures end in the middle, and their
    mirrored half follows.
    """

    course: NDArray[np.float64]
    density: float
    is_commissure: bool


@lru_cache(maxsize=1)
def load_bundles() -> dict[str, Bundle]:
    """Load the courses that the package's table of bundles lays down."""
    table = files("dmri_fm_lab.simulate").joinpath("bundles.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines(), delimiter="\t"))
    return {
        name: Bundle(
            np.array([[float(row[key]) for key in ("x", "y", "z", "radius")] for row in group]),
            float(group[0]["density"]),
            group[0]["is_commissure"] == "1",
        )
        for name in dict.fromkeys(row["bundle"] for row in rows)
        for group in [[row for row in rows if row["bundle"] == name]]
    }


@lru_cache(maxsize=1)
def _callosum() -> cKDTree:
    """Return points on the callosum's courses near the middle, MNI mm."""
    courses = [b.course for b in load_bundles().values() if b.is_commissure]
    callosal = [course for course in courses if course[-1, 2] > 0]
    middles = [
        near + share * (last - near)
        for near, last in ((course[-2], course[-1]) for course in callosal)
        for share in np.linspace(-0.5, 1.0, 8)
    ]
    points = np.array(middles)[:, :3]
    return cKDTree(np.concatenate([points, points * [-1, 1, 1]]))


def near_callosum(mni_mm: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which points (3, M) of MNI space, RAS mm, lie in the middle of the callosum, (M,)."""
    apart, _ = _callosum().query(mni_mm.T, distance_upper_bound=_CALLOSUM_MM)
    is_near: NDArray[np.bool_] = np.isfinite(apart)
    return is_near


#: Streamlines of density 1 through a square millimetre of a bundle's narrowest part.
_PER_MM2 = 3.0

#: Reach of the callosum about its courses, mm: they lie side by side.
_CALLOSUM_MM = 7.0

#: Short streamlines for each voxel of 2 mm that no other reaches.
_PER_GAP = 3

#: Undulation of single fibres within their bundle: amplitude and wavelength, mm.
_WAVE_MM, _WAVELENGTH_MM = 0.45, 8.0

#: Deviations of one brain's bundles from the courses above: mm, and share of the radius.
_COURSE_DEVIATION_MM, _RADIUS_DEVIATION = 1.5, 0.15

#: Step along a streamline, mm.
STEP_MM = 1.0


@dataclass(frozen=True, eq=False)
class Streamlines:
    """Polylines: points (N, 3), mm, and where each line starts, (K + 1,)."""

    points: NDArray[np.float64]
    offsets: NDArray[np.intp]

    @classmethod
    def from_lines(cls, lines: list[NDArray[np.float64]]) -> Streamlines:
        """Join single lines (n, 3)."""
        lengths = [0, *(len(line) for line in lines)]
        return cls(np.concatenate(lines), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def segments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return middles and directions of all segments, each (M, 3), mm."""
        steps = np.diff(self.points, axis=0)
        middles = self.points[:-1] + 0.5 * steps
        keep = np.ones(len(steps), dtype=bool)
        keep[self.offsets[1:-1] - 1] = False
        return middles[keep], steps[keep]


def draw_streamlines(rng: np.random.Generator) -> Streamlines:
    """Draw the fibres of one brain in MNI space, RAS mm.

    They cover the white matter of :func:`~dmri_fm_lab.simulate.template.load_anatomy_maps`;
    courses and widths of the bundles differ between brains.
    """
    maps = load_anatomy_maps()
    lines = []
    for bundle in load_bundles().values():
        for side in (1.0,) if bundle.is_commissure else (1.0, -1.0):
            lines += _draw_bundle(rng, bundle, side)
    lines += _draw_gyral(rng, maps)
    return Streamlines.from_lines(lines + _fill_gaps(rng, maps, Streamlines.from_lines(lines)))


def _draw_bundle(
    rng: np.random.Generator, bundle: Bundle, side: float
) -> list[NDArray[np.float64]]:
    course = bundle.course.copy()
    if bundle.is_commissure:
        course = np.concatenate([course, (course * [-1, 1, 1, 1])[-2::-1]])
    course[:, 0] *= side
    course[:, 3] *= np.exp(rng.normal(0, _RADIUS_DEVIATION))
    apart = np.linalg.norm(np.diff(course[:, :3], axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(apart)])
    # The whole course is shifted, and each half a little: shifts of single points would be kinks.
    shift, bend = rng.normal(0, _COURSE_DEVIATION_MM, (2, 3))
    course[:, :3] += shift + 0.5 * bend * np.cos(np.pi * along / along[-1])[:, None]
    at = np.arange(0.0, along[-1], STEP_MM)
    line = PchipInterpolator(along, course)(at)
    centre, radius = line[:, :3], line[:, 3]
    across = _frames(centre)
    n = int(_PER_MM2 * bundle.density * np.pi * course[:, 3].min() ** 2) + 20
    # Uniform in the disc; each line keeps its position, and strays slowly by a part of the radius.
    angle, away = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.uniform(0, 1, n))
    position = np.stack([away * np.cos(angle), away * np.sin(angle)], axis=1)
    stray = 0.15 * rng.normal(size=(2, n, 2))
    phase = np.sin(np.linspace(0, np.pi, len(at)))[:, None, None]
    slope = np.linspace(-1, 1, len(at))[:, None, None]
    offset = radius[:, None, None] * (position + stray[0] * phase + stray[1] * slope)
    turn = 2 * np.pi * (at[:, None, None] / _WAVELENGTH_MM + rng.random((1, n, 2)))
    offset += _WAVE_MM * np.sin(turn)
    points = centre[:, None] + np.einsum("snk,skx->snx", offset, across)
    return list(points.swapaxes(0, 1))


def _frames(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return two unit vectors across a line at each of its points, (S, 2, 3), without twist."""
    tangents = np.gradient(line, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    frames = np.empty((len(line), 2, 3))
    normal = np.cross(tangents[0], np.eye(3)[np.abs(tangents[0]).argmin()])
    for k, tangent in enumerate(tangents):
        normal = normal - (normal @ tangent) * tangent
        normal /= np.linalg.norm(normal)
        frames[k] = normal, np.cross(tangent, normal)
    return frames


def _draw_gyral(rng: np.random.Generator, maps: AnatomyMaps) -> list[NDArray[np.float64]]:
    """Draw fibres that run from the cortex into the white matter, down its depth."""
    depth = gaussian_filter(-maps.channels[0], 2.0)
    slope = np.stack(np.gradient(depth))
    border = np.argwhere(np.abs(maps.channels[0]) < 0.5)
    seeds = border[rng.random(len(border)) < 0.12] + rng.uniform(-0.5, 0.5, 3)
    points, lengths = seeds.astype(np.float64), rng.uniform(6.0, 20.0, len(seeds))
    path = [points]
    for _ in range(20):
        step = np.stack([map_coordinates(s, points.T, order=1, mode="nearest") for s in slope], -1)
        step /= np.maximum(np.linalg.norm(step, axis=1), 0.05)[:, None]
        points = points + STEP_MM * (step + rng.normal(0, 0.25, step.shape))
        path.append(points)
    # Two more points outwards, through the cortex.
    outwards = path[0] - 2 * (path[1] - path[0])
    lines = np.stack([outwards, *path], axis=1) + maps.origin_mm
    return [line[: int(n)] for line, n in zip(lines, lengths, strict=True)]


def _fill_gaps(
    rng: np.random.Generator, maps: AnatomyMaps, lines: Streamlines
) -> list[NDArray[np.float64]]:
    """Draw short fibres along their neighbours where white matter holds none."""
    white, pial, *_, below, _ = maps.channels[:, ::2, ::2, ::2]
    middles, steps = lines.segments()
    voxels = np.rint((middles - maps.origin_mm) / 2).astype(int)
    inside = ((voxels >= 0) & (voxels < white.shape)).all(axis=1)
    voxels, steps = voxels[inside], steps[inside]
    flat = np.ravel_multi_index(tuple(voxels.T), white.shape)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    dyads = np.stack(
        [
            np.bincount(flat, weights=steps[:, i] * steps[:, j], minlength=white.size)
            for i, j in pairs
        ]
    ).reshape(6, *white.shape)
    length = dyads[0] + dyads[3] + dyads[5]
    gap = ((white < 0) | ((pial > 0) & (below > 0.3))) & (length < 8.0)
    nearby = np.stack([gaussian_filter(d, 3.0, truncate=5.0)[gap] for d in dyads], axis=-1)
    axes = np.linalg.eigh(to_matrices(nearby))[1][:, :, 2]
    start = np.argwhere(gap) * 2.0 + maps.origin_mm
    made = []
    for _ in range(_PER_GAP):
        where = start + rng.uniform(-1.5, 1.5, start.shape)
        direction = axes + rng.normal(0, 0.3, axes.shape)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        at = np.arange(-2.0, 3.0, STEP_MM)[:, None]
        made += [point + at * axis for point, axis in zip(where, direction, strict=True)]
    return made
