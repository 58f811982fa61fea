"""Direction, frame and format of a transform file, for its sidecar.

The convention of the files themselves is that of :mod:`dmri_fm.normalise.transforms`.
"""

from __future__ import annotations

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.outputs.naming import OutputName

_FORMATS = {
    ".txt": "ITK text file, one affine transform",
    ".mat": "ITK binary file, one affine transform",
    ".h5": "ITK composite transform in HDF5, one displacement field",
    ".tsv": "table, one affine transform a row",
}

_LPS = "ITK: mm along LPS+, the first two components of RAS+ negated"
_FRAMES = {
    ".txt": _LPS,
    ".mat": _LPS,
    ".h5": f"{_LPS}; the displacement field is linear between the voxels of its own grid",
    ".tsv": "mm along RAS+",
}


def transform_metadata(name: OutputName) -> dict[str, str]:
    """Return the direction, frame and format of a transform file, as entries of its sidecar.

    Parameters
    ----------
    name
        Its name, see :func:`dmri_fm_workflows.outputs.identify`.

    Returns
    -------
    dict
        `PointMapping`, `CoordinateSystem` and `Format`.

    Raises
    ------
    ConfigError
        If the name is not that of a transform.

    Examples
    --------
    >>> from dmri_fm_workflows.outputs import identify
    >>> name = identify("sub-1/anat/sub-1_from-T1w_to-ACPC_mode-image_xfm.txt")
    >>> transform_metadata(name)["PointMapping"]
    'A point of ACPC is taken to the point of T1w that shows the same tissue.'
    """
    if not name.type.is_transform:
        raise ConfigError(
            f"{name.type.name} is no transform", expected="an output type whose suffix is xfm"
        )
    source, target = name.entities["from"], name.entities["to"]
    return {
        "PointMapping": (
            f"A point of {target} is taken to the point of {source} that shows the same tissue."
        ),
        "CoordinateSystem": _FRAMES[name.extension],
        "Format": _FORMATS[name.extension],
    }
