"""Damage to bytes, headers, words and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import nibabel as nib
import numpy as np

EXTREME_NUMBERS = (0, -1, 1, 2, 7, 255, 348, 32767, -32768, 2**31 - 1, -(2**31), 2**62, 0.5,
                   -0.0, 1e-40, 1e30, -1e30, 3e38, np.nan, np.inf, -np.inf)  # fmt: skip


EXTREME_WORDS = (b"nan", b"inf", b"-inf", b"1e400", b"-1", b"1e308", b"1e-400", b"9" * 400,
                 b"1_000", "\uff11".encode(), "\u00b2".encode(), b"\0", b"0x10", b"", b"-",
                 b"1,5", b"\xff\xfe", b"1000;", b"1e5", b"0 " * 5_000)  # fmt: skip


EXTREME_JSON = (b"9" * 400, b"-" + b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"null", b"true",
                b"[]", b"{}", b"3", b"-0", b'""', b'"\\ud800"', b'"\\u0000"', b'"\xff"',
                b"[" * 100_000, b"[" * 70 + b"]" * 70, b'{"a":' * 500 + b"1" + b"}" * 500,
                b'["j", 3]', b'[["j"]]', b'"' + b"x" * 100_000 + b'"', b"0.05,",
                b'1, "EchoTime": 2', b"1e-5", b"[1000000000]", b"[100000, 0]")  # fmt: skip


def damage_bytes(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Flip bits, cut, repeat, remove or overwrite a piece, or append one."""
    content = bytearray(data)
    operation = rng.integers(6)
    start, stop = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
    if operation == 0:
        for bit in rng.integers(0, 8 * len(data), rng.integers(1, 4)):
            content[bit // 8] ^= 1 << (bit % 8)
    elif operation == 1:
        del content[start:]
    elif operation == 2:
        content[start:start] = content[start:stop]
    elif operation == 3:
        del content[start:stop]
    elif operation == 4:
        other = others[rng.integers(len(others))]
        content[start:stop] = other[start:stop]
    else:
        content += bytes(rng.integers(0, 256, rng.integers(1, 64), dtype=np.uint8))
    return bytes(content)


def damage_header(rng: np.random.Generator, plain: bytes) -> bytes:
    """Set one to three fields of a header to extreme values."""
    size = 348 if 348 in (int.from_bytes(plain[:4], o) for o in ("little", "big")) else 540
    order = "<" if int.from_bytes(plain[:4], "little") == size else ">"
    dtype = (nib.nifti1 if size == 348 else nib.nifti2).header_dtype.newbyteorder(order)
    header = np.frombuffer(plain[:size], dtype).copy()
    names = [n for n in dtype.names or () if header[n].dtype.kind in "iuf"]
    # Half of the fields describe the array or its position in space.
    chosen = [n for n in names if n.startswith(("dim", "pix", "vox", "scl", "q", "s", "x", "d"))]
    for _ in range(rng.integers(1, 4)):
        key = str(rng.choice(chosen if rng.random() < 0.5 else names))
        values = header[key].reshape(-1)
        value = EXTREME_NUMBERS[rng.integers(len(EXTREME_NUMBERS))]
        position = rng.integers(values.size)
        if values.dtype.kind == "f":
            with np.errstate(all="ignore"):
                values[position] = value
        else:
            limits = np.iinfo(values.dtype)
            number = int(value) if np.isfinite(value) else limits.max
            values[position] = min(max(number, limits.min), limits.max)
        header[key] = values.reshape(header[key].shape)
    return header.tobytes() + plain[size:]


def replace_word(rng: np.random.Generator, data: bytes, extremes: Sequence[bytes]) -> bytes:
    words = re.split(rb"([\s,]+)", data)
    words[2 * rng.integers((len(words) + 1) // 2)] = extremes[rng.integers(len(extremes))]
    return b"".join(words)


def damage_json(rng: np.random.Generator, text: bytes) -> bytes:
    """Damage the text, replace a value by a hostile one, or prefix a byte-order mark."""
    choice = rng.random()
    if choice < 0.3:
        return damage_bytes(rng, text, [text])
    if choice < 0.35:
        return (b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"", b"[")[rng.integers(5)] + text
    return replace_value(rng, text, EXTREME_JSON)


def replace_value(rng: np.random.Generator, text: bytes, extremes: Sequence[bytes]) -> bytes:
    """Replace a value of an object, or of one within it."""
    mark = "a hostile value stands here"
    content = json.loads(text)
    entries = content
    while True:
        key = str(rng.choice(sorted(entries)))
        if not (isinstance(entries[key], dict) and entries[key] and rng.random() < 0.8):
            break
        entries = entries[key]
    entries[key] = mark
    extreme = extremes[rng.integers(len(extremes))]
    return json.dumps(content).encode().replace(json.dumps(mark).encode(), extreme)
