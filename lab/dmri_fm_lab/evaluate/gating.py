"""Gates of tensor networks: for which scans and maps an evaluation found them better.

A map is primary where the network beats, on the truth and in white and grey matter, the fit, the
tuned smoothing and the denoised fit of the same seven volumes, and the denoised fit of up to so
many directions; and where it is not worse on held-out scanners beyond what the noise of their
references can explain. Truth comes from simulated brains of the other generator, condition by
condition, and from simulated scans among the datasets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.json_files import read_object
from dmri_fm.tensor_networks.gate import MAPS, Gate
from dmri_fm.weights import find_weights
from dmri_fm_lab.evaluate.baselines import DIRECTION_ROWS, N_DIRECTIONS
from dmri_fm_lab.evaluate.comparison import Request
from dmri_fm_lab.evaluate.comparison_text import JUDGED, judge_means
from dmri_fm_lab.evaluate.conditions import BASE, compare_conditions
from dmri_fm_lab.evaluate.records import write_json
from dmri_fm_lab.evaluate.verdicts import ERRORS, HIGHEST_BVAL, TO_BEAT, Verdict, judge

#: Errors that decide on each map; the main axis is the tensor's.
MAP_ERRORS: dict[str, tuple[str, ...]] = {
    "diffusivity": ("tensor", "v1_deg_fa03"),
    **{name: (name,) for name in MAPS if name != "diffusivity"},
}

#: Widening of the range of b-values at both ends, s/mm^2: a shell is seldom exactly as named.
BVAL_MARGIN = 50.0

#: Widening of the range of voxel sizes at both ends, mm.
VOXEL_MARGIN = 0.05

#: Where maps are never primary, whatever the numbers.
NEVER = "not inside lesions or tumours, and not of infants: their maps are never primary"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class _Evidence:
    """Records that decide: by condition's name, of simulated scanners, of held-out scanners."""

    conditions: Mapping[str, Record]
    truths: Sequence[Record]
    held_out: Sequence[Record]


@dataclass(frozen=True)
class _Range:
    """Scans for which one map passed: s/mm^2, SNR as the gate measures it, mm."""

    bvals: tuple[float, float]
    snrs: tuple[float, float]
    voxel_mm: tuple[float, float]
    most_directions: int


def find_gates(
    scanners: Sequence[Record], request: Request, *, simulation: Path | None = None
) -> dict[str, Gate]:
    """Find the gate of every network of a request.

    Parameters
    ----------
    scanners
        See :func:`~dmri_fm_lab.evaluate.dataset_comparison.summarise_scanners`.
    request
        Methods; conditions are simulated with the same.
    simulation
        Output of `benchmarks/tensor_on_simulation.py --json`; None: conditions are simulated.

    Raises
    ------
    ConfigError
        If a network has no truth or no held-out scanner that it was not trained on, or a condition
        or network is missing from the simulation.
    """
    records = (
        compare_conditions(request, report=lambda line: print(line, flush=True))
        if simulation is None
        else read_object(simulation, expected="numbers of tensor_on_simulation.py")["conditions"]
    )
    conditions = {record["name"]: record for record in records}
    if BASE.name not in conditions:
        raise ConfigError(
            "no numbers of the first condition", path=simulation, expected=f"{BASE.name!r}"
        )
    gates = {}
    for model in request.networks:
        for row in (model, *TO_BEAT):
            for record in (*records, *scanners):
                if row not in record["methods"]:
                    where = record.get("scanner", record.get("name"))
                    raise ConfigError(
                        f"no numbers of {row}: {where}",
                        expected=f"the methods {', '.join(TO_BEAT)} and every network",
                    )
        held_out = [
            r for r in scanners if r["bval"] <= HIGHEST_BVAL and model not in r["trained_on"]
        ]
        evidence = _Evidence(
            conditions,
            [r for r in held_out if r["is_truth"]],
            [r for r in held_out if not r["is_truth"]],
        )
        for part, what in ((evidence.truths, "a simulated scan with its truth"),
                           (evidence.held_out, "a held-out scanner")):  # fmt: skip
            if not part:
                raise ConfigError(
                    f"no evidence on {model}",
                    expected=f"{what} at b <= {HIGHEST_BVAL:g} s/mm^2 among the datasets",
                )
        gates[model] = find_gate(model, evidence)
    return gates


def find_gate(model: str, evidence: _Evidence) -> Gate:
    """Return the gate of a network: its maps that passed, where all of them did."""
    ranges, reasons = {}, []
    for name in MAPS:
        problem = _problem(model, name, evidence)
        if problem:
            reasons.append(f"{name}: {problem}")
        else:
            ranges[name] = _range(model, name, evidence)
    whole = _whole_range(model, evidence)
    parts = list(ranges.values()) or [whole]
    return Gate(
        (max(p.bvals[0] for p in parts), min(p.bvals[1] for p in parts)),
        (max(p.snrs[0] for p in parts), min(p.snrs[1] for p in parts)),
        min(p.most_directions for p in parts),
        maps=tuple(ranges),
        reasons=(*reasons, NEVER),
        voxel_mm=(max(p.voxel_mm[0] for p in parts), min(p.voxel_mm[1] for p in parts)),
    )


def _passes(record: Record, model: str, name: str) -> bool:
    """Return whether a map won wherever it was compared, and was compared itself."""
    outcomes = [v.outcome for _, v in _verdicts(record, model, name)]
    errors = [record["methods"][model].get(r, {}).get(MAP_ERRORS[name][0]) for r in JUDGED]
    is_known = any(error is not None for error in errors)
    return is_known and "pass" in outcomes and set(outcomes) <= {"pass", "none"}


def _verdicts(record: Record, model: str, name: str) -> list[tuple[str, Verdict]]:
    keys = MAP_ERRORS[name]
    return [(region, judge_means(record, model, region, keys=keys)) for region in JUDGED]


def _problem(model: str, name: str, evidence: _Evidence) -> str | None:
    """Return why a map is not primary anywhere, or None."""
    first = evidence.conditions[BASE.name]
    for record in (first, *evidence.truths):
        where = record.get("scanner", f"simulation, {record.get('name')}")
        for region, verdict in _verdicts(record, model, name):
            if verdict.outcome not in ("pass", "none"):
                return f"{where}, {region} matter: {verdict.reasons[0]}"
    what = "tensor" if name == "diffusivity" else name.upper()
    if not _passes(first, model, name):
        return f"simulation, {BASE.name}: no numbers of the {what}"
    if not any(_passes(record, model, name) for record in evidence.truths):
        return f"no simulated scan with the truth of the {what}"
    is_shown = False
    for record in evidence.held_out:
        for region, verdict in _verdicts(record, model, name):
            if verdict.is_not_worse is False:
                return f"{record['scanner']}, {region} matter: {verdict.reasons[0]}"
            if verdict.is_not_worse is None and verdict.outcome != "none":
                return f"{record['scanner']}, {region} matter: noise of the reference unknown"
            is_shown |= verdict.is_not_worse is True
    return None if is_shown else f"no held-out scanner with numbers of the {what}"


def _range(model: str, name: str, evidence: _Evidence) -> _Range:
    """Return where a map passes that passes in the first condition."""
    bvals, snrs, sizes = (
        _run(evidence, field, lambda record: _passes(record, model, name))
        for field in ("bval", "snr", "voxel_mm")
    )
    within = [
        evidence.conditions[BASE.name],
        *(r for r in snrs if any(row in r["methods"] for row in DIRECTION_ROWS)),
        *evidence.truths,
    ]
    measured = [r["network_snrs"][model] for r in snrs]
    values = [r["condition"]["bval"] for r in bvals]
    edges = [r["condition"]["voxel_mm"] for r in sizes]
    return _Range(
        (min(values) - BVAL_MARGIN, min(max(values) + BVAL_MARGIN, HIGHEST_BVAL)),
        (min(measured), max(measured)),
        (min(edges) - VOXEL_MARGIN, max(edges) + VOXEL_MARGIN),
        min(_most_directions(record, model, name) for record in within),
    )


def _whole_range(model: str, evidence: _Evidence) -> _Range:
    """Return the range of the conditions, for a gate that lets nothing pass."""
    records = evidence.conditions.values()
    snrs = [r["network_snrs"][model] for r in records]
    bvals, edges = ([r["condition"][field] for r in records] for field in ("bval", "voxel_mm"))
    return _Range((min(bvals), max(bvals)), (min(snrs), max(snrs)), (min(edges), max(edges)), 0)


def _run(evidence: _Evidence, field: str, passes: Callable[[Record], bool]) -> list[Record]:
    """Return conditions that pass one after another, with the first condition among them.

    They differ from the first condition in `field` alone.
    """
    first = evidence.conditions[BASE.name]
    others = {k: v for k, v in first["condition"].items() if k != field}
    line = sorted(
        (
            r
            for r in evidence.conditions.values()
            if {k: v for k, v in r["condition"].items() if k != field} == others
        ),
        key=lambda r: float(r["condition"][field]),
    )
    start = stop = line.index(first)
    while start > 0 and passes(line[start - 1]):
        start -= 1
    while stop + 1 < len(line) and passes(line[stop + 1]):
        stop += 1
    return line[start : stop + 1]


def _most_directions(record: Record, model: str, name: str) -> int:
    """Return the largest number of directions whose denoised fit, and all smaller, are beaten."""
    most = 6
    for n, row in zip(N_DIRECTIONS, DIRECTION_ROWS, strict=True):
        regions = record["methods"].get(row)
        if regions is None:
            break
        title = record["titles"][row]
        outcomes = [
            judge(
                record["methods"][model].get(region, {}),
                {title: regions.get(region, {})},
                {title: dict.fromkeys(ERRORS, 0.0)},
                keys=MAP_ERRORS[name],
            ).outcome
            for region in JUDGED
        ]
        if "pass" not in outcomes or not set(outcomes) <= {"pass", "none"}:
            break
        most = n
    return most


def format_gates(gates: Mapping[str, Gate]) -> str:
    """Return gates as text."""
    blocks = []
    for model, gate in gates.items():
        lines = [f"gate, {model}: {', '.join(gate.maps) or 'nothing'} primary"]
        if gate.maps and gate.voxel_mm:
            lines.append(
                f"b {gate.bvals[0]:g} to {gate.bvals[1]:g} s/mm^2, SNR {gate.snrs[0]:.0f} to "
                f"{gate.snrs[1]:.0f}, voxels of {gate.voxel_mm[0]:g} to {gate.voxel_mm[1]:g} mm, "
                f"up to {gate.most_directions} directions, at most {100 * gate.most_ood:g} % of "
                "the brain out-of-distribution"
            )
        blocks.append("\n  ".join([*lines, *gate.reasons]))
    return "\n".join(blocks)


def save_gates(gates: Mapping[str, Gate], request: Request, path: Path | None) -> list[Path]:
    """Write gates into the descriptions of the weights, or all of them into one JSON file.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    if path is not None:
        return [write_json({model: asdict(gate) for model, gate in gates.items()}, path)]
    written = []
    for model, gate in gates.items():
        beside = find_weights(request.weights.get(model, model)).with_suffix(".json")
        text = json.dumps(
            read_object(beside) | {"gate": asdict(gate)}, indent=2, ensure_ascii=False
        )
        try:
            beside.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"cannot be written ({error})",
                path=beside,
                expected="weights in a folder that you may write to",
                advice="name a file after --gate, or copy the weights and name them by --weights",
            ) from None
        written.append(beside)
    return written
