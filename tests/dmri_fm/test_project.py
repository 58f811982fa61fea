"""The address of the source comes from the package's metadata, or is not told."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from dmri_fm.project import DISTRIBUTION, source_url

SOURCE = "https://forge.example/lab/drope"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put metadata of the distribution before the installed ones; return how to write them."""
    folder = tmp_path / "drope_bidsapp-9.dist-info"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    source_url.cache_clear()

    def write(*lines: str) -> None:
        text = "\n".join(["Metadata-Version: 2.4", f"Name: {DISTRIBUTION}", "Version: 9", *lines])
        (folder / "METADATA").write_text(text + "\n")

    yield write
    source_url.cache_clear()


def test_the_source_is_read_from_the_metadata(installed) -> None:
    installed("Project-URL: Documentation, https://docs.example", f"Project-URL: Source, {SOURCE}")
    assert metadata.version(DISTRIBUTION) == "9", "the metadata of this test"
    assert source_url() == SOURCE


@pytest.mark.parametrize("lines", [(), ("Project-URL: Documentation, https://docs.example",)])
def test_without_a_source_there_is_no_address(installed, lines: tuple[str, ...]) -> None:
    installed(*lines)
    assert source_url() is None
