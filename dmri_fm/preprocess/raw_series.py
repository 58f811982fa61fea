"""Checks of every voxel of a raw series: volumes without signal, volumes cut short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradient_files import RawGradients
from dmri_fm.gradients import GradientTable
from dmri_fm.tensor_design import determines_tensor
from dmri_fm.vector_lengths import list_volumes

#: A volume is cut short if this share of the slices that hold signal in most volumes, or more,
#: is zero in it.
CUT_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class CheckedRun:
    """A raw run after the checks of its voxels.

    Attributes
    ----------
    kept
        Volumes that can be used, by their position in the file.
    gtab
        Gradients of these, RAS+.
    left_out
        Reason by position of each other volume.
    record
        Entries of the series' sidecar, `Warnings` among them.
    """

    kept: tuple[int, ...]
    gtab: GradientTable
    left_out: dict[int, str]
    record: dict[str, Any]


def find_empty_volumes(data: NDArray[Any]) -> tuple[int, ...]:
    """Return the volumes (fourth axis) whose voxels all have one value, such as zero.

    Examples
    --------
    >>> find_empty_volumes(np.stack([np.eye(3)[None], np.zeros((1, 3, 3))], axis=3))
    (1,)
    """
    return tuple(n for n in range(data.shape[3]) if data[..., n].min() == data[..., n].max())


def find_cut_volumes(data: NDArray[Any]) -> dict[int, float]:
    """Find volumes that were cut short.

    Slices along any axis of the image count: the scanner's slices need not be the third one
    after an image was reoriented.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N); volumes without any signal are not judged.

    Returns
    -------
    dict
        Share of zero slices by volume, :data:`CUT_SHARE` or more, among the slices that hold
        signal in most volumes.
    """
    empty = set(find_empty_volumes(data))
    judged = [n for n in range(data.shape[3]) if n not in empty]
    if not judged:
        return {}
    share = dict.fromkeys(judged, 0.0)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        filled = np.stack([data[..., n].any(axis=others) for n in judged])
        usual = filled.mean(axis=0) > 0.5
        if usual.any():
            for n, row in zip(judged, filled, strict=True):
                share[n] = max(share[n], float(1.0 - row[usual].mean()))
    return {n: s for n, s in share.items() if s >= CUT_SHARE}


def check_run(data: NDArray[Any], gradients: RawGradients, *, name: str) -> CheckedRun:
    """Exclude volumes without signal; report volumes that were cut short.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N), all volumes of the file.
    gradients
        Gradients of the same file.
    name
        Name of the file, for the warnings.

    Raises
    ------
    GradientError
        If no volume is left.
    """
    empty = [n for n in find_empty_volumes(data) if n in gradients.kept]
    left_out = {**gradients.left_out, **dict.fromkeys(empty, "no signal in any voxel")}
    kept = tuple(n for n in gradients.kept if n not in left_out)
    if not kept:
        raise GradientError(
            f"no volume of {name} can be used: {len(empty)} without signal, "
            f"{len(gradients.left_out)} without a direction",
            expected="measured signal",
            advice="copy or convert the scan again",
        )
    cut = {n: share for n, share in find_cut_volumes(data).items() if n in kept}
    warnings = list(gradients.warnings)
    if empty:
        warnings.append(
            f"{name}: {list_volumes(empty)} left out: no signal in any voxel. The scan may have "
            "been cut short."
        )
    if cut:
        warnings.append(
            f"{name}: {list_volumes(cut)} cut short: up to {max(cut.values()):.0%} of the slices "
            "are zero. They are kept; maps are wrong where they end."
        )
    record: dict[str, Any] = {"Warnings": warnings}
    if left_out:
        record["VolumesLeftOut"] = {name: {str(n): left_out[n] for n in sorted(left_out)}}
    if cut:
        record["VolumesCutShort"] = {name: {str(n): round(s, 3) for n, s in sorted(cut.items())}}
    if gradients.lengths is not None:
        record["BScaling"] = {name: gradients.lengths.as_record()}
    index = [gradients.kept.index(n) for n in kept]
    return CheckedRun(kept, gradients.gtab.select(index), left_out, record)


def find_b0_volumes(data: NDArray[Any], gradients: RawGradients | None) -> tuple[int, ...]:
    """Return the volumes of an image that are b=0 and hold signal.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N).
    gradients
        Gradients of the same image; None: it has no b-values, and all volumes are b=0.
    """
    usable = set(range(data.shape[3])) - set(find_empty_volumes(data))
    if gradients is not None:
        usable &= {gradients.kept[i] for i in np.flatnonzero(gradients.gtab.is_b0)}
    return tuple(sorted(usable))


def check_usable(gtab: GradientTable, *, files: Sequence[str], needs_tensor: bool) -> None:
    """Refuse a series whose usable volumes hold no b=0 image, or no longer determine a tensor.

    Parameters
    ----------
    gtab
        Gradients of the volumes of all runs that are left.
    files
        Names of the runs.
    needs_tensor
        The gradient files determine a tensor.

    Raises
    ------
    GradientError
        If there is no b=0 volume, or no tensor can be fitted.
    """
    names = ", ".join(files)
    if not gtab.is_b0.any():
        raise GradientError(
            f"no b=0 volume with signal among the {len(gtab)} volumes of {names} that can be used",
            expected=f"at least one volume with b < {gtab.b0_threshold:g} s/mm^2",
            advice="copy or convert the scan again: a volume without signal cannot be used",
        )
    if needs_tensor and not determines_tensor(gtab):
        raise GradientError(
            f"{gtab.count_directions()} directions with signal among the {len(gtab)} volumes of "
            f"{names} that can be used: they do not determine a tensor",
            expected="six directions or more, spread over the sphere",
            advice="copy or convert the scan again: volumes without signal cannot be used",
        )
