"""Run the experiments of the review over seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm_lab.review.fibre_orientation import run_orientations
from dmri_fm_lab.review.harmonisation import run_harmonisation
from dmri_fm_lab.review.outcomes import Outcome, Setting
from dmri_fm_lab.review.tensor_experiments import run_context, run_losses, run_six

#: The experiments by their number, with the question that each answers.
EXPERIMENTS: Mapping[int, tuple[str, Callable[[int, Setting, Path], Outcome]]] = {
    1: ("What does an MLP learn from six directions?", run_six),
    2: ("Does context help against Rician noise?", run_context),
    3: ("Which loss suits low SNR?", run_losses),
    4: ("Can a small network give fibre orientations?", run_orientations),
    5: ("Does a learned harmonisation beat linear RISH scaling?", run_harmonisation),
}


def run_review(
    which: Sequence[int], folder: Path, *, seeds: Sequence[int], setting: Setting
) -> dict[str, Any]:
    """Run experiments with each seed.

    Returns
    -------
    dict
        By number: `question`, `seeds`, `scores` (by method, condition and measure: a number for
        each seed), `signatures` and `cpu_minutes_of_this_call`, in which networks that were read
        back cost nothing.

    Raises
    ------
    ConfigError
        If there is no such experiment, or no seed, or `folder` holds networks of other settings.
    """
    unknown = sorted(set(which) - set(EXPERIMENTS))
    if unknown or not seeds:
        raise ConfigError(
            f"experiments {unknown}, seeds {list(seeds)}",
            expected=f"experiments among {', '.join(map(str, EXPERIMENTS))}, and a seed at least",
        )
    record: dict[str, Any] = {}
    for number in which:
        question, run = EXPERIMENTS[number]
        started = time.process_time()
        outcomes = [run(seed, setting, folder / f"experiment-{number}") for seed in seeds]
        record[str(number)] = {
            "question": question,
            "seeds": list(seeds),
            "scores": _gather(outcomes),
            "signatures": [
                {**first._asdict(), "value": [o.signatures[i].value for o in outcomes]}
                for i, first in enumerate(outcomes[0].signatures)
            ],
            "cpu_minutes_of_this_call": (time.process_time() - started) / 60,
        }
    return record


def _gather(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, list[float]]]]:
    return {
        method: {
            condition: {m: [o.scores[method][condition][m] for o in outcomes] for m in measures}
            for condition, measures in by_condition.items()
        }
        for method, by_condition in outcomes[0].scores.items()
    }
