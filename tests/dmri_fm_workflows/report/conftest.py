"""Checks of figures."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def pictures() -> Callable[[Path], list[np.ndarray]]:
    """Return a function that checks a figure and returns the pictures embedded in it."""
    return read_pictures


def read_pictures(path: Path) -> list[np.ndarray]:
    """Return the pictures embedded in a figure, after checking that it is sound."""
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert re.findall(r'(?:href|src)="(?!data:|#)[^"]*"', text) == []
    uris = re.findall(r'href="data:image/png;base64,([^"]+)"', text)
    return [np.asarray(Image.open(BytesIO(base64.b64decode(uri)))) for uri in uris]
