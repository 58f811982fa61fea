"""Gradient files of a preprocessed series: which pipeline writes which frame, and agreement.

QSIPrep writes images in LPS+, b-vectors along their axes without FSL's sign rule (`.bvec`, as DIPY
reads them), and the same in the scanner's RAS+ frame (`.b`, as MRtrix3 does): github.com/PennLINC/
qsiprep/issues/530. By FSL's rule its `.bvec` would be mirrored left to right. This app writes
`.bvec` by FSL's rule, and a `.b` too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nibabel.spatialimages import SpatialImage

from dmri_fm.content import describe_absence, require_content
from dmri_fm.errors import GradientError
from dmri_fm.gradient_files import RawGradients, largest_angle_deg
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.gradients import BvecFrame
from dmri_fm_workflows.bids.names import own_file
from dmri_fm_workflows.bids.scans import read_gradients

#: Frames of b-vectors by the words of texts.
FRAMES: dict[BvecFrame, str] = {
    "fsl": "along the image's axes by FSL's rule",
    "voxel": "along the image's axes, without FSL's sign rule",
    "ras": "in the scanner's RAS+ frame",
}

#: Frame of `.bvec` by pipeline, in lower case.
BVEC_FRAMES: dict[str, BvecFrame] = {"qsiprep": "voxel", "drope-bidsapp": "fsl"}

#: Largest angle between the directions of two files that agree, degrees: beyond what six digits
#: round, far below what an axis that is stored the other way round makes.
AGREEMENT_DEG = 1.0


@dataclass(frozen=True, kw_only=True)
class GradientFiles:
    """The gradient files of a series.

    Attributes
    ----------
    bval, bvec
        Files that are read; `bvec` is a table of MRtrix3 where the frame is `ras`.
    frame
        Frame of its b-vectors.
    other
        File whose directions have to be the same, or None.
    other_frames
        Frames that it may have.
    warnings
        Doubts about the frame.
    """

    bval: Path
    bvec: Path
    frame: BvecFrame = "fsl"
    other: Path | None = None
    other_frames: tuple[BvecFrame, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """File and frame that were read, for the sidecar."""
        also = f", {self.other.name} has the same directions" if self.other is not None else ""
        return f"{self.bvec.name}: b-vectors {FRAMES[self.frame]}{also}"

    def read(self, image: SpatialImage, options: GradientOptions) -> RawGradients:
        """Read the files of an opened image.

        Raises
        ------
        GradientError
            If a file is missing or damaged, or the other one has other directions.
        """
        for file in (self.bval, self.bvec):
            require_content(file, GradientError)
            if not file.is_file():
                raise GradientError(
                    describe_absence(file),
                    path=file,
                    expected="the gradients of the series, as its preprocessing wrote them",
                    advice="copy the file from the preprocessed dataset; gradients of the raw "
                    "scan do not fit, as the head was turned",
                )
        found = read_gradients(image, self.bval, self.bvec, options, self.frame)
        if self.other is not None:
            angles = [
                largest_angle_deg(
                    found, read_gradients(image, self.bval, self.other, options, frame)
                )
                for frame in self.other_frames
            ]
            if min(angles) > AGREEMENT_DEG:
                raise self._disagreement(self.other, min(angles))
        return found

    def _disagreement(self, other: Path, angle_deg: float) -> GradientError:
        read_as = " or ".join(FRAMES[frame] for frame in self.other_frames)
        return GradientError(
            f"its directions differ by up to {angle_deg:.0f} degrees from those of {other.name}",
            path=self.bvec,
            expected=f"one set of directions in both files, {FRAMES[self.frame]} here and "
            f"{read_as} in {other}",
            advice="copy both files from the preprocessed dataset again; a tool that turned the "
            "image may have changed one of them alone",
        )


def choose_gradients(image: Path, pipeline: str) -> GradientFiles:
    """Return the gradient files of a derivative by the pipeline that wrote them.

    Parameters
    ----------
    image
        The series.
    pipeline
        Name of the pipeline.
    """
    bval, bvec, table = (own_file(image, extension) for extension in (".bval", ".bvec", ".b"))
    known = BVEC_FRAMES.get(pipeline.lower())
    has_bvec, has_table = (path.exists() or path.is_symlink() for path in (bvec, table))
    if known == "fsl" or not has_table:
        warnings: tuple[str, ...] = ()
        if known is None:
            warnings = (
                f"{bvec.name}: its b-vectors are read {FRAMES['fsl']}, as "
                f"{pipeline or 'its pipeline'} is not known to write another frame. A .b file "
                "beside it, rows of x, y, z, b in the scanner's frame as MRtrix3 writes them, "
                "would leave no doubt.",
            )
        return GradientFiles(
            bval=bval,
            bvec=bvec,
            frame=known or "fsl",
            other=table if has_table else None,
            other_frames=("ras",),
            warnings=warnings,
        )
    return GradientFiles(
        bval=bval,
        bvec=table,
        frame="ras",
        other=bvec if has_bvec else None,
        other_frames=(known,) if known else ("fsl", "voxel"),
    )
