"""Open a preprocessed series: image, gradients, and what lies beside it on its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.errors import GradientError, InputError, LayoutError
from dmri_fm.gradient_deviation import check_gradient_deviation
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.preprocess.mask_shape import load_given_mask
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.bids.prepared import PreparedT1w, Preprocessing
from dmri_fm_workflows.bids.preprocessed.gradients import GradientFiles
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import DwiRun, DwiSeries, Problem
from dmri_fm_workflows.bids.scans import find_header_doubts
from dmri_fm_workflows.bids.series import SessionImages, group_runs


def open_series(
    image: Path,
    files: GradientFiles,
    *,
    entities: Mapping[str, str],
    preprocessing: Preprocessing,
    root: Path,
    options: GradientOptions,
    metadata: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> DwiSeries:
    """Open a preprocessed series and check everything about it but its voxels.

    Parameters
    ----------
    image
        4-D NIfTI image.
    files
        Its gradient files.
    entities
        Labels of the scan by long name.
    preprocessing
        What was done to it, with the files on its grid.
    root
        Folder of the dataset.
    options
        How gradient files are read.
    metadata
        Its sidecar.
    warnings
        Remarks on how its files were chosen.

    Raises
    ------
    InputError
        If a file is missing or damaged, or one does not fit another.
    """
    opened = load_image(image, ndim=4)
    gradients = files.read(opened, options)
    run = DwiRun(
        path=image,
        bval=files.bval,
        bvec=files.bvec,
        entities=entities,
        metadata=metadata or {},
        shape=tuple(int(n) for n in opened.shape),
        affine=np.asarray(opened.affine, dtype=np.float64),
        phase_encoding=None,
        readout_time_s=None,
        gradients=gradients,
        has_b0=bool(gradients.gtab.is_b0.any()),
        warnings=(
            *warnings,
            *files.warnings,
            *gradients.warnings,
            *find_header_doubts(opened, image.name),
        ),
    )
    if preprocessing.mask is not None:
        load_given_mask(preprocessing.mask, run.path, shape=run.shape[:3], affine=run.affine)
    if preprocessing.gradient_deviation is not None:
        check_gradient_deviation(
            preprocessing.gradient_deviation, shape=run.shape, affine=run.affine
        )
    # A series of its own, whatever its neighbours: they were merged before, or kept apart.
    grouped = group_runs(SessionImages(runs=[run]), root=root)
    if not grouped.series:
        raise grouped.errors[0] if grouped.errors else _not_weighted(image)
    (series,) = grouped.series
    said = (*series.warnings, *(w for w in grouped.warnings if w not in series.warnings))
    before = replace(preprocessing, gradients=files.description, other_gradients=files.other)
    return replace(series, preprocessing=before, warnings=said)


def _not_weighted(image: Path) -> GradientError:
    return GradientError(
        "no diffusion-weighted volume",
        path=image,
        expected="b=0 and diffusion-weighted volumes",
        advice="check the b-values beside it",
    )


def open_t1w(given: PreparedT1w) -> tuple[PreparedT1w | None, list[InputError]]:
    """Open the T1w image of a session and its mask, and check everything but their voxels.

    Returns
    -------
    PreparedT1w or None
        The image, without a mask that cannot be used; None if the image cannot.
    list of InputError
        Errors of what cannot be used.
    """
    try:
        image = load_image(given.path, ndim=3)
    except InputError as error:
        return None, [error]
    if given.mask is None:
        return given, []
    try:
        shape = tuple(int(n) for n in image.shape)
        load_given_mask(given.mask, given.path, shape=shape, affine=image.affine)
    except InputError as error:
        return replace(given, mask=None), [error]
    return given, []


def describe_t1w(t1w: PreparedT1w | None, faults: Sequence[InputError]) -> tuple[str, ...]:
    """Return the warnings of a session about the T1w image and mask that it has or lacks."""
    names = [(fault, fault.path.name if fault.path else "a file") for fault in faults]
    said = [f"{name} is not used: {fault.found}." for fault, name in names]
    if t1w is not None and t1w.mask is None:
        said.append(f"{t1w.path.name} has no brain mask that can be used: one is made.")
    return tuple(said)


def no_series(folder: Path, pattern: str, reading: Reading | None = None) -> LayoutError:
    """Return the error of a participant without a series, in the sessions of a reading if given.

    Parameters
    ----------
    folder
        Of the participant.
    pattern
        Path of a series in it.
    reading
        Of the dataset, with the requested sessions.
    """
    sessions = reading.sessions if reading is not None else None
    asked = "" if sessions is None else f" in session {', '.join(sorted(sessions))}"
    return LayoutError(
        f"no preprocessed series{asked}",
        path=folder,
        expected=pattern,
        advice="check that the scan was preprocessed and its files copied; or leave the "
        "participant out",
    )


def name_apart(
    label: str, found: Sequence[DwiSeries]
) -> tuple[tuple[DwiSeries, ...], list[Problem]]:
    """Return the series of a session by name, and a problem for each whose name is not its own."""
    names = [series.name for series in found]
    apart = [s for s in found if names.count(s.name) == 1]
    problems = [
        Problem(
            label,
            InputError(
                f"the outputs of {names.count(series.name)} series would be named "
                f"{scan_name(series.entities)}",
                path=series.runs[0].path,
                expected="one preprocessed series for each name",
                advice="give each an `acq` label of its own, or move one away",
            ),
        )
        for series in found
        if series not in apart
    ]
    return tuple(sorted(apart, key=lambda s: s.name)), problems
