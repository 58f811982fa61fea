"""The loop that every training run shares: optimiser, schedule, checkpoints, log.

A step's data depend on the seed and the step's number alone, so a run that was interrupted
goes on as if it had not been. They are drawn in a thread while the step before is computed.
A run may keep the weights of the lowest validation error, see :class:`Validation`.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from dmri_fm.errors import ConfigError
from dmri_fm_lab.train.config import Optimisation

if TYPE_CHECKING:
    from lightning.fabric import Fabric

logger = logging.getLogger(__name__)

Sample = TypeVar("Sample")

#: Names of checkpoint, log, and table of validation errors within a run's folder.
CHECKPOINT, LOG, VALIDATION_LOG = "last.ckpt", "log.csv", "validation.csv"

#: Seeds of simulated data are [seed, purpose, number]: nothing drawn serves two purposes.
TRAINING, REFERENCE, HELD_OUT, VALIDATION = 0, 1, 2, 3


@dataclass(frozen=True)
class Hardware:
    """Processors that a run uses.

    Attributes
    ----------
    accelerator
        As Lightning Fabric takes it: "cpu", "cuda", "auto".
    devices
        Number of processors or GPUs; with several, gradients are averaged over them (DDP), and
        the command that called this is started again for each.
    """

    accelerator: str = "cpu"
    devices: int = 1


@dataclass(frozen=True)
class Validation:
    """Selection of the weights by their error on held-out data.

    Attributes
    ----------
    every_steps
        Steps between two validations; the last step has one, too.
    error
        Called with the network (the running average of its weights, evaluation mode); returns
        the error. The same data each time: errors are compared.
    """

    every_steps: int
    error: Callable[[nn.Module], float]


@dataclass(frozen=True, eq=False)
class Run:
    """The result of a training run.

    Attributes
    ----------
    model
        The network with the running average of its weights, evaluation mode; with validation,
        the average of the lowest error so far.
    steps
        Optimiser steps done.
    minutes
        Time spent in them, interruptions not counted.
    last
        Means of the logged numbers over the last twentieth of the steps, without those that no
        such step has.
    is_main
        Whether this process is the first of those that train together.
    best_step, best_error
        Step and error of the validation that chose the weights; None without one.
    """

    model: nn.Module
    steps: int
    minutes: float
    last: dict[str, float]
    is_main: bool = True
    best_step: int | None = None
    best_error: float | None = None


CPU = Hardware()


def learning_rate_at(step: int, settings: Optimisation) -> float:
    """Return the learning rate of a step: linear rise, then half a cosine or a step down."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    span = max(1, settings.n_steps - settings.warmup_steps)
    x = min(1.0, (step - settings.warmup_steps) / span)
    low, high = settings.final_learning_rate, settings.learning_rate
    if settings.schedule == "halves":
        return high if x < 0.5 else low
    return low + (high - low) * 0.5 * (1.0 + math.cos(math.pi * x))


def weight_decay_at(step: int, settings: Optimisation) -> float:
    """Return the weight decay of a step: half a cosine from the first to the final value."""
    x = min(1.0, step / max(1, settings.n_steps))
    first, final = settings.weight_decay, settings.final_weight_decay
    return final + (first - final) * 0.5 * (1.0 + math.cos(math.pi * x))


# One function of more than 60 lines: the order of what a step does is what a reader looks for.
def run_training(
    model: nn.Module,
    draw: Callable[[int], Sample],
    step_losses: Callable[[nn.Module, Sample, int], dict[str, Tensor]],
    *,
    settings: Optimisation,
    folder: str | Path,
    hardware: Hardware = CPU,
    data: Mapping[str, Any] | None = None,
    validation: Validation | None = None,
) -> Run:
    """Train a network.

    Parameters
    ----------
    model
        The network, initialised.
    draw
        Called with a number, in a thread of its own; returns the data of a step. With several
        devices, each draws numbers of its own.
    step_losses
        Called with the network, the data and the step's number; returns scalars, `"loss"` among
        them, which is minimised. All of them are logged, as the first device sees them.
    settings
        Optimiser and schedule.
    folder
        For the log (CSV) and the checkpoint; made if need be; a run in it is continued.
    hardware
        Processors.
    data
        Description of the data and of the recipe, in plain types: a run does not go on with
        another.
    validation
        Selection of the weights. Every device computes the error; that of the first counts.

    Raises
    ------
    ConfigError
        If the folder's checkpoint belongs to a run with other settings.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fabric = _make_fabric(hardware, settings.precision)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.average_decay)
    )
    average.to(fabric.device)
    optimiser: Any = torch.optim.AdamW(_parameter_groups(model), betas=(0.9, settings.beta2))
    wrapped, optimiser = fabric.setup(model, optimiser)
    state: dict[str, Any] = {
        "model": wrapped,
        "average": average.state_dict(),
        "optimiser": optimiser,
        "settings": {**asdict(settings), **(data or {})},
        "step": 0,
        "seconds": 0.0,
    }
    if validation is not None:
        state |= {"errors": [], "best": {}}
    _resume(fabric, folder, state)
    average.load_state_dict(state["average"])
    saved = time.monotonic()
    started = saved - float(state["seconds"])
    recent: list[dict[str, float]] = []
    wrapped.train()
    torch.set_float32_matmul_precision(settings.matmul_precision)
    last = min(settings.n_steps, settings.max_steps or settings.n_steps)
    for sample in _draw_ahead(draw, fabric, state["step"], last):
        rate = _schedule(optimiser, state["step"], settings)
        losses = step_losses(wrapped, sample, state["step"])
        fabric.backward(losses["loss"])
        norm = fabric.clip_gradients(wrapped, optimiser, max_norm=settings.clip_norm)
        optimiser.step()
        optimiser.zero_grad()
        average.update_parameters(model)
        now = time.monotonic()
        step, minutes = state["step"] + 1, (now - started) / 60
        state |= {"step": step, "seconds": now - started}
        row = {k: float(v.detach()) for k, v in losses.items()}
        recent = [*recent[-(settings.n_steps // 20) :], row]
        if fabric.is_global_zero:
            length = float("nan") if norm is None else float(norm)
            timing = {"step": step, "minutes": minutes, "rate": rate, "norm": length}
            _log(folder / LOG, timing | row)
        if validation and (step % validation.every_steps == 0 or step == settings.n_steps):
            _validate(validation, average.module, state, fabric, folder / VALIDATION_LOG)
        is_late = 0 < settings.max_minutes <= minutes
        is_due = now - saved > settings.checkpoint_minutes * 60
        is_late, is_due = fabric.broadcast((is_late, is_due))
        if is_late or is_due or step == last:
            _save(fabric, folder, state | {"average": average.state_dict()})
            saved = now
            logger.info("step %d of %d, %.1f minutes", step, settings.n_steps, minutes)
        if is_late:
            break
    return _finish(model, average, state, _mean_rows(recent), fabric)


def _save(fabric: Fabric, folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint, by rename."""
    partial = (folder / CHECKPOINT).with_suffix(".part")
    fabric.save(partial, state)
    if fabric.is_global_zero:
        partial.replace(folder / CHECKPOINT)


def _finish(
    model: nn.Module, average: Any, state: dict[str, Any], losses: dict[str, float], fabric: Fabric
) -> Run:
    """Give the model the weights of lowest validation error, or the running average."""
    best = state.get("best") or {}
    kept = best.get("weights") or average.module.state_dict()
    model.load_state_dict({k: v.clone() for k, v in kept.items()})
    return Run(
        model.eval(),
        state["step"],
        state["seconds"] / 60,
        losses,
        fabric.is_global_zero,
        best_step=best.get("step"),
        best_error=best.get("error"),
    )


def _validate(
    validation: Validation,
    average: nn.Module,
    state: dict[str, Any],
    fabric: Fabric,
    log: Path,
) -> None:
    """Add a validation's error to the state, with the weights if none had a lower one."""
    step = state["step"]
    was_training = average.training
    error = float(fabric.broadcast(validation.error(average.eval())))
    average.train(was_training)
    state["errors"].append([step, error])
    if error < state["best"].get("error", math.inf):
        weights = {k: v.detach().cpu().clone() for k, v in average.state_dict().items()}
        state["best"] = {"step": step, "error": error, "weights": weights}
    if fabric.is_global_zero:
        with log.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("step", "error"), *state["errors"]])
    logger.info("step %d: validation error %.6g", step, error)


def _schedule(optimiser: Any, step: int, settings: Optimisation) -> float:
    """Set learning rate and weight decay of a step; return the rate."""
    rate, decay = learning_rate_at(step, settings), weight_decay_at(step, settings)
    for group in optimiser.param_groups:
        group["lr"] = rate
        group["weight_decay"] = decay if group["is_decayed"] else 0.0
    return rate


def _draw_ahead(
    draw: Callable[[int], Sample], fabric: Fabric, first: int, n_steps: int
) -> Iterator[Sample]:
    """Yield this device's samples, each drawn while the one before is worked on."""
    n, device = fabric.world_size, fabric.device
    numbers = range(first * n + fabric.global_rank, n_steps * n, n)

    def draw_here(number: int) -> Sample:
        # The current GPU is one of a thread's own settings.
        if device.type == "cuda":
            torch.cuda.set_device(device)
        return draw(number)

    coming: Future[Sample] | None = None
    with ThreadPoolExecutor(1) as drawer:
        for number in numbers:
            ready, coming = coming, drawer.submit(draw_here, number)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def _make_fabric(hardware: Hardware, precision: Any) -> Fabric:
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.precision.amp import MixedPrecision

    class ExactInputs(MixedPrecision):
        """Layers run in half precision; b-vectors and S/S0 come in with all of their digits."""

        def convert_input(self, data: Any) -> Any:
            return data

    # As many processes as were asked for, whatever scheduler they run under.
    plugins: list[Any] = [LightningEnvironment()]
    if str(precision).endswith("-mixed"):
        on_cpu = hardware.accelerator == "cpu" or not torch.cuda.is_available()
        plugins.append(ExactInputs(precision, "cpu" if on_cpu else "cuda"))
        precision = None
    fabric = Fabric(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        strategy="auto" if hardware.devices == 1 else "ddp",
        precision=precision,
        plugins=plugins,
    )
    fabric.launch()
    return fabric


def _resume(fabric: Fabric, folder: Path, state: dict[str, Any]) -> None:
    """Take the state of a folder's checkpoint, if there is one."""
    checkpoint, wanted = folder / CHECKPOINT, state["settings"]
    if not checkpoint.exists():
        return
    fabric.load(checkpoint, state, weights_only=True)
    limits = ("max_minutes", "max_steps", "checkpoint_minutes")
    saved, asked = (
        {k: v for k, v in s.items() if k not in limits} for s in (state["settings"], wanted)
    )
    if saved != asked:
        raise ConfigError(
            "the checkpoint belongs to a run with other settings",
            path=checkpoint,
            expected=str(asked),
            advice="choose another folder, or repeat the settings",
        )
    if fabric.is_global_zero:
        _shorten_log(folder / LOG, state["step"])


def _parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Part matrices, which decay, from biases, norms and lone tokens, which do not."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.ndim > 1 and "token" not in name].append(parameter)
    return [{"params": group, "is_decayed": decayed} for decayed, group in groups.items()]


def _log(path: Path, row: dict[str, float]) -> None:
    is_new = row["step"] == 1
    with path.open("w" if is_new else "a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if is_new:
            writer.writerow(row)
        writer.writerow(f"{value:.6g}" for value in row.values())


def _shorten_log(path: Path, n_steps: int) -> None:
    """Drop the rows of steps that were done after the checkpoint and will be done again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        path.write_text("".join(lines[: n_steps + 1]), encoding="utf-8")


def _mean_rows(rows: list[dict[str, float]]) -> dict[str, float]:
    """Average each column over the rows that have a number there."""
    means = {}
    for key in rows[-1] if rows else ():
        numbers = [row[key] for row in rows if not math.isnan(row[key])]
        if numbers:
            means[key] = sum(numbers) / len(numbers)
    return means
