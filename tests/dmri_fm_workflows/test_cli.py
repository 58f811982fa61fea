"""The command line: options, exit codes."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from dmri_fm.errors import (
    ConfigError,
    DmriError,
    InputError,
    MissingToolError,
    OutputError,
)
from dmri_fm_workflows import cli, environment, options
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.spellings import REFUSED, SPELLINGS, WITHOUT_EFFECT


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
    fixes = {"components": "y,x,z", "Orientation": "LAS", "StationName": "M", "acquisition": "x"}
    (tmp_path / "fixes.toml").write_text("".join(f'a.{k} = "{v}"\n' for k, v in fixes.items()))
    (tmp_path / "eddy.json").write_text('{"slm": "linear", "num_threads": 4, "args": ""}')
    config = parse(
        bids,
        *("--participant-label", "sub-01", "02", "01"),
        *("--eddy-config", str(tmp_path / "eddy.json")),
        *("--fix-gradients", str(tmp_path / "fixes.toml")),
        *("--session-id", "ses-a"),
        *("--bids-filter-file", str(tmp_path / "filters.json")),
        *("--bids-database-dir", str(tmp_path / "db")),
        "--skip-bids-validation",
        *("-w", str(tmp_path / "w"), "--keep-work", "--nprocs", "6", "--omp-nthreads", "3"),
        *("--mem", "16G", "--use-plugin", str(tmp_path / "plugin.yml")),
        *("--dry-run", "--stop-on-first-crash", "--sloppy", "--notrack", "-vv"),
        *("--output-resolution", "1.5", "--output-spaces", "ACPC"),
        *("--ignore", "t1w", "sbref", "--b-scaling", "none", "--b0-threshold", "65"),
        *("--denoise", "mppca", "--unring", "--sdc", "none", "--hmc", "builtin"),
        *("--normalisation", "syn", "--models", "drope", "--device", "cpu"),
        *("--separate-all-dwis", "--distortion-group-merge", "none"),
        *("--region", "published", "--subject-anatomical-reference", "first"),
        *("--random-seed", "5", "--weights", f"drope={tmp_path / 'w.safetensors'}"),
    )
    assert config == RunConfig(
        bids_dir=bids,
        output_dir=tmp_path / "out",
        participant_label=("01", "02"),
        session_label=("a",),
        bids_filters={"dwi": {"acquisition": None, "run": "Query.NONE"}},
        gradient_fixes={"a": fixes},
        eddy_config={"slm": "linear"},
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
        ignore=("sbref", "t1w"),
        b_scaling="none",
        b0_threshold=65.0,
        normalisation="syn",
        models=("drope",),
        weights={"drope": tmp_path / "w.safetensors"},
        device="cpu",
        region="published",
        subject_anatomical_reference="first",
        separate_all_dwis=True,
        distortion_group_merge="none",
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
    given -= {"bids_filter_file", "eddy_config", "fix_gradients", "use_plugin", "config_file"}
    made = {"bids_filters", "eddy_config", "gradient_fixes", "plugin", "plugin_args", "run_uuid"}
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


def test_the_default_networks(bids: Path) -> None:
    assert parse(bids).models == ("qcg-dti", "drope")
    assert parse(bids, "--models", "tensor-refiner").models == ("tensor-refiner",)


def test_the_least_squares_fit_may_be_named(bids: Path) -> None:
    assert parse(bids, "--models", "tensor", "drope").models == ("drope",)
    assert parse(bids, "--models", "tensor").models == ()


def test_spellings_of_other_apps(bids: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parse(
        bids,
        *(
            "--participant_label",
            "sub-01",
            "--n_cpus",
            "3",
            "--omp_nthreads=2",
            "--mem-mb",
            "9000",
        ),
        *("--denoise-method", "patch2self", "--hmc-model", "none", "--pepolar-method=TOPUP"),
        *("--low-mem", "--track-carbon"),
    )
    assert config.participant_label == ("01",)
    assert (config.nprocs, config.omp_nthreads, config.mem_gb) == (3, 2, 9)
    assert (config.denoise, config.hmc, config.sdc) == ("patch2self", "none", "topup")
    said = capsys.readouterr().err.splitlines()
    assert "drope-bidsapp: --n_cpus is --nprocs here" in said
    assert "drope-bidsapp: --track-carbon has no effect here: nothing is measured or sent" in said
    assert len(said) == 9


def test_capitals_are_kept_where_they_mean_something(bids: Path) -> None:
    assert parse(bids, "--participant-label", "AB").participant_label == ("AB",)
    with pytest.raises(SystemExit):
        parse(bids, "--sdc", "TOPUP")


def test_an_option_for_something_else_is_refused(
    bids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(bids), str(bids.parent / "out"), "participant", "--anat-only"]) == 2
    said = capsys.readouterr().err
    assert "--anat-only" in said
    assert "what to do:" in said


@pytest.mark.parametrize("spelling", [*SPELLINGS, *WITHOUT_EFFECT, *REFUSED])
def test_no_spelling_hides_an_option(spelling: str) -> None:
    parser = cli.build_parser()
    known = {flag for action in parser._actions for flag in action.option_strings}
    assert spelling not in known
    assert SPELLINGS.get(spelling, "--mem") in known
    page = Path(__file__).parents[2] / "docs" / "interoperability.md"
    said = {**SPELLINGS, **WITHOUT_EFFECT, **REFUSED}[spelling]
    assert re.search(rf"\| `{spelling}` \| .*{re.escape(said)}`? \|", page.read_text("utf-8"))


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


def test_help_and_errors_are_quick(tmp_path: Path) -> None:
    """On a shared disk they must not wait for torch: nothing heavy is imported."""
    code = (
        "import sys, time; from dmri_fm_workflows import cli; cli.build_parser().format_help(); "
        f"assert cli.main(['/nope', {str(tmp_path / 'out')!r}, 'participant']) == 2; "
        "heavy = {'torch', 'nipype', 'ants', 'dipy', 'numpy', 'nibabel', 'bids', 'rich', "
        "'niworkflows', 'pandas', 'matplotlib', 'scipy', 'yaml', 'jinja2'}; "
        "print(time.process_time()); sys.exit(' '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("drope-bidsapp: /nope: the dataset is missing")
    assert not (tmp_path / "out").exists()
    # Of the processor, whatever else the machine does; 0.1 s by itself.
    assert float(done.stdout) < 1.0
