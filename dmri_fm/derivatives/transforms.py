"""What the sidecar of a transform says: its frames, which way it takes points, its format.

The convention of the files themselves is that of :mod:`dmri_fm.normalise.transforms`.
"""

from __future__ import annotations

from dmri_fm.derivatives.maps import load_catalogue
from dmri_fm.derivatives.naming import OutputName
from dmri_fm.errors import ConfigError

__all__ = ["transform_metadata"]

_FORMATS = {
    ".txt": "ITK text file, one affine transform",
    ".mat": "ITK binary file, one affine transform",
    ".h5": "ITK composite transform in HDF5, one displacement field",
}


def transform_metadata(name: OutputName) -> dict[str, str]:
    """Return what the sidecar of a transform file says beside its sources.

    Parameters
    ----------
    name
        What the file is called, see :func:`dmri_fm.derivatives.identify`.

    Returns
    -------
    dict
        `Description`, `SourceFrame`, `TargetFrame`, `PointMapping`, `CoordinateSystem`, `Format`.
        Nothing for a table of transforms, whose columns are described.

    Raises
    ------
    ConfigError
        If the name is not that of a transform, or `maps.yaml` has no such frame.

    Examples
    --------
    >>> from dmri_fm.derivatives import identify
    >>> name = identify("sub-1/anat/sub-1_from-T1w_to-ACPC_mode-image_xfm.txt")
    >>> found = transform_metadata(name)
    >>> found["Description"]
    'Resamples an image from T1w into ACPC.'
    >>> found["PointMapping"]
    'A point of ACPC is taken to the point of T1w that shows the same tissue.'
    """
    if not name.kind.is_transform:
        raise ConfigError(
            f"{name.kind.name} is no transform", expected="a kind whose suffix is xfm"
        )
    if name.extension not in _FORMATS:
        return {}
    source, target = name.entities["from"], name.entities["to"]
    return {
        "Description": f"Resamples an image from {source} into {target}.",
        "SourceFrame": f"{source}: {_describe_frame(source)}",
        "TargetFrame": f"{target}: {_describe_frame(target)}",
        "PointMapping": (
            f"A point of {target} is taken to the point of {source} that shows the same tissue."
        ),
        "CoordinateSystem": (
            "ITK: mm along LPS+, the first two components of RAS+ negated; a displacement field "
            "is defined inside its own grid and is interpolated linearly"
            if name.extension == ".h5"
            else "ITK: mm along LPS+, the first two components of RAS+ negated"
        ),
        "Format": _FORMATS[name.extension],
    }


def _describe_frame(label: str) -> str:
    catalogue = load_catalogue()
    if label in catalogue.spaces:
        return catalogue.spaces[label].description
    if label not in catalogue.frames:
        raise ConfigError(
            f"no frame is called {label!r}",
            expected=" or ".join((*catalogue.spaces, *catalogue.frames)),
            advice="describe it under `frames` in maps.yaml",
        )
    return catalogue.frames[label]
