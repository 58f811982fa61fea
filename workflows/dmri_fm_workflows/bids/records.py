"""Value objects: the participants, sessions, series, runs and images of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import DmriError
from dmri_fm.gradient_files import RawGradients
from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi, load_image
from dmri_fm_workflows.bids.ages import UNKNOWN_AGE, Age
from dmri_fm_workflows.bids.gradient_fixes import GradientFix
from dmri_fm_workflows.bids.metadata import PHASE_ENCODINGS, read_number, words
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.bids.prepared import PreparedT1w, Preprocessing


@dataclass(frozen=True, eq=False, kw_only=True)
class EpiImage:
    """An echo-planar image and its phase encoding.

    Attributes
    ----------
    path
        NIfTI file.
    entities
        Labels of its name by long name: `{"subject": "01", "direction": "AP"}`.
    metadata
        Merged sidecars.
    shape
        3 or 4 numbers.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    phase_encoding
        `i`, `i-`, `j`, `j-`, `k` or `k-`, along the image's own axes; None if unknown.
    readout_time_s
        From the first to the last echo's centre; None if unknown.
    bval, bvec
        Gradient files; None for an image that has none.
    gradients
        What was read from them; None for an image that has none.
    has_b0
        Whether it holds a b=0 volume.
    """

    path: Path
    entities: Mapping[str, str]
    metadata: Mapping[str, Any]
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    phase_encoding: str | None
    readout_time_s: float | None
    bval: Path | None = None
    bvec: Path | None = None
    gradients: RawGradients | None = None
    has_b0: bool = True

    @property
    def echo_time_s(self) -> float | None:
        """EchoTime; None if it is missing or no number."""
        return read_number(self.metadata, "EchoTime")

    @property
    def b0_identifiers(self) -> tuple[str, ...]:
        """B0FieldIdentifier: B0 fields that this image helps to estimate."""
        return words(self.metadata.get("B0FieldIdentifier"))

    @property
    def b0_sources(self) -> tuple[str, ...]:
        """B0FieldSource: B0 fields that correct this image."""
        return words(self.metadata.get("B0FieldSource"))


@dataclass(frozen=True, eq=False, kw_only=True)
class DwiRun(EpiImage):
    """One diffusion series on disk.

    Attributes
    ----------
    bval, bvec
        Gradient files that apply to it.
    gradients
        What was read from them.
    sbref
        Single-band reference, or None.
    gradient_fix
        Repair by which `gradients` were read, or None.
    warnings
        Missing metadata that the run can do without, and changes to its gradients.
    """

    bval: Path
    bvec: Path
    gradients: RawGradients
    sbref: Path | None = None
    gradient_fix: GradientFix | None = None
    warnings: tuple[str, ...] = ()

    @property
    def gtab(self) -> GradientTable:
        """Gradients, RAS+, of the volumes that :meth:`load` opens; no image is read for them."""
        return self.gradients.gtab

    @property
    def slice_axis(self) -> int:
        """Axis along which slices lie, by SliceEncodingDirection; k where it says nothing."""
        direction = self.metadata.get("SliceEncodingDirection")
        return "ijk".index(direction[0]) if direction in PHASE_ENCODINGS else 2

    def load(self) -> Dwi:
        """Open the series of the volumes whose gradients can be used, b-values scaled.

        Voxels are read at first use, or at once where volumes are unusable.
        """
        return Dwi.from_raw(load_image(self.path, ndim=4), self.gradients)


@dataclass(frozen=True, eq=False, kw_only=True)
class Fieldmap:
    """A field map measured with gradient echoes.

    Attributes
    ----------
    method
        `phasediff`, `phase1phase2` or `fieldmap`: what was measured.
    paths
        Image by suffix: `{"phasediff": ..., "magnitude1": ...}`.
    entities
        Labels of its name by long name.
    metadata
        Merged sidecars of each image, by suffix.
    sources
        Images that hold the field, or the phases it is computed from, in order of their echoes.
    magnitude
        Image that shows the head, or None.
    echo_times_s
        Times of the first and the second echo; None for a field in Hz, or if they are not known.
    units
        Units of the values, as the sidecar states them; empty if it does not.
    problem
        Reason why it cannot correct the series that it is meant for; empty if it can.
    """

    method: str
    paths: Mapping[str, Path]
    entities: Mapping[str, str]
    metadata: Mapping[str, Mapping[str, Any]]
    sources: tuple[Path, ...] = ()
    magnitude: Path | None = None
    echo_times_s: tuple[float, float] | None = None
    units: str = ""
    problem: str = ""

    @property
    def images(self) -> tuple[Path, ...]:
        """Images that a correction reads."""
        return (*self.sources, *((self.magnitude,) if self.magnitude else ()))

    @property
    def b0_identifiers(self) -> tuple[str, ...]:
        """B0FieldIdentifier: B0 fields that its images help to estimate."""
        stated = (words(m.get("B0FieldIdentifier")) for m in self.metadata.values())
        return tuple(dict.fromkeys(label for labels in stated for label in labels))


@dataclass(frozen=True)
class UnusedImage:
    """An image that could have corrected the distortion of a series, and why it does not.

    Attributes
    ----------
    path
        NIfTI file.
    reason
        Why it is not used, without a full stop: "its phase encoding, j, is that of the series".
    """

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class UserMask:
    """A brain mask of the user.

    Attributes
    ----------
    path
        NIfTI file.
    run
        Run that it was drawn on, as acquired.
    """

    path: Path
    run: DwiRun


@dataclass(frozen=True, eq=False)
class DwiSeries:
    """Runs of one session that are corrected together and merged.

    Attributes
    ----------
    runs
        In order of their names; all on one grid, in one head pose.
    entities
        Labels that the runs share; without `direction` and `run` if merged over.
    reverse
        Images outside the series whose phase encoding opposes that of a run, on the same grid;
        the first one is used. Empty where the runs themselves hold a pair.
    fieldmaps
        Gradient-echo field maps meant for one of the runs, those of its own session first.
    warnings
        Remarks on the input, for the reader of the results.
    unused
        Images that could have corrected the distortion and are not used; images with a link to
        the series come first.
    pair_reason
        Tie between the two images of the pair: "linked by IntendedFor". Empty if there is none.
    preprocessing
        What was done to it before; None for a raw series.
    user_mask
        Brain mask that the user gave for it, or None.
    """

    runs: tuple[DwiRun, ...]
    entities: Mapping[str, str]
    reverse: tuple[EpiImage, ...] = ()
    fieldmaps: tuple[Fieldmap, ...] = ()
    warnings: tuple[str, ...] = ()
    unused: tuple[UnusedImage, ...] = ()
    pair_reason: str = ""
    preprocessing: Preprocessing | None = None
    user_mask: UserMask | None = None

    @property
    def name(self) -> str:
        """Stem of the outputs: `sub-01_ses-01_acq-x`."""
        return scan_name(self.entities)

    @property
    def n_volumes(self) -> int:
        """Number of volumes of all runs together."""
        return sum(run.shape[3] for run in self.runs)

    @property
    def blip_pair(self) -> tuple[EpiImage, EpiImage] | None:
        """Return two images with b=0 volumes, of opposite phase encoding; the first is a run."""
        return find_pair(self.runs, (*self.runs, *self.reverse))

    @property
    def usable_fieldmap(self) -> Fieldmap | None:
        """Return the first gradient-echo field map that can correct the series."""
        return next((f for f in self.fieldmaps if not f.problem), None)

    @property
    def outside_image(self) -> EpiImage | None:
        """Return the half of the pair that is no run of the series; None if both are, or none."""
        other = self.blip_pair[1] if self.blip_pair else None
        return None if other in self.runs else other


def describe_t2w(image: Path) -> str:
    """Return the warning of a T2-weighted image in place of a T1-weighted one."""
    return f"there is no T1-weighted image that can be used; {image.name} is used in place."


@dataclass(frozen=True, eq=False)
class Session:
    """One visit.

    Attributes
    ----------
    label
        Without `ses-`; None where the dataset has no sessions.
    t1w
        T1-weighted images, the one to use first; T2-weighted ones where the participant has none.
        Of another session if this one has none.
    series
        Diffusion series, by name.
    warnings
        Remarks on the input, for the reader of the results.
    age
        Age of the participant, as far as a table states it.
    prepared_t1w
        The T1-weighted image that was prepared before, the only one of `t1w`; None for a raw one.
    user_t1w_mask
        Brain mask that the user gave for the first image of `t1w`, or None.
    lesion_mask
        Mask of lesions, on the grid of the first raw image of `t1w`, or None.
    """

    label: str | None
    t1w: tuple[Path, ...]
    series: tuple[DwiSeries, ...]
    warnings: tuple[str, ...] = ()
    age: Age = UNKNOWN_AGE
    prepared_t1w: PreparedT1w | None = None
    user_t1w_mask: Path | None = None
    lesion_mask: Path | None = None


@dataclass(frozen=True, eq=False)
class Participant:
    """One person.

    Attributes
    ----------
    label
        Without `sub-`.
    sessions
        Those with a usable diffusion series.
    """

    label: str
    sessions: tuple[Session, ...]


@dataclass(frozen=True, eq=False)
class Problem:
    """A scan that cannot be used, while the others go on.

    Attributes
    ----------
    participant
        Label without `sub-`; None for a problem of the dataset.
    error
        Its error, with expectation and advice.
    """

    participant: str | None
    error: DmriError

    @property
    def path(self) -> Path | None:
        """File or folder concerned."""
        return self.error.path


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset, read.

    Attributes
    ----------
    root
        Folder, absolute.
    name
        As its description says.
    participants
        Those with a usable diffusion series, by label.
    problems
        Scans that cannot be used.
    """

    root: Path
    name: str
    participants: tuple[Participant, ...]
    problems: tuple[Problem, ...] = ()


def is_opposite(one: str | None, other: str | None) -> bool:
    """Tell whether two phase encodings run along one axis in opposite directions.

    Examples
    --------
    >>> is_opposite("j", "j-"), is_opposite("j", "i-"), is_opposite(None, "j")
    (True, False, False)
    """
    return bool(one and other and one != other and one[0] == other[0])


def find_pair(
    runs: tuple[DwiRun, ...], others: tuple[EpiImage, ...]
) -> tuple[EpiImage, EpiImage] | None:
    """Return the first run and the first other image that oppose each other, both with b=0."""
    pairs = ((run, other) for run in runs for other in others if run.has_b0 and other.has_b0)
    return next((p for p in pairs if is_opposite(*(i.phase_encoding for i in p))), None)
