"""Gates from numbers that are made up: what they depend on is known."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from shutil import copy

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.registry import load_weights
from dmri_fm.tensor_networks.gate import MAPS, Gate
from dmri_fm.weights import find_weights
from dmri_fm_lab.evaluate.comparison import Request
from dmri_fm_lab.evaluate.conditions import CONDITIONS, QUICK
from dmri_fm_lab.evaluate.gating import NEVER, find_gates, format_gates, save_gates
from dmri_fm_lab.evaluate.verdicts import ERRORS

NET = "tensor-refiner"
REQUEST = Request(models=(NET,))
TITLES = {name: name for name in ("wls", "gaussian", "mppca", NET, "mppca-12", "mppca-20")}


def numbers(size: float) -> dict[str, dict[str, float]]:
    return {region: dict.fromkeys(ERRORS, size) for region in ("white", "grey")}


def record(**more) -> dict:
    """Return a record in which the network halves the errors of every baseline."""
    sizes = {"wls": 1.0, "gaussian": 1.0, "mppca": 1.0, NET: 0.5}
    doubts = {name: dict.fromkeys(ERRORS, 0.0) for name in ("wls", "gaussian", "mppca")}
    return {
        "methods": {name: numbers(size) for name, size in sizes.items()},
        "uncertainties": {NET: {"white": deepcopy(doubts), "grey": deepcopy(doubts)}},
        "network_snrs": {NET: 20.0},
        "titles": TITLES,
        **more,
    }


@pytest.fixture
def simulation(tmp_path):
    """The file of conditions; gates measure four fifths of the nominal ratio."""
    records = [
        record(
            name=c.name,
            condition={"snr": c.snr, "bval": c.bval, "voxel_mm": c.voxel_mm,
                       "has_lesions": c.has_lesions},
            network_snrs={NET: 0.8 * c.snr},
        )
        for c in CONDITIONS
    ]  # fmt: skip
    for one in records:
        if one["name"] in ("SNR 12", "SNR 20"):
            one["methods"]["mppca-12"] = numbers(0.7)
            one["methods"]["mppca-20"] = numbers(0.4)
    return {one["name"]: one for one in records}, tmp_path / "simulation.json"


@pytest.fixture
def scanners():
    common = {"bval": 1000, "trained_on": [], "series": ["a"]}
    return {
        "sim": record(scanner="sim", is_truth=True, **common),
        "Trio": record(scanner="Trio", is_truth=False, **common),
    }


def gate_of(simulation, scanners) -> Gate:
    conditions, path = simulation
    path.write_text(json.dumps({"conditions": list(conditions.values())}))
    return find_gates(list(scanners.values()), REQUEST, simulation=path)[NET]


def test_a_network_that_wins_everywhere_is_primary(simulation, scanners) -> None:
    gate = gate_of(simulation, scanners)
    assert gate.maps == MAPS
    # b above 1500 is reported only; the ratio is the measured one.
    assert gate.bvals == (550.0, 1500.0)
    assert gate.snrs == pytest.approx((0.8 * 8, 0.8 * 80))
    # 20 directions beat it; the simulated scan has numbers of six alone.
    assert gate.most_directions == 6
    assert gate.voxel_mm == pytest.approx((1.95, 3.55))
    assert gate.reasons == (NEVER,)


def test_more_directions_need_numbers_of_the_simulated_scan(simulation, scanners) -> None:
    scanners["sim"]["methods"]["mppca-12"] = numbers(0.6)
    assert gate_of(simulation, scanners).most_directions == 12


def test_the_range_ends_where_a_condition_is_lost(simulation, scanners) -> None:
    conditions, _ = simulation
    conditions["SNR 12"]["methods"]["gaussian"]["grey"]["fa"] = 0.4
    conditions["SNR 60"]["methods"]["wls"]["white"]["md"] = 0.4
    conditions["b 2000"]["methods"]["mppca"]["grey"]["rd"] = 0.4
    conditions["3.5 mm"]["methods"]["wls"]["grey"]["ad"] = 0.4
    gate = gate_of(simulation, scanners)
    assert gate.maps == MAPS
    assert gate.snrs == pytest.approx((0.8 * 20, 0.8 * 45))
    assert gate.bvals == (550.0, 1050.0)
    assert gate.voxel_mm == pytest.approx((1.95, 2.55))


@pytest.mark.parametrize("where", ["SNR 20", "sim"])
def test_a_map_that_loses_on_the_truth_is_not_primary(simulation, scanners, where) -> None:
    found = scanners[where] if where in scanners else simulation[0][where]
    found["methods"]["mppca"]["grey"]["fa"] = 0.4
    gate = gate_of(simulation, scanners)
    assert gate.maps == ("diffusivity", "md", "ad", "rd")
    assert gate.reasons[0].startswith("fa: ")
    assert where in gate.reasons[0]
    assert "FA .5000 against .4000 of mppca" in gate.reasons[0]


def test_held_out_scanners_decide_beyond_their_uncertainty(simulation, scanners) -> None:
    trio = scanners["Trio"]
    trio["methods"]["wls"]["white"]["md"] = 0.45
    assert "md" not in gate_of(simulation, scanners).maps
    trio["uncertainties"][NET]["white"]["wls"]["md"] = 0.06
    assert gate_of(simulation, scanners).maps == MAPS
    trio["uncertainties"][NET]["white"]["wls"]["md"] = None
    assert "noise of the reference unknown" in gate_of(simulation, scanners).reasons[0]


@pytest.mark.parametrize("left", [{}, {"v1_deg_fa03": 0.1}])
def test_the_tensor_needs_a_truth_of_the_tensor(simulation, scanners, left) -> None:
    for region in scanners["sim"]["methods"][NET].values():
        region |= {"tensor": None, "v1_deg_fa03": None, **left}
    gate = gate_of(simulation, scanners)
    assert gate.maps == MAPS[1:]
    assert gate.reasons[0] == "diffusivity: no simulated scan with the truth of the tensor"


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("SNR 20", "simulation, SNR 20: no numbers"),
        ("sim", "no simulated scan"),
        ("Trio", "no held-out scanner"),
    ],
)
def test_no_numbers_are_no_evidence(simulation, scanners, where, reason) -> None:
    found = scanners[where] if where in scanners else simulation[0][where]
    found["methods"][NET] = {}
    gate = gate_of(simulation, scanners)
    assert gate.maps == ()
    assert all(reason in text for text in gate.reasons[:-1])
    if where == "SNR 20":
        return
    # One region of one scanner is evidence.
    found["methods"][NET] = {"white": numbers(0.5)["white"]}
    assert gate_of(simulation, scanners).maps == MAPS


def test_if_nothing_wins_nothing_is_primary(simulation, scanners) -> None:
    conditions, _ = simulation
    conditions["SNR 20"]["methods"]["gaussian"] = numbers(0.1)
    gate = gate_of(simulation, scanners)
    assert gate.maps == ()
    assert gate.status == "experimental"
    assert "nothing primary" in format_gates({NET: gate})
    assert len(gate.reasons) == len(MAPS) + 1


def test_missing_evidence_is_named(simulation, scanners) -> None:
    conditions, path = simulation
    gate_of(simulation, scanners)
    for missing, message in (("sim", "simulated scan"), ("Trio", "held-out scanner")):
        with pytest.raises(ConfigError, match=message):
            find_gates([r for n, r in scanners.items() if n != missing], REQUEST, simulation=path)
    # A scan that the network was trained on is none, and neither is one of high b-values.
    for change in ({"trained_on": [NET]}, {"bval": 2000}):
        for changed, message in (("sim", "simulated scan"), ("Trio", "held-out scanner")):
            records = scanners | {changed: scanners[changed] | change}
            with pytest.raises(ConfigError, match=message):
                find_gates(list(records.values()), REQUEST, simulation=path)
    del conditions["b 600"]["methods"]["mppca"]
    with pytest.raises(ConfigError, match="no numbers of mppca: b 600"):
        gate_of(simulation, scanners)
    del conditions["SNR 20"]
    with pytest.raises(ConfigError, match="SNR 20"):
        gate_of(simulation, scanners)


def test_gates_are_written_beside_the_weights(simulation, scanners, tmp_path) -> None:
    source = find_weights(NET)
    weights = tmp_path / "own.safetensors"
    for path in (source, source.with_suffix(".json")):
        copy(path, weights.with_suffix(path.suffix))
    request = replace(REQUEST, weights={NET: weights})
    gate = gate_of(simulation, scanners)
    assert save_gates({NET: gate}, request, None) == [weights.with_suffix(".json")]
    found = load_weights(weights)
    assert found.gate == gate
    before = json.loads(Path(source.with_suffix(".json")).read_text())
    after = json.loads(weights.with_suffix(".json").read_text())
    assert {k: v for k, v in after.items() if k != "gate"} == {
        k: v for k, v in before.items() if k != "gate"
    }
    (path,) = save_gates({NET: gate}, request, tmp_path / "gates.json")
    assert Gate.from_json(json.loads(path.read_text())[NET]) == gate


def test_conditions_have_names_of_their_own() -> None:
    names = [condition.name for condition in (*CONDITIONS, *QUICK)]
    assert len(set(names)) == len(names)
    assert names[0] == "SNR 20"
    assert {"b 2000", "3.5 mm", "lesions", "6 mm, SNR 60"} <= set(names)
