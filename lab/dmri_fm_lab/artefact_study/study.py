"""The study: pretraining by artefact removal, by a plain autoencoder, and none, on three tasks.

As Weninger et al. 2022 (doi:10.1007/978-3-658-36932-3_32) ran it: 15, 5 and 8 scans for training,
validation and test, four runs with each start. Training sizes below 15 are this software's own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmri_fm.encoders.artefact_unet.network import ArtefactUnet, UnetConfig
from dmri_fm.errors import ConfigError
from dmri_fm.shell_resampling import fixed_directions
from dmri_fm.weights import Weights
from dmri_fm_lab.artefact_study.cubes import BVAL, Cube, simulate_cubes
from dmri_fm_lab.artefact_study.tasks import TASKS, score_cubes, start_network, train_task
from dmri_fm_lab.train.artefact_unet import OBJECTIVES, UnetBatch, removal_losses, validate_on
from dmri_fm_lab.train.artefacts import add_artefacts, find_strength
from dmri_fm_lab.train.config import Optimisation
from dmri_fm_lab.train.loop import Validation, run_training

#: How a network may start: pretrained by either objective, or from random weights.
STARTS = (*OBJECTIVES, "random")

#: The start that the others are tested against.
REFERENCE = "random"

#: Purposes in the seeds of artefacts: training, validation.
_TRAINING, _VALIDATION = 0, 1


@dataclass(frozen=True)
class StudySize:
    """Size of the study; the default takes about an hour of one processor core.

    Attributes
    ----------
    edge
        Voxels along the edge of a cube, a multiple of the network's stride.
    split
        Cubes for training, validation and test, as published.
    sizes
        Numbers of training cubes, the first of them.
    n_runs
        Trainings with each start.
    n_steps, n_pretraining
        Steps of a training, and of a pretraining.
    auxiliary
        Cubes for training and validation in pretraining, as published.
    strength
        Of the artefacts, see :data:`dmri_fm_lab.train.artefacts.STRENGTHS`.
    """

    edge: int = 24
    split: tuple[int, int, int] = (15, 5, 8)
    sizes: tuple[int, ...] = (3, 15)
    n_runs: int = 4
    n_steps: int = 100
    n_pretraining: int = 500
    auxiliary: tuple[int, int] = (45, 5)
    strength: str = "light"

    def check(self, encoder: UnetConfig) -> None:
        """Raise ConfigError for sizes that cannot be."""
        if self.edge % encoder.stride or self.edge < 2 * encoder.stride:
            raise ConfigError(
                f"cubes of {self.edge} voxels",
                expected=f"a multiple of {encoder.stride} from {2 * encoder.stride}",
            )
        if not self.sizes or not 0 < min(self.sizes) <= max(self.sizes) <= self.split[0]:
            raise ConfigError(
                f"{list(self.sizes)} training scans", expected=f"numbers from 1 to {self.split[0]}"
            )
        if min(self.n_runs, self.n_steps, self.n_pretraining, *self.split) < 1:
            raise ConfigError("a study of no runs, steps or scans", expected="one or more of each")
        find_strength(self.strength)


def pretrain_on_cubes(
    objective: str, encoder: UnetConfig, size: StudySize, *, seed: int, folder: Path
) -> dict[str, Tensor]:
    """Pretrain a network on simulated cubes of other brains; return its weights."""
    n_training, n_validation = size.auxiliary
    cubes = simulate_cubes(
        seed, n_training + n_validation, encoder, edge=size.edge, for_pretraining=True
    )
    make = partial(_pretraining_batch, objective, encoder, size)
    held_out = [
        make(np.random.default_rng([seed, _VALIDATION, k]), cube)
        for k, cube in enumerate(cubes[n_training:])
    ]

    def draw(number: int) -> UnetBatch:
        rng = np.random.default_rng([seed, _TRAINING, number])
        return make(rng, cubes[int(rng.integers(n_training))])

    torch.manual_seed(seed)
    run = run_training(
        ArtefactUnet(encoder),
        draw,
        removal_losses,
        settings=Optimisation(
            n_steps=size.n_pretraining,
            warmup_steps=0,
            learning_rate=1e-3,
            final_learning_rate=1e-3,
            weight_decay=0.0,
            final_weight_decay=0.0,
            average_decay=0.98,
            seed=seed,
        ),
        folder=folder,
        data={
            "objective": objective,
            "edge": size.edge,
            "strength": size.strength,
            "auxiliary": list(size.auxiliary),
        },
        validation=Validation(max(1, size.n_pretraining // 10), validate_on(lambda: held_out)),
    )
    return dict(run.model.state_dict())


def _pretraining_batch(
    objective: str, encoder: UnetConfig, size: StudySize, rng: np.random.Generator, cube: Cube
) -> UnetBatch:
    clean = cube.signal.float()
    signal = clean
    if objective == "artefacts":
        signal = add_artefacts(
            rng,
            clean,
            fixed_directions(encoder.n_directions),
            bval=BVAL,
            voxel_size_mm=encoder.voxel_size_mm,
            strength=find_strength(size.strength),
        )
    return UnetBatch(signal[None], clean[None], cube.brain[None])


def split_cubes(
    cubes: Sequence[Cube], split: tuple[int, int, int], *, seed: int
) -> tuple[list[Cube], list[Cube], list[Cube]]:
    """Divide cubes at random for training, validation and test.

    Where there are fewer than the published 28 the parts shrink alike; scans of one participant
    stay together.

    Raises
    ------
    ConfigError
        If a part would be empty.
    """
    groups = [_participant(cube, number) for number, cube in enumerate(cubes)]
    names = sorted(set(groups))
    order = [names[k] for k in np.random.default_rng([seed, 28]).permutation(len(names))]
    share = min(1.0, len(names) / sum(split))
    n_test, n_validation = (max(1, int(n * share)) for n in (split[2], split[1]))
    n_training = min(split[0], len(names) - n_test - n_validation)
    if n_training < 1:
        raise ConfigError(
            f"{len(names)} participants", expected="three or more, for training, validation, test"
        )
    edges = np.cumsum([0, n_training, n_validation, n_test])
    parts = [set(order[a:b]) for a, b in pairwise(edges)]
    training, validation, test = (
        [cube for cube, of in zip(cubes, groups, strict=True) if of in part] for part in parts
    )
    return training, validation, test


def _participant(cube: Cube, number: int) -> str:
    """Return whose a cube is; each simulated one is of somebody else."""
    return f"{number:05d}" if cube.name == "simulated" else cube.name.split("_")[0]


def run_study(
    folder: Path,
    encoder: UnetConfig,
    *,
    size: StudySize = StudySize(),
    seed: int = 0,
    pretrained: Mapping[str, Weights] | None = None,
    cubes: Sequence[Cube] | None = None,
    tasks: Sequence[str] = tuple(TASKS),
) -> dict[str, Any]:
    """Run the study.

    Parameters
    ----------
    folder
        Keeps what is trained; a study that was interrupted goes on.
    encoder
        Architecture.
    size, seed
        Of the study.
    pretrained
        Weights by objective, in place of a pretraining on simulated cubes; see
        :func:`.pretrained.read_pretrained`.
    cubes
        Real ones; simulated ones if None.
    tasks
        Keys of :data:`.tasks.TASKS`.

    Returns
    -------
    dict
        `scores` by task, number of training scans and start: for each run the scores of the test
        scans; `overfitting` likewise: for each run the last validation error over the lowest;
        `split` and `cpu_minutes`. Of what ran: `labels` (of simulated brains: "truth"; of real
        scans: "fits"), `seed`, `size`, and `pretrained`: by objective the sha256 of its weights,
        or "cubes".

    Raises
    ------
    ConfigError
        If the size or a task is none that can be.
    """
    size.check(encoder)
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise ConfigError(f"tasks {unknown}", expected=", ".join(TASKS))
    started = time.process_time()
    starts: dict[str, Mapping[str, Tensor] | None] = {REFERENCE: None}
    origins: dict[str, str] = {}
    for objective in OBJECTIVES:
        if known := (pretrained or {}).get(objective):
            starts[objective], origins[objective] = known.model.state_dict(), known.sha256
            continue
        own = folder / f"pretraining_{objective}"
        starts[objective] = pretrain_on_cubes(objective, encoder, size, seed=seed, folder=own)
        origins[objective] = "cubes"
    labels = "truth" if cubes is None else "fits"
    if cubes is None:
        cubes = simulate_cubes(seed, sum(size.split), encoder, edge=size.edge)
    plan = _Plan(folder, encoder, size, seed, *split_cubes(cubes, size.split, seed=seed))
    scores: dict[str, Any] = {}
    overfitting: dict[str, Any] = {}
    for task in tasks:
        for n in sorted({min(n, len(plan.training)) for n in size.sizes}):
            for start in STARTS:
                runs = [
                    _run_once(plan, task, n, start, starts[start], k) for k in range(size.n_runs)
                ]
                place = (task, str(n), start)
                _put(scores, place, [run.scores for run in runs])
                _put(overfitting, place, [run.overfitting for run in runs])
    return {
        "scores": scores,
        "overfitting": overfitting,
        "split": [len(plan.training), len(plan.validation), len(plan.test)],
        "labels": labels,
        "seed": seed,
        "size": asdict(size),
        "pretrained": origins,
        "cpu_minutes": (time.process_time() - started) / 60,
    }


class _Plan(NamedTuple):
    """What all runs of a study share."""

    folder: Path
    encoder: UnetConfig
    size: StudySize
    seed: int
    training: list[Cube]
    validation: list[Cube]
    test: list[Cube]


class _Outcome(NamedTuple):
    """Scores of the test cubes, and the last validation error over the lowest; 1: no rise."""

    scores: list[float]
    overfitting: float


def _run_once(
    plan: _Plan,
    task: str,
    n: int,
    start: str,
    pretrained: Mapping[str, Tensor] | None,
    number: int,
) -> _Outcome:
    """Train once on the first n cubes, and test."""
    of = TASKS[task]
    seed = int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0])
    network = start_network(plan.encoder, of.n_outputs, pretrained=pretrained, seed=seed)
    folder = plan.folder / f"{task}_scans-{n}_start-{start}_run-{number}"
    run = train_task(
        network,
        of,
        plan.training[:n],
        plan.validation,
        n_steps=plan.size.n_steps,
        seed=seed,
        folder=folder,
    )
    return _Outcome(score_cubes(run, of, plan.test), _overfitting(folder))


def _put(record: dict[str, Any], place: tuple[str, str, str], value: Any) -> None:
    task, n, start = place
    record.setdefault(task, {}).setdefault(n, {})[start] = value


def _overfitting(folder: Path) -> float:
    """Return the last validation error of a run over its lowest."""
    lines = (folder / "validation.csv").read_text(encoding="utf-8").splitlines()[1:]
    errors = [float(line.split(",")[1]) for line in lines]
    return errors[-1] / min(errors)
