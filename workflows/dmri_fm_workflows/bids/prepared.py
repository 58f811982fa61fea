"""Value objects of preprocessed datasets: what was done to a series and to its T1w image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, eq=False, kw_only=True)
class Preprocessing:
    """Preprocessing that a series has gone through before it is read.

    Attributes
    ----------
    by
        What did it, for texts: "QSIPrep 1.0.1", "the HCP minimal preprocessing pipelines".
    space
        `ACPC`: on the axes of a template, and of its T1w image if there is one; `T1w`: of its T1w
        image; None: its own.
    mask
        Brain mask on its grid; None: the dataset has none.
    gradient_deviation
        Deviation of the gradient coils on its grid, as FSL writes it, or None.
    gradients
        File and frame that b-vectors were read from, for the sidecar.
    other_gradients
        File that was compared with it, or None.
    """

    by: str
    space: Literal["ACPC", "T1w"] | None = None
    mask: Path | None = None
    gradient_deviation: Path | None = None
    gradients: str = ""
    other_gradients: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of it that a run reads."""
        listed = (self.mask, self.gradient_deviation, self.other_gradients)
        return tuple(p for p in listed if p is not None)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedT1w:
    """A T1-weighted image of a preprocessed dataset.

    Attributes
    ----------
    path
        NIfTI file.
    mask
        Image that is above zero in the brain; None: the dataset has none.
    is_brain
        Whether nothing but the brain is in the image.
    is_unbiased
        Whether its intensity bias was corrected.
    is_acpc
        Whether it lies on the axes of a template.
    """

    path: Path
    mask: Path | None = None
    is_brain: bool = False
    is_unbiased: bool = False
    is_acpc: bool = False
