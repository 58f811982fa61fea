"""Command lines and files of topup, eddy and eddy_quad, for each type of acquisition.

The programs are stand-ins that check arguments and files by the rules of FSL's documentation
(`fsl_stand_in.py`); the command lines are written down here.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmri_fm.errors import ConfigError, MissingToolError
from dmri_fm.series import load_image, read_array
from dmri_fm_workflows.interfaces import programs
from dmri_fm_workflows.interfaces.eddy import RunEddyQuad
from dmri_fm_workflows.interfaces.eddy_quality import read_eddy_quality
from dmri_fm_workflows.plan.engines import choose_engines
from dmri_fm_workflows.stages.lines import describe_hmc
from tests.dmri_fm_workflows.fsl_series import (
    LAS,
    N_VOLUMES,
    RAS,
    add_program,
    calls,
    correct,
    find_topup_rows,
    make_plan,
    make_series,
    plan_all,
    text_of,
)


@pytest.fixture
def fsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put stand-ins on the PATH; return their folder."""
    folder = tmp_path / "fsl"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("FSL_STAND_IN_LOG", str(tmp_path / "calls.jsonl"))
    monkeypatch.setenv("FSL_STAND_IN_ENCODINGS", str(tmp_path / "encodings.txt"))
    monkeypatch.delenv("FSLDIR", raising=False)
    for name in ("topup", "eddy_cpu", "eddy_quad"):
        add_program(folder, name)
    return folder


EDDY = (
    "--acqp={b0_}acqp.txt --bvals=merged.bval --bvecs=merged.bvec --cnr_maps --data_is_shelled"
    "{field} --imain=merged.nii --index={topup_}index.txt --mask=mask.nii.gz --nthr=2"
    " --out=eddy_corrected --repol --slm=linear{topup}"
)
ALONE = EDDY.format(b0_="", topup_="", field="", topup="")
WITH_TOPUP = EDDY.format(b0_="b0_", topup_="topup_", field="", topup=" --topup=topup")
QUAD = (
    "eddy_quad eddy_corrected -idx index.txt -par acqp.txt -m mask.nii.gz -b merged.bval "
    "-g merged.bvec{field} -o quad"
)
TOPUP = (
    "topup --config={config} --datain=b0_acqp.txt --fout=field.nii.gz --imain=b0.nii.gz "
    "--iout=corrected.nii.gz --nthr=2 --out=topup"
)


def test_one_run_without_a_field(fsl: Path, tmp_path: Path) -> None:
    plan = make_plan(make_series(tmp_path, [("j-", 0.05)]), tmp_path, sdc="none")
    found = correct(plan, tmp_path)
    assert calls(tmp_path) == [
        f"eddy_cpu {ALONE}", QUAD.format(field=""),
    ]  # fmt: skip
    assert text_of(found["write_fsl_files"].acqp_file) == [[0, -1, 0, 0.05]]
    assert text_of(found["write_fsl_files"].index_file) == [[1] * 8]


def test_a_reverse_image_outside_the_series(fsl: Path, tmp_path: Path) -> None:
    series = make_series(tmp_path, [("j-", 0.05)], reverse=("j", 0.03))
    found = correct(make_plan(series, tmp_path), tmp_path)
    assert calls(tmp_path) == [
        TOPUP.format(config="b02b0.cnf"),
        f"eddy_cpu {WITH_TOPUP}",
        QUAD.format(field=" -f field.nii.gz"),
    ]
    assert text_of(find_topup_rows(found)) == [[0, -1, 0, 0.05]] * 2 + [[0, 1, 0, 0.03]]
    # Rows of the nearest b=0; the reverse image has the last row of topup's, and no volume.
    assert text_of(found["write_fsl_files"].topup_index_file) == [[1, 1, 1, 2, 2, 2, 2, 2]]


def test_two_runs_of_unequal_readout_on_an_odd_grid(fsl: Path, tmp_path: Path) -> None:
    series = make_series(tmp_path, [("j", 0.05), ("j-", 0.04)], shape=(6, 6, 5))
    found = correct(make_plan(series, tmp_path), tmp_path)
    assert calls(tmp_path)[0] == TOPUP.format(config="b02b0_1.cnf")
    assert text_of(found["write_fsl_files"].acqp_file) == [[0, 1, 0, 0.05], [0, -1, 0, 0.04]]
    assert text_of(found["write_fsl_files"].index_file) == [[1] * 8 + [2] * 8]
    assert text_of(find_topup_rows(found)) == [[0, 1, 0, 0.05]] * 2 + [[0, -1, 0, 0.04]] * 2
    nearest = [1, 1, 1, 2, 2, 2, 2, 2]
    assert text_of(found["write_fsl_files"].topup_index_file) == [
        [*nearest, *(row + 2 for row in nearest)]
    ]


@pytest.mark.parametrize(("affine", "sign"), [(LAS, 1), (RAS, -1)])
def test_left_to_right_in_either_storage(
    fsl: Path, tmp_path: Path, affine: np.ndarray, sign: int
) -> None:
    """FSL mirrors neurological images: they are stored the other way for it, results back."""
    series = make_series(tmp_path, [("i", 0.05), ("i-", 0.05)], affine=affine)
    found = correct(make_plan(series, tmp_path), tmp_path)
    rows = text_of(found["write_fsl_files"].acqp_file)
    assert rows == [[sign, 0, 0, 0.05], [-sign, 0, 0, 0.05]]
    given = load_image(found["store_denoised_file"].out_file)
    assert np.linalg.det(given.affine) < 0
    # eddy's stand-in gives back what it got: series, b-vectors and field are as they were stored.
    corrected = load_image(found["collect_eddy"].dwi_file)
    np.testing.assert_allclose(corrected.affine, affine)
    whole = read_array(load_image(series.runs[0].path))
    np.testing.assert_allclose(read_array(corrected)[..., 1], whole[..., 1], rtol=1e-5)
    # b-vectors keep their numbers: FSL's convention mirrors them as it mirrors the image.
    stored = np.loadtxt(series.runs[0].bvec)
    given_bvecs = np.loadtxt(tmp_path / "bvecs_of_eddy.txt")
    np.testing.assert_allclose(given_bvecs, np.hstack([stored, stored]), atol=1e-5)
    np.testing.assert_allclose(
        np.loadtxt(found["collect_eddy"].bvec_file)[:, :N_VOLUMES], stored, atol=1e-5
    )
    field = load_image(found["collect_topup"].field_file)
    np.testing.assert_allclose(field.affine, affine)
    voxel = np.argwhere(read_array(field) == 50.0)[0]
    assert voxel.tolist() == [0 if sign > 0 else 5, 1, 1]


def test_a_field_of_another_method(fsl: Path, tmp_path: Path) -> None:
    series = make_series(tmp_path, [("j", 0.05)], reverse=("j-", 0.05), affine=RAS)
    correct(make_plan(series, tmp_path, sdc="pepolar"), tmp_path)
    stored = EDDY.replace("merged.nii ", "stored.nii.gz ").replace("mask.nii.gz", "stored.nii.gz")
    quad = QUAD.replace("-m mask.nii.gz", "-m stored.nii.gz")
    assert calls(tmp_path) == [
        f"eddy_cpu {stored.format(b0_='', topup_='', field=' --field=stored', topup='')}",
        quad.format(field=" -f stored.nii.gz"),
    ]


SLICES = {"SliceTiming": [0.0, 0.5, 0.0, 0.5], "SliceEncodingDirection": "k"}


def test_motion_within_volumes_by_a_gpu(fsl: Path, tmp_path: Path) -> None:
    for name in ("eddy_cuda9.1", "eddy_cuda10.2"):
        add_program(fsl, name)
    series = make_series(tmp_path, [("j", 0.05)], reverse=("j-", 0.05), **SLICES)
    config: dict[str, Any] = {
        "use_cuda": True, "mporder": 1, "slice2vol_niter": 5, "slm": "none", "fwhm": "10,4,0",
        "niter": 3, "estimate_move_by_susceptibility": True, "repol": False, "cnr_maps": False,
    }  # fmt: skip
    plan = make_plan(series, tmp_path, **config)
    found = correct(plan, tmp_path)
    assert calls(tmp_path)[1:] == [
        "eddy_cuda10.2 --acqp=b0_acqp.txt --bvals=merged.bval --bvecs=merged.bvec "
        "--data_is_shelled --estimate_move_by_susceptibility --fwhm=10,4,0 --imain=merged.nii "
        "--index=topup_index.txt --mask=mask.nii.gz --mporder=1 --niter=3 --out=eddy_corrected "
        "--s2v_niter=5 --slm=none --slspec=slspec.txt --topup=topup",
        QUAD.format(field=" -f field.nii.gz -s slspec.txt"),
    ]
    assert text_of(found["write_fsl_files"].slspec_file) == [[0, 2], [1, 3]]
    stated = found["collect_eddy"].record["EddyOptions"]
    assert stated | config == stated
    line = dict(describe_hmc(plan))["  options"]
    assert "--mporder=1" in line
    assert "--repol" not in line
    assert line.endswith(", on a GPU, then eddy_quad")
    assert plan.hmc_name.endswith(
        "with slice-to-volume motion and a field that moves with the head"
    )


ONE_BY_ONE = {"SliceTiming": [0.0, 0.5, 1.0, 1.5]}


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        ({"outlier_type": "gw"}, "--ol_type=gw --out=eddy_corrected --repol --slm=linear "
         "--slspec=slspec.txt"),
        ({"outlier_type": "both", "multiband_factor": 5, "multiband_offset": -1},
         "--mb=5 --mb_offs=-1 --nthr=2 --ol_type=both --out=eddy_corrected --repol --slm=linear"),
    ],
)  # fmt: skip
def test_outliers_among_slices_that_are_excited_together(
    fsl: Path, tmp_path: Path, config: dict[str, Any], arguments: str
) -> None:
    """eddy knows them by a file or by a factor, and refuses both together."""
    series = make_series(tmp_path, [("j", 0.05)], **SLICES)
    correct(make_plan(series, tmp_path, sdc="none", **config), tmp_path)
    assert calls(tmp_path)[0].endswith(arguments)


def test_measures_of_eddy_quad_become_columns(fsl: Path, tmp_path: Path) -> None:
    plan = make_plan(make_series(tmp_path, [("j", 0.05)], reverse=("j-", 0.05)), tmp_path)
    found = correct(plan, tmp_path)
    assert read_eddy_quality(found["eddy_quad"].qc_file) == {
        "eddy_mot_abs": 0.5, "eddy_mot_rel": 0.25, "eddy_outliers_tot": 1.5,
        "eddy_vox_displ_std": 0.75, "eddy_outliers_b1000": 2.0, "eddy_snr_b0": 20.0,
        "eddy_cnr_b1000": 3.0,
    }  # fmt: skip
    (fsl / "eddy_quad").unlink()
    assert make_plan(plan.series, tmp_path).eddy.has_quad is False


def test_what_eddy_quad_did_not_measure_is_no_number(fsl: Path, tmp_path: Path) -> None:
    """Without a field and contrast maps it writes -1, and flags that say so."""
    series = make_series(tmp_path, [("j", 0.05)])
    found = correct(make_plan(series, tmp_path, sdc="none", cnr_maps=False), tmp_path)
    path = Path(found["eddy_quad"].qc_file)
    written = json.loads(path.read_text())
    assert written["qc_vox_displ_std"] == written["qc_cnr_avg"][:1] == [-1.0]
    expected = {
        "eddy_mot_abs": 0.5, "eddy_mot_rel": 0.25, "eddy_outliers_tot": 1.5,
        "eddy_vox_displ_std": None, "eddy_outliers_b1000": 2.0, "eddy_snr_b0": None,
        "eddy_cnr_b1000": None,
    }  # fmt: skip
    assert read_eddy_quality(path) == expected
    # It starts again where a call was stopped.
    files, merged = found["write_fsl_files"], tmp_path / "merge"
    again = RunEddyQuad(
        base=found["eddy"].out_base, in_bval=str(merged / "merged.bval"),
        in_bvec=str(merged / "merged.bvec"), in_mask=str(tmp_path / "mask.nii.gz"),
        in_acqp=files.acqp_file, in_index=files.index_file,
    ).run(cwd=path.parents[1])  # fmt: skip
    assert again.outputs.qc_file == str(path)
    # A number beside a flag that denies it, or a flag that is missing.
    path.write_text(json.dumps(written | {"qc_vox_displ_std": [0.3], "qc_cnr_avg": [9.0, 2.0]}))
    assert read_eddy_quality(path) == expected
    without = {k: v for k, v in written.items() if not k.endswith("_flag")}
    path.write_text(json.dumps(without | {"qc_vox_displ_std": [0.3]}))
    assert read_eddy_quality(path) == expected | {"eddy_vox_displ_std": 0.3}


def test_a_version_that_takes_no_threads_gets_none(fsl: Path, tmp_path: Path) -> None:
    (fsl / "eddy_cpu").rename(fsl / "unused")
    add_program(fsl, "eddy_openmp")
    correct(make_plan(make_series(tmp_path, [("j-", 0.05)]), tmp_path, sdc="none"), tmp_path)
    (line, _) = calls(tmp_path)
    assert line == f"eddy_openmp {ALONE}".replace(" --nthr=2", "")
    (first, _) = (tmp_path / "calls.jsonl").read_text().splitlines()
    assert json.loads(first)[1] == "2"  # OMP_NUM_THREADS


def test_builds_for_gpus_are_found_by_name(fsl: Path) -> None:
    for name in ("eddy_cuda8.0", "eddy_cuda10.2", "eddy_cuda_old"):
        add_program(fsl, name)
    assert programs.list_cuda_eddies() == ("eddy_cuda10.2", "eddy_cuda8.0")
    add_program(fsl, "eddy_cuda")
    assert programs.list_cuda_eddies()[0] == "eddy_cuda"


@pytest.mark.parametrize(
    ("config", "metadata", "encoding", "error", "words"),
    [
        ({"use_cuda": True}, {}, "j", MissingToolError, "no build of eddy for GPUs"),
        ({"estimate_move_by_susceptibility": True}, {}, "j", ConfigError, "no distortion field"),
        ({}, {}, "k", ConfigError, "phase encoding along k"),
        ({"multiband_factor": 3}, {}, "j", ConfigError, "3, .* for the 4 slices"),
        ({"outlier_type": "gw"}, {}, "j", ConfigError, "outlier_type of eddy, for .* no SliceT"),
        ({"outlier_type": "both"}, ONE_BY_ONE, "j", ConfigError, "one slice in each excitation"),
    ],
)
def test_what_eddy_cannot_do_is_refused_before_any_work(
    fsl: Path, tmp_path: Path, config, metadata, encoding, error, words
) -> None:
    series = make_series(tmp_path, [(encoding, 0.05)], **metadata)
    with pytest.raises(error, match=words):
        make_plan(series, tmp_path, sdc="none", **config)


@pytest.mark.parametrize(
    ("metadata", "mporder", "words"),
    [
        ({}, 1, "no SliceTiming"),
        ({"SliceTiming": [0, 0.5, 0]}, 1, "3 times, 0 of them unknown, for 4 slices"),
        ({"SliceTiming": [0, 0.5, 0, 1]}, 1, "1 and 2 slices into one"),
        ({"SliceTiming": ["a"] * 4}, 1, "the order of slices"),
        (SLICES | {"SliceEncodingDirection": "i"}, 1, "slices along i"),
        (SLICES, 2, "2 for 2 excitations"),
    ],
)
def test_motion_within_volumes_needs_the_order_of_slices(
    fsl: Path, tmp_path: Path, metadata, mporder: int, words: str
) -> None:
    add_program(fsl, "eddy_cuda")
    series = make_series(tmp_path, [("j", 0.05)], **metadata)
    with pytest.raises(ConfigError, match=words):
        make_plan(series, tmp_path, sdc="none", use_cuda=True, mporder=mporder)


def test_options_of_eddy_without_eddy_are_refused() -> None:
    with pytest.raises(ConfigError, match="corrected by builtin"):
        choose_engines(
            denoise="none", sdc="none", hmc="builtin", unring=False, eddy_config={"repol": True}
        )


@pytest.mark.parametrize(
    ("encoding", "readout_s", "words"),
    [
        ("k", 0.05, "phase encoding along k"),
        ("j", 0.25, "TotalReadoutTime of sub-01_run-1_dwi.nii.gz is 0.25 s"),
        ("j", 0.009, "is 0.009 s"),
    ],
)
def test_a_series_that_eddy_does_not_take_stands_alone(
    fsl: Path, tmp_path: Path, encoding: str, readout_s: float, words: str
) -> None:
    good = make_series(tmp_path, [("j", 0.05)])
    other = make_series(tmp_path / "other", [(encoding, readout_s)])
    other = replace(other, entities={"subject": "01", "acquisition": "other"})
    # Where the engine is named, the other series has an error and the first one its plan ...
    named = plan_all(good, other, root=tmp_path, sdc="none")
    (plan,), (problem,) = named.series, named.problems
    assert plan.engines.hmc == "eddy"
    assert problem.path == other.runs[0].path
    assert words in str(problem.error)
    # ... and where it is not, the built-in one corrects it, which says why.
    auto = plan_all(good, other, root=tmp_path, sdc="none", hmc="auto")
    first, second = auto.series
    assert (first.engines.hmc, second.engines.hmc) == ("eddy", "builtin")
    assert (first.eddy is None, second.eddy is None) == (False, True)
    (said,) = [w for w in second.warnings if "not by eddy" in w]
    assert words in said
    assert not any("eddy" in w for w in first.warnings)
    assert not auto.problems


def test_positions_of_topup_are_needed_for_every_phase_encoding(fsl: Path, tmp_path: Path) -> None:
    series = make_series(tmp_path, [("j", 0.05), ("j-", 0.05), ("j", 0.04)])
    *pair, third = series.runs
    weighted = replace(third.gradients, gtab=third.gtab.select([1, 2, 3, 5, 6, 7]))
    lacking = replace(series, runs=(*pair, replace(third, gradients=weighted)))
    with pytest.raises(ConfigError, match=r"run-3_dwi\.nii\.gz has no b=0 volume"):
        make_plan(lacking, tmp_path)
    unknown = replace(series, runs=(*pair, replace(third, phase_encoding=None)))
    with pytest.raises(ConfigError, match="PhaseEncodingDirection of sub-01_run-3_dwi"):
        make_plan(unknown, tmp_path)
    # Without a field nothing is displaced along it.
    assert make_plan(unknown, tmp_path, sdc="none").eddy is not None


def test_topup_of_a_version_without_the_configuration(
    fsl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSLDIR", str(tmp_path))
    series = make_series(tmp_path, [("j", 0.05), ("j-", 0.05)], shape=(6, 6, 5))
    plan = replace(make_plan(series, tmp_path))
    with pytest.raises(RuntimeError, match=r"b02b0_1.cnf is missing"):
        correct(plan, tmp_path)
