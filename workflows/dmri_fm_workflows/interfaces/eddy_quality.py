"""eddy_quad's measures, as columns of the table of image quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import isdefined

from dmri_fm.errors import InputError
from dmri_fm.json_files import read_object

#: Flag of `qc.json`, by measure, that is false where eddy_quad lacked the files for it.
_FLAGS = {
    "qc_vox_displ_std": "qc_field_flag",
    "qc_outliers_tot": "qc_ol_flag",
    "qc_outliers_b": "qc_ol_flag",
    "qc_cnr_avg": "qc_cnr_flag",
}

#: Column by key of eddy_quad's `qc.json`, of measures that are one number.
_NUMBERS = {
    "qc_mot_abs": "eddy_mot_abs",
    "qc_mot_rel": "eddy_mot_rel",
    "qc_outliers_tot": "eddy_outliers_tot",
    "qc_vox_displ_std": "eddy_vox_displ_std",
}


def read_eddy_quality(path: Any) -> dict[str, float | None]:
    """Return eddy_quad's measures by column, None where it had no files; none if it did not run.

    Parameters
    ----------
    path
        Its `qc.json`, or an undefined trait.

    Raises
    ------
    InputError
        If a measure is not what eddy_quad writes.
    """
    if not isdefined(path):
        return {}
    found = read_object(Path(path))
    row = {column: _number(found, key, path) for key, column in _NUMBERS.items()}
    bvals = [round(b, -1) for b in _numbers(found, "data_unique_bvals", path) if b is not None]
    outliers = _numbers(found, "qc_outliers_b", path)
    row |= {f"eddy_outliers_b{b:.0f}": v for b, v in zip(bvals, outliers, strict=False)}
    # The first is the signal-to-noise ratio of b=0.
    contrasts = _numbers(found, "qc_cnr_avg", path)
    names = ["eddy_snr_b0", *(f"eddy_cnr_b{b:.0f}" for b in bvals)]
    return row | dict(zip(names, contrasts, strict=False))


def _number(found: dict[str, Any], key: str, path: Any) -> float | None:
    """Return a measure that is one number, which may stand in a list."""
    numbers = _numbers(found, key, path)
    if len(numbers) > 1:
        raise _refuse(key, found[key], path)
    return numbers[0] if numbers else None


def _numbers(found: dict[str, Any], key: str, path: Any) -> list[float | None]:
    """Return numbers, None for those that are not finite or were not measured (-1)."""
    value = found.get(key)
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise _refuse(key, value, path)
    is_measured = found.get(_FLAGS.get(key, ""), True)
    # No measure is negative.
    return [float(v) if is_measured and np.isfinite(v) and v >= 0 else None for v in values]


def _refuse(key: str, value: Any, path: Any) -> InputError:
    return InputError(
        f"{key} is {value!r}",
        path=path,
        expected="numbers, as eddy_quad writes them",
        advice="leave eddy_quad off the PATH, or use the version of FSL 6",
    )
