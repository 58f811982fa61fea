import json
from dataclasses import asdict, replace

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.tensor_networks.gate import (
    EXPERIMENTAL,
    MAPS,
    PRIMARY,
    Gate,
    MapGate,
    judge_scan,
    summarise,
)

SIX = MapGate(
    bvals=(700, 1300), snrs=(5, 40), voxel_mm=(1.5, 3.0), most_directions=6, most_ood=0.1
)
GATE = Gate(dict.fromkeys(MAPS, SIX))
INSIDE = {
    "bval": 1000.0, "snr": 20.0, "n_weighted": 6, "ood_share": 0.0, "voxel_mm": (2.0, 2.0, 2.0),
}  # fmt: skip


def test_scans_like_those_of_the_evaluation_are_primary():
    judged = judge_scan(GATE, **INSIDE)
    assert judged == dict.fromkeys(MAPS, (PRIMARY, []))
    assert summarise(judged) == (PRIMARY, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bval": 2000.0}, "b = 700 to 1300"),
        ({"snr": 60.0}, "SNR 5 to 40"),
        ({"n_weighted": 12}, "all 12 weighted volumes"),
        ({"ood_share": 0.3}, "30.0 % of the brain"),
        ({"voxel_mm": (2.0, 2.0, 4.0)}, "voxels of 1.5 to 3 mm, not 2 x 2 x 4"),
        ({"voxel_mm": (1.25, 1.25, 1.25)}, "not 1.25 x 1.25 x 1.25"),
        ({"reasons": ["never primary below 2 years of age"]}, "below 2 years"),
    ],
)
def test_others_are_experimental_and_say_why(change, reason):
    judged = judge_scan(GATE, **(INSIDE | change))
    for status, reasons in (*judged.values(), summarise(judged)):
        assert status == EXPERIMENTAL
        assert len(reasons) == 1
        assert reason in reasons[0]


def test_without_an_evaluation_nothing_is_primary():
    status, reasons = summarise(judge_scan(None, **INSIDE))
    assert status == EXPERIMENTAL
    assert "no evaluation" in reasons[0]


def test_each_map_has_scans_of_its_own():
    """A map's narrower range does not take the others' scans from them."""
    narrow = replace(SIX, snrs=(5, 15), most_ood=0.01)
    wide = replace(SIX, bvals=(500, 1500), most_directions=12)
    gate = Gate({"fa": narrow, "md": wide}, {"ad": "worse in grey matter"})
    judged = judge_scan(gate, **INSIDE)
    assert judged["fa"].reasons == ["evaluated at SNR 5 to 15, not 20"]
    assert judged["md"] == (PRIMARY, [])
    assert judged["ad"].reasons[0].endswith("worse in grey matter")
    assert judged["rd"].status == EXPERIMENTAL
    status, reasons = summarise(judged)
    assert status == "primary for md alone"
    assert "fa: evaluated at SNR 5 to 15, not 20" in reasons
    quiet = judge_scan(gate, **(INSIDE | {"snr": 10.0, "bval": 1400.0, "n_weighted": 12}))
    assert len(quiet["fa"].reasons) == 2
    assert quiet["md"].status == PRIMARY
    far = judge_scan(gate, **(INSIDE | {"snr": 10.0, "ood_share": 0.05}))
    assert far["fa"].reasons == [
        "5.0 % of the brain is unlike the training data, evaluated up to 1.0 %"
    ]
    assert far["md"].status == PRIMARY


def test_a_share_that_is_not_measured_decides_nothing():
    assert judge_scan(GATE, **(INSIDE | {"ood_share": None}))["fa"].status == PRIMARY


def test_json():
    one = {
        "bvals": [700, 1300],
        "snrs": [5, 40],
        "voxel_mm": [1.5, 3.0],
        "most_directions": 6,
        "most_ood": 0.1,
    }
    values = {"maps": {"fa": one}, "reasons": {"md": "worse"}}
    gate = Gate.from_json(values)
    assert gate == Gate({"fa": SIX}, {"md": "worse"})
    assert Gate.from_json(json.loads(json.dumps(asdict(gate)))) == gate
    for broken in (
        {},
        {"maps": {}},
        {**values, "more": 1},
        {**values, "maps": {"v9": one}},
        {**values, "reasons": {"v9": "worse"}},
        {**values, "maps": ["fa"]},
        {**values, "maps": {"fa": {**one, "bvals": [700]}}},
        {**values, "maps": {"fa": {**one, "voxel_mm": None}}},
        {**values, "maps": {"fa": {**one, "more": 1}}},
        {**values, "maps": {"fa": {k: v for k, v in one.items() if k != "most_ood"}}},
    ):
        with pytest.raises(ConfigError, match="gate"):
            Gate.from_json(broken)
