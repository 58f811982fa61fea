"""The three experiments on tensors of simulated patches, each of one seed.

They are those that a review of machine learning in diffusion MRI (Karimi and Warfield 2024,
https://doi.org/10.48550/arXiv.2402.00019) gives rise to: what does an MLP learn from six
directions; does context help against Rician noise; which loss suits low SNR? Brains, b=0 signals,
noise and networks differ between seeds. The tensor model is exact and noise is Rician. Networks
read images over the measured b=0, so that S0 is as unknown to them as to least squares.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmri_fm.gradients import GradientTable
from dmri_fm.out_of_distribution import fit_reference, percentile_of, score_features
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm_lab.evaluate.tensor_errors import AXIS_FA
from dmri_fm_lab.review.estimates import (
    Estimate,
    edges_of,
    errors_of,
    estimate_of,
    impossible_shares,
    least_squares,
    read_maps,
    spherical_variance,
    tune_smoothing,
    with_true_s0,
)
from dmri_fm_lab.review.losses import maps_loss, rician_loss, signal_loss, tensor_loss
from dmri_fm_lab.review.networks import Recipe, VoxelNetwork, new_network, train
from dmri_fm_lab.review.outcomes import KNOWN_S0, Outcome, Scores, Setting, Signature
from dmri_fm_lab.review.patches import (
    Purpose,
    TruePatches,
    draw_patches,
    generator_of,
    measure,
    over_b0,
    seed_of,
)
from dmri_fm_lab.simulate import spread_directions

#: SNR of the tests of each experiment, and the range of the training's.
SNR_SIX, SNR_CONTEXT, SNR_LOW = (5.0, 10.0, 20.0, 30.0, 50.0), (5.0, 10.0, 20.0), (5.0, 8.0)
TRAINING_SNR, TRAINING_LOW = (5.0, 50.0), (4.0, 10.0)

#: SNR at which the bias at edges is reported.
SNR_EDGES = 10.0

#: Directions of the third experiment, and measurements of each voxel for the spherical variance.
N_DIRECTIONS, N_REPEATS = 12, 8

#: b-value of another scanner, s/mm^2, and its SNR: the domain shift.
OTHER_BVAL, SNR_OTHER = 2000.0, 20.0

#: Percentile of held-out patches above which a patch is out of the distribution.
OOD_PERCENTILE = 95.0


def six_directions(bval: float = 1000.0) -> GradientTable:
    """Return one b=0 and the six directions of Skare's set."""
    return GradientTable(np.array([0.0, *[bval] * 6]), np.vstack([np.zeros(3), SKARE_DIRECTIONS]))


def _data(seed: int, setting: Setting) -> tuple[TruePatches, TruePatches, Estimate]:
    """Return patches for training, others for testing, and the true maps of these."""
    edge = setting.edge
    drawn = draw_patches(seed_of(seed, Purpose.TRAINING_PATCHES), setting.n_patches, edge=edge)
    tests = draw_patches(seed_of(seed, Purpose.TEST_PATCHES), setting.n_tests, edge=edge)
    return drawn, tests, estimate_of(tests.tensor, tests.mask)


def _images(patches: TruePatches, gtab: GradientTable, snr: float, noise: _Noise) -> Tensor:
    seed, purpose, *numbers = noise
    generator = generator_of(seed, Purpose(purpose), snr, gtab.bvals.max(), *numbers)
    return measure(patches, gtab, torch.full((len(patches),), snr), generator)


#: Seed and purpose of noise, and numbers that tell repeats apart.
_Noise = tuple[int, ...]


def run_six(seed: int, setting: Setting, folder: Path) -> Outcome:
    """FA, MD and main axis from six directions: an MLP against least squares, SNR 5 to 50."""
    patches, tests, truth = _data(seed, setting)
    gtab, where = six_directions(), tests.mask.numpy()
    recipe = Recipe(patches, gtab, TRAINING_SNR, setting.n_steps, seed)
    network = train(new_network(6, 8, seed), maps_loss(patches), recipe, folder / f"seed-{seed}")
    other = six_directions(OTHER_BVAL)
    noise = (seed, Purpose.TEST)
    shown = {f"SNR {snr:g}": (_images(tests, gtab, snr, noise), gtab) for snr in SNR_SIX}
    usual, shifted = f"SNR {SNR_OTHER:g}", f"b {OTHER_BVAL:g}, SNR {SNR_OTHER:g}"
    shown[shifted] = (_images(tests, other, SNR_OTHER, noise), other)
    scores: Scores = {"least squares": {}, KNOWN_S0: {}, "MLP": {}}
    learned = {name: read_maps(network(over_b0(images))) for name, (images, _) in shown.items()}
    for name, (images, table) in shown.items():
        found = {
            "least squares": least_squares(images, tests.mask, table),
            KNOWN_S0: least_squares(with_true_s0(images, tests), tests.mask, table),
            "MLP": learned[name],
        }
        for method, estimate in found.items():
            scores[method][name] = errors_of(estimate, truth, where)
    alarms = ood_alarms(network, recipe, setting)
    lowest = f"SNR {SNR_SIX[0]:g}"
    shares = impossible_shares(learned[lowest], tests.mask)
    caught = f"out-of-distribution percentile of a patch above {OOD_PERCENTILE:g}"
    column, table_check = "`fa_out_of_range_fraction`", "the b-value of the shell"
    signatures = (
        Signature(f"FA outside 0 to 1, {lowest}", "MLP", shares["fa"], column),
        *(
            Signature(
                f"other b-value ({OTHER_BVAL:g}): MD error over the usual one",
                method,
                scores[method][shifted]["md"] / scores[method][usual]["md"],
                table_check,
            )
            for method in ("least squares", "MLP")
        ),
        *(
            Signature(f"{name}: share of alarms", "MLP", alarms(shown[name][0], tests), caught)
            for name in (shifted, usual, lowest)
        ),
    )
    return Outcome(scores, signatures)


def ood_alarms(
    network: VoxelNetwork, recipe: Recipe, setting: Setting
) -> Callable[[Tensor, TruePatches], float]:
    """Return a function of images and patches: the share of patches that are out of distribution.

    Features of training patches make the distribution; percentiles are those of as many fresh
    patches. Both are measured anew over the range of SNR of the training.
    """
    fresh = draw_patches(
        seed_of(recipe.seed, Purpose.FRESH_PATCHES), len(recipe.patches), edge=setting.edge
    )
    low, high = np.log(recipe.snr)

    def codes(patches: TruePatches, purpose: Purpose) -> Tensor:
        generator = generator_of(recipe.seed, purpose)
        snr = torch.exp(low + (high - low) * torch.rand(len(patches), generator=generator))
        images = measure(patches, recipe.gtab, snr.float(), generator)
        return network.codes(over_b0(images), patches.mask)

    reference = fit_reference(
        codes(recipe.patches, Purpose.REFERENCE).numpy(), codes(fresh, Purpose.HELD_OUT).numpy()
    )

    def share(images: Tensor, patches: TruePatches) -> float:
        scores = score_features(network.codes(over_b0(images), patches.mask).numpy(), reference)
        return float((percentile_of(scores, reference) > OOD_PERCENTILE).mean())

    return share


def run_context(seed: int, setting: Setting, folder: Path) -> Outcome:
    """Tensors from six directions: voxel by voxel, in patches, and by smoothing, Rician noise."""
    patches, tests, truth = _data(seed, setting)
    gtab, where = six_directions(), tests.mask.numpy()
    recipe = Recipe(patches, gtab, TRAINING_SNR, setting.n_steps, seed)
    networks = {
        name: train(
            new_network(6, 6, seed, kernel=kernel),
            tensor_loss(),
            recipe,
            folder / f"{name}_seed-{seed}",
        )
        for name, kernel in (("MLP", 1), ("CNN", 3))
    }
    tuning = patches.select(torch.arange(setting.n_tests))
    tuning_truth = estimate_of(tuning.tensor, tuning.mask)
    edges = edges_of(truth, where)
    scores: Scores = {}
    signatures: list[Signature] = []
    for snr in SNR_CONTEXT:
        images = _images(tests, gtab, snr, (seed, Purpose.TEST))
        shown = _images(tuning, gtab, snr, (seed, Purpose.TUNING))
        width = tune_smoothing(shown, tuning, gtab, tuning_truth)
        found = {
            "least squares": least_squares(images, tests.mask, gtab),
            "smoothing, then least squares": least_squares(
                images, tests.mask, gtab, width_voxels=width
            ),
            **{
                name: estimate_of(network(over_b0(images)), tests.mask)
                for name, network in networks.items()
            },
        }
        for name, estimate in found.items():
            rows = scores.setdefault(name, {})
            rows[f"SNR {snr:g}"] = errors_of(estimate, truth, where)
            for side, voxels in edges.items():
                row = errors_of(estimate, truth, voxels)
                rows[f"SNR {snr:g}, edges, {side}"] = row
                if snr == SNR_EDGES:
                    sign, check = f"bias of FA at edges, {side}, SNR {snr:g}", "truth alone"
                    signatures.append(Signature(sign, name, row["fa_bias"], check))
    return Outcome(scores, tuple(signatures))


def run_losses(seed: int, setting: Setting, folder: Path) -> Outcome:
    """Tensors at low SNR: losses of parameters, of the signal, and Rician likelihood."""
    patches, tests, truth = _data(seed, setting)
    where = tests.mask.numpy()
    axes = spread_directions(np.random.default_rng(0), N_DIRECTIONS)
    gtab = GradientTable(np.array([0.0, *[1000.0] * N_DIRECTIONS]), np.vstack([np.zeros(3), axes]))
    recipe = Recipe(patches, gtab, TRAINING_LOW, setting.n_steps, seed)
    losses = {
        "parameter loss": tensor_loss(),
        "signal loss": signal_loss(gtab),
        "Rician likelihood": rician_loss(gtab),
    }
    networks = {
        name: train(
            new_network(N_DIRECTIONS, 7, seed),
            loss,
            recipe,
            folder / f"{name.replace(' ', '-')}_seed-{seed}",
        )
        for name, loss in losses.items()
    }
    has_axis = where & (truth.fa > AXIS_FA)
    scores: Scores = {}
    signatures: list[Signature] = []
    for snr in SNR_LOW:
        shown = [_images(tests, gtab, snr, (seed, Purpose.TEST, k)) for k in range(N_REPEATS)]
        for name in ("least squares", *networks):
            found = [
                estimate_of(networks[name](over_b0(images))[:, :6], tests.mask)
                if name in networks
                else least_squares(images, tests.mask, gtab)
                for images in shown
            ]
            variance = spherical_variance(np.stack([f.v1[has_axis] for f in found])).mean()
            row = errors_of(found[0], truth, where) | {"spherical_variance": float(variance)}
            scores.setdefault(name, {})[f"SNR {snr:g}"] = row
            if snr == SNR_LOW[0]:
                share = impossible_shares(found[0], tests.mask)["negative"]
                sign, check = "negative diffusivity, SNR 5", "`negative_diffusivity_fraction`"
                signatures.append(Signature(sign, name, share, check))
    return Outcome(scores, tuple(signatures))
