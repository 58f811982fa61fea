from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dmri_fm_lab.evaluate.verdicts import TO_BEAT

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "tensor_on_simulation.py"


@pytest.mark.slow
def test_the_benchmark_prints_tables_coverage_and_verdicts(tmp_path) -> None:
    out = tmp_path / "numbers.json"
    options = ["--quick", "--brains", "1", "--model", "tensor-refiner", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=True
    )
    for text in (
        "6 mm, tissue, ",
        "6 mm, white, ",
        "6 mm, SNR 60, grey, ",
        "Coverage of the 90 % intervals, tensor-refiner",
        "verdict, tensor-refiner, MD intervals, each cell: ",
        "verdict, tensor-refiner, white: ",
    ):
        assert text in done.stdout
    found = json.loads(out.read_text())
    assert len(found["networks"]["tensor-refiner"]["sha256"]) == 64
    noisy, quiet, _ = found["conditions"]
    assert 0 <= noisy["network_ood_fractions"]["tensor-refiner"] <= 1
    assert set(TO_BEAT) | {"tensor-refiner"} <= set(noisy["methods"])
    for region in ("white", "grey"):
        errors = [r["methods"]["wls"][region]["fa"] for r in (noisy, quiet)]
        assert errors[1] < errors[0]
    assert noisy["network_snrs"]["tensor-refiner"] < quiet["network_snrs"]["tensor-refiner"]
    # The truth leaves no doubt.
    doubts = noisy["uncertainties"]["tensor-refiner"]["white"]["wls"]
    assert set(doubts.values()) == {0.0}
