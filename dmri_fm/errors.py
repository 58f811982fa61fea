"""Errors that a caller of :mod:`dmri_fm` may handle.

::

    DmriError
    ├── InputError            something on disk is not what it should be
    │   ├── LayoutError       the dataset: nothing found, unknown participant
    │   ├── ImageError        a NIfTI image: truncated, wrong rank, NaN voxels
    │   └── GradientError     b-values and b-vectors
    ├── ConfigError           the request: impossible or contradictory options
    │   └── MissingToolError  a program or package that was asked for is absent
    ├── WeightsError          a checkpoint: checksum, configuration, format
    ├── OutputError           writing failed: permission, full disk
    └── BusyError             another run works on the same participant
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "BusyError",
    "ConfigError",
    "DmriError",
    "GradientError",
    "ImageError",
    "InputError",
    "LayoutError",
    "MissingToolError",
    "OutputError",
    "WeightsError",
]


class DmriError(Exception):
    """Base class of every error this project raises on purpose.

    Parameters
    ----------
    found
        Fault, as a sentence fragment.
    path
        File or folder concerned, if there is one.
    expected
        Content or value that is accepted.
    advice
        Action for the user.
    """

    def __init__(
        self,
        found: str,
        *,
        path: str | Path | None = None,
        expected: str | None = None,
        advice: str | None = None,
    ) -> None:
        self.found = found
        self.path = None if path is None else Path(path)
        self.expected = expected
        self.advice = advice
        super().__init__(found)

    def __str__(self) -> str:
        lines = [self.found if self.path is None else f"{self.path}: {self.found}"]
        if self.expected:
            lines.append(f"  expected: {self.expected}")
        if self.advice:
            lines.append(f"  what to do: {self.advice}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders in the workflow engine, keyword arguments included.
        return (_rebuild, (type(self), self.found, self.path, self.expected, self.advice))


class InputError(DmriError):
    """Something on disk is not what it should be."""


class LayoutError(InputError):
    """The dataset as a whole cannot be used."""


class ImageError(InputError):
    """An image cannot be used."""


class GradientError(InputError):
    """A gradient table cannot be used."""


class ConfigError(DmriError):
    """The request is impossible or contradicts itself."""


class MissingToolError(ConfigError):
    """An external program that was asked for is not on the PATH."""


class WeightsError(DmriError):
    """A checkpoint is damaged, unknown or does not fit its model."""


class OutputError(DmriError):
    """An output could not be written."""


class BusyError(DmriError):
    """Another run is at work on the same participant."""


def _rebuild(
    error_class: type[DmriError],
    found: str,
    path: Path | None,
    expected: str | None,
    advice: str | None,
) -> DmriError:
    return error_class(found, path=path, expected=expected, advice=advice)
