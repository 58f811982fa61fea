"""Training patches of real scans: six directions are the input, the tensor of all the truth.

A scan with more directions than six and little noise has a truth good enough to learn from. It
holds what simulation lacks: folds, vessels, motion, each scanner's point spread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from torch import Tensor
from torch.nn import functional

from dmri_fm.errors import InputError
from dmri_fm.gradients import Shell, rotation_part
from dmri_fm.qspace import condition_numbers
from dmri_fm.tensor_networks.inputs import estimate_noise, fit_least_squares, mean_diffusivity
from dmri_fm_lab.scans import Scan, find_scans
from dmri_fm_lab.train.raw_patch import MARGIN, RawPatch
from dmri_fm_lab.train.tensor_batch import TensorBatch

logger = logging.getLogger(__name__)

#: Directions that a shell needs, to determine a tensor; and beyond the six, to determine one that
#: is independent of them. Without these, patches have their truth from all directions, and noise
#: is always added.
FEWEST_DIRECTIONS, FEWEST_OTHERS = 12, 8

#: Number of random sets of six directions, and the largest condition number to keep one.
N_SUBSETS, LARGEST_CONDITION = 4000, 5.0

#: Share of patches to which noise is added, and the range of the brain's median b=0 SNR then.
NOISY_SHARE, SNR_RANGE = 0.7, (5.0, 40.0)

#: Smallest share of brain in a patch, as scans may be thin slabs; patches below it are drawn
#: again, up to a number of draws.
FEWEST_BRAIN_OF_SLAB, MOST_DRAWS = 0.1, 200

#: Mean diffusivities at which the share of CSF in a voxel is 0 and 1, um^2/ms.
CSF_RANGE = (1.2, 3.0)

#: Rotations that take axes to axes.
_TURNS = tuple(
    turn
    for order in permutations(range(3))
    for signs in product((1.0, -1.0), repeat=3)
    if np.linalg.det(turn := np.eye(3)[list(order)] * signs) > 0
)


@dataclass(frozen=True, eq=False)
class TrainingScan:
    """One shell of a series.

    Attributes
    ----------
    name
        Of the series.
    brain_name
        See :attr:`dmri_fm_lab.scans.Scan.brain_name`.
    images
        Shape (2 + N, X, Y, Z), float32: brain mask, mean b=0, weighted images; the brain's box.
    q
        Shape (N, 4): unit b-vectors in the frame of the voxel axes, b in ms/um^2.
    subsets
        Shape (M, 6): weighted images to choose from, each set well-conditioned.
    voxel_mm
        Shape (3,).
    n_b0
        Volumes in the mean b=0.
    noise
        Standard deviation of a weighted image's noise, scanner units.
    """

    name: str
    brain_name: str
    images: Tensor
    q: Tensor
    subsets: NDArray[np.int_]
    voxel_mm: NDArray[np.float64]
    n_b0: int
    noise: float

    @property
    def is_truth_apart(self) -> bool:
        """Whether the directions that are no input determine a tensor."""
        return len(self.q) >= 6 + FEWEST_OTHERS

    @cached_property
    def median_b0(self) -> float:
        """Median b=0 signal of the brain."""
        return float(self.images[1][self.images[0] > 0].median())


def read_training_scans(
    root: str | Path, *, participant_labels: Sequence[str] | None = None
) -> list[TrainingScan]:
    """Read the shells of a dataset that have directions enough.

    Parameters and errors as of :func:`~dmri_fm_lab.scans.find_scans`; InputError also if no shell
    has directions enough.
    """
    scans = find_scans(root, participant_labels=participant_labels)
    shells = [shell for scan in scans for shell in _shells_of(scan)]
    if not shells:
        raise InputError(
            "no series to train on",
            path=Path(root),
            expected=f"a shell of {FEWEST_DIRECTIONS} directions or more, and a b=0 volume",
        )
    for shell in shells:
        logger.info("training on %s, %d directions", shell.name, len(shell.q))
    return shells


def _shells_of(scan: Scan) -> Iterator[TrainingScan]:
    gtab = scan.dwi.gtab
    b0_volumes = np.flatnonzero(gtab.is_b0)
    chosen = [(s, subsets) for s in gtab.shells if len(subsets := _choices(scan, s))]
    if not len(b0_volumes) or not chosen:
        return
    b0 = scan.dwi.mean_b0()
    mask = scan.brain(b0_volumes) & (b0 > 0)
    turned = gtab.bvecs_ras @ rotation_part(scan.dwi.affine)
    if not mask.any() or min(mask.shape) < 2:
        return
    (box,) = find_objects(mask.astype(np.int8))
    for shell, subsets in chosen:
        volumes = list(shell.index)
        weighted = np.moveaxis(scan.dwi.data[..., volumes][box], 3, 0)
        images = np.stack([mask[box], b0[box], *weighted])
        inside = torch.from_numpy(mask[box].astype(np.float32))[None, None]
        noise = estimate_noise(torch.from_numpy(weighted.astype(np.float32))[None], inside)
        q = np.column_stack([turned[volumes], gtab.bvals[volumes] / 1000.0])
        yield TrainingScan(
            scan.name,
            scan.brain_name,
            torch.from_numpy(images.astype(np.float32)),
            torch.from_numpy(q.astype(np.float32)),
            subsets,
            np.linalg.norm(scan.dwi.affine[:3, :3], axis=0),
            len(b0_volumes),
            float(noise),
        )


def _choices(scan: Scan, shell: Shell) -> NDArray[np.int_]:
    """Return well-conditioned sets of six distinct axes, as positions within the shell."""
    groups = scan.dwi.gtab.group_axes(shell.index)
    if len(groups) < FEWEST_DIRECTIONS:
        return np.empty((0, 6), dtype=int)
    first = np.array([group[0] for group in groups])
    axes = scan.dwi.gtab.bvecs_ras[first]
    rng = np.random.default_rng(0)
    subsets = np.array([rng.choice(len(axes), 6, replace=False) for _ in range(N_SUBSETS)])
    good = condition_numbers(axes[subsets]) < LARGEST_CONDITION
    position = {volume: k for k, volume in enumerate(shell.index)}
    chosen: NDArray[np.int_] = np.array([position[int(v)] for v in first])[subsets[good]]
    return chosen


def draw_scan_patch(
    rng: np.random.Generator,
    scans: Sequence[TrainingScan],
    *,
    patch_voxels: int,
    interpolated_share: float = 0.5,
) -> TensorBatch:
    """Draw a patch of a scan, a batch of one; position, pose, directions and noise at random.

    The truth is the least-squares tensor of the directions that are no input or, where noise is
    added to the input, of all. Input and truth share one b=0 image, so its noise is no error.

    Raises
    ------
    InputError
        If no patch of the scans holds enough brain.
    """
    side = patch_voxels + MARGIN
    for _ in range(MOST_DRAWS):
        scan = scans[int(rng.integers(len(scans)))]
        images, turn, voxel_mm = _cut(rng, scan, side)
        patch = _with_truth(rng, scan, images, turn, voxel_mm)
        patch = patch.placed(rng, patch_voxels, interpolated_share)
        if patch.mask.mean() >= FEWEST_BRAIN_OF_SLAB:
            return patch.as_batch(rng)
    raise InputError(
        f"no patch of {patch_voxels} voxels with {FEWEST_BRAIN_OF_SLAB:.0%} of brain in "
        f"{MOST_DRAWS} draws, the last of {scan.name}",
        expected="series that hold most of a head",
        advice="smaller patches (patch_voxels), or other participants",
    )


def _with_truth(
    rng: np.random.Generator,
    scan: TrainingScan,
    images: Tensor,
    turn: Tensor,
    voxel_mm: Tensor,
) -> RawPatch:
    """Return six images of a patch, noise added in some, and the tensor of others."""
    mask = ((images[0] > 0) & (images[1] > 0)).float()
    q = torch.cat([scan.q[:, :3] @ turn, scan.q[:, 3:]], dim=1)
    six = rng.permutation(scan.subsets[int(rng.integers(len(scan.subsets)))])
    others = np.setdiff1d(np.arange(len(q)), six)
    measured, sigma = images[[1, *(2 + six)]], scan.noise
    if not scan.is_truth_apart or rng.uniform() < NOISY_SHARE:
        others = np.arange(len(q))
        snr = np.exp(rng.uniform(*np.log(SNR_RANGE)))
        level = scan.median_b0 / snr
        sigmas = torch.full((7, 1, 1, 1), level)
        sigmas[0] /= scan.n_b0**0.5
        noise = torch.from_numpy(rng.standard_normal((2, *measured.shape), dtype=np.float32))
        measured = torch.hypot(measured + sigmas * noise[0], sigmas * noise[1])
        sigma = float(np.hypot(sigma, level))
    ratios = images[2 + others] / images[1].clamp(min=1e-6)
    truth = fit_least_squares(ratios[None] * mask, q[others][None])[0] * mask
    low, high = CSF_RANGE
    csf = ((mean_diffusivity(truth[None])[0, 0] - low) / (high - low)).clamp(0.0, 1.0)
    return RawPatch(
        images=measured,
        q=torch.cat([torch.zeros(1, 4), q[six]]),
        is_b0=np.arange(7) == 0,
        n_b0=scan.n_b0,
        mask=mask,
        noise=torch.full_like(mask, sigma),
        truth=truth,
        csf=csf,
        voxel_mm=voxel_mm,
    )


def _cut(rng: np.random.Generator, scan: TrainingScan, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a patch out of a scan's images, in one of the poses that take axes to axes.

    Returns images (2 + N, side, side, side), the mask zero outside the scan; the rotation (3, 3)
    that takes the patch's axes to the scan's; voxel sizes (3,).
    """
    inside = torch.nonzero(scan.images[0])
    centre = inside[int(rng.integers(len(inside)))]
    # Beyond the scan images go on, for the spline's sake, but the mask ends.
    around = (side // 2, side - side // 2) * 3
    padded = functional.pad(scan.images[None], around, mode="replicate")[0]
    padded[0] = functional.pad(scan.images[0], around)
    x, y, z = centre.tolist()
    patch = padded[:, x : x + side, y : y + side, z : z + side]
    turn = _TURNS[int(rng.integers(len(_TURNS)))]
    axes = np.abs(turn).argmax(axis=0)
    # Column k of the rotation is the patch's axis k in the scan.
    patch = patch.permute(0, *(1 + axes).tolist())
    mirrored = [1 + k for k in range(3) if turn[axes[k], k] < 0]
    voxel_mm = torch.from_numpy(scan.voxel_mm[axes].astype(np.float32))
    return patch.flip(mirrored), torch.from_numpy(turn.astype(np.float32)), voxel_mm
