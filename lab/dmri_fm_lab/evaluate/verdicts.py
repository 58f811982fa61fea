"""Verdicts: whether a network's errors are below those of the baselines.

Errors against a noisy reference are compared with the difference that the reference's own noise
makes. Against the truth, any difference decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dmri_fm.tensor_maps import SCALARS, TensorMaps, decompose_tensors
from dmri_fm_lab.evaluate.reference import Reference
from dmri_fm_lab.evaluate.scores import FEWEST_VOXELS, Row
from dmri_fm_lab.evaluate.tensor_errors import AXIS_FA, axis_angle_deg
from dmri_fm_lab.markdown_tables import Column

#: Baselines that a network has to beat; all see the same seven volumes. Three of them smooth, each
#: tuned to the signal-to-noise ratio.
TO_BEAT = ("wls", "gaussian", "nlmeans", "tv", "mppca")

#: Errors that are compared, with title, format and unit.
ERRORS: dict[str, Column] = {
    "tensor": Column("tensor", ".3f", 1e3),
    "fa": Column("FA", ".4f"),
    "md": Column("MD", ".4f", 1e3),
    "ad": Column("AD", ".4f", 1e3),
    "rd": Column("RD", ".4f", 1e3),
    "v1_deg_fa03": Column("V1", ".1f"),
}

#: Errors that decide a verdict, all at once.
DECIDING = ("fa", "md", "v1_deg_fa03")

#: b-value up to which verdicts pass or fail, s/mm^2; above it, errors are reported only.
HIGHEST_BVAL = 1500.0

#: Factor of the shift and of the standard deviation of a difference over replicates of the
#: reference. Noise on top of noise shifts a mean absolute error less than the first did.
SAFETY = 2.0

#: Uncertainties of differences of errors, by baseline and by error.
Uncertainties = Mapping[str, Mapping[str, float | None]]


def nominal(bval: float) -> int:
    """Return the b-value of a shell to the nearest 100 s/mm^2."""
    return 100 * round(bval / 100)


def decides(bval: float) -> bool:
    """Return whether verdicts at a b-value (s/mm^2) pass or fail."""
    return nominal(bval) <= HIGHEST_BVAL


def error_draws(
    estimates: Mapping[str, TensorMaps], reference: Reference
) -> dict[str, dict[str, dict[str, NDArray[np.float64]]]]:
    """Compare estimates with the bootstrap replicates of a reference.

    Parameters
    ----------
    estimates
        On the grid of the reference, by name.
    reference
        With its noise; none: nothing is returned.

    Returns
    -------
    dict
        By name, region and key of :data:`ERRORS`: mean absolute errors against each replicate,
        shape (R,), mm^2/s or degrees. Errors of regions that are too small are absent. V1 is
        compared where the FA of the reference itself, not of the replicate, is above 0.3.
    """
    if reference.noise is None:
        return {}
    tissue = reference.regions.tissue
    with_axis = reference.maps.fa[tissue] > AXIS_FA
    draws: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in estimates}
    own = {name: _values(maps, tissue) for name, maps in estimates.items()}
    for replicate in reference.noise.tensors:
        eigenvalues, axis = decompose_tensors(replicate)
        eigenvalues = eigenvalues.clip(0.0)
        scalars = {name: scalar.compute(eigenvalues) for name, scalar in SCALARS.items()}
        for name, maps in estimates.items():
            values = own[name]
            errors = {key: np.abs(values[key] - scalars[key]) for key in scalars}
            errors["tensor"] = np.abs(values["tensor"] - replicate).sum(axis=1)
            angles = axis_angle_deg(values["v1"], axis)
            for region, mask in reference.regions.items():
                inside = mask[tissue] & maps.mask[tissue]
                kept = draws[name].setdefault(region, {})
                for key, error in errors.items():
                    if inside.sum() >= FEWEST_VOXELS:
                        kept.setdefault(key, []).append(float(error[inside].mean()))
                axes = inside & with_axis & (values["fa"] > 0)
                if axes.sum() >= FEWEST_VOXELS:
                    kept.setdefault("v1_deg_fa03", []).append(float(angles[axes].mean()))
    return {
        name: {r: {k: np.array(v) for k, v in keys.items()} for r, keys in regions.items()}
        for name, regions in draws.items()
    }


def _values(maps: TensorMaps, tissue: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
    scalars = {name: maps.scalars[name][tissue] for name in SCALARS}
    return {**scalars, "tensor": maps.diffusivity[tissue], "v1": maps.v1[tissue]}


def difference_uncertainty(
    network: NDArray[np.float64], baseline: NDArray[np.float64], *, difference: float
) -> float:
    """Return how far the noise of a reference may move the difference of two errors.

    Noise of the reference adds to all errors, less to the larger ones, and favours estimates that
    are as noisy as itself. Replicates carry that noise twice, so that the shift from the
    difference against the reference to the mean difference against the replicates says what the
    noise has done already. The bias that the noise floor gives all volumes of a scan is not seen.

    Parameters
    ----------
    network, baseline
        Shape (R,): errors against the replicates of the reference.
    difference
        Network minus baseline, against the reference itself.

    Returns
    -------
    float
        The size of the shift and the standard deviation over the replicates, times
        :data:`SAFETY`.

    Examples
    --------
    >>> difference_uncertainty(np.array([3.0, 3.0]), np.array([1.0, 1.0]), difference=1.5)
    1.0
    """
    apart = network - baseline
    return SAFETY * float(abs(apart.mean() - difference) + apart.std(ddof=1))


def uncertainties(
    rows: Mapping[str, Mapping[str, Row]],
    draws: Mapping[str, Mapping[str, Mapping[str, NDArray[np.float64]]]],
    reference: Reference,
    *,
    networks: Sequence[str],
) -> dict[str, dict[str, dict[str, Row]]]:
    """Return the uncertainty of each difference between a network and a baseline.

    Parameters
    ----------
    rows
        Errors by method and region, see :func:`~dmri_fm_lab.evaluate.scores.score`.
    draws
        Of :func:`error_draws`.
    reference
        What the errors are against.
    networks
        Rows that are networks.

    Returns
    -------
    dict
        By network, region, baseline and key of :data:`ERRORS`: zero against the truth, None where
        the noise of the reference is unknown.
    """

    def one(network: str, baseline: str, region: str, key: str) -> float | None:
        pair = rows[network][region].get(key), rows[baseline][region].get(key)
        if reference.is_truth:
            return 0.0
        found = [draws.get(m, {}).get(region, {}).get(key) for m in (network, baseline)]
        if None in pair or found[0] is None or found[1] is None:
            return None
        difference = float(pair[0] or 0.0) - float(pair[1] or 0.0)
        return difference_uncertainty(found[0], found[1], difference=difference)

    return {
        network: {
            region: {
                baseline: {key: one(network, baseline, region, key) for key in ERRORS}
                for baseline in TO_BEAT
                if baseline in rows
            }
            for region in rows[network]
        }
        for network in networks
    }


@dataclass(frozen=True)
class Verdict:
    """A network against the baselines in one region.

    Attributes
    ----------
    outcome
        `pass`: all errors are below those of all baselines, by more than the uncertainty; `fail`:
        one is above, by more; `undecided`: neither. `none`: nothing could be compared.
    is_not_worse
        Whether no error is above a baseline's by more than the uncertainty; None if that of an
        error is unknown.
    reasons
        Comparisons that did not pass, in words; those that failed come first.
    compared
        Errors that were compared, keys of :data:`ERRORS`.
    """

    outcome: Literal["pass", "fail", "undecided", "none"]
    is_not_worse: bool | None
    reasons: tuple[str, ...]
    compared: tuple[str, ...] = ()


def judge(
    network: Row,
    baselines: Mapping[str, Row],
    uncertainty: Uncertainties,
    *,
    keys: Sequence[str] = DECIDING,
) -> Verdict:
    """Judge a network's errors against those of baselines.

    Parameters
    ----------
    network
        Errors in one region.
    baselines
        Likewise, by title.
    uncertainty
        Uncertainty of each difference, by title and key; None: unknown.
    keys
        Errors that decide, keys of :data:`ERRORS`. One that the region does not have, such as V1
        of grey matter, decides nothing.

    Examples
    --------
    >>> judge({"fa": 0.1}, {"WLS": {"fa": 0.2}}, {"WLS": {"fa": 0.05}}).outcome
    'pass'
    >>> judge({"fa": 0.1}, {"WLS": {"fa": 0.12}}, {"WLS": {"fa": 0.05}})
    Verdict(outcome='undecided', is_not_worse=True, reasons=('FA .1000 against .1200 of WLS, \
uncertain by .0500',), compared=('fa',))
    """
    outcomes: list[str] = []
    compared: dict[str, None] = {}
    failed, open_ones = [], []
    is_known = True
    for title, row in baselines.items():
        for key in keys:
            ours, theirs = network.get(key), row.get(key)
            if ours is None or theirs is None:
                continue
            compared[key] = None
            doubt = uncertainty[title].get(key)
            text = f"{_pair(key, ours, theirs)} of {title}"
            if doubt is None:
                is_known = False
                open_ones.append(f"{text}, uncertain by an unknown amount")
                outcomes.append("undecided")
            elif abs(ours - theirs) < doubt:
                open_ones.append(f"{text}, uncertain by {_number(key, doubt)}")
                outcomes.append("undecided")
            elif ours < theirs:
                outcomes.append("pass")
            else:
                failed.append(text)
                outcomes.append("fail")
    if not outcomes:
        return Verdict("none", None, ("nothing to compare",))
    worst = next(o for o in ("fail", "undecided", "pass") if o in outcomes)
    is_not_worse = False if failed else (True if is_known else None)
    reasons = (*failed, *open_ones)
    return Verdict(worst, is_not_worse, reasons, tuple(compared))  # type: ignore[arg-type]


def _number(key: str, value: float) -> str:
    return ERRORS[key].cell(value).removeprefix("0")


def _pair(key: str, ours: float, theirs: float) -> str:
    return f"{ERRORS[key].title} {_number(key, ours)} against {_number(key, theirs)}"


def verdict_line(model: str, region: str, verdict: Verdict, *, bval: float) -> str:
    """Return a verdict as a line of text.

    Examples
    --------
    >>> print(verdict_line("net", "white", Verdict("pass", True, (), ("fa", "md")), bval=1000))
    verdict, net, white: PASS (FA, MD at once; no V1); not worse: yes
    >>> lost = Verdict("fail", False, ("FA .2 against .1",), DECIDING)
    >>> print(verdict_line("net", "grey", lost, bval=2000))
    verdict, net, grey: reported only, b above 1500 (FAIL of FA, MD, V1 at once: FA .2 \
against .1); not worse: no
    """
    outcome = verdict.outcome.upper()
    text = f"{outcome}: {'; '.join(verdict.reasons)}"
    if verdict.compared:
        errors = ", ".join(ERRORS[key].title for key in verdict.compared) + " at once"
        if missing := [ERRORS[k].title for k in DECIDING if k not in verdict.compared]:
            errors += f"; no {', '.join(missing)}"
        said = "; ".join(verdict.reasons)
        text = f"{outcome} of {errors}: {said}" if said else f"{outcome} ({errors})"
    if not decides(bval):
        text = f"reported only, b above {HIGHEST_BVAL:g} ({text})"
    known = {True: "yes", False: "no", None: "unknown"}[verdict.is_not_worse]
    return f"verdict, {model}, {region}: {text}; not worse: {known}"
