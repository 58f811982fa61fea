"""Voxels of a NIfTI file, read through its end.

The checksum of a gzip stream stands behind the voxels: reading only as many bytes as the header
asks for finds no damage.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, ClassVar
from zlib import error as ZlibError

import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import DTypeLike, NDArray

from dmri_fm.errors import ImageError

#: Bytes that may follow the voxels: padding of some writers. More means a wrong header.
MAX_PADDING_BYTES = 2**16

#: Bytes of a file that are held beside the array they are read into.
_CHUNK_BYTES = 4 * 2**20

#: Advice on a file that is not whole.
DAMAGED = "the file is truncated or damaged: copy or convert it again"


@dataclass(frozen=True, eq=False)
class VoxelFile:
    """Voxels of a NIfTI file, read whole and verified whenever they are asked for.

    It is what nibabel calls an array proxy: `numpy.asarray` and slices of it are voxels, scaled.

    Attributes
    ----------
    path
        The file; one whose name ends in `.gz` is decompressed.
    shape
        Shape of the image; the first axis varies fastest in the file.
    dtype
        Type of the stored numbers.
    offset
        First byte of the voxels, in the decompressed file.
    slope, inter
        Voxel = slope * stored number + inter.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float = 1.0
    inter: float = 0.0
    is_proxy: ClassVar[bool] = True

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def n_bytes(self) -> int:
        """Size of the stored numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def reshape(self, shape: tuple[int, ...]) -> VoxelFile:
        """Return the same voxels in another shape; the first axis varies fastest."""
        return replace(self, shape=shape)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self.read(dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Return a slice. Of `[..., n]` no more than that volume is held in memory."""
        is_pair = isinstance(index, tuple) and len(index) == 2
        if is_pair and index[0] is Ellipsis and isinstance(index[1], int):
            size = math.prod(self.shape[:-1])
            start = range(self.shape[-1])[index[1]] * size
            return self._keep(start, start + size).reshape(self.shape[:-1], order="F")
        return np.array(self.read()[index])

    def read(self, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Read all voxels, scaled, and the file to its end.

        Memory is the returned array's, and it is filled only as far as the file reaches.

        Parameters
        ----------
        dtype
            Of the returned array; by default what scaling makes of the stored type.

        Raises
        ------
        ImageError
            If the file ends early, goes on after the voxels, fails its checksum, or the array
            does not fit into memory.
        """
        flat = self._keep(0, math.prod(self.shape), dtype)
        return flat.reshape(self.shape, order="F")

    def _keep(self, start: int, stop: int, dtype: DTypeLike | None = None) -> NDArray[Any]:
        """Read the file to its end; return some of its voxels, in their order there."""
        dtype = self._scale(np.empty(0, self.dtype)).dtype if dtype is None else dtype
        done = 0
        try:
            kept = np.empty(stop - start, dtype)
            # A stored number may be too large for the type that was asked for.
            with np.errstate(over="ignore", invalid="ignore"):
                for part in self._read_parts():
                    wanted = part[max(start - done, 0) : max(stop - done, 0)]
                    first = max(done - start, 0)
                    kept[first : first + wanted.size] = self._scale(wanted)
                    done += part.size
        except (OSError, EOFError, ZlibError) as error:
            raise ImageError(
                f"the voxels cannot be read ({error})",
                path=self.path,
                expected="a complete file",
                advice=DAMAGED,
            ) from None
        except MemoryError:
            raise ImageError(
                f"the voxels, {self.n_bytes / 1e9:.1f} GB as stored, do not fit into memory",
                path=self.path,
                expected="an image of shape " + " x ".join(map(str, self.shape)),
                advice="check that this is its shape; if so, give the job more memory",
            ) from None
        return kept

    def _scale(self, stored: NDArray[Any]) -> NDArray[Any]:
        scaled: NDArray[Any] = apply_read_scaling(stored, self.slope, self.inter)
        return scaled

    def _read_parts(self) -> Iterator[NDArray[Any]]:
        """Yield the stored numbers piece by piece; the last piece comes before the verdict."""
        size = self.dtype.itemsize
        buffer = bytearray(min(self.n_bytes, max(1, _CHUNK_BYTES // size) * size))
        with open_stream(self.path) as stream:
            _skip(stream, self.offset)
            done = 0
            while done < self.n_bytes:
                view = memoryview(buffer)[: self.n_bytes - done]
                n_read = _fill(stream, view)
                done += n_read
                if n_read < len(view):
                    raise EOFError(f"{done} bytes of voxels instead of {self.n_bytes}")
                yield np.frombuffer(view, self.dtype)
            # The end of a gzip stream, reached here, is where its checksum is compared.
            n_more = 0
            while more := stream.read(MAX_PADDING_BYTES):
                n_more += len(more)
                if n_more > MAX_PADDING_BYTES:
                    raise EOFError("the file goes on after the last voxel")


def open_stream(path: Path) -> IO[bytes]:
    """Open a file for reading; one whose name ends in `.gz` is decompressed."""
    is_compressed = path.name.lower().endswith(".gz")
    return gzip.open(path, "rb") if is_compressed else path.open("rb")  # type: ignore[return-value]


def _skip(stream: IO[bytes], n_bytes: int) -> None:
    while n_bytes > 0:
        skipped = stream.read(min(n_bytes, _CHUNK_BYTES))
        if not skipped:
            raise EOFError("it ends before the first voxel")
        n_bytes -= len(skipped)


def _fill(stream: IO[bytes], view: memoryview) -> int:
    """Read until a buffer is full or the stream ends; return how many bytes came."""
    n_read = 0
    while n_read < len(view):
        n_more = stream.readinto(view[n_read:])  # type: ignore[attr-defined]
        if not n_more:
            break
        n_read += n_more
    return n_read
