"""The request as a value object."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.config import NOT_DECIDING, RunConfig
from dmri_fm_workflows.request import read_options

#: Fields whose value changes what is written for a participant.
DECIDING = {
    "b0_threshold", "b1_biascorrect_stage", "b_scaling", "bids_filters", "brain_masks",
    "denoise", "derivatives", "device", "distortion_group_merge", "eddy_config",
    "gradient_fixes", "hmc", "ignore", "input_type", "models", "normalisation",
    "output_resolution", "output_spaces", "random_seed", "region", "repol", "sdc",
    "separate_all_dwis", "session_label", "sloppy", "subject_anatomical_reference", "unring",
    "weights",
}  # fmt: skip

#: A value for every field, none of them the default.
FULL: dict[str, Any] = {
    "bids_dir": Path("/data/bids"),
    "output_dir": Path("/data/out"),
    "analysis_level": "group",
    "participant_label": ("01", "02"),
    "session_label": ("base",),
    "input_type": "preprocessed",
    "brain_masks": Path("/data/masks"),
    "bids_filters": {
        "dwi": {"acquisition": "b1000", "run": None},
        "t1w": {"session": ["1", None]},
    },
    "gradient_fixes": {"a": {"components": "-x,y,z", "Manufacturer": "GE"}},
    "eddy_config": {"repol": False, "slm": "linear", "fudge_factor": 7.5, "niter": 8},
    "bids_database_dir": Path("/data/db"),
    "ignore": ("fieldmaps", "t1w"),
    "skip_bids_validation": True,
    "work_dir": Path("/scratch"),
    "keep_work": True,
    "nprocs": 6,
    "omp_nthreads": 3,
    "mem_gb": 7.5,
    "reports_only": True,
    "boilerplate_only": True,
    "report_output_level": "session",
    "self_contained_reports": True,
    "report_viewer": True,
    "output_resolution": 1.25,
    "output_spaces": ("ACPC",),
    "sdc": "pepolar",
    "hmc": "none",
    "denoise": "patch2self",
    "unring": True,
    "b1_biascorrect_stage": "final",
    "repol": "off",
    "b_scaling": "length",
    "b0_threshold": 65.0,
    "normalisation": "syn",
    "subject_anatomical_reference": "first",
    "distortion_group_merge": "none",
    "separate_all_dwis": True,
    "models": ("drope",),
    "weights": {"drope": Path("/data/own.safetensors")},
    "device": "cpu",
    "region": "published",
    "random_seed": 7,
    "qc_exclude": ("mean_fd > 0.5",),
    "ratings": ("/data/ratings.tsv",),
    "atlas": ("/data/jhu.nii.gz:/data/jhu.tsv",),
    "bundles": Path("/data/bundles"),
    "derivatives": Path("/data/fmriprep"),
    "plugin": "SLURM",
    "plugin_args": {"sbatch_args": "--mem 4G", "max_jobs": 3},
    "dry_run": True,
    "sloppy": True,
    "stop_on_first_crash": True,
    "verbose": 2,
    "run_uuid": "20260101-000000_x",
}


def test_every_field_survives_toml() -> None:
    # Filters, index and corrections are refused beside a preprocessed input, and two options that
    # each ask for one thing alone, or one without the raw T1w image.
    possible = {"input_type": "raw", "boilerplate_only": False, "ignore": ("fieldmaps", "sbref")}
    assert set(FULL) == {f.name for f in fields(RunConfig)}
    # Derivatives bring an anatomy, which no other option chooses.
    for more in ({"derivatives": None}, {"subject_anatomical_reference": "sessionwise"}):
        config = RunConfig(**FULL | possible | more)
        assert RunConfig(**read_options(config.to_toml())) == config


def test_two_choices_of_the_anatomy_are_refused() -> None:
    given = {"derivatives": Path("/d"), "subject_anatomical_reference": "first"}
    with pytest.raises(ConfigError, match="--derivatives and --subject-anatomical-reference"):
        RunConfig(Path("/in"), Path("/out"), **given)


def test_defaults_survive_toml() -> None:
    config = RunConfig(Path("/in"), Path("/out"))
    assert RunConfig(**read_options(config.to_toml())) == config
    assert config.work_dir == Path("/out/work")
    assert 1 <= config.omp_nthreads <= config.nprocs
    assert config.mem_gb > 0


def test_options_of_a_run_fit_another_output_folder() -> None:
    values = read_options(RunConfig(Path("/in"), Path("/out")).to_toml())
    assert RunConfig(**values | {"output_dir": Path("/new")}).work_dir == Path("/new/work")


def find_unclassified(request: type) -> set[str]:
    """Return the fields of which nobody has said whether they decide outputs."""
    return {f.name for f in fields(request)} - DECIDING - NOT_DECIDING


def test_every_option_is_classified_once() -> None:
    unclassified = find_unclassified(RunConfig)
    assert not unclassified, f"say in DECIDING (here) or NOT_DECIDING (config.py): {unclassified}"
    assert {f.name for f in fields(RunConfig)} == DECIDING | NOT_DECIDING
    assert not DECIDING & NOT_DECIDING


def test_an_option_that_nobody_classified_is_found_and_decides() -> None:
    @dataclass(frozen=True)
    class Longer(RunConfig):
        new_option: int = 0

    assert find_unclassified(Longer) == {"new_option"}
    one = Longer(Path("/in"), Path("/out"))
    assert one.fingerprint() != replace(one, new_option=1).fingerprint()


@pytest.mark.parametrize("name", sorted(FULL))
def test_fingerprint_follows_what_decides_outputs_and_nothing_else(name: str) -> None:
    plain = RunConfig(Path("/in"), Path("/out"), nprocs=8, omp_nthreads=2)
    changed = replace(plain, **{name: FULL[name]})
    assert (changed.fingerprint() != plain.fingerprint()) == (name in DECIDING)


def test_fingerprint_ignores_order_of_entities() -> None:
    one = RunConfig(Path("/in"), Path("/out"), bids_filters={"dwi": {"a": 1, "b": 2}})
    two = RunConfig(Path("/in"), Path("/out"), bids_filters={"dwi": {"b": 2, "a": 1}})
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdc": "magic"}, "sdc is 'magic'"),
        ({"models": ("qcg",)}, "models is 'qcg'"),
        ({"weights": {"other": Path("x")}}, "weights is 'other'"),
        ({"models": ("drope-paper",)}, "no weights of drope-paper ship with this software"),
        ({"models": ("drope", "qcg-dti-paper")}, "--weights qcg-dti-paper=FILE"),
        ({"models": ("drope-ablation",)}, "models is 'drope-ablation'"),
        ({"nprocs": 0}, "nprocs is 0"),
        ({"nprocs": 2, "omp_nthreads": 3}, "omp_nthreads is 3"),
        ({"output_resolution": 20.0}, "20 mm"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(Path("/in"), Path("/out"), **change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nprocs = ", "not valid TOML"),
        ("n_procs = 2", "unknown option n_procs"),
        ('nprocs = "2"', "nprocs = '2'"),
        ("unring = 1", "unring = 1"),
        ("mem_gb = true", "mem_gb = True"),
        ('models = "drope"', "models = 'drope'"),
    ],
)
def test_wrong_toml_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    with pytest.raises(ConfigError, match=message) as caught:
        read_options(text, path=path)
    assert caught.value.path == path
