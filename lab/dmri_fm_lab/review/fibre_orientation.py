"""Fibre orientations from 6 to 30 directions: a small network against spherical deconvolution.

Voxels hold one to three fibres, sticks and zeppelins, and isotropic tissue. The network gives the
fibre orientation distribution (FOD) of a voxel as spherical harmonics; constrained spherical
deconvolution (CSD, Tournier et al. 2007, https://doi.org/10.1016/j.neuroimage.2007.02.016) is
DIPY's. Order of CSD and threshold of peaks of both are tuned on voxels of their own.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from dipy.core.sphere import HemiSphere
from dipy.core.subdivide_octahedron import create_unit_hemisphere
from dipy.reconst.dirspeed import peak_directions
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from dmri_fm.gradients import GradientTable
from dmri_fm.shell_resampling import harmonics
from dmri_fm_lab.feature_cache import digest
from dmri_fm_lab.review.estimates import fit_voxels, mean_angle
from dmri_fm_lab.review.networks import VoxelNetwork, new_network, train_on
from dmri_fm_lab.review.outcomes import Outcome, Scores, Setting, Signature
from dmri_fm_lab.review.patches import Purpose, over_b0, seed_of
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.simulate.voxel_tissue import Fibres, fibre_signal
from dmri_fm_lab.spherical_deconvolution import deconvolution, estimate_response

_Array = NDArray[np.float64]

#: Directions, their b-value, s/mm^2, SNR of the tests, and range of the training's.
DIRECTIONS, BVAL, SNR_TEST, TRAINING_SNR = (6, 15, 30), 2000.0, 20.0, (10.0, 50.0)

#: Probabilities of one, two and three fibres, and the least angle between two.
N_FIBRES, LEAST_CROSSING_DEG = (0.4, 0.4, 0.2), 45.0

#: Order of the network's FOD, and the width of the kernel that stands for a fibre (heat kernel
#: exp(-l (l + 1) t), about 11 degrees), without which a finite series rings.
ORDER, KERNEL = 8, 0.02

#: Orders of CSD and thresholds of peaks, relative to the largest, among which are tuned.
CSD_ORDERS, THRESHOLDS = (2, 4, 6, 8), (0.1, 0.2, 0.3, 0.4, 0.5)

#: Least angle between peaks.
SEPARATION_DEG = 25.0

#: Voxels to train on for one of the test, and voxels of a step.
_TRAINING_FACTOR, _BATCH = 30, 2048

#: Turn of the gradient table that nobody tells the network.
TURN_DEG = 20.0


class FibreVoxels(NamedTuple):
    """V voxels with known fibres.

    Unit axes (V, 3, 3) and their shares (V, 3), the largest first; properties of the fibres, share
    of the voxel that they fill (V,), and diffusivity of the rest (V,), mm^2/s.
    """

    axes: NDArray[np.float32]
    shares: NDArray[np.float32]
    fibres: Fibres
    filled: NDArray[np.float32]
    isotropic: NDArray[np.float32]

    def signal(self, gtab: GradientTable) -> NDArray[np.float32]:
        """Return the signal (V, N) without noise, 1 at b=0."""
        inside = fibre_signal(self.axes, self.shares, self.fibres, gtab)
        rest = np.exp(-self.isotropic[:, None] * gtab.bvals.astype(np.float32))
        return np.asarray(self.filled[:, None] * (inside - rest) + rest, dtype=np.float32)

    def fod(self) -> _Array:
        """Return the harmonics (V, 45) of the true FOD, each fibre a narrow kernel."""
        total = np.zeros((len(self.axes), (ORDER + 1) * (ORDER + 2) // 2))
        for k in range(3):
            values, degree = harmonics(self.axes[:, k].astype(np.float64), ORDER)
            total += self.shares[:, k, None] * values * np.exp(-degree * (degree + 1) * KERNEL)
        return total


def draw_fibre_voxels(rng: np.random.Generator, n: int) -> FibreVoxels:
    """Draw voxels of one to three fibres that cross at any angle from 45 degrees up."""
    axes = _draw_axes(rng, n)
    while (bad := _least_angle(axes) < LEAST_CROSSING_DEG).any():
        axes[bad] = _draw_axes(rng, int(bad.sum()))
    n_fibres = 1 + rng.choice(3, size=n, p=N_FIBRES)
    two, three = rng.uniform(0.55, 0.75, n), rng.uniform(0.42, 0.55, n)
    second = (1 - three) * rng.uniform(0.5, 0.6, n)
    shares = np.zeros((n, 3))
    shares[:, 0] = np.select([n_fibres == 1, n_fibres == 2], [np.ones(n), two], three)
    shares[:, 1] = np.select([n_fibres == 1, n_fibres == 2], [np.zeros(n), 1 - two], second)
    shares[:, 2] = np.where(n_fibres == 3, 1 - three - second, 0.0)

    def draw(low: float, high: float) -> NDArray[np.float32]:
        return rng.uniform(low, high, n).astype(np.float32)

    return FibreVoxels(
        axes.astype(np.float32),
        shares.astype(np.float32),
        Fibres(draw(0.3, 0.6), draw(1.3e-3, 1.9e-3), draw(1.0e-3, 1.6e-3), draw(0.4e-3, 0.8e-3)),
        draw(0.7, 1.0),
        draw(0.7e-3, 1.1e-3),
    )


def _draw_axes(rng: np.random.Generator, n: int) -> _Array:
    axes = rng.standard_normal((n, 3, 3))
    return np.asarray(axes / np.linalg.norm(axes, axis=2, keepdims=True))


def _least_angle(axes: _Array) -> _Array:
    cosines = np.abs(np.einsum("vid,vjd->vij", axes, axes))[:, [0, 0, 1], [1, 2, 2]]
    return np.asarray(np.rad2deg(np.arccos(cosines.max(axis=1).clip(0, 1))))


def direction_table(n_directions: int, turn_deg: float = 0.0) -> GradientTable:
    """Return one b=0 and spread directions, turned about the first axis."""
    axes = spread_directions(np.random.default_rng(n_directions), n_directions)
    axes = axes @ Rotation.from_rotvec([turn_deg, 0, 0], degrees=True).as_matrix().T
    return GradientTable(np.array([0.0, *[BVAL] * n_directions]), np.vstack([np.zeros(3), axes]))


def _noisy(clean: NDArray[np.float32], snr: _Array, rng: np.random.Generator) -> _Array:
    """Return signals (V, N) with Rician noise; `snr` (V,) is that of the b=0 signal."""
    noise = rng.standard_normal((2, *clean.shape)) / snr[:, None]
    return np.asarray(np.hypot(clean + noise[0], noise[1]))


def _as_images(signals: _Array) -> Tensor:
    """Return signals (V, N) as images (1, N, V, 1, 1) of one long patch."""
    return torch.from_numpy(signals.T[None, ..., None, None].copy()).float()


def train_fod_network(
    gtab: GradientTable, seed: int, setting: Setting, folder: Path
) -> VoxelNetwork:
    """Train an MLP from images over the measured b=0 to the harmonics of the FOD."""
    rng = np.random.default_rng(seed_of(seed, Purpose.TRAINING_PATCHES))
    voxels = draw_fibre_voxels(rng, _TRAINING_FACTOR * setting.n_voxels)
    clean, truth = voxels.signal(gtab), voxels.fod().astype(np.float32)
    low, high = np.log(TRAINING_SNR)

    def draw(number: int) -> tuple[Tensor, Tensor]:
        step = np.random.default_rng(seed_of(seed, Purpose.TRAINING, number))
        chosen = step.integers(len(clean), size=_BATCH)
        snr = np.exp(step.uniform(low, high, _BATCH))
        images = _as_images(_noisy(clean[chosen], snr, step))
        return over_b0(images), _as_images(truth[chosen].astype(np.float64))

    def error(network: nn.Module, sample: tuple[Tensor, Tensor]) -> Tensor:
        inputs, wanted = sample
        # Harmonics are orthonormal: the squared error of the FOD over the sphere.
        return torch.mean((network(inputs) - wanted) ** 2)

    return train_on(
        new_network(len(gtab) - 1, truth.shape[1], seed),
        draw,
        error,
        n_steps=setting.n_steps,
        seed=seed,
        folder=folder,
        identity={
            "loss": "FOD",
            "voxels": digest(clean, truth),
            "gradients": digest(gtab.bvals, gtab.bvecs_ras),
            "snr": list(TRAINING_SNR),
            "batch": _BATCH,
        },
    )


class Peaks(NamedTuple):
    """Main axis (V, 3), zero where there is none, and sizes of each voxel's peaks, largest 1."""

    main: _Array
    sizes: list[_Array]

    def n_above(self, threshold: float) -> NDArray[np.int_]:
        """Return the number of peaks (V,) of so large a relative size."""
        return np.array([(sizes >= threshold).sum() for sizes in self.sizes])


@lru_cache(maxsize=1)
def half_sphere() -> HemiSphere:
    """Return half a sphere of axes that are about 3 degrees apart."""
    sphere: HemiSphere = create_unit_hemisphere(recursion_level=5)
    return sphere


def find_peaks(fods: _Array) -> Peaks:
    """Return the peaks of FODs (V, axes of the half sphere)."""
    main, sizes = np.zeros((len(fods), 3)), []
    for number, fod in enumerate(fods):
        positive = np.maximum(fod, 0.0)
        axes, values, _ = peak_directions(
            positive,
            half_sphere(),
            relative_peak_threshold=min(THRESHOLDS),
            min_separation_angle=SEPARATION_DEG,
        )
        has_peak = len(values) > 0 and values[0] > positive.min()
        sizes.append(
            (values - positive.min()) / (values[0] - positive.min()) if has_peak else np.zeros(0)
        )
        if has_peak:
            main[number] = axes[0]
    return Peaks(main, sizes)


def network_peaks(network: VoxelNetwork, signals: _Array) -> Peaks:
    """Return the peaks that a network finds in signals (V, N), the first of which is b=0."""
    found = network(over_b0(_as_images(signals)))[0, :, :, 0, 0].T.double().numpy()
    return find_peaks(found @ harmonics(half_sphere().vertices, ORDER)[0].T)


def csd_peaks(
    signals: _Array, gtab: GradientTable, single: NDArray[np.bool_], order: int, shown: _Array
) -> Peaks:
    """Return the peaks of CSD in signals `shown` (V, N).

    The response is the mean tensor of other `signals`, of voxels that hold a `single` fibre.
    """
    response = estimate_response(signals[single], gtab)
    with deconvolution(gtab, response, order=order) as model:
        return find_peaks(model.fit(shown).odf(half_sphere()))


def _score(peaks: Peaks, threshold: float, truth: FibreVoxels) -> dict[str, float]:
    n_true, n_found = (truth.shares > 0).sum(axis=1), peaks.n_above(threshold)
    wrong = n_true != n_found
    return {
        "peak_angle_deg": mean_angle(peaks.main, truth.axes[:, 0].astype(np.float64)),
        "wrong_peaks": float(wrong.mean()),
        "wrong_single": float(wrong[n_true == 1].mean()),
        "wrong_crossing": float(wrong[n_true > 1].mean()),
        "peaks_bias": float((n_found - n_true).mean()),
    }


def _threshold(peaks: Peaks, truth: FibreVoxels) -> float:
    return min(THRESHOLDS, key=lambda t: _score(peaks, t, truth)["wrong_peaks"])


def _measured(voxels: FibreVoxels, gtab: GradientTable, seed: np.random.SeedSequence) -> _Array:
    """Return signals (V, N) of the tests' SNR."""
    clean = voxels.signal(gtab)
    return _noisy(clean, np.full(len(clean), SNR_TEST), np.random.default_rng(seed))


class _Method(NamedTuple):
    """Peaks in the tests, and the threshold from which they count."""

    peaks: Peaks
    threshold: float


def _tuned_csd(tuning: FibreVoxels, known: _Array, shown: _Array, gtab: GradientTable) -> _Method:
    """Return CSD with the order of the best main peak and the threshold of the best number."""
    single, main = tuning.shares[:, 1] == 0, tuning.axes[:, 0].astype(np.float64)
    by_order = {order: csd_peaks(known, gtab, single, order, known) for order in CSD_ORDERS}
    order = min(CSD_ORDERS, key=lambda o: mean_angle(by_order[o].main, main))
    peaks = csd_peaks(known, gtab, single, order, shown)
    return _Method(peaks, _threshold(by_order[order], tuning))


def run_orientations(seed: int, setting: Setting, folder: Path) -> Outcome:
    """Main peak and number of peaks from 6, 15 and 30 directions: an MLP, CSD, and the tensor."""
    tests, tuning = (
        draw_fibre_voxels(np.random.default_rng(seed_of(seed, purpose)), n)
        for purpose, n in (
            (Purpose.TEST_PATCHES, setting.n_voxels),
            (Purpose.FRESH_PATCHES, setting.n_voxels // 3),
        )
    )
    scores: Scores = {"tensor, least squares": {}, "CSD": {}, "MLP": {}}
    for n in DIRECTIONS:
        gtab = direction_table(n)
        network = train_fod_network(gtab, seed, setting, folder / f"{n}-directions_seed-{seed}")
        shown = _measured(tests, gtab, seed_of(seed, Purpose.TEST, n))
        known = _measured(tuning, gtab, seed_of(seed, Purpose.TUNING, n))
        axis = fit_voxels(shown, gtab).v1
        found = {
            "tensor, least squares": _Method(Peaks(axis, [np.ones(1)] * len(axis)), 1.0),
            "CSD": _tuned_csd(tuning, known, shown, gtab),
            "MLP": _Method(
                network_peaks(network, shown),
                _threshold(network_peaks(network, known), tuning),
            ),
        }
        for name, method in found.items():
            row = _score(method.peaks, method.threshold, tests)
            scores[name][f"{n} directions, SNR {SNR_TEST:g}"] = row
    # The last network and its table: the most directions.
    turned = direction_table(n, TURN_DEG)
    shown = _measured(tests, turned, seed_of(seed, Purpose.TEST, n, TURN_DEG))
    known = _measured(tuning, turned, seed_of(seed, Purpose.TUNING, n, TURN_DEG))
    main = tests.axes[:, 0].astype(np.float64)
    sign = f"gradient table turned by {TURN_DEG:g} degrees: angle of the main peak, degrees"
    check = "a comparison of the gradient table with the training's"
    angles = {
        "MLP": mean_angle(network_peaks(network, shown).main, main),
        "CSD, which reads the table": mean_angle(
            _tuned_csd(tuning, known, shown, turned).peaks.main, main
        ),
    }
    return Outcome(scores, tuple(Signature(sign, *item, check) for item in angles.items()))
