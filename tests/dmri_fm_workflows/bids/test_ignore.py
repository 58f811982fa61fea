"""`.bidsignore` takes files, scans and folders out."""

from __future__ import annotations

import pytest

from dmri_fm.errors import LayoutError
from dmri_fm_workflows.bids import read_dataset


@pytest.fixture
def maker(maker):
    """A dataset with one sound participant, `01`, and a series to copy, outside of it."""
    return maker.with_source()


@pytest.mark.parametrize(
    "text",
    [
        "sub-02_dwi.*\nsub-A_x/\n",
        "# copies\n\nsub-01/dwi/sub-02*\n/sub-A_*\n",
        "**/sub-02_*\nsub-A_?\n",
        "/*\n!/sub-*\nsub-01/dwi/*\n!sub-01/dwi/sub-01_*\nsub-A_x\n",
    ],
)
def test_bidsignore_takes_files_and_folders_out(maker, text) -> None:
    maker.put("sub-01/dwi", "sub-02_dwi")
    maker.put("sub-A_x/dwi", "sub-A_x_dwi")
    assert len(read_dataset(maker.root).problems) == 2
    (maker.root / ".bidsignore").write_text(text)
    dataset = read_dataset(maker.root)
    assert (maker.names(dataset), dataset.problems) == (["sub-01"], ())


def test_bidsignore_takes_whole_scans_out(maker) -> None:
    maker.put("sub-01/dwi", "sub-01_acq-x_dwi")
    maker.put("sub-02/dwi", "sub-02_dwi")
    (maker.root / ".bidsignore").write_text("*_acq-x_dwi.*\nsub-02/dwi/\n")
    dataset = read_dataset(maker.root)
    assert (maker.names(dataset), dataset.problems) == (["sub-01"], ())


def test_ignored_sidecar_does_not_apply(maker) -> None:
    maker.json("dwi.json", {"EchoTime": 9})
    (maker.root / ".bidsignore").write_text("/dwi.json\nsub-01/dwi/*.json\n")
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert dict(series.runs[0].metadata) == {}


def test_bidsignore_that_is_no_pattern_is_named(maker) -> None:
    path = maker.root / ".bidsignore"
    path.write_text("ok\n!\n")
    with pytest.raises(LayoutError, match="cannot be read") as caught:
        read_dataset(maker.root)
    assert caught.value.path == path
