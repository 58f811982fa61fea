"""The three experiments, each over several seeds.

They are those that a review of machine learning in diffusion MRI (Karimi and Warfield 2024,
https://doi.org/10.48550/arXiv.2402.00019) gives rise to: what does an MLP learn from six
directions; does context help against Rician noise; which loss suits low SNR? Brains, noise and
networks differ between seeds. The tensor model is exact and noise is Rician. S0 is 1 everywhere,
which networks can learn and least squares has to estimate: the comparison favours networks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dmri_fm.gradients import GradientTable
from dmri_fm.out_of_distribution import fit_reference, percentile_of, score_features
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.tensor_maps import decompose_tensors
from dmri_fm_lab.review.estimates import (
    Estimate,
    edges_of,
    errors_of,
    estimate_of,
    impossible_shares,
    least_squares,
    spherical_variance,
    tune_smoothing,
)
from dmri_fm_lab.review.networks import Recipe, Step, VoxelNetwork, train
from dmri_fm_lab.review.patches import TruePatches, draw_patches, measure, signal_of
from dmri_fm_lab.simulate import spread_directions

#: SNR of the tests of each experiment, and the range of the training's.
SNR_SIX, SNR_CONTEXT, SNR_LOW = (5.0, 10.0, 20.0, 30.0, 50.0), (5.0, 10.0, 20.0), (5.0, 8.0)
TRAINING_SNR, TRAINING_LOW = (5.0, 50.0), (4.0, 10.0)

#: Directions of the third experiment, and measurements of each voxel for the spherical variance.
N_DIRECTIONS, N_REPEATS = 12, 8

#: b-value of another scanner, s/mm^2: the domain shift.
OTHER_BVAL = 2000.0

#: Its softplus is 1.
_SOFTPLUS_OF_ONE = float(np.log(np.expm1(1.0)))

#: Numbers by method, condition and measure, of one seed.
Scores = dict[str, dict[str, dict[str, float]]]


class Signature(NamedTuple):
    """A sign of failure: what was measured of which method, and what catches it."""

    sign: str
    method: str
    value: float
    caught_by: str


class Outcome(NamedTuple):
    """Scores and signatures of an experiment with one seed."""

    scores: Scores
    signatures: tuple[Signature, ...]


@dataclass(frozen=True)
class Setting:
    """Size of an experiment.

    Attributes
    ----------
    n_patches, n_tests
        Patches for training and for testing.
    n_steps
        Steps of each training.
    edge
        Voxels along the edge of a patch.
    """

    n_patches: int = 96
    n_tests: int = 24
    n_steps: int = 1500
    edge: int = 16


def six_directions(bval: float = 1000.0) -> GradientTable:
    """Return one b=0 and the six directions of Skare's set."""
    return GradientTable(np.array([0.0, *[bval] * 6]), np.vstack([np.zeros(3), SKARE_DIRECTIONS]))


def _data(seed: int, setting: Setting) -> tuple[TruePatches, TruePatches, Estimate]:
    """Return patches for training, others for testing, and the true maps of these."""
    drawn = draw_patches(10 * seed + 1, setting.n_patches, edge=setting.edge)
    tests = draw_patches(10 * seed + 2, setting.n_tests, edge=setting.edge)
    return drawn, tests, estimate_of(tests.tensor, tests.mask)


def _test_images(tests: TruePatches, gtab: GradientTable, snr: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(7_919 * seed + round(snr))
    return measure(tests, gtab, torch.full((len(tests),), snr), generator)


def _network(n_in: int, n_out: int, seed: int, kernel: int = 1) -> VoxelNetwork:
    torch.manual_seed(seed)
    return VoxelNetwork(n_in, n_out, kernel=kernel)


def _masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of errors (P, K, ...) within masks (P, ...)."""
    return (error * mask[:, None]).sum() / (mask.sum() * error.shape[1])


def maps_loss(patches: TruePatches) -> Callable[[Tensor, Step], Tensor]:
    """Return the squared errors of FA, MD and v v^T of the main axis, the last times the true FA.

    `patches` are those that steps choose from.
    """
    truth = true_maps(patches)
    weights = torch.ones_like(truth)
    weights[:, 2:] = truth[:, :1]

    def loss(found: Tensor, step: Step) -> Tensor:
        error = weights[step.numbers] * (found - truth[step.numbers]) ** 2
        return _masked_mean(error, step.truth.mask)

    return loss


def true_maps(patches: TruePatches) -> Tensor:
    """Return FA, MD (um^2/ms), and v v^T of the main axis, (P, 8, E, E, E)."""
    truth = estimate_of(patches.tensor, patches.mask)
    v = np.moveaxis(truth.v1, -1, 1)
    pairs = [v[:, i] * v[:, j] for i in range(3) for j in range(i, 3)]
    return torch.from_numpy(np.stack([truth.fa, truth.md, *pairs], axis=1)).float()


def read_maps(found: Tensor) -> Estimate:
    """Return what a network gave as FA, MD and v v^T."""
    maps = found.double().numpy()
    _, first = decompose_tensors(np.moveaxis(maps[:, 2:], 1, -1))
    return Estimate(maps[:, 0], maps[:, 1], first)


def run_six(seed: int, setting: Setting, folder: Path) -> Outcome:
    """FA, MD and main axis from six directions: an MLP against least squares, SNR 5 to 50."""
    patches, tests, truth = _data(seed, setting)
    gtab, where = six_directions(), tests.mask.numpy()
    recipe = Recipe(patches, gtab, TRAINING_SNR, setting.n_steps, seed)
    loss, own_folder = maps_loss(patches), folder / f"six_seed-{seed}"
    network = train(_network(7, 8, seed), loss, recipe, own_folder)
    other = six_directions(OTHER_BVAL)
    shown = {f"SNR {snr:g}": (_test_images(tests, gtab, snr, seed), gtab) for snr in SNR_SIX}
    shown[f"b {OTHER_BVAL:g}"] = (_test_images(tests, other, 20.0, seed), other)
    scores: Scores = {"least squares": {}, "MLP": {}}
    learned = {name: read_maps(network(images)) for name, (images, _) in shown.items()}
    for name, (images, table) in shown.items():
        fitted = least_squares(images, tests.mask, table)
        scores["least squares"][name] = errors_of(fitted, truth, where)
        scores["MLP"][name] = errors_of(learned[name], truth, where)
    shares = impossible_shares(learned[f"SNR {SNR_SIX[0]:g}"], tests.mask)
    shifted, usual = shown[f"b {OTHER_BVAL:g}"][0], shown["SNR 20"][0]
    percentiles = ood_percentiles(network, patches, gtab, seed)
    caught = "out-of-distribution percentile of a patch above 95"
    signatures = (
        Signature("FA outside 0 to 1, SNR 5", "MLP", shares["fa"], "`fa_out_of_range_fraction`"),
        Signature(
            f"other b-value ({OTHER_BVAL:g}): error of MD over the usual one",
            "MLP",
            scores["MLP"][f"b {OTHER_BVAL:g}"]["md"] / scores["MLP"]["SNR 20"]["md"],
            "the shell's b-value, which the app compares with the training's",
        ),
        Signature("other b-value: share caught", "MLP", percentiles(shifted, tests.mask), caught),
        Signature("usual b-value: share caught", "MLP", percentiles(usual, tests.mask), caught),
    )
    return Outcome(scores, signatures)


def ood_percentiles(
    network: VoxelNetwork, patches: TruePatches, gtab: GradientTable, seed: int
) -> Callable[[Tensor, Tensor], float]:
    """Return a function of images and masks: the share of patches beyond the 95th percentile."""
    half = len(patches) // 2
    images = _test_images(patches, gtab, 20.0, seed + 1)
    codes = network.codes(images, patches.mask).numpy()
    reference = fit_reference(codes[:half], codes[half:])

    def share(shown: Tensor, mask: Tensor) -> float:
        scores = score_features(network.codes(shown, mask).numpy(), reference)
        return float((percentile_of(scores, reference) > 95).mean())

    return share


def tensor_loss(found: Tensor, step: Step) -> Tensor:
    """Squared errors of the six elements of the tensor, um^2/ms."""
    return _masked_mean((found[:, :6] - step.truth.tensor) ** 2, step.truth.mask)


def run_context(seed: int, setting: Setting, folder: Path) -> Outcome:
    """Tensors from six directions: voxel by voxel, in patches, and by smoothing, Rician noise."""
    patches, tests, truth = _data(seed, setting)
    gtab, where = six_directions(), tests.mask.numpy()
    recipe = Recipe(patches, gtab, TRAINING_SNR, setting.n_steps, seed)
    networks = {
        name: train(
            _network(7, 6, seed, kernel), tensor_loss, recipe, folder / f"{name}_seed-{seed}"
        )
        for name, kernel in (("MLP", 1), ("CNN", 3))
    }
    tuning = patches.select(torch.arange(setting.n_tests))
    tuning_truth = estimate_of(tuning.tensor, tuning.mask)
    edges = edges_of(truth, where)
    scores: Scores = {}
    signatures: list[Signature] = []
    for snr in SNR_CONTEXT:
        images = _test_images(tests, gtab, snr, seed)
        shown = _test_images(tuning, gtab, snr, seed + 1)
        width = tune_smoothing(shown, tuning, gtab, tuning_truth)
        found = {
            "least squares": least_squares(images, tests.mask, gtab),
            "smoothing, then least squares": least_squares(
                images, tests.mask, gtab, width_voxels=width
            ),
            **{name: estimate_of(net(images), tests.mask) for name, net in networks.items()},
        }
        for name, estimate in found.items():
            scores.setdefault(name, {})[f"SNR {snr:g}"] = errors_of(estimate, truth, where)
            at_edges = errors_of(estimate, truth, edges)
            scores[name][f"SNR {snr:g}, edges"] = at_edges
            if snr == SNR_CONTEXT[1]:
                sign = "bias of FA at edges, SNR 10"
                signatures.append(Signature(sign, name, at_edges["fa_bias"], "truth alone"))
    return Outcome(scores, tuple(signatures))


def signal_loss(gtab: GradientTable) -> Callable[[Tensor, Step], Tensor]:
    """Return the squared error of the images that the estimate predicts: no truth is needed.

    The seventh output is the logarithm of S0.
    """

    def loss(found: Tensor, step: Step) -> Tensor:
        return _masked_mean((_predicted(found, gtab) - step.images) ** 2, step.truth.mask)

    return loss


def rician_loss(gtab: GradientTable) -> Callable[[Tensor, Step], Tensor]:
    """Return the negative Rician log-likelihood of the images, whose noise is known."""

    def loss(found: Tensor, step: Step) -> Tensor:
        s, m = _predicted(found, gtab), step.images
        variance = (step.sigma**2)[:, None, None, None, None]
        product = m * s / variance
        # log I0(x) = log i0e(x) + x, which stays finite.
        nll = (m - s) ** 2 / (2 * variance) - torch.special.i0e(product).log()
        return _masked_mean(nll, step.truth.mask)

    return loss


def _predicted(found: Tensor, gtab: GradientTable) -> Tensor:
    """Return the images (P, N, ...) of tensors and log S0 (P, 7, ...)."""
    s0 = functional.softplus(found[:, 6:7] + _SOFTPLUS_OF_ONE)  # 1 where the output is 0
    return s0 * signal_of(found[:, :6].clamp(-5.0, 5.0), gtab)


def run_losses(seed: int, setting: Setting, folder: Path) -> Outcome:
    """Tensors at low SNR: losses of parameters, of the signal, and Rician likelihood."""
    patches, tests, truth = _data(seed, setting)
    where = tests.mask.numpy()
    axes = spread_directions(np.random.default_rng(0), N_DIRECTIONS)
    gtab = GradientTable(np.array([0.0, *[1000.0] * N_DIRECTIONS]), np.vstack([np.zeros(3), axes]))
    recipe = Recipe(patches, gtab, TRAINING_LOW, setting.n_steps, seed)
    losses = {
        "parameter loss": tensor_loss,
        "signal loss": signal_loss(gtab),
        "Rician likelihood": rician_loss(gtab),
    }
    networks = {
        name: train(
            _network(1 + N_DIRECTIONS, 7, seed),
            loss,
            recipe,
            folder / f"{name.replace(' ', '-')}_seed-{seed}",
        )
        for name, loss in losses.items()
    }
    is_fibre = where & (truth.fa > 0.3)
    scores: Scores = {}
    signatures: list[Signature] = []
    for snr in SNR_LOW:
        shown = [_test_images(tests, gtab, snr, 100 * seed + k) for k in range(N_REPEATS)]
        for name in ("least squares", *networks):
            found = [
                estimate_of(networks[name](images)[:, :6], tests.mask)
                if name in networks
                else least_squares(images, tests.mask, gtab)
                for images in shown
            ]
            variance = spherical_variance(np.stack([f.v1[is_fibre] for f in found])).mean()
            row = errors_of(found[0], truth, where) | {"spherical_variance": float(variance)}
            scores.setdefault(name, {})[f"SNR {snr:g}"] = row
            if snr == SNR_LOW[0]:
                share = impossible_shares(found[0], tests.mask)["negative"]
                check = "`negative_diffusivity_fraction`"
                signatures.append(Signature("negative diffusivity, SNR 5", name, share, check))
    return Outcome(scores, tuple(signatures))


#: The experiments by their number, with the question that each answers.
EXPERIMENTS: Mapping[int, tuple[str, Callable[[int, Setting, Path], Outcome]]] = {
    1: ("What does an MLP learn from six directions?", run_six),
    2: ("Does context help against Rician noise?", run_context),
    3: ("Which loss suits low SNR?", run_losses),
}
