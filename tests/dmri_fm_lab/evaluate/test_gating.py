"""Gates from numbers that are made up: what they depend on is known."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from shutil import copy

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.registry import load_weights
from dmri_fm.tensor_networks.gate import HIGHEST_OOD, MAPS, Gate
from dmri_fm.weights import find_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.conditions import CONDITIONS, QUICK
from dmri_fm_lab.evaluate.gating import find_gates, format_gates, save_gates
from dmri_fm_lab.evaluate.saved_scores import describe_networks, read_conditions, read_scores
from dmri_fm_lab.evaluate.verdicts import ERRORS, TO_BEAT

NET = "tensor-refiner"
TITLES = {name: name for name in (*TO_BEAT, NET, "mppca-12", "mppca-20")}


def numbers(size: float) -> dict[str, dict[str, float]]:
    return {region: dict.fromkeys(ERRORS, size) for region in ("white", "grey")}


def record(**more) -> dict:
    """Return a record in which the network halves the errors of every baseline."""
    sizes = {**dict.fromkeys(TO_BEAT, 1.0), NET: 0.5}
    doubts = {name: dict.fromkeys(ERRORS, 0.0) for name in TO_BEAT}
    return {
        "methods": {name: numbers(size) for name, size in sizes.items()},
        "uncertainties": {NET: {"white": deepcopy(doubts), "grey": deepcopy(doubts)}},
        "network_snrs": {NET: 20.0},
        "network_ood_fractions": {NET: 0.02},
        "titles": TITLES,
        **more,
    }


@pytest.fixture
def simulation():
    """The conditions by name; gates measure four fifths of the nominal ratio."""
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
    return {one["name"]: one for one in records}


@pytest.fixture
def scanners():
    common = {"bval": 1000, "trained_on": [], "series": ["a"]}
    return {
        "sim": record(scanner="sim", is_truth=True, **common),
        "Trio": record(scanner="Trio", is_truth=False, **common),
    }


def gate_of(simulation, scanners) -> Gate:
    return find_gates(list(scanners.values()), list(simulation.values()), [NET])[NET]


def test_a_network_that_wins_everywhere_is_primary(simulation, scanners) -> None:
    gate = gate_of(simulation, scanners)
    assert tuple(gate.maps) == MAPS
    assert gate.reasons == {}
    for one in gate.maps.values():
        # b above 1500 is reported only; the ratio is the measured one.
        assert one.bvals == (550.0, 1550.0)
        assert one.snrs == pytest.approx((0.8 * 8, 0.8 * 80))
        # 20 directions beat it; the simulated scan has numbers of six alone.
        assert one.most_directions == 6
        assert one.voxel_mm == pytest.approx((1.95, 3.55))
        assert one.most_ood == 0.02


def test_more_directions_need_numbers_of_the_simulated_scan(simulation, scanners) -> None:
    scanners["sim"]["methods"]["mppca-12"] = numbers(0.6)
    assert gate_of(simulation, scanners).maps["fa"].most_directions == 12


def test_a_map_loses_no_scan_to_another_map(simulation, scanners) -> None:
    """Each range ends where a condition of its own map is lost."""
    simulation["SNR 12"]["methods"]["gaussian"]["grey"]["fa"] = 0.4
    simulation["SNR 60"]["methods"]["wls"]["white"]["md"] = 0.4
    simulation["b 1500"]["methods"]["tv"]["grey"]["rd"] = 0.4
    simulation["3.5 mm"]["methods"]["nlmeans"]["grey"]["ad"] = 0.4
    scanners["sim"]["methods"]["mppca-12"] = numbers(0.6)
    scanners["sim"]["methods"]["mppca-12"]["white"]["v1_deg_fa03"] = 0.4
    maps = gate_of(simulation, scanners).maps
    assert tuple(maps) == MAPS
    wide = pytest.approx((0.8 * 8, 0.8 * 80))
    assert maps["fa"].snrs == pytest.approx((0.8 * 20, 0.8 * 80))
    assert maps["md"].snrs == pytest.approx((0.8 * 8, 0.8 * 45))
    assert [maps[n].snrs for n in ("ad", "rd", "diffusivity")] == [wide] * 3
    assert maps["rd"].bvals == (550.0, 1050.0)
    assert maps["ad"].bvals == maps["fa"].bvals == (550.0, 1550.0)
    assert maps["ad"].voxel_mm == pytest.approx((1.95, 2.55))
    assert maps["fa"].voxel_mm == pytest.approx((1.95, 3.55))
    directions = {name: one.most_directions for name, one in maps.items()}
    assert directions == {"diffusivity": 6, "fa": 12, "md": 12, "ad": 12, "rd": 12}
    lines = format_gates({NET: gate_of(simulation, scanners)}).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:6]] == [*MAPS]
    assert "SNR 16 to 64" in lines[2]
    assert "never primary in lesions" in lines[6]


def test_the_share_out_of_distribution_is_that_of_scans_that_passed(simulation, scanners) -> None:
    scanners["Trio"]["network_ood_fractions"][NET] = 0.04
    simulation["SNR 8"]["network_ood_fractions"][NET] = 0.07
    simulation["SNR 8"]["methods"]["wls"]["white"]["md"] = 0.4
    maps = gate_of(simulation, scanners).maps
    assert maps["md"].most_ood == 0.04, "at SNR 8 MD did not pass"
    assert maps["fa"].most_ood == 0.07
    scanners["Trio"]["network_ood_fractions"][NET] = 0.5
    assert gate_of(simulation, scanners).maps["fa"].most_ood == HIGHEST_OOD
    # A network that does not measure it, and numbers of earlier versions.
    for one in (*simulation.values(), *scanners.values()):
        one["network_ood_fractions"] = {NET: None}
    del scanners["sim"]["network_ood_fractions"]
    assert gate_of(simulation, scanners).maps["fa"].most_ood == 0.0


@pytest.mark.parametrize("where", ["SNR 20", "sim"])
@pytest.mark.parametrize("baseline", ["mppca", "tv", "nlmeans"])
def test_a_map_that_loses_on_the_truth_is_not_primary(
    simulation, scanners, where, baseline
) -> None:
    found = scanners[where] if where in scanners else simulation[where]
    found["methods"][baseline]["grey"]["fa"] = 0.4
    gate = gate_of(simulation, scanners)
    assert tuple(gate.maps) == ("diffusivity", "md", "ad", "rd")
    assert set(gate.reasons) == {"fa"}
    assert where in gate.reasons["fa"]
    assert f"FA .5000 against .4000 of {baseline}" in gate.reasons["fa"]


def test_held_out_scanners_decide_beyond_their_uncertainty(simulation, scanners) -> None:
    trio = scanners["Trio"]
    trio["methods"]["wls"]["white"]["md"] = 0.45
    assert "md" not in gate_of(simulation, scanners).maps
    trio["uncertainties"][NET]["white"]["wls"]["md"] = 0.06
    assert tuple(gate_of(simulation, scanners).maps) == MAPS
    trio["uncertainties"][NET]["white"]["wls"]["md"] = None
    assert "noise of the reference unknown" in gate_of(simulation, scanners).reasons["md"]


@pytest.mark.parametrize("left", [{}, {"v1_deg_fa03": 0.1}])
def test_the_tensor_needs_a_truth_of_the_tensor(simulation, scanners, left) -> None:
    for region in scanners["sim"]["methods"][NET].values():
        region |= {"tensor": None, "v1_deg_fa03": None, **left}
    gate = gate_of(simulation, scanners)
    assert tuple(gate.maps) == MAPS[1:]
    assert gate.reasons == {"diffusivity": "no simulated scan with the truth of the tensor"}


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("SNR 20", "simulation, SNR 20: no numbers"),
        ("sim", "no simulated scan"),
        ("Trio", "no held-out scanner"),
    ],
)
def test_no_numbers_are_no_evidence(simulation, scanners, where, reason) -> None:
    found = scanners[where] if where in scanners else simulation[where]
    found["methods"][NET] = {}
    gate = gate_of(simulation, scanners)
    assert gate.maps == {}
    assert all(reason in text for text in gate.reasons.values())
    if where == "SNR 20":
        return
    # One region of one scanner is evidence.
    found["methods"][NET] = {"white": numbers(0.5)["white"]}
    assert tuple(gate_of(simulation, scanners).maps) == MAPS


def test_if_nothing_wins_nothing_is_primary(simulation, scanners) -> None:
    simulation["SNR 20"]["methods"]["gaussian"] = numbers(0.1)
    gate = gate_of(simulation, scanners)
    assert gate.maps == {}
    assert set(gate.reasons) == set(MAPS)
    assert "primary at" not in format_gates({NET: gate})


def test_missing_evidence_is_named(simulation, scanners) -> None:
    conditions = list(simulation.values())
    for missing, message in (("sim", "simulated scan"), ("Trio", "held-out scanner")):
        with pytest.raises(ConfigError, match=message):
            find_gates([r for n, r in scanners.items() if n != missing], conditions, [NET])
    # A scan that the network was trained on is none, and neither is one of high b-values; nor is a
    # simulated scan that moves a held-out scanner.
    changes = [({"trained_on": [NET]}, ("sim", "Trio")), ({"bval": 2000}, ("sim", "Trio"))]
    changes += [({"is_simulated": True}, ("Trio",))]
    for change, names in changes:
        for name in names:
            records = scanners | {name: scanners[name] | change}
            message = "simulated scan" if name == "sim" else "held-out scanner"
            with pytest.raises(ConfigError, match=message):
                find_gates(list(records.values()), conditions, [NET])
    del simulation["b 600"]["methods"]["mppca"]
    with pytest.raises(ConfigError, match="no numbers of mppca: b 600"):
        gate_of(simulation, scanners)


def write(path: Path, **content) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_numbers_of_other_weights_are_refused(simulation, scanners, tmp_path, capsys) -> None:
    networks = describe_networks([NET], {})
    ours, path = networks[NET]["sha256"], tmp_path / "sim.json"
    conditions = list(simulation.values())
    write(path, conditions=conditions)
    with pytest.raises(ConfigError) as caught:
        read_conditions(path, networks)
    assert ours in str(caught.value), "the sha256 to write into the file by hand"
    write(path, conditions=conditions, networks={NET: {"sha256": "0" * 64}})
    with pytest.raises(ConfigError, match="other weights of tensor-refiner, sha256 000"):
        read_conditions(path, networks)
    with pytest.raises(ConfigError, match="other weights"):
        read_scores([path], networks)
    write(path, conditions=conditions[1:], networks=networks)
    with pytest.raises(ConfigError, match="first condition"):
        read_conditions(path, networks)
    del conditions[3]["uncertainties"][NET]["white"]["tv"]
    write(path, conditions=conditions, networks=networks)
    with pytest.raises(ConfigError, match="no uncertainty of tv"):
        read_conditions(path, networks)
    # The command says it before it looks at the datasets.
    command = ["evaluate", "tensor", str(tmp_path / "none"), "--model", NET, "--gate"]
    assert main([*command, "--simulation", str(path)]) == 1
    assert "no uncertainty of tv" in capsys.readouterr().err


def test_a_gate_is_made_of_saved_numbers(
    simulation, scanners, tmp_path, capsys, monkeypatch
) -> None:
    networks = describe_networks([NET], {})
    series = [
        {
            "name": name,
            "scanner": name,
            "origin": "raw",
            "is_truth": r["is_truth"],
            "trained_on": [],
            "titles": TITLES,
            "means": {"1000": {"n_voxels": {"white": 9}, "floor": {"white": {}}, **r}},
        }
        for name, r in scanners.items()
    ]
    files = [
        write(tmp_path / f"{one['name']}.json", networks=networks, series=[one]) for one in series
    ]
    sim = write(tmp_path / "s.json", networks=networks, conditions=list(simulation.values()))
    out = tmp_path / "gates.json"
    command = ["evaluate", "tensor", "--model", NET, "--simulation", str(sim), "--gate", str(out)]
    assert main([*command, "--scores", *map(str, files)]) == 0
    printed = capsys.readouterr().out
    assert "Research only" in printed
    assert "Trio, b = 1000" in printed
    assert Gate.from_json(json.loads(out.read_text())[NET]) == gate_of(simulation, scanners)
    # Scores that can give no gate are refused before conditions are computed.
    monkeypatch.setattr(
        "dmri_fm_lab.evaluate.conditions.compare_conditions",
        lambda *_, **__: pytest.fail("conditions were computed"),
    )
    assert main([*command[:4], "--gate", "--scores", str(files[1])]) == 1
    assert "simulated scan" in capsys.readouterr().err
    # Conditions that are computed are saved before anything else can fail.
    monkeypatch.setattr(
        "dmri_fm_lab.evaluate.conditions.compare_conditions",
        lambda *_, **__: list(simulation.values()),
    )
    whole = ["--json", str(tmp_path / "all.json"), "--gate", str(tmp_path / "all.json" / "no")]
    assert main([*command[:4], "--scores", *map(str, files), *whole]) == 1
    assert "cannot be written" in capsys.readouterr().err
    both = str(tmp_path / "all.json")
    again = [*command[:4], "--scores", both, "--simulation", both, "--gate", str(out)]
    assert main(again) == 0
    assert Gate.from_json(json.loads(out.read_text())[NET]) == gate_of(simulation, scanners)
    for wrong, message in (
        ([*map(str, files), str(files[0])], "twice"),
        ([str(sim)], "no series"),
    ):
        assert main([*command, "--scores", *wrong]) == 1
        assert message in capsys.readouterr().err
    assert main(command) == 1
    assert "neither datasets nor --scores" in capsys.readouterr().err


def test_gates_are_written_beside_the_weights(simulation, scanners, tmp_path) -> None:
    source = find_weights(NET)
    weights = tmp_path / "own.safetensors"
    for path in (source, source.with_suffix(".json")):
        copy(path, weights.with_suffix(path.suffix))
    gate = gate_of(simulation, scanners)
    assert save_gates({NET: gate}, {NET: weights}, None) == [weights.with_suffix(".json")]
    found = load_weights(weights)
    assert found.gate == gate
    before = json.loads(Path(source.with_suffix(".json")).read_text())
    after = json.loads(weights.with_suffix(".json").read_text())
    assert {k: v for k, v in after.items() if k != "gate"} == {
        k: v for k, v in before.items() if k != "gate"
    }
    (path,) = save_gates({NET: gate}, {}, tmp_path / "gates.json")
    assert Gate.from_json(json.loads(path.read_text())[NET]) == gate


def test_conditions_have_names_of_their_own() -> None:
    names = [condition.name for condition in (*CONDITIONS, *QUICK)]
    assert len(set(names)) == len(names)
    assert names[0] == "SNR 20"
    assert {"b 1500", "b 2000", "3.5 mm", "lesions", "6 mm, SNR 60"} <= set(names)
