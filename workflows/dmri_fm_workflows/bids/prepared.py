"""Value objects of preprocessed datasets: what was done to a series and to its T1w image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

#: Entries of a sidecar about corrections, which a preprocessed input has gone through before.
CORRECTIONS = ("Denoising", "GibbsCorrection", "SDCMethod", "HMCMethod")


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
    is_nominal
        Whether the gradients are known to be nominal only: the coils deviate by what the pipeline
        corrects in images, and there is no `gradient_deviation`.
    stated
        Entries of the input's own sidecar about corrections; those of other pipelines have none.
    gradients
        File and frame that b-vectors were read from, for the sidecar.
    other_gradients
        File that was compared with it, or None.
    """

    by: str
    space: Literal["ACPC", "T1w"] | None = None
    mask: Path | None = None
    gradient_deviation: Path | None = None
    is_nominal: bool = False
    stated: Mapping[str, str] = field(default_factory=dict)
    gradients: str = ""
    other_gradients: Path | None = None

    @property
    def corrections(self) -> dict[str, str]:
        """Pipeline of each correction, with what its sidecar states: "drope-bidsapp (none)"."""
        return {
            key: f"{self.by} ({self.stated[key]})" if key in self.stated else self.by
            for key in CORRECTIONS
        }

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of it that a run reads."""
        listed = (self.mask, self.gradient_deviation, self.other_gradients)
        return tuple(p for p in listed if p is not None)


@dataclass(frozen=True)
class TemplateTransforms:
    """Transforms between a prepared T1w image and the template.

    Attributes
    ----------
    to_template, from_template
        Files; the first resamples the image into the space of the template.
    """

    to_template: Path
    from_template: Path

    @property
    def method(self) -> Literal["affine", "syn"]:
        """Sort of the transform, as `--normalisation` names it."""
        return "syn" if self.to_template.suffix == ".h5" else "affine"


@dataclass(frozen=True)
class TissueImages:
    """Tissue segmentation of a prepared T1w image, on its grid.

    Attributes
    ----------
    dseg
        Labels of BIDS: 1 grey matter, 2 white matter, 3 cerebrospinal fluid.
    gm, wm, csf
        Probabilities.
    """

    dseg: Path
    gm: Path
    wm: Path
    csf: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, the labels first."""
        return (self.dseg, self.gm, self.wm, self.csf)


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedT1w:
    """A T1-weighted image that was prepared before: of a preprocessed dataset, or `--derivatives`.

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
    by
        Pipeline whose derivatives hold it, for texts; empty: it comes with the series.
    acquired
        T1w image of the raw dataset, which tells where the head lay and whose it is; None: the
        dataset has none.
    transforms
        Transforms to the template of this app and back; None: there are none.
    templates
        Other templates to which the derivatives lead.
    tissue
        Its tissue segmentation; None: there is none.
    """

    path: Path
    mask: Path | None = None
    is_brain: bool = False
    is_unbiased: bool = False
    is_acpc: bool = False
    by: str = ""
    acquired: Path | None = None
    transforms: TemplateTransforms | None = None
    templates: tuple[str, ...] = ()
    tissue: TissueImages | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that a run reads, the image first; without the tissue."""
        listed = [self.path, self.mask, self.acquired]
        if self.transforms is not None:
            listed += [self.transforms.to_template, self.transforms.from_template]
        return tuple(path for path in listed if path is not None)
