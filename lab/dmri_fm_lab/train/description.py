"""Descriptions of a run beside its checkpoint and weights: data and settings, in plain types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dmri_fm_lab.train.config import EncoderPretraining, TensorTraining
from dmri_fm_lab.train.loop import Run


def describe_run(
    config: TensorTraining | EncoderPretraining,
    run: Run,
    *,
    scans: Sequence[str],
    scan_share: float,
    noun: str,
) -> dict[str, Any]:
    """Return the description of trained weights: data, settings and length of their training.

    The real scans that the network has seen are described as :func:`describe_data` does;
    `validation` has step and error of the weights that validation chose.
    """
    described = {
        "data": describe_data(scans, scan_share=scan_share, noun=noun),
        "scans": list(scans),
        "steps": run.steps,
        "minutes": round(run.minutes, 1),
        "settings": asdict(config),
        "last": {k: round(v, 5) for k, v in run.last.items()},
    }
    if run.best_error is not None:
        described["validation"] = {"step": run.best_step, "error": round(run.best_error, 6)}
    return described


def describe_data(scans: Sequence[str], *, scan_share: float = 0.0, noun: str = "scan") -> str:
    """Return the training data of a network in words, for the description of its weights.

    Parameters
    ----------
    scans
        Names of all real scans that it has seen, also in the run that it started from.
    scan_share
        Share of this run's samples that were drawn from real scans.
    noun
        "scan", or "brain" where all scans of one brain share a name.

    Examples
    --------
    >>> describe_data([])
    'simulation (dmri_fm_lab.simulate), drawn on the fly; no real scan'
    >>> describe_data(["sub-01"], scan_share=0.25)
    'simulation (dmri_fm_lab.simulate), drawn on the fly, and 1 real scan (25 % of the samples)'
    >>> describe_data(["sub-01", "sub-02"], scan_share=1)
    '2 real scans'
    """
    simulated = "simulation (dmri_fm_lab.simulate), drawn on the fly"
    if not scans:
        return f"{simulated}; no real {noun}"
    real = f"{len(scans)} real {noun}{'s' if len(scans) > 1 else ''}"
    if scan_share >= 1:
        return real
    how = f"{100 * scan_share:g} % of the samples" if scan_share > 0 else "in the run before"
    return f"{simulated}, and {real} ({how})"


def describe_recipe(config: TensorTraining | EncoderPretraining) -> dict[str, Any]:
    """Return the settings that decide what a network learns: a run goes on with no others.

    The training loop compares the settings of the optimisation itself.
    """
    rest = ("optimisation", "n_reference", "n_held_out", "checkpoint_blocks")
    return {k: v for k, v in asdict(config).items() if k not in rest}
