"""Features of an evaluation on disk, so that a long one goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope

Vectors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FeatureCache:
    """Vectors by the name of their scan; of one encoder and one request.

    Attributes
    ----------
    folder
        One file a scan; None: nothing is kept.
    """

    folder: Path | None = None

    @classmethod
    def of(cls, folder: Path | None, encoder: Drope, request: Any) -> FeatureCache:
        """Return the cache of an encoder and a request (a dataclass), in a folder.

        Other weights, another architecture or request have a subfolder of their own: encoders
        with rotation and without have tensors of the same shapes.
        """
        if folder is None:
            return cls()
        key = (type(request).__name__, asdict(request), encoder.config)
        digest = sha256(repr(key).encode())
        for name, tensor in encoder.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return cls(folder / digest.hexdigest()[:16])

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


#: Nothing is kept.
NO_CACHE = FeatureCache()
