"""The command line: options, files they name, environment, exit codes."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from dmri_fm.errors import (
    ConfigError,
    DmriError,
    InputError,
    MissingToolError,
    OutputError,
    WeightsError,
)
from dmri_fm_workflows import cli, environment, options
from dmri_fm_workflows.config import RunConfig


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Give an empty dataset's folder."""
    folder = tmp_path / "bids"
    folder.mkdir()
    return folder


def parse(bids: Path, *options: str) -> RunConfig:
    return cli.parse_args([str(bids), str(bids.parent / "out"), "participant", *options])


def test_defaults_are_those_of_the_config(bids: Path) -> None:
    config = parse(bids)
    plain = RunConfig(bids.resolve(), bids.parent.resolve() / "out")
    for f in fields(RunConfig):
        if f.name != "run_uuid":
            assert getattr(config, f.name) == getattr(plain, f.name), f.name


def test_every_option_reaches_the_config(bids: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"x")
    (tmp_path / "filters.json").write_text('{"dwi": {"acquisition": null, "run": "Query.NONE"}}')
    (tmp_path / "plugin.yml").write_text("plugin: SLURM\nplugin_args: {max_jobs: 3}\n")
    config = parse(
        bids,
        *("--participant-label", "sub-01", "02", "01"),
        *("--session-id", "ses-a"),
        *("--bids-filter-file", str(tmp_path / "filters.json")),
        *("--bids-database-dir", str(tmp_path / "db")),
        "--skip-bids-validation",
        *("-w", str(tmp_path / "w"), "--keep-work", "--nprocs", "6", "--omp-nthreads", "3"),
        *("--mem", "16G", "--use-plugin", str(tmp_path / "plugin.yml")),
        *("--dry-run", "--stop-on-first-crash", "--sloppy", "--notrack", "-vv"),
        *("--output-resolution", "1.5", "--output-spaces", "ACPC"),
        *("--b-scaling", "none", "--b0-threshold", "65"),
        *("--denoise", "mppca", "--unring", "--sdc", "none", "--hmc", "builtin"),
        *("--normalisation", "syn", "--models", "drope", "--device", "cpu"),
        *("--random-seed", "5", "--weights", f"drope={tmp_path / 'w.safetensors'}"),
    )
    assert config == RunConfig(
        bids_dir=bids,
        output_dir=tmp_path / "out",
        participant_label=("01", "02"),
        session_label=("a",),
        bids_filters={"dwi": {"acquisition": None, "run": "Query.NONE"}},
        bids_database_dir=tmp_path / "db",
        skip_bids_validation=True,
        work_dir=tmp_path / "w",
        keep_work=True,
        nprocs=6,
        omp_nthreads=3,
        mem_gb=16.0,
        output_resolution=1.5,
        output_spaces=("ACPC",),
        sdc="none",
        hmc="builtin",
        denoise="mppca",
        unring=True,
        b_scaling="none",
        b0_threshold=65.0,
        normalisation="syn",
        models=("drope",),
        weights={"drope": tmp_path / "w.safetensors"},
        device="cpu",
        random_seed=5,
        plugin="SLURM",
        plugin_args={"max_jobs": 3},
        dry_run=True,
        sloppy=True,
        stop_on_first_crash=True,
        verbose=2,
        run_uuid=config.run_uuid,
    )
    given = {a.dest for a in cli.build_parser()._actions} - {"help", "version"}
    # Options that become other fields, and those that end in the parser.
    given -= {"bids_filter_file", "use_plugin", "config_file", "notrack"}
    made = {"bids_filters", "plugin", "plugin_args", "run_uuid"}
    assert given | made == {f.name for f in fields(RunConfig)}


@pytest.mark.parametrize(
    ("text", "gb"), [("16G", 16), ("16gb", 16), ("16000", 16), ("8000M", 8), ("0.5T", 500)]
)
def test_memory_sizes(text: str, gb: float) -> None:
    assert options.memory_gb(text) == pytest.approx(gb)


@pytest.mark.parametrize("text", ["", "much", "4X", "G"])
def test_no_memory_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.memory_gb(text)


def test_no_models_and_contradiction(bids: Path) -> None:
    assert parse(bids, "--models", "none").models == ()
    with pytest.raises(ConfigError, match="none drope"):
        parse(bids, "--models", "none", "drope")


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


def test_participant_whose_folders_are_links_is_not_started(tmp_path: Path) -> None:
    from dmri_fm_workflows import run_participant  # takes seconds

    out, work, precious = tmp_path / "out", tmp_path / "work" / "drope-1" / "sub-a", tmp_path / "p"
    for folder in (out / "sub-a", out / "sub-b", work.parent, precious):
        folder.mkdir(parents=True)
    run_participant._refuse_links(out, "a", work)
    (out / "sub-a" / "dwi").symlink_to(precious)
    with pytest.raises(OutputError, match="sub-a/dwi: is a link"):
        run_participant._refuse_links(out, "a", work)
    work.symlink_to(precious)
    with pytest.raises(OutputError, match="drope-1/sub-a: is a link"):
        run_participant._refuse_links(out, "b", work)


def test_output_inside_dataset_through_a_link(bids: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bids)
    with pytest.raises(ConfigError, match="the dataset itself"):
        cli.parse_args([str(bids), str(tmp_path / "link"), "participant"])


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
    for option in ("--bids-filter-file", "--use-plugin", "--config-file"):
        with pytest.raises(ConfigError, match="cannot be read"):
            parse(bids, option, str(tmp_path / "none"))
    with pytest.raises(WeightsError, match="drope is missing"):
        parse(bids, "--weights", f"drope={tmp_path / 'none'}")


@pytest.mark.parametrize(
    "options",
    [
        ["--sdc", "magic"],
        ["--weights", "drope"],
        ["--weights", "other=x"],
        ["--mem", "much"],
        ["--nprocs", "two"],
        ["--participant"],
        ["--dry"],  # no abbreviations: a later option could change their meaning
    ],
)
def test_wrong_usage_exits_with_2(
    bids: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(bids, *options)
    assert caught.value.code == 2
    assert "usage: drope-bidsapp" in capsys.readouterr().err


def test_the_default_networks_and_a_name_that_is_gone(
    bids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(bids).models == ("tensor-refiner", "drope")
    with pytest.raises(SystemExit) as caught:
        parse(bids, "--models", "qcg-dti", "drope")
    assert caught.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'qcg-dti' names no model: tensor-refiner is what this name ran before" in said
    assert "qcg-dti-paper is the published QCG-DTI" in said


def test_unusable_input_is_said_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(tmp_path / "x"), str(tmp_path / "out"), "participant"]) == 2
    said = capsys.readouterr().err
    assert "dataset is missing" in said
    assert "what to do:" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MissingToolError("topup was asked for"), 2),
        (InputError("no dataset"), 2),
        (OutputError("disk full"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    bids: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
) -> None:
    def fail(config: RunConfig) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    monkeypatch.setattr(environment, "prepare_environment", lambda config: None)
    monkeypatch.setattr(environment, "configure_logging", lambda config: None)
    assert cli.main([str(bids), str(bids.parent / "out"), "participant"]) == code
    said = capsys.readouterr().err
    assert said.startswith("drope-bidsapp: ")
    if isinstance(error, DmriError):
        assert error.found in said


def test_environment_is_set_for_the_libraries(bids: Path, tmp_path: Path) -> None:
    environ = {"HOME": "/proc/nobody", "MPLCONFIGDIR": str(tmp_path / "mpl")}
    environment.prepare_environment(parse(bids, "--nprocs", "3"), environ)
    assert environ["NO_ET"] == "1"
    assert {environ[n] for n in environment.THREAD_VARIABLES} == {"1"}
    assert environ["MPLCONFIGDIR"] == str(tmp_path / "mpl")
    home = Path(environ["HOME"])
    (home / "file").write_text("writable")
    assert "NUMBA_CACHE_DIR" not in environ


def test_templates_may_be_read_only(bids: Path) -> None:
    # /proc cannot be written even by root. What is there is kept, what is missing is replaced.
    filled = {"HOME": str(bids), "TEMPLATEFLOW_HOME": "/proc/self"}
    environment.prepare_environment(parse(bids), filled)
    assert filled["TEMPLATEFLOW_HOME"] == "/proc/self"
    missing = {"HOME": str(bids), "TEMPLATEFLOW_HOME": "/proc/templates"}
    environment.prepare_environment(parse(bids), missing)
    assert Path(missing["TEMPLATEFLOW_HOME"]).is_dir()
    assert missing["HOME"] == str(bids)


def test_import_and_help_are_quick() -> None:
    """`--help` on a shared disk must not wait for torch: nothing heavy is imported."""
    code = (
        "import sys; from dmri_fm_workflows import cli; cli.build_parser().format_help(); "
        "heavy = {'torch', 'nipype', 'ants', 'dipy', 'numpy', 'nibabel', 'bids', 'rich'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    # 0.1 s by itself; the rest is for a busy machine.
    assert time.perf_counter() - started < 5


def test_log_file_has_warnings_of_libraries(bids: Path) -> None:
    code = (
        "import logging, sys, warnings; from dmri_fm_workflows import cli, environment; "
        "config = cli.parse_args(sys.argv[1:]); environment.configure_logging(config); "
        "logging.getLogger('dmri_fm.x').info('own words'); "
        "logging.getLogger('nipype.workflow').info('node words'); warnings.warn('odd value'); "
        "print(config.run_uuid)"
    )
    out = bids.parent / "out"
    done = subprocess.run(
        [sys.executable, "-c", code, str(bids), str(out), "participant"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "default"},
    )
    log = out / "logs" / done.stdout.strip() / "drope-bidsapp.log"
    text = log.read_text()
    for words in ("own words", "node words", "odd value"):
        assert words in text
    assert "own words" in done.stderr
    assert "node words" not in done.stderr
    assert "odd value" not in done.stderr


def test_validator_errors_are_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmri_fm_workflows import validation

    answer = {
        "issues": {
            "issues": [
                {"code": "EMPTY_FILE", "severity": "error", "location": "/sub-01/a.nii.gz"},
                {"code": "EMPTY_FILE", "severity": "error", "location": "/sub-02/a.nii.gz"},
                {"code": "README_FILE_MISSING", "severity": "warning"},
            ]
        }
    }
    program = tmp_path / validation.PROGRAM
    program.write_text(f"#!/bin/sh\ncat <<'EOF'\n{json.dumps(answer)}\nEOF\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert validation.validate(tmp_path) == {
        "EMPTY_FILE": ["/sub-01/a.nii.gz", "/sub-02/a.nii.gz"]
    }
    with caplog.at_level(logging.WARNING):
        validation.report_validation(tmp_path)
    assert "EMPTY_FILE in 2 files" in caplog.text
    program.write_text("#!/bin/sh\necho oops\n")
    assert validation.validate(tmp_path) is None
