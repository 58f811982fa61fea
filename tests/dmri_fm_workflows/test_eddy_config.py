"""Options of eddy, by the file of --eddy-config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.cli import parse_args
from dmri_fm_workflows.eddy_config import OPTIONS, eddy_arguments, read_eddy_config
from dmri_fm_workflows.interfaces.programs import name_eddy
from tests.dmri_fm_workflows.fsl_stand_in import EDDY, LIMITS

#: The file that QSIPrep ships, and the arguments that it stands for.
QSIPREP = {
    "flm": "linear", "slm": "linear", "fep": False, "interp": "spline", "nvoxhp": 1000,
    "fudge_factor": 10, "dont_sep_offs_move": False, "dont_peas": False, "niter": 5,
    "method": "jac", "repol": True, "num_threads": 1, "is_shelled": True, "use_cuda": False,
    "cnr_maps": True, "residuals": False, "output_type": "NIFTI_GZ", "args": "",
}  # fmt: skip


def write(folder: Path, content: object) -> Path:
    path = folder / "eddy.json"
    path.write_text(json.dumps(content))
    return path


def test_a_file_of_qsiprep_is_read(tmp_path: Path) -> None:
    options = read_eddy_config(write(tmp_path, QSIPREP))
    assert set(QSIPREP) - set(options) == {"num_threads", "output_type", "args"}
    assert eddy_arguments(options) == {
        "flm": "linear", "slm": "linear", "interp": "spline", "nvoxhp": "1000", "ff": "10",
        "niter": "5", "resamp": "jac", "repol": True, "data_is_shelled": True, "cnr_maps": True,
    }  # fmt: skip


@pytest.mark.parametrize("key", [k for k, o in OPTIONS.items() if o.flag])
def test_every_option_is_one_of_eddys(key: str) -> None:
    assert OPTIONS[key].flag in EDDY
    assert not OPTIONS[key].needs or OPTIONS[key].needs in OPTIONS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"in_acqp": "x"}, "called with in_acqp"),
        ({"args": "--very_verbose"}, "called with args"),
        ({"method": "lsr"}, "least squares"),
        ({"slm": "cubic"}, "none or linear or quadratic"),
        ({"repol": "yes"}, "true or false"),
        ({"niter": 0}, "above 0"),
        ({"nvoxhp": 10.5}, "a whole number"),
        ({"niter": True}, "a whole number"),
        ({"multiband_factor": 2, "multiband_offset": 3}, "-1 to 1"),
        ({"multiband_factor": 2, "multiband_offset": 0.5}, "a whole number"),
        ({"multiband_factor": 1, "multiband_offset": 1}, "multiband_factor of 1"),
        ({"multiband_factor": 1, "outlier_type": "gw"}, "outlier_type gw"),
        ({"multiband_factor": 2, "use_cuda": True, "mporder": 6}, "beside mporder"),
        ({"multiband_factor": 11}, "1 to 10"),
        ({"nvoxhp": 99}, "100 to 50000"),
        ({"outlier_nstd": 1.9}, "1.96 or more"),
        ({"outlier_nvox": 200}, "250 or more"),
        ({"outlier_nstd": float("inf")}, "1.96 or more"),
        ({"fudge_factor": 11}, "1 to 10"),
        ({"fwhm": "21"}, "0 to 20"),
        ({"estimate_move_by_susceptibility": True, "mbs_niter": 51}, "1 to 50"),
        ({"estimate_move_by_susceptibility": True, "mbs_lambda": 0.5}, "1 to 10000"),
        ({"estimate_move_by_susceptibility": True, "mbs_ksp": 1}, "2 to 30"),
        ({"fwhm": "10,x"}, "a width in mm"),
        ({"fwhm": "10,4,0"}, "3 widths for 5 iterations"),
        ({"mporder": 6}, "mporder of eddy without use_cuda"),
        ({"use_cuda": False, "mporder": 6}, "mporder of eddy without use_cuda"),
        ({"slice2vol_niter": 5}, "without mporder"),
        ({"repol": False, "outlier_nstd": 4}, "without repol"),
        ({"mbs_niter": 5}, "without estimate_move"),
        ([1], "eddy.json"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_eddy_config(write(tmp_path, content))


def test_what_is_not(tmp_path: Path) -> None:
    content = {
        "outlier_nstd": 3.5, "multiband_factor": 2, "multiband_offset": -1, "fwhm": 2.0,
        "outlier_type": "both", "niter": 8, "mbs_ksp": 2, "estimate_move_by_susceptibility": True,
    }  # fmt: skip
    assert read_eddy_config(write(tmp_path, content)) == content
    within = {"use_cuda": True, "mporder": 6, "outlier_nvox": 250, "nvoxhp": 50_000}
    assert read_eddy_config(write(tmp_path, within)) == within
    assert read_eddy_config(write(tmp_path, {"niter": 2, "fwhm": "10,0"}))["fwhm"] == "10,0"


@pytest.mark.parametrize("key", ["nvoxhp", "fudge_factor", "fwhm", "outlier_nstd", "mbs_ksp"])
def test_limits_are_those_of_the_stand_in(key: str) -> None:
    assert OPTIONS[key].limits == LIMITS[OPTIONS[key].flag]


def test_keys_without_effect_have_none_in_a_file_of_all_options(tmp_path: Path) -> None:
    """The configuration of --config-file holds options of eddy as well."""
    (raw := tmp_path / "raw").mkdir()
    config = tmp_path / "drope.toml"
    config.write_text(
        '[eddy_config]\nnum_threads = 4\noutput_type = "NIFTI_GZ"\nargs = ""\nniter = 8\n'
    )
    request = parse_args([str(raw), str(tmp_path / "out"), "participant",
                          "--config-file", str(config)])  # fmt: skip
    assert request.eddy_config == {"niter": 8}
    assert eddy_arguments(request.eddy_config) == {"niter": "8"}
    config.write_text('[eddy_config]\nargs = "--very_verbose"\n')
    with pytest.raises(ConfigError, match="called with args"):
        parse_args([str(raw), str(tmp_path / "out"), "participant",
                    "--config-file", str(config)])  # fmt: skip


def test_the_name_says_what_ran() -> None:
    assert name_eddy({"repol": False}).endswith(")")
    assert name_eddy({"repol": True, "mporder": 6}).endswith(
        "with outlier replacement and slice-to-volume motion"
    )
