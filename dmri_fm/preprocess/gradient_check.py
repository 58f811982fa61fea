"""Check of the axes and signs of b-vectors by the continuity of fibres.

A b-vector file with two axes swapped, or one mirrored, gives maps of FA and MD that look right and
fibre directions that are wrong. Fibres tell: a step along the main eigenvector of a voxel
should lead to a voxel whose own eigenvector agrees. This holds for the right arrangement of the
axes better than for any of the other 23 (https://doi.org/10.1016/j.media.2014.05.012).

Rearranging b-vectors rearranges the tensor in the same way, so one tensor fit serves all
24. How well two neighbours agree does not depend on the arrangement either, only which
neighbour the step leads to does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dmri_fm.gradient_arrangements import AS_STORED, join_arrangements, list_arrangements
from dmri_fm.gradients import GradientTable, fsl_to_ras, rotation_part
from dmri_fm.series import Dwi
from dmri_fm.tensor_design import FEWEST_DIRECTIONS, b_columns, to_matrices

#: Length of a step along the fibre, mm.
STEP_MM = 3.0

#: Steps start where FA is above this.
SEED_FA = 0.3

#: Smallest distance of starting points from the edge of the mask, mm; the first value that gives
#: enough of them counts.
RIM_MM = (8.0, 4.0, 0.0)

#: Fewest starting points that decide.
FEWEST_SEEDS = 100

#: Largest number of starting points; more are thinned evenly.
MOST_SEEDS = 10_000

#: Voxels that the tensor fits worse than the median voxel by this factor are excluded: a
#: signal dropout in one slice turns all eigenvectors of that slice one way.
WORST_MISFIT = 2.0

#: The best arrangement must lead the second by this many standard errors (over starting
#: points, taken as independent) to decide. Right scans of four scanners lead by 15 to 27.
DECISIVE_LEAD = 5.0

#: Unknowns of a tensor and its b=0 signal.
_N_UNKNOWNS = 7

_CHUNK = 50_000


@dataclass(frozen=True, eq=False)
class GradientCheck:
    """Result of :func:`check_gradients`: fibre continuity of all arrangements of the axes.

    Attributes
    ----------
    is_consistent
        No other arrangement is decisively better.
    is_decisive
        The best arrangement leads clearly, and enough voxels were there to tell.
    best
        `identity` if the b-vectors as given are best. Otherwise what the components should be:
        `-x,y,z` says to negate the first row of the bvec file, `y,x,z` to swap the first two.
    margin
        Score of the given arrangement over that of the best other one, minus 1.
    scores
        Weighted mean of squared cosines by arrangement, higher is better.
    n_voxels
        Voxels from which a step was taken.
    """

    is_consistent: bool
    is_decisive: bool
    best: str
    margin: float
    scores: Mapping[str, float]
    n_voxels: int

    @property
    def summary(self) -> str:
        """One sentence for a report, on b-vectors as they are stored."""
        return self.summarise(())

    def summarise(self, repairs: Sequence[str]) -> str:
        """Return one sentence for a report.

        Parameters
        ----------
        repairs
            Arrangements in which rows of the raw files were read, without that as stored.
        """
        repaired = f"repaired ({'; '.join(repairs)})" if repairs else ""
        if not self.is_decisive:
            what = f"of the b-vectors as {repaired} " if repaired else "of the b-vectors "
            return (
                f"The direction {what}could not be decided from {self.n_voxels} "
                "voxels: a thin slab or a phantom has too few fibres."
            )
        what = f"b-vectors as {repaired}" if repaired else "stored b-vectors"
        if self.is_consistent:
            return (
                f"The {what} continue the fibres better than any of the 23 other "
                f"arrangements of their axes (by {self.margin:.1%})."
            )
        further = " further" if repaired else ""
        return (
            f"The {what} look wrong:{further} read as ({self.best}) they continue the fibres "
            f"better (by {-self.margin:.1%}). Check how the scan was converted; fibre directions "
            "are not to be trusted."
        )

    def as_record(self, arrangements: Sequence[str] = (AS_STORED,)) -> dict[str, Any]:
        """Return the entries of the series' sidecar.

        Parameters
        ----------
        arrangements
            Arrangement in which the rows of each raw file were read, by run. `Best` is relative
            to the rows as they are stored: one label, or that of each run where they differ.
        """
        repairs = sorted({a for a in arrangements if a != AS_STORED})
        found = AS_STORED if self.best == "identity" else self.best
        best = [join_arrangements(a, found) for a in arrangements]
        best = ["identity" if label == AS_STORED else label for label in best]
        summary = self.summarise(repairs)
        is_doubtful = not self.is_consistent or (bool(repairs) and not self.is_decisive)
        return {
            "GradientCheck": {
                "Method": "fibre continuity among 24 axis permutations and flips",
                "IsConsistent": self.is_consistent,
                "IsDecisive": self.is_decisive,
                "Best": best[0] if len(set(best)) == 1 else best,
                **({"AfterRepair": repairs} if repairs else {}),
                "Margin": round(self.margin, 4),
                "NumberOfVoxels": self.n_voxels,
                "Summary": summary,
            },
            "Warnings": [summary] if is_doubtful else [],
        }


def check_gradients(dwi: Dwi, *, file_axes: NDArray[np.float64] | None = None) -> GradientCheck:
    """Compare the stored b-vectors with all permutations and flips of their axes.

    Parameters
    ----------
    dwi
        The series, raw or preprocessed, in any storage. Without a mask, voxels brighter in b=0
        than Otsu's threshold are looked at.
    file_axes
        Shape (3, 3), orthonormal columns: the axes, in the RAS+ frame of the series, that the
        components of the b-vectors have in the file whose arrangement is in doubt. By default
        those of an FSL file beside the series. Of a series that was turned into another space:
        the axes of the raw file, turned likewise.

    Returns
    -------
    GradientCheck
        Undecided, and consistent, where there are too few directions or voxels to tell.
    """
    volumes, gtab = dwi.data, dwi.gtab
    arrangements = {
        "identity" if label == AS_STORED else label: matrix
        for label, matrix in list_arrangements().items()
    }
    undecided = GradientCheck(
        is_consistent=True,
        is_decisive=False,
        best="identity",
        margin=0.0,
        scores=dict.fromkeys(arrangements, 0.0),
        n_voxels=0,
    )
    if not gtab.is_b0.any() or gtab.count_directions() < FEWEST_DIRECTIONS:
        return undecided
    brain = _rough_mask(volumes, gtab) if dwi.mask is None else dwi.mask
    brain = brain & (volumes[..., gtab.is_b0].mean(axis=3) > 0)
    if not brain.any():
        return undecided
    voxel_size_mm = dwi.voxel_size_mm
    # In the image's own axes a step is a matter of voxel sizes, whatever the storage.
    axes = rotation_part(dwi.affine)
    v1, fa, misfit = _fit(volumes[brain], gtab, gtab.bvecs_ras @ axes)
    fa[misfit > WORST_MISFIT * max(float(np.median(misfit)), 1e-6)] = 0.0
    weights = np.zeros(brain.shape)
    weights[brain] = fa
    directions = np.zeros((*brain.shape, 3))
    directions[brain] = v1
    seeds = _choose_seeds(weights, brain, voxel_size_mm)
    if len(seeds) == 0:
        return undecided
    # The components of the file, from the image's own axes and back.
    to_file = (fsl_to_ras(np.eye(3), dwi.affine).T if file_axes is None else file_axes).T @ axes
    agreement = {
        label: _follow(seeds, weights, directions, to_file.T @ matrix @ to_file, voxel_size_mm)
        for label, matrix in arrangements.items()
    }
    return _judge(agreement, total=float(2 * weights[tuple(seeds.T)].sum()))


def _judge(agreement: dict[str, NDArray[np.float64]], *, total: float) -> GradientCheck:
    scores = {label: float(values.sum()) / total for label, values in agreement.items()}
    first, second = sorted(scores, key=lambda label: scores[label], reverse=True)[:2]
    lead = agreement[first] - agreement[second]
    n_voxels = lead.size
    error = float(lead.std()) / np.sqrt(n_voxels)
    is_decisive = n_voxels >= FEWEST_SEEDS and bool(lead.mean() > DECISIVE_LEAD * error)
    best_other = max(score for label, score in scores.items() if label != "identity")
    return GradientCheck(
        is_consistent=first == "identity" or not is_decisive,
        is_decisive=is_decisive,
        best=first,
        margin=scores["identity"] / best_other - 1 if best_other > 0 else 0.0,
        scores=scores,
        n_voxels=n_voxels,
    )


def _rough_mask(volumes: NDArray[Any], gtab: GradientTable) -> NDArray[np.bool_]:
    # dipy's segmentation takes a second to import.
    from dipy.segment.threshold import otsu

    b0 = ndimage.median_filter(volumes[..., gtab.is_b0].mean(axis=3), size=3)
    if b0.min() == b0.max():
        return np.zeros(b0.shape, dtype=bool)
    bright = b0 > otsu(b0)
    parts, n_parts = ndimage.label(bright)
    if n_parts == 0:
        return np.asarray(bright)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(parts == largest))


class _QuickFit(NamedTuple):
    """Tensors of V voxels."""

    v1: NDArray[np.float64]  # (V, 3) main eigenvectors
    fa: NDArray[np.float64]  # (V,), 0 where the tensor is not physical
    misfit: NDArray[np.float64]  # (V,) residual over the b=0 signal; zero if nothing is left over


def _fit(signal: NDArray[Any], gtab: GradientTable, bvecs: NDArray[np.float64]) -> _QuickFit:
    """Fit tensors to logarithms of (V, N) signals, in the frame of the b-vectors (N, 3)."""
    design = np.column_stack([b_columns(gtab.bvals / 1000.0, bvecs), np.ones(len(gtab))])
    inverse = np.linalg.pinv(design)
    n_free = len(gtab) - _N_UNKNOWNS
    v1 = np.empty((len(signal), 3))
    fa, misfit = np.empty(len(signal)), np.zeros(len(signal))
    for start in range(0, len(signal), _CHUNK):
        part = slice(start, start + _CHUNK)
        values = signal[part].astype(np.float64)
        b0 = values[:, gtab.is_b0].mean(axis=1, keepdims=True)
        values = np.maximum(values / b0, 1e-3)
        found = np.log(values) @ inverse.T
        if n_free > 0:
            predicted = np.exp(np.clip(found @ design.T, -10.0, 10.0))
            misfit[part] = np.sqrt(((predicted - values) ** 2).sum(axis=1) / n_free)
        eigenvalues, eigenvectors = np.linalg.eigh(to_matrices(found))
        positive = np.maximum(eigenvalues, 0.0)
        spread = ((positive - positive.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        size = np.maximum((positive**2).sum(axis=1), 1e-12)
        fa[part] = np.sqrt(1.5 * spread / size)
        v1[part] = eigenvectors[:, :, 2]
    return _QuickFit(v1, fa, misfit)


def _choose_seeds(
    weights: NDArray[np.float64], brain: NDArray[np.bool_], voxel_size_mm: NDArray[np.float64]
) -> NDArray[np.int_]:
    """Return starting points, shape (K, 3), voxel indices."""
    distance = np.full(brain.shape, np.inf)
    if not brain.all():
        # Beyond the field of view the brain goes on: only a rim inside the image is a rim.
        padded = np.pad(brain, 1, mode="edge")
        distance = ndimage.distance_transform_edt(padded, sampling=voxel_size_mm)
        distance = distance[1:-1, 1:-1, 1:-1]
    for rim in RIM_MM:
        seeds = np.argwhere((weights > SEED_FA) & (distance > rim))
        if len(seeds) >= FEWEST_SEEDS:
            break
    if len(seeds) > MOST_SEEDS:
        seeds = seeds[np.linspace(0, len(seeds) - 1, MOST_SEEDS).astype(int)]
    return seeds


def _follow(
    seeds: NDArray[np.int_],
    weights: NDArray[np.float64],
    directions: NDArray[np.float64],
    matrix: NDArray[np.float64],
    voxel_size_mm: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Step both ways along the rearranged fibre; return the agreement with its end, shape (K,)."""
    # The squared cosine is weighted by both anisotropies, over the eight voxels around the end.
    # The starting voxel, which agrees with itself, does not count.
    here = tuple(seeds.T)
    own = directions[here]
    step = STEP_MM * (own @ matrix.T) / voxel_size_mm
    limit = np.array(weights.shape) - 1
    agreement = np.zeros(len(seeds))
    for way in (1.0, -1.0):
        point = seeds + way * step
        corner = np.floor(point).astype(int)
        fraction = point - corner
        for offset in itertools.product((0, 1), repeat=3):
            voxel = corner + offset
            share = np.where(offset, fraction, 1.0 - fraction).prod(axis=1)
            share[((voxel < 0) | (voxel > limit)).any(axis=1) | (voxel == seeds).all(axis=1)] = 0.0
            there = tuple(np.clip(voxel, 0, limit).T)
            cosine = np.einsum("ki,ki->k", own, directions[there])
            agreement += share * weights[there] * cosine**2
    return np.asarray(agreement * weights[here])
