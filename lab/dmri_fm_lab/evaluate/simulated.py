"""Scans with known truth for evaluation, by the generator that networks are not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.reference import Reference
from dmri_fm_lab.evaluate.regions import true_regions
from dmri_fm_lab.simulate import draw_anatomy
from dmri_fm_lab.simulate.anatomy import Shape
from dmri_fm_lab.simulate.cohort import draw_lesion
from dmri_fm_lab.simulate.scanner import Acquisition, acquire
from dmri_fm_lab.simulate.subject import (
    NEWBORN,
    NEWBORN_SIZE,
    Subject,
    Tissue,
    place_subject,
)
from dmri_fm_lab.simulate.truth import true_tensor

#: Number of lesions of a brain that has them.
N_LESIONS = 12

#: Echo time, ms.
ECHO_MS = 85.0

#: White-matter fraction above which voxels set the signal of the signal-to-noise ratio.
PURE_WHITE = 0.9


@dataclass(frozen=True, eq=False)
class SimulatedBrain:
    """A brain with its truth, to be acquired as often as needed.

    Attributes
    ----------
    subject
        The brain on its grid.
    truth
        The tensor of the noise-free signal of the shell, within the brain.
    bval
        b-value of the shell, s/mm^2.
    level
        Median b=0 signal of white matter without noise, scanner units.
    """

    subject: Subject
    truth: TensorMaps
    bval: float
    level: float

    def reference(self) -> Reference:
        """Return the truth as a reference without noise."""
        regions = true_regions(self.subject.fractions)
        return Reference(self.truth, regions, noise=None, halves=None, is_truth=True)


def build_brain(
    seed: int,
    *,
    bval: float = 1000.0,
    voxel_size_mm: float = 2.5,
    has_lesions: bool = False,
    is_newborn: bool = False,
) -> SimulatedBrain:
    """Draw a brain and compute its true tensor.

    Parameters
    ----------
    seed
        Seed of anatomy and lesions; the same brain for any voxel size and b-value.
    bval
        b-value of the shell, s/mm^2.
    voxel_size_mm
        Edge of the voxels.
    has_lesions
        Whether there are lesions in white matter.
    is_newborn
        Whether size, diffusivities and contrast are those at birth.
    """
    if not 50 < bval <= 10_000:
        raise ConfigError(f"b = {bval:g} s/mm^2", expected="a shell between 50 and 10000")
    rng = np.random.default_rng([seed, 0])
    lesions = tuple(draw_lesion(rng) for _ in range(N_LESIONS)) if has_lesions else ()
    # Anatomy has a stream of its own, so that lesions change nothing else.
    shape = Shape(lesions=lesions, size=NEWBORN_SIZE if is_newborn else 1.0)
    anatomy = draw_anatomy(np.random.default_rng([seed, 1]), shape)
    subject = place_subject(
        anatomy,
        NEWBORN if is_newborn else Tissue(),
        voxel_size_mm=(voxel_size_mm,) * 3,
        rng=np.random.default_rng([seed, 2]),
        field_peak_hz=0.0,
    )
    truth = true_tensor(subject, bval=bval, echo_ms=ECHO_MS)
    parts = subject.fractions
    maps = TensorMaps.from_tensor(truth.tensor, parts.mask, affine=subject.affine, model="tensor")
    level = float(np.median(truth.b0[parts.wm > PURE_WHITE]))
    return SimulatedBrain(subject, maps, bval, level)


def simulated_scan(
    brain: SimulatedBrain,
    *,
    snr: float,
    bvecs: NDArray[np.float64] | None = None,
    n_b0: int = 1,
    partial_fourier: float = 1.0,
    seed: int = 0,
) -> Dwi:
    """Acquire a brain, without distortion and motion.

    Parameters
    ----------
    brain
        From :func:`build_brain`.
    snr
        Median noise-free b=0 signal of white matter over the noise of one channel; infinite for
        none.
    bvecs
        Shape (N, 3), unit, RAS+: six directions or more. A Skare set, rotated by the seed, if
        None.
    n_b0
        Number of b=0 volumes, which come first.
    partial_fourier
        Share of the lines of k-space that are sampled.
    seed
        Seed of the noise, and of the rotation.

    Returns
    -------
    Dwi
        With the true brain mask.
    """
    if not snr > 0 or n_b0 < 1:
        raise ConfigError(f"SNR {snr:g}, {n_b0} b=0", expected="an SNR above zero, a b=0 or more")
    axes = skare_table(seed) if bvecs is None else np.asarray(bvecs, dtype=np.float64)
    gtab = GradientTable(
        np.concatenate([np.zeros(n_b0), np.full(len(axes), brain.bval)]),
        np.concatenate([np.zeros((n_b0, 3)), axes]),
    )
    acquisition = Acquisition(
        echo_ms=ECHO_MS,
        partial_fourier=partial_fourier,
        sigma=brain.level / snr,
        is_distorted=False,
        seed=seed,
    )
    data = acquire(brain.subject, gtab, acquisition)
    return Dwi.from_arrays(data, brain.subject.affine, gtab, mask=brain.subject.fractions.mask)


def skare_table(seed: int) -> NDArray[np.float64]:
    """Return Skare's six directions at a random rotation, (6, 3)."""
    turn = Rotation.random(random_state=np.random.default_rng(seed))
    return np.asarray(turn.apply(SKARE_DIRECTIONS))
