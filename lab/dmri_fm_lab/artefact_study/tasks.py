"""The three tasks: what a network gives, how it is trained, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.encoders.artefact_unet.network import ArtefactUnet, UnetConfig
from dmri_fm_lab.artefact_study.cubes import Cube
from dmri_fm_lab.artefact_study.labels import MOST_PEAKS, TISSUES
from dmri_fm_lab.train.config import Optimisation
from dmri_fm_lab.train.loop import Run, Validation, run_training

#: Validations of a training.
N_VALIDATIONS = 6


class TaskBatch(NamedTuple):
    """A cube: signal (1, N, X, Y, Z), and labels (1, X, Y, Z); direction (1, 6, X, Y, Z)."""

    signal: Tensor
    tissue: Tensor
    n_peaks: Tensor
    direction: Tensor

    @property
    def white(self) -> Tensor:
        """White matter, (1, X, Y, Z)."""
        return self.tissue == TISSUES.index("white matter")


class Task(NamedTuple):
    """A task: its title, outputs of the network, loss, and score of a test cube."""

    title: str
    n_outputs: int
    loss: Callable[[Tensor, TaskBatch], Tensor]
    score: Callable[[Tensor, TaskBatch], float]
    score_title: str
    higher_is_better: bool


def as_batch(cube: Cube) -> TaskBatch:
    """Return a cube as a batch of one."""
    assert cube.labels is not None
    of = cube.labels
    return TaskBatch(
        cube.signal.float()[None],
        *(torch.from_numpy(a)[None] for a in (of.tissue, of.n_peaks, of.direction)),
    )


def tissue_loss(found: Tensor, batch: TaskBatch) -> Tensor:
    """Cross-entropy of the classes of all voxels."""
    return functional.cross_entropy(found, batch.tissue)


def tissue_score(found: Tensor, batch: TaskBatch) -> float:
    """F1 score, mean over the classes that the cube has."""
    from sklearn.metrics import f1_score

    true = batch.tissue.flatten().numpy()
    guess = found.argmax(dim=1).flatten().numpy()
    return float(f1_score(true, guess, labels=np.unique(true), average="macro"))


def peaks_loss(found: Tensor, batch: TaskBatch) -> Tensor:
    """Cross-entropy of the number of peaks in white matter."""
    where = batch.white
    return functional.cross_entropy(found.movedim(1, -1)[where], batch.n_peaks[where])


def peaks_score(found: Tensor, batch: TaskBatch) -> float:
    """Share of white matter whose number of peaks is right."""
    where = batch.white
    return float((found.argmax(dim=1) == batch.n_peaks)[where].float().mean())


def direction_loss(found: Tensor, batch: TaskBatch) -> Tensor:
    """Mean squared error of v v^T in white matter with a peak."""
    where = batch.white & (batch.n_peaks > 0)
    return ((found - batch.direction) ** 2).movedim(1, -1)[where].mean()


def direction_score(found: Tensor, batch: TaskBatch) -> float:
    """Mean squared error of v v^T in white matter with a peak."""
    return float(direction_loss(found, batch))


#: The tasks by name.
TASKS: Mapping[str, Task] = {
    "tissue": Task("tissue", len(TISSUES), tissue_loss, tissue_score, "F1", True),
    "peaks": Task("number of peaks", MOST_PEAKS + 1, peaks_loss, peaks_score, "accuracy", True),
    "direction": Task(
        "main direction", 6, direction_loss, direction_score, "squared error of v v^T", False
    ),
}


def start_network(
    encoder: UnetConfig, n_outputs: int, *, pretrained: Mapping[str, Tensor] | None, seed: int
) -> ArtefactUnet:
    """Return a network with a new output layer, and all others pretrained, or new as well."""
    torch.manual_seed(seed)
    network = ArtefactUnet(encoder, n_outputs=n_outputs)
    if pretrained is not None:
        kept = {k: v for k, v in pretrained.items() if not k.startswith("out.")}
        missing, unexpected = network.load_state_dict(kept, strict=False)
        assert not unexpected
        assert {name.split(".")[0] for name in missing} == {"out"}
    return network


def train_task(
    network: ArtefactUnet,
    task: Task,
    cubes: Sequence[Cube],
    validation: Sequence[Cube],
    *,
    n_steps: int,
    seed: int,
    folder: Path,
) -> Run:
    """Train all layers by Adam at 1e-3; keep the weights of the lowest validation loss.

    A step sees one cube. A folder with a finished run is read back.

    Raises
    ------
    ConfigError
        If the folder holds a run of other cubes, initial weights or steps.
    """
    training = [as_batch(cube) for cube in cubes]
    held_out = [as_batch(cube) for cube in validation]

    def draw(number: int) -> TaskBatch:
        # Every cube once, in an order of its own, before any comes again.
        turn, place = divmod(number, len(training))
        order = np.random.default_rng([seed, turn]).permutation(len(training))
        return training[int(order[place])]

    def error(found: nn.Module) -> float:
        with torch.inference_mode():
            losses = [task.loss(found(batch.signal), batch) for batch in held_out]
        return float(torch.stack(losses).mean())

    settings = Optimisation(
        n_steps=n_steps,
        warmup_steps=0,
        learning_rate=1e-3,
        final_learning_rate=1e-3,
        weight_decay=0.0,
        final_weight_decay=0.0,
        average_decay=0.9,
        checkpoint_minutes=60.0,
        seed=seed,
    )
    return run_training(
        network,
        draw,
        lambda wrapped, batch, _: {"loss": task.loss(wrapped(batch.signal), batch)},
        settings=settings,
        folder=folder,
        data={
            "cubes": _fingerprint(c.signal for c in (*cubes, *validation)),
            "start": _fingerprint(network.state_dict().values()),
        },
        validation=Validation(max(1, n_steps // N_VALIDATIONS), error),
    )


def _fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return the sha256 of tensors: a run goes on with the same ones alone."""
    digest = sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def score_cubes(run: Run, task: Task, cubes: Sequence[Cube]) -> list[float]:
    """Return the score of each test cube."""
    network = cast(ArtefactUnet, run.model)
    with torch.inference_mode():
        batches = [as_batch(cube) for cube in cubes]
        return [task.score(network(batch.signal), batch) for batch in batches]
