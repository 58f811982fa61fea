import json
from dataclasses import asdict, replace

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.tensor_networks.gate import EXPERIMENTAL, PRIMARY, Gate, judge_scan

GATE = Gate(bvals=(700, 1300), snrs=(5, 40), most_directions=6, most_ood=0.1, voxel_mm=(1.5, 3.0))
INSIDE = {"bval": 1000.0, "snr": 20.0, "n_weighted": 6, "ood_share": 0.0}


def test_scans_like_those_of_the_evaluation_are_primary():
    assert judge_scan(GATE, **INSIDE) == (PRIMARY, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bval": 2000.0}, "b = 700 to 1300"),
        ({"snr": 60.0}, "SNR 5 to 40"),
        ({"n_weighted": 12}, "all 12 weighted volumes"),
        ({"ood_share": 0.3}, "30 % of the brain"),
        ({"voxel_mm": (2.0, 2.0, 4.0)}, "voxels of 1.5 to 3 mm, not 2 x 2 x 4"),
        ({"voxel_mm": (1.25, 1.25, 1.25)}, "not 1.25 x 1.25 x 1.25"),
        ({"reasons": ["never primary below 2 years of age"]}, "below 2 years"),
    ],
)
def test_others_are_experimental_and_say_why(change, reason):
    status, reasons = judge_scan(GATE, **(INSIDE | change))
    assert status == EXPERIMENTAL
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_without_an_evaluation_nothing_is_primary():
    status, reasons = judge_scan(None, **INSIDE)
    assert status == EXPERIMENTAL
    assert "no evaluation" in reasons[0]


def test_maps_that_lost_are_named_in_the_status():
    gate = replace(GATE, maps=("md",), reasons=("fa: worse in grey matter",))
    status, reasons = judge_scan(gate, **INSIDE)
    assert status == "primary for md alone"
    assert reasons == ["fa: worse in grey matter"]
    status, reasons = judge_scan(gate, **(INSIDE | {"bval": 2000.0}))
    assert status == EXPERIMENTAL
    assert reasons[-1] == "fa: worse in grey matter"


def test_a_gate_without_maps_lets_nothing_pass():
    status, reasons = judge_scan(replace(GATE, maps=()), **INSIDE)
    assert status == EXPERIMENTAL
    assert "no map better" in reasons[0]


def test_json():
    values = {
        "bvals": [700, 1300],
        "snrs": [5, 40],
        "most_directions": 6,
        "voxel_mm": [1.5, 3.0],
    }
    assert Gate.from_json(values) == GATE
    chosen = {**values, "most_ood": 0.2, "maps": ["fa"], "reasons": ["md: worse"]}
    assert Gate.from_json(chosen) == replace(
        GATE, most_ood=0.2, maps=("fa",), reasons=("md: worse",)
    )
    assert Gate.from_json(json.loads(json.dumps(asdict(Gate.from_json(chosen))))).maps == ("fa",)
    for broken in (
        {},
        {**values, "more": 1},
        {**values, "bvals": [700]},
        {**values, "voxel_mm": None},
        {k: v for k, v in values.items() if k != "voxel_mm"},
        {**values, "maps": ["v9"]},
        {**values, "maps": "fa"},
    ):
        with pytest.raises(ConfigError, match="gate"):
            Gate.from_json(broken)
