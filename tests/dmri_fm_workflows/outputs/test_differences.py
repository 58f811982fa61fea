"""Two output folders: what counts as equal, and what is said of the rest."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.__main__ import main
from dmri_fm_workflows.group.writing import table_parquet
from dmri_fm_workflows.outputs.differences import Difference, compare_outputs

VOXELS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)

PAGE = """<h2>Software and run</h2>
<h3>Command</h3>
<pre>drope-bidsapp /a {out}</pre>
<details><summary>Configuration of the run</summary>
<pre>output_dir = "{out}"</pre></details>
"""


def save_image(path: Path, data: np.ndarray, *, level: int = 6) -> None:
    image = nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1]))
    path.write_bytes(gzip.compress(image.to_bytes(), level, mtime=0))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same files of every type."""
    one, two = tmp_path / "one", tmp_path / "two"
    dwi = one / "sub-01" / "dwi"
    for folder in (dwi, one / "group", one / "logs", one / "sub-01" / "log"):
        folder.mkdir(parents=True)
    save_image(dwi / "fa.nii.gz", VOXELS)
    (dwi / "fa.json").write_text('{"a": [1, 2.5], "b": {"c": "x"}}')
    (dwi / "qc.tsv").write_text("scan\tsnr\tfd\na\t20\tn/a\nb\t30\t0.5\n")
    (dwi / "dwi.bval").write_text("0 1000\n")
    (dwi / "xfm.txt").write_text("#Insight Transform File V1.0\nParameters: 1 2 3\n1 2 3\n")
    np.savez(dwi / "features.npz", tokens=VOXELS)
    with h5py.File(dwi / "xfm.h5", "w") as file:
        file["TransformGroup/0/parameters"] = VOXELS
    (dwi / "fa.svg").write_text("<svg/>")
    table = pd.DataFrame({"participant_id": ["sub-01"], "fa": [0.4], "run_uuid": ["u"]})
    (one / "group" / "participants_status.tsv").write_text("participant_id\trun_uuid\nsub-01\tu\n")
    (one / "group" / "participants_status.parquet").write_bytes(table_parquet(table, None))
    (one / "dataset_description.json").write_text('{"Name": "x", "DatasetLinks": {"raw": "/a"}}')
    (one / "sub-01.html").write_text(PAGE.format(out="/one"))
    shutil.copytree(one, two)
    return one, two


def other(pair: tuple[Path, Path], tolerance: float = 0.0) -> list[Difference]:
    """Return what is not identical."""
    return [d for d in compare_outputs(*pair, tolerance=tolerance) if d.state != "identical"]


def test_copies_are_identical_and_logs_are_not_compared(pair) -> None:
    (pair[1] / "logs" / "a.log").write_text("x")
    (pair[1] / "sub-01" / "log" / "provenance.json").write_text("{}")
    assert other(pair) == []
    assert len(compare_outputs(*pair)) == 12


def test_entries_of_a_run_are_named_and_count_as_equal(pair) -> None:
    two, table = pair[1], pd.DataFrame(
        {"participant_id": ["sub-01"], "fa": [0.4], "run_uuid": ["v"]}
    )  # fmt: skip
    (two / "group" / "participants_status.tsv").write_text("participant_id\trun_uuid\nsub-01\tv\n")
    (two / "group" / "participants_status.parquet").write_bytes(table_parquet(table, None))
    (two / "dataset_description.json").write_text('{"Name": "x", "DatasetLinks": {"raw": "/b"}}')
    (two / "sub-01.html").write_text(PAGE.format(out="/two"))
    save_image(two / "sub-01" / "dwi" / "fa.nii.gz", VOXELS, level=1)
    found = {d.path: (d.state, d.detail) for d in other(pair)}
    assert {state for state, _ in found.values()} == {"same values"}
    assert {Path(path).name: detail for path, (_, detail) in found.items()} == {
        "participants_status.tsv": "differs in run_uuid",
        "participants_status.parquet": "differs in run_uuid",
        "dataset_description.json": "differs in DatasetLinks.raw",
        "sub-01.html": "differs in command and configuration",
        "fa.nii.gz": "differs in compression, order, notation or metadata",
    }


def change_image(path: Path) -> None:
    data = VOXELS.copy()
    data[1, 2, 3] += 0.5
    save_image(path, data)


def change_arrays(path: Path) -> None:
    data = VOXELS.copy()
    data[1, 2, 3] += 0.5
    np.savez(path, tokens=data)


def change_h5(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["TransformGroup/0/parameters"][1, 2, 3] = 23.5


def rewrite(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


@pytest.mark.parametrize(
    ("name", "change", "largest", "relative", "entry"),
    [
        ("fa.nii.gz", change_image, 0.5, 0.5 / 23.5, "voxels"),
        ("features.npz", change_arrays, 0.5, 0.5 / 23.5, "tokens"),
        ("xfm.h5", change_h5, 0.5, 0.5 / 23.5, "TransformGroup/0/parameters"),
        ("fa.json", rewrite('{"a": [1, 2.0], "b": {"c": "x"}}'), 0.5, 0.2, "a.1"),
        ("qc.tsv", rewrite("scan\tsnr\tfd\na\t20\tn/a\nb\t24\t0.5\n"), 6, 0.2, "snr"),
        ("dwi.bval", rewrite("0 1001\n"), 1, 1 / 1001, "line 1"),
        ("xfm.txt", rewrite("#Insight Transform File V1.0\nParameters: 1 2 3\n1 2 4\n"), 1, 0.25,
         "line 3"),
    ],
)  # fmt: skip
def test_numbers_that_differ_have_their_largest_difference(
    pair, name, change, largest, relative, entry
) -> None:
    change(pair[1] / "sub-01" / "dwi" / name)
    (found,) = other(pair)
    assert found.state == "numbers differ"
    assert found.largest == pytest.approx(largest)
    assert found.relative == pytest.approx(relative)
    assert found.detail.startswith(f"1 numbers of {entry}, by up to ")
    assert other(pair, relative * 1.01)[0].state == "close"
    assert other(pair, relative * 0.99)[0].state == "numbers differ"


@pytest.mark.parametrize(
    ("name", "text", "detail"),
    [
        ("fa.json", '{"a": [1], "b": {"c": "x"}}', "a.1 (in one only)"),
        ("fa.json", '{"a": [1, 2.5], "b": {"c": "y"}}', "b.c"),
        ("fa.json", '{"a": [1, "2.5"], "b": {"c": "x"}}', "a.1"),
        ("qc.tsv", "scan\tsnr\tfd\na\t20\t0.1\nb\t30\t0.5\n", "fd (finite in one only)"),
        ("qc.tsv", "scan\tsnr\tfd\na\t20\tn/a\n", "fd (shapes (2,) and (1,)), scan, snr"),
        ("fa.svg", "<svg></svg>", "compared as bytes"),
    ],
)
def test_content_that_differs_is_no_matter_of_numbers(pair, name, text, detail) -> None:
    (pair[1] / "sub-01" / "dwi" / name).write_text(text)
    (found,) = other(pair, tolerance=1e9)
    assert found.state == "content differs"
    assert found.detail.startswith(detail)


def test_missing_and_damaged_files_are_named(pair) -> None:
    (pair[0] / "sub-01" / "dwi" / "fa.svg").unlink()
    (pair[1] / "sub-01" / "dwi" / "fa.json").unlink()
    image = pair[1] / "sub-01" / "dwi" / "fa.nii.gz"
    image.write_bytes(image.read_bytes()[:60])
    (pair[1] / "sub-01" / "dwi" / "features.npz").write_bytes(b"PK\x03\x04")
    (pair[1] / "sub-01" / "dwi" / "qc.tsv").write_text("scan\tsnr\na\n")
    assert {(Path(d.path).name, d.state) for d in other(pair)} == {
        ("fa.svg", "only in the second"),
        ("fa.json", "only in the first"),
        ("fa.nii.gz", "unreadable"),
        ("features.npz", "unreadable"),
        ("qc.tsv", "unreadable"),
    }


def test_command(pair, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["diff", *map(str, pair)]
    assert main(words) == 0
    assert capsys.readouterr().out == "12 files: 12 identical\n"
    (pair[1] / "sub-01.html").write_text(PAGE.format(out="/two"))
    assert main(words) == 0
    (pair[1] / "sub-01" / "dwi" / "fa.json").write_text(
        json.dumps({"a": [1, 2.4], "b": {"c": "x"}})
    )
    capsys.readouterr()
    assert main(words) == 1
    assert capsys.readouterr().out.splitlines() == [
        "same values\tsub-01.html\tdiffers in command and configuration",
        "numbers differ\tsub-01/dwi/fa.json\t1 numbers of a.1, by up to 0.1 (0.04 of the largest)",
        "12 files: 10 identical, 1 same values, 1 numbers differ",
    ]
    assert main([*words, "--tolerance", "0.05"]) == 0
    assert main(["diff", str(pair[0]), str(pair[0] / "none")]) == 1
    with pytest.raises(ConfigError, match="tolerance"):
        compare_outputs(*pair, tolerance=float("nan"))
