from __future__ import annotations

import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import PAPER
from dmri_fm.registry import load_weights
from dmri_fm.series import Dwi
from dmri_fm_lab.__main__ import _make_absolute, build_parser, main
from dmri_fm_lab.simulate import draw_protocol
from tests.dmri_fm.encoders.drope.test_authors_checkpoint import draw_state_dict


def write_series(folder, rng):
    gtab = draw_protocol(rng, scheme="shell", n_directions=8, bvals=1000)
    data = rng.uniform(50, 100, (4, 4, 4, len(gtab)))
    data[..., 0] = 200
    return Dwi.from_arrays(data, np.diag([-2.0, 2, 2, 1]), gtab).save(folder / "scan")


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys, time; from dmri_fm_lab.__main__ import build_parser;"
        "build_parser().format_help();"
        "heavy = {'torch', 'ants', 'numba', 'dipy', 'nilearn', 'nipype', 'numpy', 'pandas',"
        "'scipy', 'lightning', 'monai', 'matplotlib', 'sklearn', 'statsmodels'} & {*sys.modules};"
        "sys.exit(str(heavy) if heavy or time.process_time() > 1 else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "words",
    [
        ["simulate"],
        ["simulate-cohort"],
        ["train"],
        ["pretrain"],
        ["finetune"],
        ["compare"],
        ["tensor"],
        ["features"],
        ["models"],
        ["convert"],
        ["verify"],
        ["diff"],
        ["export", "plink"],
        ["export", "regenie"],
        ["export", "csv"],
        ["export", "norms"],
        ["splits"],
        ["probe"],
        ["explain", "features"],
        ["explain", "scan"],
        ["evaluate", "tensor"],
        ["evaluate", "transfer"],
        ["evaluate", "reconstruction"],
        ["evaluate", "rotation"],
        ["evaluate", "slabs"],
        ["evaluate", "protocols"],
        ["evaluate", "cohorts"],
        ["evaluate", "out-of-distribution"],
    ],
)
def test_every_subcommand_explains_itself(words, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args([*words, "--help"])
    assert stopped.value.code == 0
    assert "usage: dmri-fm" in capsys.readouterr().out


def test_tensor_writes_maps(tmp_path, capsys) -> None:
    write_series(tmp_path, np.random.default_rng(0))
    assert main(["tensor", str(tmp_path / "scan.nii.gz"), str(tmp_path / "out" / "x")]) == 0
    printed = capsys.readouterr().out.split()
    assert str(tmp_path / "out" / "x_model-tensor_param-fa_dwimap.nii.gz") in printed
    fa = np.asarray(nib.load(tmp_path / "out" / "x_model-tensor_param-fa_dwimap.nii.gz").dataobj)
    assert fa.shape == (4, 4, 4)
    assert (fa >= 0).all()
    assert (fa <= 1).all()


def test_paths_are_relative_to_the_current_folder_and_nothing_else_of_it_is_used(traps) -> None:
    write_series(traps.folder, np.random.default_rng(0))
    command = [sys.executable, "-m", "dmri_fm_lab", "tensor", "scan.nii.gz", "../out/x"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        command, cwd=traps.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (traps.folder.parent / "out" / "x_model-tensor_param-fa_dwimap.nii.gz").is_file()
    assert traps.sprung() == []


def test_settings_are_a_shipped_name_or_a_file_of_the_current_folder(tmp_path) -> None:
    for config, expected in (
        ("tensor-refiner", "tensor-refiner"),
        ("mine.toml", str(tmp_path / "mine.toml")),
    ):
        options = build_parser().parse_args(["train", config, "run"])
        _make_absolute(options, tmp_path)
        assert options.config == expected
        assert options.folder == tmp_path / "run"


def test_what_ships_is_named_and_what_does_not_is_a_path(tmp_path) -> None:
    for words, name in (
        (["pretrain", "drope", "run", "--start"], "start"),
        (["evaluate", "reconstruction"], "source"),
    ):
        for given, expected in (("drope", "drope"), ("mine", str(tmp_path / "mine"))):
            options = build_parser().parse_args([*words, given])
            _make_absolute(options, tmp_path)
            assert getattr(options, name) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "reconstruction", "ssdiff", "--simulated", "1"],
        ["evaluate", "rotation", "ssdiff", "--simulated", "1"],
        ["evaluate", "slabs", "ssdiff", "--simulated", "1"],
        ["evaluate", "protocols", "--simulated", "1"],
        ["evaluate", "cohorts"],
        ["evaluate", "out-of-distribution", "--other-generator", "1"],
    ],
)
def test_evaluations_of_patch_tokens_refuse_ssdiff(words, capsys) -> None:
    assert main([*words, "--model", "ssdiff"]) == 1
    assert "ssdiff is no D-RoPE encoder" in capsys.readouterr().err


def test_a_checkpoint_of_the_authors_becomes_weights(tmp_path, capsys) -> None:
    torch.save(draw_state_dict(dim=24 * PAPER.heads, patch=PAPER.patch), tmp_path / "authors.pt")
    out = tmp_path / "weights.safetensors"
    assert main(["convert", str(tmp_path / "authors.pt"), str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    converted = load_weights(out, model="drope-paper")
    assert converted.version == "authors"
    config = converted.config
    assert (config.heads, config.patch, config.pos_scale) == (
        PAPER.heads, PAPER.patch, PAPER.pos_scale
    )  # fmt: skip
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    assert main(["convert", str(tmp_path / "broken.pt"), str(out)]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_converted_checkpoint_has_the_heads_patch_and_scale_of_the_options(tmp_path) -> None:
    checkpoint, out = tmp_path / "authors.pt", tmp_path / "weights.safetensors"
    torch.save(draw_state_dict(dim=24, patch=(16, 16, 12)), checkpoint)
    sizes = ["--heads", "2", "--patch", "16", "16", "12", "--pos-scale", "0.25"]
    assert main(["convert", str(checkpoint), str(out), *sizes]) == 0
    config = load_weights(out, model="drope-paper").config
    assert (config.heads, config.patch, config.pos_scale) == (2, (16, 16, 12), 0.25)


def test_tensor_is_told_what_lengths_of_vectors_mean(tmp_path, capsys) -> None:
    write_series(tmp_path, np.random.default_rng(0))
    path = tmp_path / "scan.bvec"
    np.savetxt(path, 0.93 * np.loadtxt(path))
    scan, md = str(tmp_path / "scan.nii.gz"), "x_model-tensor_param-md_dwimap.nii.gz"
    assert main(["tensor", scan, str(tmp_path / "x")]) == 1
    assert "share the length 0.93" in capsys.readouterr().err
    found = {}
    for way in ("length", "none"):
        stem = tmp_path / way / "x"
        assert main(["tensor", scan, str(stem), "--b-scaling", way, "--b0-threshold", "60"]) == 0
        found[way] = np.median(np.asarray(nib.load(stem.with_name(md)).dataobj))
    assert found["length"] / found["none"] == pytest.approx(0.93**-2, rel=1e-3)


def test_simulate_writes_a_dataset(tmp_path, capsys) -> None:
    out = tmp_path / "ds"
    arguments = ["--participants", "1", "--seed", "4", "--voxel-size", "6", "--directions", "6"]
    assert main(["simulate", str(out), *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert (out / "sub-01" / "dwi" / "sub-01_dir-PA_dwi.nii.gz").exists()


def test_models_are_listed(capsys) -> None:
    assert main(["models"]) == 0
    titles, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    models = {row[0]: dict(zip(titles, row, strict=True)) for row in rows}
    assert {"tensor-refiner", "drope", "ssdiff"} <= models.keys()
    assert models["qcg-dti-paper"]["title"] == "QCG-DTI"
    assert models["qcg-dti-paper"]["weights"] == "--weights qcg-dti-paper=FILE"
    drope = models["drope"]
    assert (drope["parameters"], drope["weights"], drope["licence"]) == (
        "8.94M",
        "packaged",
        "Apache-2.0",
    )
    assert (drope["GMAC a scan"], models["drope-paper"]["GMAC a scan"]) == ("219.8", "12180")
    assert drope["paper"].startswith("https://doi.org/10.48550/arXiv.2603.25977")
    assert drope["card"] == "docs/model_cards/drope.md"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tensor", "missing.nii.gz", "out"], "file is missing"),
        (["simulate", "x", "--participants", "0"], "0 participants"),
        (["train", "no-such-model", "folder"], "cannot be read"),
        (["pretrain", "no-such-model", "folder"], "cannot be read"),
        (["train", "tensor-refiner", "folder", "--participant-label", "1"], "without a dataset"),
    ],
)
def test_errors_are_told_in_words_and_give_exit_code_1(
    tmp_path, monkeypatch, capsys, argv, message
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("dmri-fm: error: ")
    assert message in stderr
    assert "Traceback" not in stderr


def test_unknown_shell_is_refused(tmp_path, capsys) -> None:
    write_series(tmp_path, np.random.default_rng(1))
    assert main(["tensor", str(tmp_path / "scan.nii.gz"), "x", "--shell", "low"]) == 1
    assert "shell 'low'" in capsys.readouterr().err
