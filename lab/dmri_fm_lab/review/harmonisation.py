"""Harmonisation of two protocols of the same simulated heads: linear RISH scaling, and learned.

Signals over the measured b=0 are series of spherical harmonics. Their power by order (rotation
invariant spherical harmonics, RISH) differs between protocols, and each order is scaled until it
agrees: by one factor for all voxels, as in linear RISH scaling (Mirzaalian et al. 2018,
https://doi.org/10.1007/s11682-016-9670-y, who have a factor for each place of a template), or by
factors that a small network reads off the RISH features of the voxel. Both learn from heads that
were scanned with both protocols. Voxels are those of white matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmri_fm.gradients import GradientTable
from dmri_fm.shell_resampling import harmonics
from dmri_fm_lab.feature_cache import digest
from dmri_fm_lab.prediction.rish import MAX_ORDER, rish
from dmri_fm_lab.review.estimates import Estimate, errors_of, fit_voxels
from dmri_fm_lab.review.networks import new_network, train_on
from dmri_fm_lab.review.outcomes import REFERENCE_SCAN, Outcome, Scores, Setting, Signature
from dmri_fm_lab.review.patches import Purpose, generator_of
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.simulate.brains import Brains, Variation, draw_brains
from dmri_fm_lab.simulate.fields import uniform
from dmri_fm_lab.simulate.mixture import Tissues, draw_tissues, mixture

_Array = NDArray[np.float64]

#: Grid of the heads in MNI space: shape, voxel size and first voxel, mm.
_SHAPE, _VOXEL_MM, _ORIGIN_MM = (30, 36, 30), 5.0, (-72.5, -107.5, -62.5)

#: Heads without lesions.
_HEALTHY = Variation(lesion_chance=0.0, tumour_chance=0.0)

#: Least share of white matter in a voxel that is compared.
_LEAST_WHITE = 0.5

#: Disease that no head of the training has: factor of the stick fraction in white matter.
DISEASE_FACTOR = 0.75

#: Voxels of a step.
_BATCH = 4096


class Protocol(NamedTuple):
    """Directions of one shell, its b-value, s/mm^2, and the SNR of white matter at b=0."""

    n_directions: int
    bval: float
    snr: float

    def table(self) -> GradientTable:
        """Return two b=0 volumes and the directions."""
        axes = spread_directions(np.random.default_rng(self.n_directions), self.n_directions)
        bvals = np.array([0.0, 0.0, *[self.bval] * self.n_directions])
        return GradientTable(bvals, np.vstack([np.zeros((2, 3)), axes]))


#: Protocol to harmonise to, the one that is harmonised, and a third that nothing was learned of.
REFERENCE = Protocol(30, 1000.0, 30.0)
SOURCE = Protocol(20, 1300.0, 15.0)
THIRD = Protocol(20, 2000.0, 15.0)


class Heads(NamedTuple):
    """Simulated heads, and the same with disease where `tissues` are :meth:`diseased`."""

    brains: Brains
    tissues: Tissues

    def diseased(self) -> Heads:
        """Return the same heads with fewer sticks in white matter."""
        white = self.tissues.white.clone()
        white[..., 0] *= DISEASE_FACTOR
        return Heads(self.brains, replace(self.tissues, white=white))

    def white_matter(self) -> NDArray[np.bool_]:
        """Return the voxels (B, X, Y, Z) of white matter."""
        return (self.brains.fractions[:, 0] > _LEAST_WHITE).numpy()

    def scan(self, protocol: Protocol, generator: torch.Generator | None = None) -> _Array:
        """Return signals (V, N) of white matter over the measured b=0; exact without generator."""
        gtab = protocol.table()
        n = len(self.brains.mask)
        bvals, bvecs = (
            torch.tensor(a, dtype=torch.float32).expand(n, *a.shape)
            for a in (gtab.bvals / 1000, gtab.bvecs_ras)
        )
        images = mixture(self.brains, self.tissues, bvals, bvecs)
        if generator is not None:
            sigma = (self.tissues.intensity[:, 0] / protocol.snr)[:, None, None, None, None]
            noise = torch.randn(2, *images.shape, generator=generator) * sigma
            images = torch.hypot(images + noise[0], noise[1])
        signals = images.movedim(1, -1).double().numpy()[self.white_matter()]
        return np.asarray(signals / signals[:, gtab.is_b0].mean(axis=1, keepdims=True))


def draw_heads(generator: torch.Generator, n: int) -> Heads:
    """Draw heads of one grid in MNI space."""
    affine = torch.diag(torch.tensor([_VOXEL_MM] * 3 + [1.0]))
    affine[:3, 3] = torch.tensor(_ORIGIN_MM)
    weight = uniform(generator, 0.0, 1.0, n)
    grids = affine.repeat(n, 1, 1)
    brains = draw_brains(generator, _SHAPE, grids, atlas_weight=weight, variation=_HEALTHY)
    return Heads(brains, draw_tissues(generator, n))


def series_of(signals: _Array, protocol: Protocol) -> _Array:
    """Return the harmonics (V, 15), orders 0 to 4, of signals (V, N) over b=0."""
    gtab = protocol.table()
    basis, _ = harmonics(gtab.bvecs_ras[~gtab.is_b0], MAX_ORDER)
    # Without a penalty on roughness, which would lower the anisotropy of all series.
    return np.asarray(signals[:, ~gtab.is_b0] @ np.linalg.pinv(basis).T)


def amplitudes(series: _Array) -> _Array:
    """Return the roots of the RISH features (V, 3): orders 0, 2 and 4."""
    return np.sqrt(np.stack(list(rish(series).values()), axis=1))


#: Factors (V, 3) by order, of series (V, 15).
Mapping = Callable[[_Array], _Array]


def linear_mapping(source: _Array, target: _Array) -> Mapping:
    """Return linear RISH scaling by paired series (V, 15): one factor for each order."""
    factors = np.sqrt(
        (amplitudes(target) ** 2).mean(axis=0) / (amplitudes(source) ** 2).mean(axis=0)
    )
    return lambda series: np.tile(factors, (len(series), 1))


def learned_mapping(
    source: _Array, target: _Array, *, seed: int, n_steps: int, folder: Path
) -> Mapping:
    """Return a mapping of RISH features by paired series (V, 15): factors of each voxel.

    An MLP corrects the factors of :func:`linear_mapping` by the voxel's own features. It learns
    from what the target's protocol measured, as with real heads, by the squared errors of each
    order's amplitude over those of linear scaling: order 0 is large and has little noise.
    """
    own, wanted = amplitudes(source), amplitudes(target)
    linear = linear_mapping(source, target)(source[:1])
    logs = np.log(own)
    mean, deviation = logs.mean(axis=0), logs.std(axis=0)
    size = np.sqrt(((own * linear - wanted) ** 2).mean(axis=0))

    def as_input(amplitude: _Array) -> Tensor:
        scaled = (np.log(amplitude) - mean) / deviation
        return torch.from_numpy(scaled.T[None, ..., None, None].copy()).float()

    inputs = as_input(own)
    start = torch.from_numpy((own * linear / size).T[None, ..., None, None].copy()).float()
    goal = torch.from_numpy((wanted / size).T[None, ..., None, None].copy()).float()

    def draw(number: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = generator_of(seed, Purpose.TRAINING, number)
        chosen = torch.randint(inputs.shape[2], (_BATCH,), generator=generator)
        return inputs[:, :, chosen], start[:, :, chosen], goal[:, :, chosen]

    def error(network: nn.Module, sample: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        shown, unscaled, right = sample
        return torch.mean((network(shown).exp() * unscaled - right) ** 2)

    network = train_on(
        new_network(3, 3, seed),
        draw,
        error,
        n_steps=n_steps,
        seed=seed,
        folder=folder,
        identity={
            "loss": "RISH over linear scaling",
            "features": digest(own, wanted),
            "batch": _BATCH,
        },
    )

    def factors(series: _Array) -> _Array:
        found = network(as_input(amplitudes(series)))[0, :, :, 0, 0].T.exp().double().numpy()
        return np.asarray(linear * found)

    return factors


def harmonised(series: _Array, mapping: Mapping) -> Estimate:
    """Return the tensors of scaled series, as the reference protocol measures them."""
    gtab = REFERENCE.table()
    axes = gtab.bvecs_ras[~gtab.is_b0]
    basis, degree = harmonics(axes, MAX_ORDER)
    scaled = series * mapping(series)[:, (degree // 2).astype(int)]
    signals = np.concatenate([np.ones((len(series), 2)), scaled @ basis.T], axis=1)
    return fit_voxels(signals, gtab)


def run_harmonisation(seed: int, setting: Setting, folder: Path) -> Outcome:
    """FA and MD of white matter as of the reference protocol, from scans of another protocol."""
    known, tests = (
        draw_heads(generator_of(seed, purpose), setting.n_heads)
        for purpose in (Purpose.TRAINING_PATCHES, Purpose.TEST_PATCHES)
    )
    pair = [
        series_of(known.scan(p, generator_of(seed, Purpose.TUNING, p.bval)), p)
        for p in (SOURCE, REFERENCE)
    ]
    mappings = {
        "linear RISH scaling": linear_mapping(*pair),
        "learned RISH mapping": learned_mapping(
            *pair, seed=seed, n_steps=setting.n_steps, folder=folder / f"seed-{seed}"
        ),
    }
    shown = {
        "healthy": (tests, SOURCE),
        "disease": (tests.diseased(), SOURCE),
        f"b {THIRD.bval:g}": (tests, THIRD),
    }
    scores: Scores = {}
    means: dict[tuple[str, str], float] = {}
    for number, (condition, (heads, protocol)) in enumerate(shown.items()):

        def measured(which: Protocol, heads: Heads = heads, number: int = number) -> _Array:
            return heads.scan(which, generator_of(seed, Purpose.TEST, number, which.bval))

        truth = fit_voxels(heads.scan(REFERENCE), REFERENCE.table())
        scan = measured(protocol)
        series = series_of(scan, protocol)
        found = {
            REFERENCE_SCAN: fit_voxels(measured(REFERENCE), REFERENCE.table()),
            "no harmonisation": fit_voxels(scan, protocol.table()),
            **{name: harmonised(series, mapping) for name, mapping in mappings.items()},
        }
        everywhere = np.ones(len(truth.fa), dtype=bool)
        owner = np.nonzero(heads.white_matter())[0]
        means["truth", condition] = float(truth.fa.mean())
        for name, estimate in found.items():
            row = errors_of(estimate, truth, everywhere) | _head_errors(estimate, truth, owner)
            scores.setdefault(name, {})[condition] = row
            means[name, condition] = float(estimate.fa.mean())
    for name in scores:
        effect, true = (means[n, "disease"] - means[n, "healthy"] for n in (name, "truth"))
        scores[name]["disease"]["effect_kept"] = effect / true
    return Outcome(scores, _signatures(scores))


def _head_errors(found: Estimate, truth: Estimate, owner: NDArray[np.int_]) -> dict[str, float]:
    """Return mean absolute errors of the heads' mean FA and MD; `owner` (V,) numbers heads."""
    counts = np.bincount(owner)
    return {
        f"{name}_of_head": float(np.abs(np.bincount(owner, error) / counts).mean())
        for name, error in (("fa", found.fa - truth.fa), ("md", found.md - truth.md))
    }


def _signatures(scores: Scores) -> tuple[Signature, ...]:
    found = []
    third = f"b {THIRD.bval:g}"
    for name, rows in scores.items():
        if name == REFERENCE_SCAN:
            continue
        found += [
            Signature(
                "disease that training did not have: share of its effect on FA that is kept",
                name,
                rows["disease"]["effect_kept"],
                "truth alone",
            ),
            Signature(
                f"third protocol ({third}): bias of FA",
                name,
                rows[third]["fa_bias"],
                "the b-value of the shell",
            ),
        ]
    return tuple(found)
