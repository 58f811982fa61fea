"""Files and folders that a request names."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.errors import (
    ConfigError,
    InputError,
    OutputError,
    WeightsError,
)
from dmri_fm_workflows import cli
from dmri_fm_workflows.config import RunConfig


def parse(bids: Path, *options: str) -> RunConfig:
    return cli.parse_args([str(bids), str(bids.parent / "out"), "participant", *options])


def test_command_line_wins_over_file(bids: Path, tmp_path: Path) -> None:
    before = parse(bids, "--nprocs", "6", "--omp-nthreads", "4", "--sdc", "none", "--unring")
    path = tmp_path / "config.toml"
    path.write_text(before.to_toml())
    other = tmp_path / "other"
    after = cli.parse_args(
        [
            *(str(bids), str(other), "participant", "--config-file", str(path)),
            *("--nprocs", "2", "--sdc", "auto"),
        ]
    )
    assert (after.nprocs, after.omp_nthreads, after.sdc, after.unring) == (2, 2, "auto", True)
    assert after.output_dir == other
    assert after.work_dir == other / "work"
    assert after.run_uuid != before.run_uuid


@pytest.mark.parametrize(
    ("out", "work", "message"),
    [
        ("bids", None, "is the dataset itself"),
        ("bids/out", None, "inside the raw dataset"),
        ("bids/derivatives", None, "inside the raw dataset"),
        ("out", "bids", "is the dataset itself"),
        ("out", "bids/w", "inside the raw dataset"),
        ("out", "out", "holds the outputs"),
        ("a/out", "a", "holds the outputs"),
    ],
)
def test_folders_that_endanger_data(
    bids: Path, tmp_path: Path, out: str, work: str | None, message: str
) -> None:
    options = ["-w", str(tmp_path / work)] if work else []
    with pytest.raises(ConfigError, match=message):
        cli.parse_args([str(bids), str(tmp_path / out), "participant", *options])
    assert list(tmp_path.iterdir()) == [bids]
    assert list(bids.iterdir()) == []


def test_derivatives_may_lie_in_the_dataset(bids: Path) -> None:
    out = bids / "derivatives" / "drope"
    assert cli.parse_args([str(bids), str(out), "participant"]).output_dir == out
    assert out.is_dir()


@pytest.mark.parametrize(("level", "name"), [("participant", "logs"), ("group", "group")])
def test_folders_of_the_output_folder_are_no_links(
    bids: Path, tmp_path: Path, level: str, name: str
) -> None:
    (tmp_path / "disk" / "out").mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    # The output folder itself may be one.
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    assert cli.parse_args([str(bids), str(tmp_path / "out"), level]).nprocs > 0
    (tmp_path / "out" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=str(tmp_path / "precious")) as caught:
        cli.parse_args([str(bids), str(tmp_path / "out"), level])
    assert caught.value.path == tmp_path / "disk" / "out" / name


def test_output_inside_dataset_through_a_link(bids: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bids)
    with pytest.raises(ConfigError, match="the dataset itself"):
        cli.parse_args([str(bids), str(tmp_path / "link"), "participant"])


@pytest.mark.parametrize("name", ["own", "link", "own/sub-01", "own/logs", "link/new"])
def test_own_derivatives_are_not_written_over(tmp_path: Path, name: str) -> None:
    """Input of this app's own outputs: a run into the same folder would replace what it reads."""
    (tmp_path / "own" / "sub-01").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    asked = ["--input-type", "preprocessed"]
    for given in ("own", "link"):
        pair = [str(tmp_path / given), str(tmp_path / name)]
        with pytest.raises(ConfigError, match=r"dataset itself|inside the preprocessed"):
            cli.parse_args([*pair, "participant", *asked])
    assert [p.name for p in (tmp_path / "own").iterdir()] == ["sub-01"]
    allowed = tmp_path / "own" / "derivatives" / "again"
    given = [str(tmp_path / "own"), str(allowed), "participant", *asked]
    assert cli.parse_args(given).output_dir == allowed


@pytest.mark.parametrize("inside", ["sub-01", "sub-01/data", "logs/data", "group", "work/data"])
def test_dataset_inside_the_outputs_is_refused(tmp_path: Path, inside: str) -> None:
    (data := tmp_path / "out" / inside).mkdir(parents=True)
    (data / "precious").touch()
    (tmp_path / "link").symlink_to(data)
    for given in (data, tmp_path / "link"):
        with pytest.raises(ConfigError, match="which the run writes to"):
            cli.parse_args([str(given), str(tmp_path / "out"), "participant"])
    assert (data / "precious").exists()


def test_missing_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dataset is missing"):
        cli.parse_args([str(tmp_path / "x"), str(tmp_path / "out"), "participant"])
    (tmp_path / "x").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        cli.parse_args([str(tmp_path / "x"), str(tmp_path / "out"), "participant"])


def test_output_that_cannot_be_written(bids: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        cli.parse_args([str(bids), str(tmp_path / "file" / "out"), "participant"])
    with pytest.raises(ConfigError, match="cannot be written"):
        cli.parse_args([str(bids), "/proc/out", "participant"])


def test_dry_run_leaves_no_trace(bids: Path, tmp_path: Path) -> None:
    parse(bids, "--dry-run")
    assert list(tmp_path.iterdir()) == [bids]


def test_group_needs_results_and_no_raw_data(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results to collect"):
        cli.parse_args(["/nonexistent", str(tmp_path / "out"), "group"])
    (tmp_path / "out").mkdir()
    assert cli.parse_args(["/nonexistent", str(tmp_path / "out"), "group"]).nprocs > 0


@pytest.mark.parametrize("text", ["{", "[]", '{"dwi": "b1000"}'])
def test_wrong_filter_file(bids: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "filters.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"JSON") as caught:
        parse(bids, "--bids-filter-file", str(path))
    assert caught.value.path == path


@pytest.mark.parametrize(
    "text", ["plugin: [", "- SLURM", "plugin_args: {}", "plugin: A\nplugin_args: 3"]
)
def test_wrong_plugin_file(bids: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "plugin.yml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        parse(bids, "--use-plugin", str(path))


def test_files_that_are_missing(bids: Path, tmp_path: Path) -> None:
    files = ("bids-filter-file", "eddy-config", "fix-gradients", "use-plugin", "config-file")
    for option in (f"--{name}" for name in files):
        with pytest.raises(ConfigError, match="cannot be read"):
            parse(bids, option, str(tmp_path / "none"))
    with pytest.raises(InputError, match="folder of --brain-masks is missing"):
        parse(bids, "--brain-masks", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match="drope is missing"):
        parse(bids, "--weights", f"drope={tmp_path / 'none'}")
