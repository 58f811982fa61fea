"""Gates of tensor networks: for which scans an evaluation found each of their maps better.

A map is primary where the network beats, on the truth and in white and grey matter, the fit, the
tuned smoothing and the denoised fit of the same seven volumes, and the denoised fit of up to so
many directions; and where it is not worse on held-out scanners beyond what the noise of their
references can explain. Each map has scans of its own. Truth comes from simulated brains of the
other generator, condition by condition, and from simulated scans among the datasets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.json_files import read_object
from dmri_fm.tensor_networks.gate import (
    EXPERIMENTAL,
    HIGHEST_OOD,
    MAPS,
    NEVER_PRIMARY_IN,
    PRIMARY,
    Gate,
    MapGate,
)
from dmri_fm.weights import find_weights
from dmri_fm_lab.evaluate.baselines import DIRECTION_ROWS, N_DIRECTIONS
from dmri_fm_lab.evaluate.comparison_text import JUDGED, judge_means
from dmri_fm_lab.evaluate.conditions import BASE
from dmri_fm_lab.evaluate.records import write_json
from dmri_fm_lab.evaluate.saved_scores import check_rows
from dmri_fm_lab.evaluate.verdicts import ERRORS, HIGHEST_BVAL, Verdict, decides, judge

#: Errors that decide on each map; the main axis is the tensor's.
MAP_ERRORS: dict[str, tuple[str, ...]] = {
    "diffusivity": ("tensor", "v1_deg_fa03"),
    **{name: (name,) for name in MAPS if name != "diffusivity"},
}

#: Widening of the range of b-values at both ends, s/mm^2: a shell is seldom exactly as named.
BVAL_MARGIN = 50.0

#: Widening of the range of voxel sizes at both ends, mm.
VOXEL_MARGIN = 0.05

Record = Mapping[str, Any]


@dataclass(frozen=True)
class _Evidence:
    """Records that decide: by condition's name, of simulated scanners, of held-out scanners."""

    conditions: Mapping[str, Record]
    truths: Sequence[Record]
    held_out: Sequence[Record]


def find_gates(
    scanners: Sequence[Record], conditions: Sequence[Record], models: Sequence[str]
) -> dict[str, Gate]:
    """Find the gate of every network.

    Parameters
    ----------
    scanners
        See :func:`~dmri_fm_lab.evaluate.dataset_comparison.summarise_scanners`.
    conditions
        See :func:`~dmri_fm_lab.evaluate.conditions.compare_conditions`; the first is among them.
    models
        Names of the networks.

    Raises
    ------
    ConfigError
        If a network has no truth or no held-out scanner that it was not trained on, or a baseline
        or network is missing from a record.
    """
    check_scanners(scanners, models)
    check_rows(conditions, models)
    by_name = {record["name"]: record for record in conditions}
    return {
        model: find_gate(model, _Evidence(by_name, *_decisive(scanners, model)))
        for model in models
    }


def check_scanners(scanners: Sequence[Record], models: Sequence[str]) -> None:
    """Refuse scanners that can give a network no gate; raises as :func:`find_gates`."""
    check_rows(scanners, models)
    for model in models:
        truths, held_out = _decisive(scanners, model)
        for part, what in ((truths, "a simulated scan with its truth"),
                           (held_out, "a held-out scanner")):  # fmt: skip
            if not part:
                raise ConfigError(
                    f"no evidence on {model}",
                    expected=f"{what} at b <= {HIGHEST_BVAL:g} s/mm^2 among the datasets",
                )


def _decisive(scanners: Sequence[Record], model: str) -> tuple[list[Record], list[Record]]:
    """Return simulated scanners with their truth, and others, that decide on a network."""
    deciding = [r for r in scanners if decides(r["bval"]) and model not in r["trained_on"]]
    return (
        [r for r in deciding if r["is_truth"]],
        [r for r in deciding if not (r["is_truth"] or r.get("is_simulated"))],
    )


def find_gate(model: str, evidence: _Evidence) -> Gate:
    """Return the gate of a network: for each map that passed, where it did."""
    problems = {name: _problem(model, name, evidence) for name in MAPS}
    return Gate(
        {name: _range(model, name, evidence) for name, problem in problems.items() if not problem},
        {name: problem for name, problem in problems.items() if problem},
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
    for record in evidence.held_out:
        for region, verdict in _verdicts(record, model, name):
            if verdict.is_not_worse is False:
                return f"{record['scanner']}, {region} matter: {verdict.reasons[0]}"
            if verdict.is_not_worse is None and verdict.outcome != "none":
                return f"{record['scanner']}, {region} matter: noise of the reference unknown"
    is_shown = any(_is_shown(record, model, name) for record in evidence.held_out)
    return None if is_shown else f"no held-out scanner with numbers of the {what}"


def _range(model: str, name: str, evidence: _Evidence) -> MapGate:
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
    passed = [
        *bvals,
        *snrs,
        *sizes,
        *(r for r in evidence.truths if _passes(r, model, name)),
        *(r for r in evidence.held_out if _is_shown(r, model, name)),
    ]
    return MapGate(
        (min(values) - BVAL_MARGIN, min(max(values), HIGHEST_BVAL) + BVAL_MARGIN),
        (min(measured), max(measured)),
        (min(edges) - VOXEL_MARGIN, max(edges) + VOXEL_MARGIN),
        min(_most_directions(record, model, name) for record in within),
        _most_ood(passed, model),
    )


def _is_shown(record: Record, model: str, name: str) -> bool:
    """Return whether a held-out scanner shows that a map is not worse."""
    return any(v.is_not_worse is True for _, v in _verdicts(record, model, name))


def _most_ood(passed: Sequence[Record], model: str) -> float:
    """Return the largest share of a brain that was out-of-distribution where a map passed.

    It is zero where no record has a share: of networks that do not measure it, and of numbers of
    versions that did not save it.
    """
    found = (r.get("network_ood_fractions", {}).get(model) for r in passed)
    return min(max((share for share in found if share is not None), default=0.0), HIGHEST_OOD)


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
    """Return gates as text, a line for each map.

    Examples
    --------
    >>> six = MapGate((550, 1500), (10, 40), (1.95, 3.55), most_directions=6, most_ood=0.021)
    >>> print(format_gates({"net": Gate({"md": six}, {"fa": "sim, grey matter: FA .2 ..."})}))
    gate, net
      md: primary at b 550 to 1500 s/mm^2, SNR 10 to 40, voxels of 1.95 to 3.55 mm, up to 6 \
directions, at most 2.1 % of the brain out-of-distribution
      fa: experimental; sim, grey matter: FA .2 ...
      never primary in lesions, tumours, and brains younger than two years; research only
    """
    blocks = []
    for model, gate in gates.items():
        lines = [
            f"{name}: {PRIMARY} at b {one.bvals[0]:g} to {one.bvals[1]:g} s/mm^2, SNR "
            f"{one.snrs[0]:.3g} to {one.snrs[1]:.3g}, voxels of {one.voxel_mm[0]:g} to "
            f"{one.voxel_mm[1]:g} mm, up to {one.most_directions} directions, at most "
            f"{100 * one.most_ood:.1f} % of the brain out-of-distribution"
            for name, one in gate.maps.items()
        ]
        lines += [f"{name}: {EXPERIMENTAL}; {reason}" for name, reason in gate.reasons.items()]
        lines.append(f"never {PRIMARY} in {NEVER_PRIMARY_IN}; research only")
        blocks.append("\n  ".join([f"gate, {model}", *lines]))
    return "\n".join(blocks)


def save_gates(
    gates: Mapping[str, Gate], weights: Mapping[str, Path], path: Path | None
) -> list[Path]:
    """Write gates into the descriptions of the weights, or all of them into one JSON file.

    Parameters
    ----------
    gates
        By network.
    weights
        Files in place of the weights that ship with the package, by network.
    path
        The one file, or None.

    Raises
    ------
    OutputError
        If a file cannot be written.
    """
    if path is not None:
        return [write_json({model: asdict(gate) for model, gate in gates.items()}, path)]
    written = []
    for model, gate in gates.items():
        beside = find_weights(weights.get(model, model)).with_suffix(".json")
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
