"""Rows of tables 3 and 4 of Kung et al. 2026 (doi:10.48550/arXiv.2603.25977), as printed.

Mean and standard deviation over five hold-outs of other participants than anybody else's: they
stand beside results, and are not compared with them by a test.
"""

from __future__ import annotations

from typing import NamedTuple

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.metrics import Summary, TaskType


class PublishedRow(NamedTuple):
    """A method with its head, and its scores by the names of :mod:`.metrics`."""

    method: str
    head: str
    scores: dict[str, Summary]


#: Methods, their heads, and per task the scores as (mean, standard deviation).
_METHODS = (
    ("tract FA, MD", "linear"),
    ("tract FA, MD", "MLP"),
    ("tract RISH", "MLP"),
    ("3D ResNet on FA, MD maps", "MLP"),
    ("ViT with RoPE on FA, MD maps", "MLP"),
    ("ViT with RoPE on raw dMRI", "MLP"),
    ("frozen CLS", "linear"),
    ("frozen CLS", "MLP"),
    ("last layer fine-tuned", "MLP"),
)

_AGE = (
    (0.90, 0.01, 0.20, 0.01),
    (0.90, 0.01, 0.19, 0.02),
    (0.61, 0.21, 1.15, 1.24),
    (0.96, 0.01, 0.09, 0.02),
    (0.93, 0.01, 0.15, 0.02),
    (0.89, 0.02, 0.34, 0.11),
    (0.89, 0.01, 0.24, 0.02),
    (0.90, 0.02, 0.20, 0.03),
    (0.94, 0.01, 0.15, 0.03),
)
_SEX = (
    (0.709, 0.026, 0.77, 0.02),
    (0.569, 0.025, 0.59, 0.03),
    (0.617, 0.020, 0.67, 0.03),
    (0.760, 0.012, 0.83, 0.04),
    (0.654, 0.037, 0.72, 0.04),
    (0.651, 0.026, 0.71, 0.02),
    (0.746, 0.029, 0.82, 0.02),
    (0.593, 0.023, 0.64, 0.02),
    (0.696, 0.031, 0.77, 0.02),
)
_MCI = (
    (0.619, 0.073, 0.53, 0.06, 0.69, 0.06),
    (0.574, 0.054, 0.44, 0.09, 0.62, 0.04),
    (0.539, 0.096, 0.31, 0.07, 0.52, 0.08),
    (0.584, 0.083, 0.50, 0.10, 0.68, 0.08),
    (0.581, 0.066, 0.47, 0.08, 0.65, 0.06),
    (0.474, 0.053, 0.29, 0.07, 0.46, 0.13),
    (0.551, 0.035, 0.44, 0.07, 0.62, 0.11),
    (0.647, 0.057, 0.50, 0.07, 0.67, 0.02),
    (0.609, 0.041, 0.49, 0.09, 0.66, 0.07),
)
_ADAS = (
    (0.06, 0.15, 10.92, 4.08),
    (0.33, 0.09, 0.81, 0.13),
    (0.28, 0.14, 0.93, 0.18),
    (0.33, 0.08, 0.86, 0.14),
    (0.25, 0.12, 0.93, 0.15),
    (-0.05, 0.18, 1.08, 0.11),
    (0.18, 0.25, 2.81, 1.12),
    (0.38, 0.14, 0.77, 0.07),
    (0.32, 0.19, 0.88, 0.15),
)

#: Folds of the published means.
_N_FOLDS = 5


def _rows(
    numbers: tuple[tuple[float, ...], ...], names: tuple[str, ...]
) -> tuple[PublishedRow, ...]:
    """Return rows of which `numbers` hold mean and deviation of each score in turn."""
    return tuple(
        PublishedRow(
            method,
            head,
            {
                name: Summary(mean, sd, _N_FOLDS)
                for name, mean, sd in zip(names, line[::2], line[1::2], strict=True)
            },
        )
        for (method, head), line in zip(_METHODS, numbers, strict=True)
    )


#: Published rows by task: age (HCP-D and HCP-A), sex (HCP-A), CN against MCI and ADAS (ADNI).
PUBLISHED: dict[str, tuple[PublishedRow, ...]] = {
    "age": _rows(_AGE, ("rho", "mse")),
    "sex": _rows(_SEX, ("acc", "auroc")),
    "mci": _rows(_MCI, ("balanced_accuracy", "auprc", "auroc")),
    "adas": _rows(_ADAS, ("rho", "mse")),
}

#: Type of each published task's target.
PUBLISHED_TASKS: dict[str, TaskType] = {
    "age": "regression",
    "sex": "classification",
    "mci": "classification",
    "adas": "regression",
}


def check_published(name: str, target: str, task: TaskType) -> None:
    """Refuse a published task that is unknown, or of another type than a target.

    Raises ConfigError.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"published task {name}", expected=" or ".join(PUBLISHED))
    if PUBLISHED_TASKS[name] != task:
        raise ConfigError(
            f"{name} is a task of {PUBLISHED_TASKS[name]}, {target} one of {task}",
            expected="tasks of one type",
        )
