"""Classifiers that tell real patches from simulated ones, tested on a held-out scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from torch import Tensor, nn

from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import LARGEST_SIX_CONDITION, choose_six
from dmri_fm.series import Dwi
from dmri_fm.tensor_networks.inputs import tensor_inputs


@dataclass(frozen=True)
class Effort:
    """Patches per scanner and side, sets of seven volumes; networks per question, their steps."""

    patches: int
    sets: int
    networks: int
    steps: int
    batch: int = 32


def choose_sevens(rng: np.random.Generator, gtab: GradientTable, n: int) -> list[NDArray[np.int_]]:
    """Choose sets of one b=0 and six directions that determine a tensor, at random."""
    b0, weighted = np.flatnonzero(gtab.is_b0), np.flatnonzero(~gtab.is_b0)
    sets: list[NDArray[np.int_]] = []
    while len(sets) < n:
        some = rng.choice(weighted, min(20, len(weighted) - 2), replace=False)
        six = choose_six(gtab.select(some))
        if six.condition_number < LARGEST_SIX_CONDITION:
            sets.append(np.array([rng.choice(b0), *some[list(six.index)]]))
    return sets


def network_inputs(
    rng: np.random.Generator, patches: Sequence[Dwi], sets: Sequence[NDArray[np.int_]]
) -> Tensor:
    """Return seven volumes of patches as the tensor network reads them: (B, 7, X, Y, Z)."""
    inputs = []
    for patch in patches:
        seven = patch.select(sets[int(rng.integers(len(sets)))])
        assert seven.mask is not None
        read = tensor_inputs(seven.data, seven.gtab, seven.mask, seven.affine)
        inputs.append(torch.cat([read.s0, read.ratios.clamp(0, 1.5)], dim=1))
    return torch.cat(inputs)


def build_network() -> nn.Module:
    """Return a network of 34 thousand weights that scores patches (B, 7, X, Y, Z)."""
    layers: list[nn.Module] = []
    for before, after in ((7, 16), (16, 24), (24, 32)):
        layers += [
            nn.Conv3d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm3d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 1)
    )


def train_network(real: Tensor, simulated: Tensor, effort: Effort, seed: int) -> nn.Module:
    """Train a network to score real patches above simulated ones; random flips."""
    torch.manual_seed(seed)
    network = build_network()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    half = effort.batch // 2
    labels = torch.cat([torch.ones(half), torch.zeros(half)])
    for _ in range(effort.steps):
        batch = torch.cat([side[torch.randint(len(side), (half,))] for side in (real, simulated)])
        batch = batch.flip([axis for axis in (2, 3, 4) if torch.rand(1) < 0.5])
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def build_regression() -> Pipeline:
    """Return logistic regression on the measurements and their products."""
    return make_pipeline(
        SimpleImputer(),
        StandardScaler(),
        PolynomialFeatures(2, include_bias=False),
        LogisticRegression(C=0.1, max_iter=5000),
    )


class Verdict(NamedTuple):
    """How well real and simulated patches are told apart; 0.5 is chance for both."""

    balanced_accuracy: float
    auroc: float


def judge(scores: NDArray[np.floating], is_real: NDArray[np.bool_]) -> Verdict:
    """Compare scores, positive for real, with what the patches are."""
    return Verdict(
        float(balanced_accuracy_score(is_real, scores > 0)), float(roc_auc_score(is_real, scores))
    )


def judge_network(
    real: dict[str, Tensor], simulated: dict[str, Tensor], held_out: str, effort: Effort
) -> Verdict:
    """Train networks on all scanners but one, and test them there: the mean of their verdicts."""
    sides = [torch.cat([v for k, v in s.items() if k != held_out]) for s in (real, simulated)]
    tested = torch.cat([real[held_out], simulated[held_out]])
    is_real = np.arange(len(tested)) < len(real[held_out])
    verdicts = []
    for seed in range(effort.networks):
        network = train_network(sides[0], sides[1], effort, seed)
        with torch.inference_mode():
            verdicts.append(judge(network(tested)[:, 0].numpy(), is_real))
    return Verdict(*np.mean(verdicts, axis=0))


def judge_regression(
    real: dict[str, NDArray[np.float64]], simulated: dict[str, NDArray[np.float64]], held_out: str
) -> Verdict:
    """Train the regression on all scanners but one, and test it there."""
    sides = [np.concatenate([v for k, v in s.items() if k != held_out]) for s in (real, simulated)]
    regression = build_regression().fit(
        np.concatenate(sides), np.repeat([True, False], [len(s) for s in sides])
    )
    scores = regression.decision_function(np.concatenate([real[held_out], simulated[held_out]]))
    return judge(scores, np.arange(len(scores)) < len(real[held_out]))
