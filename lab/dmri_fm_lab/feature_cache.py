"""Features of scans on disk, so that a long computation goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope

Vectors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FeatureCache:
    """Vectors by the name of their scan.

    Attributes
    ----------
    folder
        One file a scan; None: nothing is kept.
    """

    folder: Path | None = None

    @classmethod
    def of(cls, folder: Path | None, *parts: Any) -> FeatureCache:
        """Return the cache, in a folder, of vectors that follow from some objects.

        Objects of another content have a subfolder of their own. An encoder is its configuration
        and its tensors: with rotation and without, tensors have the same shapes.
        """
        return cls() if folder is None else cls(folder / digest(*parts))

    def get(self, name: str, compute: Callable[[], Vectors]) -> Vectors:
        """Return the vectors of a scan, which are computed unless they are there."""
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            vectors = compute()
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{name}.part-{os.getpid()}.npz")
            np.savez(partial, allow_pickle=False, **vectors)
            partial.replace(path)
        with np.load(path) as stored:
            return {key: stored[key] for key in stored.files}


def digest(*parts: Any) -> str:
    """Return a hash of the content of values, arrays, networks, dataclasses, and lists of them.

    Examples
    --------
    >>> digest(np.zeros(2), 1.0) == digest(np.zeros(2), 1.0)
    True
    >>> digest(np.zeros(2)) == digest(np.zeros((2, 1))), digest((1, 2), 3) == digest((1, 2, 3))
    (False, False)
    """
    total = sha256()
    _update(total, parts)
    return total.hexdigest()[:16]


def _update(total: Any, part: Any) -> None:
    if isinstance(part, Drope):
        part = (part.config, part.state_dict())
    if isinstance(part, torch.Tensor):
        part = part.detach().float().cpu().numpy()
    if isinstance(part, np.ndarray):
        total.update(f"{part.dtype}{part.shape}".encode())
        total.update(np.ascontiguousarray(part).tobytes())
    elif is_dataclass(part) and not isinstance(part, type):
        total.update(type(part).__name__.encode())
        _update(total, [getattr(part, field.name) for field in fields(part)])
    elif isinstance(part, Mapping):
        _update(total, list(part.items()))
    elif isinstance(part, list | tuple):
        total.update(f"[{len(part)}".encode())
        for item in part:
            _update(total, item)
    elif part is None or isinstance(part, str | int | float | np.generic):
        total.update(f"{part!r},".encode())
    else:
        raise TypeError(f"{type(part).__name__} has no content that can be told from another's")
