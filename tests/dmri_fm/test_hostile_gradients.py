"""Gradient files that hold anything but plain numbers."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gradient_files import read_gradients
from dmri_fm.gradient_text import MAX_FILE_BYTES

BVAL, BVEC = b"0 1000 1000 1000", b"0 1 0 0\n0 0 1 0\n0 0 0 1\n"

HOSTILE = {
    "binary": (bytes(range(256)) * 20, "not a number"),
    "NUL": (b"0 1000 10\x0000 1000", "not a number"),
    "400 digits": (b"0 1000 1000 " + b"9" * 400, "not a number: '999"),
    "1e400": (b"0 1000 1000 1e400", "not a number: '1e400'"),
    "infinite": (b"0 1000 1000 inf", "not a number: 'inf'"),
    "1e300": (b"0 1000 1000 1e300", "not a number: '1e300'"),
    "underscore": (b"0 1000 1000 1_000", "not a number: '1_000'"),
    "digits of another script": ("0 1000 1000 \uff11\uff10\uff10\uff10".encode(), "not a number"),
    "UTF-16": ("0 1000 1000 1000".encode("utf-16"), "not a number"),
    "a word of a megabyte": (b"x" * 10**6, "not a number: 'xxx"),
    "a line of a megabyte": (b"0 " * 500_000, "500000"),
    "rows of many lengths": (b"\n".join(b"0 " * n for n in range(1, 900)), "unequal length"),
    "too large": (b"0 " * (MAX_FILE_BYTES // 2 + 1), "larger than 4 MB"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("file", ["bval", "bvec"])
def test_content_that_is_no_table_of_numbers_is_refused(tmp_path, name, file) -> None:
    content, words = HOSTILE[name]
    good = {"bval": BVAL, "bvec": BVEC}
    for ending, data in (good | {file: content}).items():
        (tmp_path / f"x.{ending}").write_bytes(data)
    with pytest.raises(GradientError, match=words) as caught:
        read_gradients(tmp_path / "x.bval", tmp_path / "x.bvec", affine=np.eye(4), n_volumes=4)
    assert caught.value.path == tmp_path / f"x.{file}"
    assert len(str(caught.value).encode()) < 1000
