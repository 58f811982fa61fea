"""Gate of a tensor network's maps: the scans for which they are primary.

An evaluation (`dmri-fm evaluate tensor --gate`) finds the scans and maps for which a set of
weights beats the baselines, and writes them beside the weights. All else is experimental.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dmri_fm.errors import ConfigError

PRIMARY, EXPERIMENTAL = "primary", "experimental"

#: Maps of a tensor network, by their `param` label; the main axis is the tensor's.
MAPS = ("diffusivity", "fa", "md", "ad", "rd")

#: Percentile of the training data from which on the surroundings of a voxel are
#: out-of-distribution.
OOD_PERCENTILE = 99.0

#: Where maps are never primary, whatever their status says of the scan: in every map's sidecar.
NEVER_PRIMARY_IN = "lesions, tumours, and brains younger than two years"


@dataclass(frozen=True)
class Gate:
    """Scans for which an evaluation found a network better than the baselines.

    Attributes
    ----------
    bvals
        Lowest and highest b-value, s/mm^2.
    snrs
        Lowest and highest ratio of the mean b=0 signal of the brain to the noise.
    most_directions
        Largest number of weighted volumes, repeated directions counted; with more, the fit of
        all of them is better. An evaluation measures each direction once.
    most_ood
        Largest share of the brain that is out-of-distribution.
    maps
        Maps that were better, some of :data:`MAPS`; none: nothing is primary.
    reasons
        What the evaluation found against the other maps, in words; it goes into sidecars.
    voxel_mm
        Smallest and largest edge of a voxel, mm; None: any.
    """

    bvals: tuple[float, float]
    snrs: tuple[float, float]
    most_directions: int
    most_ood: float = 0.1
    maps: tuple[str, ...] = MAPS
    reasons: tuple[str, ...] = ()
    voxel_mm: tuple[float, float] | None = None

    @property
    def status(self) -> str:
        """What the maps of a scan inside the gate are.

        Examples
        --------
        >>> Gate((700, 1300), (5, 40), most_directions=6, maps=("fa", "md")).status
        'primary for fa, md alone'
        """
        if not self.maps:
            return EXPERIMENTAL
        is_whole = set(self.maps) == set(MAPS)
        return PRIMARY if is_whole else f"{PRIMARY} for {', '.join(self.maps)} alone"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Gate:
        """Read a gate from the description of weights.

        Raises
        ------
        ConfigError
            If a field is missing, unknown, or no number.
        """
        known = {f.name for f in fields(cls)}
        needed = known - {"most_ood", "maps", "reasons"}
        try:
            if wrong := (needed - set(values)) | (set(values) - known):
                raise KeyError(", ".join(sorted(wrong)))
            low_b, high_b = map(float, values["bvals"])
            low_snr, high_snr = map(float, values["snrs"])
            low_mm, high_mm = map(float, values["voxel_mm"])
            maps, reasons = values.get("maps", MAPS), values.get("reasons", ())
            if isinstance(maps, str) or isinstance(reasons, str) or not set(maps) <= set(MAPS):
                raise ValueError(f"maps {maps}")
            return cls(
                (low_b, high_b),
                (low_snr, high_snr),
                int(values["most_directions"]),
                float(values.get("most_ood", cls.most_ood)),
                tuple(maps),
                tuple(map(str, reasons)),
                (low_mm, high_mm),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(
                f"gate {reprlib.repr(values)} ({error})",
                expected=f"the fields {', '.join(sorted(known))}",
            ) from None


def judge_scan(
    gate: Gate | None,
    *,
    bval: float,
    snr: float,
    n_weighted: int,
    ood_share: float,
    voxel_mm: Sequence[float] = (),
    reasons: Sequence[str] = (),
) -> tuple[str, list[str]]:
    """Judge whether the maps of a scan are primary.

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
        Share of the brain that is out-of-distribution, see :data:`OOD_PERCENTILE`.
    voxel_mm
        Edges of a voxel, mm.
    reasons
        Reasons for "experimental" that lie outside the scan, such as the participant's age.

    Returns
    -------
    status : str
        :data:`PRIMARY`, with the maps where these are not all, or :data:`EXPERIMENTAL`.
    reasons : list of str
        Reasons for "experimental", after them those of the gate.

    Examples
    --------
    >>> gate = Gate(bvals=(700, 1300), snrs=(5, 40), most_directions=6)
    >>> judge_scan(gate, bval=1000, snr=20, n_weighted=6, ood_share=0.01)
    ('primary', [])
    >>> judge_scan(gate, bval=1000, snr=20, n_weighted=30, ood_share=0.01)
    ('experimental', ['the fit of all 30 weighted volumes is better'])
    """
    if gate is None:
        found = "no evaluation has found these weights better than the baselines"
        return EXPERIMENTAL, [found, *reasons]
    reasons = [*reasons]
    if not gate.bvals[0] <= bval <= gate.bvals[1]:
        reasons.append(f"evaluated at b = {gate.bvals[0]:g} to {gate.bvals[1]:g}, not {bval:.0f}")
    if not gate.snrs[0] <= snr <= gate.snrs[1]:
        reasons.append(f"evaluated at SNR {gate.snrs[0]:g} to {gate.snrs[1]:g}, not {snr:.0f}")
    if n_weighted > gate.most_directions:
        reasons.append(f"the fit of all {n_weighted} weighted volumes is better")
    if gate.voxel_mm and not all(gate.voxel_mm[0] <= mm <= gate.voxel_mm[1] for mm in voxel_mm):
        evaluated = f"evaluated in voxels of {gate.voxel_mm[0]:g} to {gate.voxel_mm[1]:g} mm"
        reasons.append(f"{evaluated}, not {' x '.join(f'{mm:.3g}' for mm in voxel_mm)}")
    if ood_share > gate.most_ood:
        reasons.append(f"{100 * ood_share:.0f} % of the brain is unlike the training data")
    if not gate.maps:
        reasons.append("the evaluation found no map better than the baselines")
    return (EXPERIMENTAL if reasons else gate.status), [*reasons, *gate.reasons]
