"""Atomic writing of output files.

A file is written under a name with a leading dot, flushed to the disk, and renamed. A file with
the same bytes is not touched, so that a repeated run changes neither contents nor times.
"""

from __future__ import annotations

import filecmp
import gzip
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import IO, Any

import nibabel as nib
import numpy as np

from dmri_fm.errors import OutputError
from dmri_fm.image_files import open_nifti

#: Ending of a file that is not complete yet.
PARTIAL_SUFFIX = ".part"

_CHUNK_BYTES = 4 * 2**20

#: Optional fields of a gzip header, by their flag bit (RFC 1952).
_GZIP_CRC, _GZIP_EXTRA, _GZIP_NAME, _GZIP_COMMENT = 2, 4, 8, 16


def to_json(value: Any) -> Any:
    """Return a value as plain JSON types: numbers from numpy, text from paths, no NaN.

    A number that is not finite, and None, become the text `n/a`; JSON knows neither.

    Examples
    --------
    >>> to_json({"a": np.float32(0.5), "b": [np.int64(1), float("nan")], "c": Path("x")})
    {'a': 0.5, 'b': [1, 'n/a'], 'c': 'x'}
    """
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_json(v) for v in value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "n/a"
    if isinstance(value, PurePath):
        return value.as_posix()
    return value


def publish_text(text: str, target: str | Path) -> bool:
    """Write a text file atomically, UTF-8.

    Parameters
    ----------
    text
        Contents.
    target
        Path; missing folders are made.

    Returns
    -------
    bool
        False if the file was there with the same bytes.

    Raises
    ------
    OutputError
        If the disk is full or the folder cannot be written.
    """
    data = text.encode("utf-8")
    return _publish(lambda stream: stream.write(data), Path(target))


def publish_bytes(pieces: Iterable[bytes], target: str | Path) -> bool:
    """Write a file atomically, piece after piece; see :func:`publish_text`."""
    return _publish(lambda stream: stream.writelines(pieces), Path(target))


def publish_json(content: Mapping[str, Any], target: str | Path) -> bool:
    """Write a JSON file atomically, keys sorted; see :func:`publish_text`."""
    text = json.dumps(to_json(content), indent=2, sort_keys=True, ensure_ascii=False)
    return publish_text(text + "\n", target)


def publish_file(source: str | Path, target: str | Path) -> bool:
    """Copy a file atomically.

    A `.gz` file loses the time and name that some programs put into its header; a plain file is
    compressed if the target's name ends in `.gz`.

    Parameters
    ----------
    source
        File to copy; it stays.
    target
        See :func:`publish_text`.

    Returns
    -------
    bool
        False if the target was there with the same bytes.

    Raises
    ------
    OutputError
        If the disk is full, the folder cannot be written, or the source cannot be read.
    """
    source, target = Path(source), Path(target)

    def copy(stream: IO[bytes]) -> None:
        with source.open("rb") as content:
            if target.suffix == ".gz" and content.peek(2)[:2] == b"\x1f\x8b":
                stream.write(_plain_gzip_header(content))
                shutil.copyfileobj(content, stream, _CHUNK_BYTES)
            elif target.suffix == ".gz":
                with gzip.GzipFile("", "wb", 6, stream, mtime=0) as packed:
                    shutil.copyfileobj(content, packed, _CHUNK_BYTES)
            else:
                shutil.copyfileobj(content, stream, _CHUNK_BYTES)

    return _publish(copy, target)


def _plain_gzip_header(stream: IO[bytes]) -> bytes:
    """Read past a gzip header and return one without time, name and comment."""
    header = bytearray(stream.read(10))
    flags = header[3]
    if flags & _GZIP_EXTRA:
        stream.read(int.from_bytes(stream.read(2), "little"))
    for flag in (_GZIP_NAME, _GZIP_COMMENT):
        if flags & flag:
            while stream.read(1) not in (b"\0", b""):
                pass
    if flags & _GZIP_CRC:
        stream.read(2)
    header[3] = 0
    header[4:8] = b"\0\0\0\0"
    header[9] = 255
    return bytes(header)


def _publish(write: Callable[[IO[bytes]], object], target: Path) -> bool:
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target: two bind mounts of one file system are two to `rename`.
        handle, name = tempfile.mkstemp(PARTIAL_SUFFIX, f".{target.name}.", target.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if target.is_file() and filecmp.cmp(temporary, target, shallow=False):
            temporary.unlink()
            return False
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(
            f"cannot be written ({error.strerror or error})",
            path=target,
            expected="a writable folder with free space",
            advice="check permissions, quota and free space, then run the same command again",
        ) from None
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise
    return True


def _umask() -> int:
    # The only portable way to read it is to set it; Linux also tells it without a change.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    current = os.umask(0o022)
    os.umask(current)
    return current


def clear_partial(folder: str | Path, *, name: str | None = None) -> int:
    """Remove unfinished files of killed runs; return their number.

    Call it only while no other run writes there.

    Parameters
    ----------
    folder
        Where to look, with all folders below it.
    name
        Remove unfinished versions of the file of this name only, in the folder itself only.
    """
    found = (
        Path(folder).rglob(f".*{PARTIAL_SUFFIX}")
        if name is None
        else Path(folder).glob(f".{name}.*{PARTIAL_SUFFIX}")
    )
    leftovers = [p for p in found if p.is_file()]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def conform_image(
    source: str | Path,
    target: str | Path,
    *,
    form_code: int,
    dtype: Any = None,
    time_step_s: float | None = None,
) -> Path:
    """Give a NIfTI image the header that an output should have.

    qform and sform become equal with the given code, units mm and s, and the fourth axis of a
    series gets the repetition time as its step. Voxels keep their bytes unless `dtype` asks for
    another type.

    Parameters
    ----------
    source
        NIfTI-1 image.
    target
        Path for a changed copy, `.nii.gz`; written only if the header or the type changes.
    form_code
        NIfTI code: 1 scanner, 2 aligned, 4 template.
    dtype
        Voxel type to convert to, rounding; None keeps the type.
    time_step_s
        Repetition time of a 4-D series, s; 0 if unknown, None if the fourth axis is not time.

    Returns
    -------
    Path
        `source` if it was right already, else `target`.

    Raises
    ------
    ImageError
        If the file is damaged or no NIfTI image.
    """
    source, target = Path(source), Path(target)
    image = open_nifti(source)
    header = image.header.copy()
    if dtype is not None and header.get_data_dtype() != np.dtype(dtype):
        data = np.rint(np.asanyarray(image.dataobj)).astype(dtype)
        image = nib.Nifti1Image(data, image.affine, header)
        image.header.set_data_dtype(dtype)
        image.header.set_slope_inter(1, 0)
        _set_geometry(image.header, image.affine, form_code, time_step_s)
        nib.save(image, target)
        return target
    _set_geometry(header, image.affine, form_code, time_step_s)
    if header.binaryblock == image.header.binaryblock:
        return source
    opener = gzip.open if source.suffix == ".gz" else open
    with opener(source, "rb") as content, target.open("wb") as out:
        raw = content.read(len(header.binaryblock))
        # nibabel hides the scale factors in the header that it shows: patch the file's own.
        patched = type(header)(raw, check=False)
        _set_geometry(patched, image.affine, form_code, time_step_s)
        with gzip.GzipFile("", "wb", 1, out, mtime=0) as packed:
            packed.write(patched.binaryblock)
            shutil.copyfileobj(content, packed, _CHUNK_BYTES)
    return target


def _set_geometry(
    header: nib.Nifti1Header, affine: Any, code: int, time_step_s: float | None
) -> None:
    header.set_sform(affine, code=code)
    header.set_qform(affine, code=code, strip_shears=True)
    if int(header["dim"][0]) == 4:
        header["pixdim"][4] = 1.0 if time_step_s is None else time_step_s
    # The validator wants both units of every image, whether it has a fourth axis or not.
    header.set_xyzt_units("mm", "sec")
