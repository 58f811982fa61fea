"""Whether a network's maps may stand in for the classical fit's.

The evaluation of a set of weights says for which scans they beat the best plain method; what it
found is written beside the weights. Everywhere else the maps are experimental.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dmri_fm.errors import ConfigError

__all__ = ["EXPERIMENTAL", "PRIMARY", "Gate", "judge_scan"]

PRIMARY, EXPERIMENTAL = "primary", "experimental"


@dataclass(frozen=True)
class Gate:
    """Scans for which an evaluation found a network better than its rivals.

    Attributes
    ----------
    bvals
        Lowest and highest b-value, s/mm^2.
    snrs
        Lowest and highest ratio of the mean b=0 signal of the brain to the noise.
    most_directions
        With more distinct directions the fit of all of them is better.
    most_unfamiliar
        Share of the brain, at most, whose surroundings are unlike the training data.
    """

    bvals: tuple[float, float]
    snrs: tuple[float, float]
    most_directions: int
    most_unfamiliar: float = 0.1

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Gate:
        """Read a gate as it stands in the description of weights.

        Raises
        ------
        ConfigError
            If a field is missing, unknown, or no number.
        """
        known = {f.name for f in fields(cls)}
        try:
            if set(values) != known:
                raise KeyError(", ".join(sorted(known ^ set(values))))
            low_b, high_b = map(float, values["bvals"])
            low_snr, high_snr = map(float, values["snrs"])
            return cls(
                (low_b, high_b),
                (low_snr, high_snr),
                int(values["most_directions"]),
                float(values["most_unfamiliar"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"gate {reprlib.repr(values)} ({error})",
                expected=f"the fields {', '.join(sorted(known))}",
            ) from None


def judge_scan(
    gate: Gate | None, *, bval: float, snr: float, n_directions: int, unfamiliar: float
) -> tuple[str, list[str]]:
    """Judge whether a network's maps of a scan are primary.

    Parameters
    ----------
    gate
        None: nowhere.
    bval
        Of the shell that the network read, s/mm^2.
    snr
        Mean b=0 signal of the brain over the noise.
    n_directions
        Distinct directions of the scan.
    unfamiliar
        Share of the brain whose surroundings are unlike the training data.

    Returns
    -------
    status : str
        :data:`PRIMARY` or :data:`EXPERIMENTAL`.
    reasons : list of str
        Why they are experimental.

    Examples
    --------
    >>> gate = Gate(bvals=(700, 1300), snrs=(5, 40), most_directions=6)
    >>> judge_scan(gate, bval=1000, snr=20, n_directions=6, unfamiliar=0.01)
    ('primary', [])
    >>> judge_scan(gate, bval=1000, snr=20, n_directions=30, unfamiliar=0.01)
    ('experimental', ['the fit of all 30 directions is better'])
    """
    if gate is None:
        return EXPERIMENTAL, ["no evaluation has found these weights better than plain methods"]
    reasons = []
    if not gate.bvals[0] <= bval <= gate.bvals[1]:
        reasons.append(f"evaluated at b = {gate.bvals[0]:g} to {gate.bvals[1]:g}, not {bval:.0f}")
    if not gate.snrs[0] <= snr <= gate.snrs[1]:
        reasons.append(f"evaluated at SNR {gate.snrs[0]:g} to {gate.snrs[1]:g}, not {snr:.0f}")
    if n_directions > gate.most_directions:
        reasons.append(f"the fit of all {n_directions} directions is better")
    if unfamiliar > gate.most_unfamiliar:
        reasons.append(f"{100 * unfamiliar:.0f} % of the brain is unlike the training data")
    return (EXPERIMENTAL if reasons else PRIMARY), reasons
