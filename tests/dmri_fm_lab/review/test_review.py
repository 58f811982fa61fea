"""The experiments, small: structure, winners, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.review import report
from dmri_fm_lab.review.experiments import run_review
from dmri_fm_lab.review.outcomes import Setting
from dmri_fm_lab.review.report import format_review

TINY = Setting(n_patches=12, n_tests=4, n_steps=4, edge=8, n_voxels=60, n_heads=2)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("review")
    return run_review([1, 2, 3, 4, 5], folder, seeds=[0, 1], setting=TINY)


def test_every_experiment_scores_every_method_with_every_seed(record: dict) -> None:
    methods = {n: list(found["scores"]) for n, found in record.items()}
    assert methods == {
        "1": ["least squares", "least squares, S0 known", "MLP"],
        "2": ["least squares", "smoothing, then least squares", "MLP", "CNN"],
        "3": ["least squares", "parameter loss", "signal loss", "Rician likelihood"],
        "4": ["tensor, least squares", "CSD", "MLP"],
        "5": [
            "reference protocol, scanned",
            "no harmonisation",
            "linear RISH scaling",
            "learned RISH mapping",
        ],
    }
    assert list(record["1"]["scores"]["MLP"]) == [
        "SNR 5", "SNR 10", "SNR 20", "SNR 30", "SNR 50", "b 2000, SNR 20",
    ]  # fmt: skip
    for found in record.values():
        for by_condition in found["scores"].values():
            for measures in by_condition.values():
                for measure, values in measures.items():
                    assert len(values) == 2
                    assert np.isfinite(values).all()
                    # Shares of a few voxels can be equal by chance.
                    if measure in ("fa", "md", "angle_deg", "peak_angle_deg"):
                        assert values[0] != values[1], "brains and noise are others"
    fitted = record["1"]["scores"]["least squares"]
    assert fitted["SNR 50"]["fa"][0] < 0.5 * fitted["SNR 5"]["fa"][0]


def test_the_same_seed_gives_the_same_numbers(record: dict, tmp_path: Path) -> None:
    again = run_review([1], tmp_path, seeds=[0], setting=TINY)["1"]["scores"]["MLP"]["SNR 10"]
    first = record["1"]["scores"]["MLP"]["SNR 10"]
    assert {m: v[0] for m, v in again.items()} == pytest.approx(
        {m: v[0] for m, v in first.items()}
    )


def test_tables_name_winners_and_signs(record: dict) -> None:
    text = format_review(record)
    assert text.count("\n| SNR 10 |") == 7
    assert "SNR 10, edges, high-FA side" in text
    assert "+-" in text
    assert text.count("CPU-minutes of this call") == 5
    assert text.count("| sign of failure |") == 5
    for words in ("FA outside 0 to 1", "negative diffusivity", "bias of FA at edges, low-FA side"):
        assert words in text
    alarms = [s for s in record["1"]["signatures"] if "alarms" in s["sign"]]
    assert len(alarms) == 3
    assert all(0 <= value <= 1 for sign in alarms for value in sign["value"])


def test_a_winner_is_named_and_doubted_where_seeds_differ() -> None:
    def winners(first: list[float], second: list[float], measure: str = "fa") -> str:
        return report._winners(
            {"a": {"SNR 5": {measure: first}}, "b": {"SNR 5": {measure: second}}}
        )

    assert winners([1.0, 2.0], [3.0, 4.0]).endswith("FA error: a.")
    assert winners([1.0, 5.0], [4.0, 4.0]).endswith("FA error: a (not with every seed).")
    assert winners([np.nan, 1.0], [4.0, 4.0]).endswith("FA error: b.")
    for measure in ("spherical_variance", "fa_bias", "effect_kept"):
        assert "SNR 5" not in winners([0.0, 0.0], [0.5, 0.5], measure)


def test_unknown_experiments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="experiments among 1, 2, 3, 4, 5"):
        run_review([6], tmp_path, seeds=[0], setting=TINY)


def test_the_command_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "review.json"
    arguments = ["study", "review", str(tmp_path / "runs"), "--which", "9", "--json", str(out)]
    assert main(arguments) == 1
    assert "experiments among" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_context_helps_at_low_snr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command, as documented."""
    out = tmp_path / "review.json"
    arguments = ["study", "review", str(tmp_path / "runs"), "--which", "2", "--seeds", "0"]
    assert main([*arguments, "--json", str(out)]) == 0
    assert "## 2. Does context help" in capsys.readouterr().out
    scores = json.loads(out.read_text())["experiments"]["2"]["scores"]
    fa = {name: rows["SNR 5"]["fa"][0] for name, rows in scores.items()}
    assert fa["CNN"] < fa["MLP"] < fa["least squares"]
