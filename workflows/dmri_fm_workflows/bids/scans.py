"""Open single scans: diffusion runs, echo-planar images, T1-weighted images."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from dmri_fm.distortion import ASSUMED_READOUT_S
from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradient_arrangements import AS_STORED
from dmri_fm.gradient_files import RawGradients, read_raw_gradients
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.gradients import BvecFrame
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.folders import find_foreign_link
from dmri_fm_workflows.bids.gradient_fixes import describe_run, find_fix
from dmri_fm_workflows.bids.metadata import (
    PHASE_ENCODINGS,
    describe_fault,
    list_ignored,
    read_number,
    read_text,
    read_words,
)
from dmri_fm_workflows.bids.names import split_name
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import DwiRun, EpiImage

#: Number of directions from which a series is measured signal, even if its ImageType is DERIVED.
SIGNAL_DIRECTIONS = 6

#: What an assumed readout time means for the results.
ASSUMED_READOUT_NOTE = (
    "the correction of distortion rests on equal readouts, not on the number; the field in Hz "
    "scales with it"
)

#: Longest readout, s; a longer one is in another unit.
LONGEST_READOUT_S = 1.0

#: Words of ImageType for maps that scanners compute.
_MAP_WORDS = frozenset(
    {"TRACEW", "TRACE", "ADC", "EADC", "EXPADC", "FA", "FAC", "COLFA", "TENSOR", "S0MAP"}
)
_MAP_LABEL = re.compile(r"(.*(TRACEW|ADC|COLFA)|TRACE|FA|TENSOR)", re.IGNORECASE)
_MAP_DESCRIPTION = re.compile(r".*_(TRACEW|ADC|EADC|FA|COLFA|TENSOR)", re.IGNORECASE)
_NOT_MAGNITUDE = frozenset({"P", "PHASE", "PHASE MAP", "REAL", "R", "IMAGINARY", "I"})


def why_no_signal(
    entities: Mapping[str, str],
    metadata: Mapping[str, Any],
    *,
    n_directions: int = 0,
) -> str:
    """Return the evidence of a phase image or computed map; empty for measured magnitude signal.

    Parameters
    ----------
    entities
        Labels of the file's name.
    metadata
        Merged sidecars.
    n_directions
        Distinct directions of the image's own gradient files. `DERIVED` alone is no evidence from
        :data:`SIGNAL_DIRECTIONS` on: some scanners write it for distortion-corrected signal.

    Examples
    --------
    >>> why_no_signal({"part": "phase"}, {}), why_no_signal({}, {"ImageType": ["DERIVED", "ADC"]})
    ('its name has part-phase', 'its ImageType has ADC')
    >>> why_no_signal({"part": "mag"}, {"ImageType": ["ORIGINAL", "PRIMARY", "M"]})
    ''
    """
    if (part := entities.get("part", "mag")) != "mag":
        return f"its name has part-{part}"
    if "desc" in entities:
        return f"its name has desc-{entities['desc']}"
    for key, name in (("acq", "acquisition"), ("rec", "reconstruction")):
        if _MAP_LABEL.fullmatch(label := entities.get(name, "")):
            return f"its name has {key}-{label}"
    words = {word.upper() for word in read_words(metadata, "ImageType")}
    wrong = words & _MAP_WORDS
    if not words & {"M", "MAGNITUDE"}:
        wrong |= words & _NOT_MAGNITUDE
    if wrong:
        return f"its ImageType has {', '.join(sorted(wrong))}"
    description = read_text(metadata, "SeriesDescription")
    if "ORIGINAL" not in words and _MAP_DESCRIPTION.fullmatch(description):
        return f"its SeriesDescription is {reprlib.repr(description)}"
    if "DERIVED" in words and n_directions < SIGNAL_DIRECTIONS:
        return "its ImageType has DERIVED"
    return ""


def readout_time_s(
    metadata: Mapping[str, Any], n_phase_encodes: int | None = None
) -> float | None:
    """Return the total readout time that a sidecar states or implies.

    Parameters
    ----------
    metadata
        Merged sidecars.
    n_phase_encodes
        Voxels along the phase encoding, used where `ReconMatrixPE` is missing.

    Returns
    -------
    float or None
        Seconds: `TotalReadoutTime`, else `EffectiveEchoSpacing` (s) times one less than the
        number of phase encodes.

    Examples
    --------
    >>> readout_time_s({"EffectiveEchoSpacing": 0.0005, "ReconMatrixPE": 101})
    0.05
    >>> readout_time_s({"TotalReadoutTime": 50}) is None  # milliseconds
    True
    """
    total = _positive(metadata, "TotalReadoutTime")
    if total is None:
        spacing = _positive(metadata, "EffectiveEchoSpacing")
        n_lines = _positive(metadata, "ReconMatrixPE") or n_phase_encodes
        total = None if spacing is None or not n_lines else spacing * (n_lines - 1)
    return total if total is not None and 0 < total <= LONGEST_READOUT_S else None


def _positive(metadata: Mapping[str, Any], key: str) -> float | None:
    number = read_number(metadata, key)
    return number if number is not None and number > 0 else None


def _encoding(
    metadata: Mapping[str, Any], shape: Sequence[int]
) -> tuple[str | None, float | None]:
    """Return the phase encoding and the readout time, s."""
    direction = read_text(metadata, "PhaseEncodingDirection")
    if direction not in PHASE_ENCODINGS:
        return None, readout_time_s(metadata)
    return direction, readout_time_s(metadata, shape["ijk".index(direction[0])])


def open_run(path: Path, reading: Reading) -> DwiRun:
    """Open a diffusion run and check everything about it but its voxels.

    Raises
    ------
    InputError
        If the image, a gradient file or a sidecar is missing or damaged, or one does not fit
        another.
    """
    sidecars = reading.sidecars
    metadata = sidecars.metadata(path)
    entities, _, extension = split_name(path)
    bval, bvec = (sidecars.find(path, e) for e in (".bval", ".bvec"))
    image = load_image(path, ndim=4)
    _require_bvals(bval)
    affine = np.asarray(image.affine, dtype=np.float64)
    fix = find_fix(reading.gradient_fixes, describe_run(entities, metadata, affine), path=path)
    gradients = read_gradients(
        image,
        bval,
        bvec,
        reading.gradient_options,
        arrangement=AS_STORED if fix is None else fix.components,
    )
    direction, readout = _encoding(metadata, image.shape)
    sbref = path.with_name(path.name.removesuffix("dwi" + extension) + "sbref" + extension)
    is_sbref = (
        sbref.is_file()
        and sbref.stat().st_size > 0
        and find_foreign_link(sbref, reading.root) is None
    )
    run = DwiRun(
        path=path,
        bval=bval,
        bvec=bvec,
        sbref=sbref if is_sbref else None,
        entities=entities,
        metadata=metadata,
        shape=tuple(int(n) for n in image.shape),
        affine=affine,
        phase_encoding=direction,
        readout_time_s=readout,
        gradients=gradients,
        has_b0=bool(gradients.gtab.is_b0.any()),
        gradient_fix=fix,
    )
    return replace(run, warnings=(*gradients.warnings, *_find_doubts(run, image)))


def _require_bvals(bval: Path) -> None:
    """Refuse a run without b-values, and say what to do if all its volumes are b=0."""
    if not os.path.lexists(bval):
        raise GradientError(
            "file is missing",
            path=bval,
            expected="a text file with the b-values",
            advice="convert the scan with dcm2niix, which writes .bval and .bvec for weighted "
            "volumes; if all volumes are b=0, it writes none: write a .bval with a 0 for each",
        )


def read_gradients(
    image: SpatialImage,
    bval: Path,
    bvec: Path,
    options: GradientOptions,
    frame: BvecFrame = "fsl",
    *,
    arrangement: str = AS_STORED,
) -> RawGradients:
    """Read the gradient files of a 4-D image."""
    return read_raw_gradients(
        bval,
        bvec,
        affine=image.affine,
        n_volumes=int(image.shape[3]),
        options=options,
        frame=frame,
        arrangement=arrangement,
    )


def _find_doubts(run: DwiRun, image: SpatialImage) -> Iterator[str]:
    """Yield warnings of a run's sidecar and header."""
    name, metadata = run.path.name, run.metadata
    skip: tuple[str, ...] = ()
    if run.gradient_fix is not None:
        yield (
            f"{name}: b-vectors are read as ({run.gradient_fix.components}), by the repair "
            f"{run.gradient_fix.name} of --fix-gradients."
        )
    if not metadata:
        yield (
            f"{name} has no JSON sidecar: its phase encoding is unknown, so no reverse-phase "
            "image can correct its distortion. Add a .json file with PhaseEncodingDirection "
            "and TotalReadoutTime."
        )
    elif run.phase_encoding is None:
        key = "PhaseEncodingDirection"
        fault = describe_fault(metadata, key, f"not one of {', '.join(PHASE_ENCODINGS)}")
        yield (
            f"{name}: {key} is {fault}, so no reverse-phase image can correct its distortion. "
            "Add it to the JSON file."
        )
    elif run.readout_time_s is None:
        key = "TotalReadoutTime"
        skip = (key,)
        fault = describe_fault(metadata, key, "which is no time in seconds")
        yield (
            f"{name}: {key} is {fault}, so a readout time is assumed: that of the series' other "
            f"images, or {ASSUMED_READOUT_S:g} s where none has one: {ASSUMED_READOUT_NOTE}. "
            "Add it to the JSON file."
        )
    yield from find_header_doubts(image, name)
    yield from (f"{name}: {what}." for what in list_ignored(metadata, skip=skip))
    if "DERIVED" in read_words(metadata, "ImageType"):
        yield (
            f"{name}: ImageType says DERIVED; it is taken as measured signal because its "
            "gradient files hold a full set of directions."
        )


def find_header_doubts(image: SpatialImage, name: str) -> Iterator[str]:
    """Yield the warning of a header that does not tell left from right."""
    header: Any = image.header
    if header.get("qform_code", 1) == 0 and header.get("sform_code", 1) == 0:
        yield (
            f"{name}: qform_code and sform_code are 0, so left and right are taken as in "
            "radiological storage. Set the orientation if that is wrong."
        )


def open_epi(path: Path, reading: Reading) -> EpiImage:
    """Open an image that shows the distortion of another phase encoding.

    All its volumes are b=0, unless gradient files of its own name say otherwise.

    Raises
    ------
    ImageError
        If the image is missing, damaged, or neither 3-D nor 4-D.
    InputError
        If its gradient files or sidecars cannot be used.
    """
    metadata = reading.sidecars.metadata(path)
    image = load_image(path)
    shape = tuple(int(n) for n in image.shape)
    if len(shape) not in (3, 4):
        raise ImageError(
            f"image has {len(shape)} dimensions, {shape}", path=path, expected="3 or 4 dimensions"
        )
    direction, readout = _encoding(metadata, shape)
    bval, bvec = reading.sidecars.find_own_gradients(path)
    gradients = None
    if len(shape) == 4 and bval is not None and bvec is not None:
        # Its b=0 volumes alone are used: lengths of b-vectors do not matter.
        options = replace(reading.gradient_options, b_scaling="none")
        gradients = read_gradients(image, bval, bvec, options)
    return EpiImage(
        path=path,
        entities=split_name(path)[0],
        metadata=metadata,
        shape=shape,
        affine=np.asarray(image.affine, dtype=np.float64),
        phase_encoding=direction,
        readout_time_s=readout,
        bval=None if gradients is None else bval,
        bvec=None if gradients is None else bvec,
        gradients=gradients,
        has_b0=gradients is None or bool(gradients.gtab.is_b0.any()),
    )


def open_t1w(path: Path, metadata: Mapping[str, Any]) -> tuple[bool, float, str]:
    """Open an anatomical image and return its rank among others; lower is better.

    The scanner's own intensity normalisation comes first, then smaller voxels, then the name.

    Raises
    ------
    ImageError
        If the image is missing, damaged, or not 3-D.
    """
    image = load_image(path, ndim=3)
    is_normalised = "NORM" in read_words(metadata, "ImageType")
    volume = abs(float(np.linalg.det(np.asarray(image.affine)[:3, :3])))
    return not is_normalised, round(volume, 3), path.name
