"""Options of reading gradient files. Imports little, so that the command line starts quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dmri_fm.errors import ConfigError

BScaling = Literal["auto", "length", "none"]

#: Ways to read b-vectors whose length is not 1.
B_SCALINGS = ("auto", "length", "none")

#: b=0 thresholds that may be asked for, s/mm^2.
B0_THRESHOLD_RANGE = (1.0, 500.0)


@dataclass(frozen=True)
class GradientOptions:
    """Options of reading gradient files.

    Attributes
    ----------
    b_scaling
        Reading of b-vectors whose length is not 1. `length`: the b-value is multiplied by the
        squared length; `none`: it is not; `auto`: it is where lengths vary within one shell, and
        a common length other than 1 is refused. See
        :func:`dmri_fm.gradient_files.read_raw_gradients`.
    b0_threshold
        b-values below it count as b=0, s/mm^2; None: see
        :func:`dmri_fm.gradients.choose_b0_threshold`.

    Raises
    ------
    ConfigError
        If a value is not allowed.
    """

    b_scaling: BScaling = "auto"
    b0_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.b_scaling not in B_SCALINGS:
            raise ConfigError(f"b_scaling is {self.b_scaling!r}", expected=", ".join(B_SCALINGS))
        check_b0_threshold(self.b0_threshold)


def check_b0_threshold(b0_threshold: float | None) -> None:
    """Refuse a threshold out of :data:`B0_THRESHOLD_RANGE`; None is the automatic one."""
    low, high = B0_THRESHOLD_RANGE
    if b0_threshold is not None and not low <= b0_threshold <= high:
        raise ConfigError(
            f"b0_threshold is {b0_threshold:g} s/mm^2", expected=f"{low:g} to {high:g} s/mm^2"
        )
