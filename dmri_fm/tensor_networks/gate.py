"""Gate of a tensor network's maps: the scans for which each of them is primary.

An evaluation (`dmri-fm evaluate tensor --gate`) finds, for each map of a set of weights, the scans
for which it beats the baselines, and writes them beside the weights. All else is experimental.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from dmri_fm.errors import ConfigError

PRIMARY, EXPERIMENTAL = "primary", "experimental"

#: Maps of a tensor network, by their `param` label; the main axis is the tensor's.
MAPS = ("diffusivity", "fa", "md", "ad", "rd")

#: Percentile of the training data from which on the surroundings of a voxel are
#: out-of-distribution.
OOD_PERCENTILE = 99.0

#: Largest share of a brain that any gate lets be out-of-distribution: of training data it is 1 %,
#: and where it is ten times as much, errors that an evaluation found elsewhere say little.
HIGHEST_OOD = 0.1

#: Where maps are never primary, whatever their status says of the scan: in every map's sidecar.
NEVER_PRIMARY_IN = "lesions, tumours, and brains younger than two years"


@dataclass(frozen=True)
class MapGate:
    """Scans for which an evaluation found one map of a network better than the baselines.

    Attributes
    ----------
    bvals
        Lowest and highest b-value, s/mm^2.
    snrs
        Lowest and highest ratio of the mean b=0 signal of the brain to the noise.
    voxel_mm
        Smallest and largest edge of a voxel, mm.
    most_directions
        Largest number of weighted volumes, repeated directions counted; with more, the fit of
        all of them is better. An evaluation measures each direction once.
    most_ood
        Largest share of the brain that is out-of-distribution.
    """

    bvals: tuple[float, float]
    snrs: tuple[float, float]
    voxel_mm: tuple[float, float]
    most_directions: int
    most_ood: float

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MapGate:
        """Read it from plain types; KeyError, TypeError, ValueError or OverflowError."""
        _check_keys(values, {f.name for f in fields(cls)})
        (low_b, high_b), (low_snr, high_snr), (low_mm, high_mm) = (
            map(float, values[name]) for name in ("bvals", "snrs", "voxel_mm")
        )
        return cls(
            (low_b, high_b),
            (low_snr, high_snr),
            (low_mm, high_mm),
            int(values["most_directions"]),
            float(values["most_ood"]),
        )


@dataclass(frozen=True)
class Gate:
    """What an evaluation found of a network: which of its maps are better, and for which scans.

    Attributes
    ----------
    maps
        Scans by map, one of :data:`MAPS`; maps that are absent are never primary.
    reasons
        What the evaluation holds against each other map, in words; it goes into sidecars.
    """

    maps: Mapping[str, MapGate]
    reasons: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Gate:
        """Read a gate from the description of weights.

        Raises
        ------
        ConfigError
            If a field is missing, unknown, or no number.
        """
        try:
            _check_keys(values, {f.name for f in fields(cls)})
            maps, reasons = dict(values["maps"]), dict(values["reasons"])
            if unknown := {*maps, *reasons} - {*MAPS}:
                raise KeyError(", ".join(sorted(map(str, unknown))))
            return cls(
                {name: MapGate.from_json(one) for name, one in maps.items()},
                {name: str(reason) for name, reason in reasons.items()},
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            of_map = ", ".join(f.name for f in fields(MapGate))
            raise ConfigError(
                f"gate {reprlib.repr(values)} ({error})",
                expected=f"the fields maps and reasons, by map ({', '.join(MAPS)}); of each map "
                f"{of_map}",
            ) from None


def _check_keys(values: Mapping[str, Any], known: set[str]) -> None:
    if wrong := known ^ set(values):
        raise KeyError(", ".join(sorted(map(str, wrong))))


class Judgement(NamedTuple):
    """What one map of a scan is, and the reasons where it is experimental."""

    status: str  # PRIMARY or EXPERIMENTAL
    reasons: list[str]


def judge_scan(
    gate: Gate | None,
    *,
    bval: float,
    snr: float,
    n_weighted: int,
    ood_share: float | None,
    voxel_mm: Sequence[float],
    reasons: Sequence[str] = (),
) -> dict[str, Judgement]:
    """Judge which maps of a scan are primary.

    Parameters
    ----------
    gate
        None: no scan passes.
    bval
        b-value of the shell that the network read, s/mm^2.
    snr
        Mean b=0 signal of the brain over the noise.
    n_weighted
        Diffusion-weighted volumes of the scan, repeated directions counted.
    ood_share
        Share of the brain that is out-of-distribution, see :data:`OOD_PERCENTILE`; None where
        the network does not measure it.
    voxel_mm
        Edges of a voxel, mm.
    reasons
        Reasons for "experimental" that lie outside the scan, such as the participant's age.

    Returns
    -------
    dict
        By map, in the order of :data:`MAPS`.

    Examples
    --------
    >>> six = MapGate((700, 1300), (5, 40), (1.5, 3), most_directions=6, most_ood=0.1)
    >>> scan = {"bval": 1000, "snr": 20, "ood_share": 0.01, "voxel_mm": (2, 2, 2)}
    >>> judge_scan(Gate({"fa": six}), n_weighted=6, **scan)["fa"]
    Judgement(status='primary', reasons=[])
    >>> judge_scan(Gate({"fa": six}), n_weighted=30, **scan)["fa"].reasons
    ['the fit of all 30 weighted volumes is better']
    """

    def find_reasons(name: str) -> list[str]:
        if gate is None:
            return ["no evaluation has found these weights better than the baselines"]
        if name not in gate.maps:
            lost = gate.reasons.get(name, "no numbers of this map")
            return [f"no evaluation has found it better than the baselines: {lost}"]
        return _find_outside(gate.maps[name], bval, snr, n_weighted, ood_share, voxel_mm)

    found = {name: [*find_reasons(name), *reasons] for name in MAPS}
    return {n: Judgement(EXPERIMENTAL if why else PRIMARY, why) for n, why in found.items()}


def _find_outside(
    gate: MapGate,
    bval: float,
    snr: float,
    n_weighted: int,
    ood_share: float | None,
    voxel_mm: Sequence[float],
) -> list[str]:
    """Return in what a scan lies outside the scans for which a map is primary."""
    found = []
    if not gate.bvals[0] <= bval <= gate.bvals[1]:
        found.append(f"evaluated at b = {gate.bvals[0]:g} to {gate.bvals[1]:g}, not {bval:.0f}")
    if not gate.snrs[0] <= snr <= gate.snrs[1]:
        found.append(f"evaluated at SNR {gate.snrs[0]:.3g} to {gate.snrs[1]:.3g}, not {snr:.3g}")
    if n_weighted > gate.most_directions:
        found.append(f"the fit of all {n_weighted} weighted volumes is better")
    if not all(gate.voxel_mm[0] <= mm <= gate.voxel_mm[1] for mm in voxel_mm):
        evaluated = f"evaluated in voxels of {gate.voxel_mm[0]:g} to {gate.voxel_mm[1]:g} mm"
        found.append(f"{evaluated}, not {' x '.join(f'{mm:.3g}' for mm in voxel_mm)}")
    if ood_share is not None and ood_share > gate.most_ood:
        found.append(
            f"{100 * ood_share:.1f} % of the brain is unlike the training data, evaluated up to "
            f"{100 * gate.most_ood:.1f} %"
        )
    return found


def summarise(judged: Mapping[str, Judgement]) -> Judgement:
    """Summarise the judgements of all maps: reasons that all share, then those of single maps.

    Examples
    --------
    >>> summarise({"fa": Judgement("primary", []), "md": Judgement("experimental", ["lost"])})
    Judgement(status='primary for fa alone', reasons=['md: lost'])
    """
    passed = [name for name, one in judged.items() if one.status == PRIMARY]
    shared = [
        reason
        for reason in next(iter(judged.values())).reasons
        if all(reason in one.reasons for one in judged.values())
    ]
    own = [
        f"{name}: {reason}"
        for name, one in judged.items()
        for reason in one.reasons
        if reason not in shared
    ]
    if len(passed) == len(judged):
        return Judgement(PRIMARY, [])
    status = f"{PRIMARY} for {', '.join(passed)} alone" if passed else EXPERIMENTAL
    return Judgement(status, [*shared, *own])
