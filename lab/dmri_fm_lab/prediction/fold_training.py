"""Training of one network on one fold, for fine-tuning and for image networks.

The result is the network of the epoch with the lowest loss in the validation set. A participant's
prediction is the mean of the network's outputs over views of the scan: slabs, draws of directions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.outcomes import Outcome
from dmri_fm_lab.prediction.splits import SETS, Fold
from dmri_fm_lab.train.config import Optimisation
from dmri_fm_lab.train.loop import CPU, Hardware, Validation, run_training
from dmri_fm_workflows.bids.names import plain_label

logger = logging.getLogger(__name__)

#: Purpose in the seeds of the order of participants, see :data:`dmri_fm_lab.train.loop.TRAINING`.
ORDER = 7


@dataclass(frozen=True)
class FoldSettings:
    """Optimiser and schedule of a fold: AdamW.

    Attributes
    ----------
    epochs, batch
        Passes through the training set, and participants a step.
    learning_rate, final_learning_rate
        At the first and the last step, half a cosine between them; constant where they are equal.
    weight_decay, final_weight_decay
        Likewise.
    is_weighted
        Whether both classes have the same weight in the loss, however many belong to each.
    n_draws
        Views of each scan that training cycles through, epoch by epoch; 0: new ones in each epoch.
    seed
        Of initial weights, order of participants and draws.
    """

    epochs: int = 50
    batch: int = 6
    learning_rate: float = 5e-4
    final_learning_rate: float = 1e-5
    weight_decay: float = 0.01
    final_weight_decay: float = 0.01
    is_weighted: bool = False
    n_draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.n_draws + 1) < 1 or self.learning_rate <= 0:
            raise ConfigError(
                f"{self.epochs} epochs, {self.batch} participants a step, {self.n_draws} draws, "
                f"learning rate {self.learning_rate}",
                expected="one or more epochs and participants, a rate above zero",
            )


class Samples(Protocol):
    """What a network sees of participants."""

    def draw(self, participant: str, number: int) -> Any:
        """Return a view of a participant's scan for training, varied at random by its number."""

    def views(self, participant: str) -> Sequence[Any]:
        """Return the views over which a prediction is averaged, the same at every call."""


class FoldResult(NamedTuple):
    """A network that was trained on a fold, and its predictions.

    Attributes
    ----------
    network
        With the chosen weights, evaluation mode.
    predictions
        For each set, by participant: in the unit of the target, or the probability of the
        positive class.
    scale
        Standard deviation of the target in the training set; 1 for classes.
    best_epoch
        Epoch of the lowest validation loss; the last one without a validation set.
    minutes
        Time spent in steps, validation included.
    is_done
        Whether all epochs are done; if not, the next call goes on.
    """

    network: nn.Module
    predictions: dict[str, dict[str, float]]
    scale: float
    best_epoch: int
    minutes: float
    is_done: bool


def train_fold(
    network: nn.Module,
    samples: Samples,
    fold: Fold,
    outcome: Outcome,
    *,
    settings: FoldSettings,
    folder: Path,
    hardware: Hardware = CPU,
    description: Mapping[str, Any],
    max_steps: int = 0,
) -> FoldResult:
    """Train a network on a fold, and predict in all of its sets.

    Parameters
    ----------
    network
        Maps a list of views to their outputs (B,): the standardised target, or the logit of the
        positive class. Its initial weights are the caller's.
    samples
        Views of the participants.
    fold
        Without participants who have no scan or no target.
    outcome
        Target of each participant.
    settings
        Optimiser and schedule.
    folder
        For log and checkpoint; a run in it is continued, with the same result as if it had not
        been interrupted.
    hardware
        One processor.
    description
        Of network and data, in plain types: a run does not go on with another.
    max_steps
        Steps after which to stop, to be continued; 0: none.

    Raises
    ------
    ConfigError
        If training has one class or a constant target, or the folder holds another run.
    """
    names = sorted(fold.train)
    mean, scale = outcome.scale_of(names, fold.name)
    weight = _positive_weight(outcome, names) if settings.is_weighted else None
    n_batches = -(-len(names) // settings.batch)

    def draw(step: int) -> list[tuple[Any, float]]:
        epoch, number = divmod(step, n_batches)
        rng = np.random.default_rng([settings.seed, ORDER, epoch])
        # Equal parts, so that no step has one participant alone where that can be helped.
        chosen = np.array_split(rng.permutation(len(names)), n_batches)[number]
        view = epoch % settings.n_draws if settings.n_draws else epoch
        return [
            (samples.draw(names[i], view), (outcome.values[names[i]] - mean) / scale)
            for i in chosen.tolist()
        ]

    def step_losses(
        module: nn.Module, batch: list[tuple[Any, float]], _: int
    ) -> dict[str, Tensor]:
        outputs = module([view for view, _ in batch])
        targets = outputs.new_tensor([target for _, target in batch])
        return {"loss": _loss(outputs, targets, outcome, weight)}

    def validation_loss(module: nn.Module) -> float:
        found = predict(module, samples, sorted(fold.val))
        outputs = torch.tensor(list(found.values()))
        targets = torch.tensor([(outcome.values[p] - mean) / scale for p in found])
        return float(_loss(outputs, targets.to(outputs), outcome, weight))

    run = run_training(
        network,
        draw,
        step_losses,
        settings=_optimisation(settings, settings.epochs * n_batches, max_steps),
        folder=folder,
        hardware=hardware,
        data={"fold": fold.name, "settings": asdict(settings), **description},
        validation=Validation(n_batches, validation_loss) if fold.val else None,
    )
    is_done = run.steps == settings.epochs * n_batches
    sets = {name: sorted(getattr(fold, name)) for name in SETS} if is_done else {}
    predictions = {
        name: {
            p: outcome.prediction(v * scale + mean)
            for p, v in predict(run.model, samples, members).items()
        }
        for name, members in sets.items()
    }
    best = run.steps if run.best_step is None else run.best_step
    return FoldResult(run.model, predictions, scale, best // n_batches, run.minutes, is_done)


class NetworkRun(NamedTuple):
    """Networks of one type over all folds.

    Attributes
    ----------
    folds
        For each fold: its name, numbers of participants, best epoch, minutes, and scores of the
        test set.
    predictions
        Rows of the test sets: fold, participant_id, observed, predicted.
    networks
        By fold.
    """

    folds: list[dict[str, Any]]
    predictions: list[dict[str, Any]]
    networks: dict[str, nn.Module]


def train_folds(
    make_network: Callable[[Fold], nn.Module],
    samples: Samples,
    folds: Sequence[Fold],
    outcome: Outcome,
    *,
    settings: FoldSettings,
    folder: Path,
    hardware: Hardware = CPU,
    description: Mapping[str, Any],
) -> NetworkRun:
    """Train a new network on each fold, and score it on the test set.

    `make_network` is called with the random state of the seed; other parameters and errors are
    those of :func:`train_fold`, with a folder in `folder` for each fold.
    """
    run = NetworkRun([], [], {})
    for fold in folds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = make_network(fold)
        result = train_fold(
            network,
            samples,
            fold,
            outcome,
            settings=settings,
            folder=folder / f"fold-{plain_label(fold.name)}",
            hardware=hardware,
            description=description,
        )
        tested = result.predictions["test"]
        scores = outcome.score(tested, scale=result.scale)
        logger.info("fold %s: %s", fold.name, scores)
        run.folds.append(
            {
                "fold": fold.name,
                **{f"n_{name}": len(getattr(fold, name)) for name in SETS},
                "best_epoch": result.best_epoch,
                "minutes": result.minutes,
                "scores": scores,
            }
        )
        run.predictions.extend(
            {
                "fold": fold.name,
                "participant_id": p,
                "observed": outcome.values[p],
                "predicted": predicted,
            }
            for p, predicted in tested.items()
        )
        run.networks[fold.name] = result.network
    return run


def predict(network: nn.Module, samples: Samples, participants: Sequence[str]) -> dict[str, float]:
    """Return the network's output for each participant, the mean over views; evaluation mode."""
    outputs = {}
    for participant in participants:
        with torch.no_grad():
            found = torch.cat([network([view]) for view in samples.views(participant)])
        outputs[participant] = float(found.double().mean())
    return outputs


def _loss(outputs: Tensor, targets: Tensor, outcome: Outcome, weight: float | None) -> Tensor:
    if outcome.task == "regression":
        return functional.mse_loss(outputs, targets)
    pos_weight = None if weight is None else outputs.new_tensor(weight)
    return functional.binary_cross_entropy_with_logits(outputs, targets, pos_weight=pos_weight)


def _positive_weight(outcome: Outcome, names: Sequence[str]) -> float:
    """Return the weight of the positive class at which both classes weigh the same."""
    if outcome.task == "regression":
        raise ConfigError("a weighted loss of a number", expected="a target of two classes")
    n_positive = sum(outcome.values[name] for name in names)
    return (len(names) - n_positive) / n_positive


def _optimisation(settings: FoldSettings, n_steps: int, max_steps: int) -> Optimisation:
    return Optimisation(
        n_steps=n_steps,
        warmup_steps=0,
        learning_rate=settings.learning_rate,
        final_learning_rate=settings.final_learning_rate,
        weight_decay=settings.weight_decay,
        final_weight_decay=settings.final_weight_decay,
        # No running average: validation chooses among the networks of single epochs.
        average_decay=0.0,
        max_steps=max_steps,
        seed=settings.seed,
        matmul_precision="highest",
    )
