"""How unusual a scan is: its tokens, and four plain signs, against scans as training draws them.

The encoder's features see through protocols, and so through much that spoils a scan; the signs do
not. Each of the five numbers is put on a scale by what held-out scans show; the largest is the
score, and its percentile is read off the same scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.encoders.drope.estimates import predict_by_process
from dmri_fm.encoders.drope.masked_directions import FEWEST_DIRECTIONS
from dmri_fm.encoders.drope.network import Drope, DropeConfig
from dmri_fm.encoders.drope.pooling import pool_tokens
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.drope.tokens import ScanTokens, patch_centres
from dmri_fm.gradients import group_shells
from dmri_fm.out_of_distribution import fit_familiarity, percentile_of, score_features

__all__ = ["SIGNS", "ScanCode", "encode_tokens", "fit_unusual", "judge_scan_code"]

#: What the signs tell, in their order; each grows with what is wrong.
SIGNS = {
    "tokens": "distance of features and patch tokens from those of training scans",
    "missing": "share of the template's brain that is missing, in the octant that lacks most",
    "anatomy": "how little of the mean image the template's tissue explains",
    "volumes": "how far some volumes are darker or brighter than the others predict",
    "evenness": "how little the error of hidden directions follows the anatomy",
}

#: Share of tissue at which the template's voxels count as brain.
LEAST_TISSUE = 0.3

#: Part of the held-out scans between whose middle and which a sign grows by one.
UPPER_QUANTILE = 0.8

_Array = NDArray[np.float32]


class ScanCode(NamedTuple):
    """What an encoder makes of a scan with S places.

    Attributes
    ----------
    scan
        Shape (D,): features of the scan.
    patches
        Shape (S, d): features of the patches, mean over directions.
    code
        Shape (3 d,): pooled tokens as they are, and the deviation of `patches` over places; before
        them `scan`, where it is no function of the pooled tokens.
    signs
        Shape (4,): :data:`SIGNS` without the first; NaN where not known.
    """

    scan: _Array
    patches: _Array
    code: _Array
    signs: _Array


def encode_tokens(network: Drope, tokens: ScanTokens) -> ScanCode:
    """Encode a scan on the device of its tokens."""
    with torch.inference_mode():
        scan, found = network.describe(
            tokens.patches[None], tokens.qspace[None], tokens.positions[None]
        )
        patches = found[0].mean(dim=0)
        parts = [pool_tokens(found)[0], patches.std(dim=0, correction=0)]
        # Features that are read off the pooled tokens say nothing more.
        code = torch.cat(parts if network.readout is not None else [scan[0], *parts])
    features, places, both = (t.float().cpu().numpy() for t in (scan[0], patches, code))
    return ScanCode(features, places, both, plain_signs(tokens, network.config))


def plain_signs(tokens: ScanTokens, config: DropeConfig) -> _Array:
    """Return the signs (4,) that need no network."""
    tissue = template_tissue(config).to(tokens.brain.device)
    own = tissue[torch.from_numpy(tokens.index)]
    signs = (
        _missing(tokens, config, (tissue.sum(dim=2) > LEAST_TISSUE).float().mean(dim=1)),
        _unexplained(tokens, own),
        *_contradictions(tokens),
    )
    return np.array(signs, dtype=np.float32)


def _missing(tokens: ScanTokens, config: DropeConfig, expected: Tensor) -> float:
    """Return the share of the template's brain that the octant which lacks most lacks."""
    have = torch.zeros_like(expected)
    have[torch.from_numpy(tokens.index)] = tokens.brain.mean(dim=1)
    places = torch.from_numpy(patch_centres(config)).to(expected)
    if not expected.any():
        return float("nan")
    centre = (places * expected[:, None]).sum(dim=0) / expected.sum()
    octants = ((places > centre).long() * torch.tensor([1, 2, 4], device=places.device)).sum(1)
    lacks = [
        1.0 - float(have[octants == o].sum() / expected[octants == o].sum().clamp(min=1e-6))
        for o in range(8)
        if expected[octants == o].any()
    ]
    return max(lacks)


def _unexplained(tokens: ScanTokens, tissue: Tensor) -> float:
    """Return the share of the mean image's variance that the template's tissue leaves."""
    inside = tokens.brain > 0
    wm, gm = tissue[inside].unbind(-1)
    image = tokens.patches.mean(dim=0)[inside]
    if len(image) < 10 or float(image.var()) == 0.0:
        return float("nan")
    design = torch.stack([torch.ones_like(wm), wm, gm, wm * wm], dim=1).double()
    normal = design.T @ design + 1e-6 * torch.eye(4).to(design)
    fit = design @ torch.linalg.solve(normal, design.T @ image.double())
    return float((image - fit).var() / image.double().var())


def _contradictions(tokens: ScanTokens) -> tuple[float, float]:
    """Return how far volumes are off as a whole, and how even errors are over places.

    One half of each shell predicts the other; a measurement that is alone in its shell is not
    predicted: what another b-value says of it is off by more than what is looked for.
    """
    shells = group_shells(1000.0 * tokens.qspace[:, 0].cpu().numpy())
    told = np.array([i for shell in shells if len(shell) > 1 for i in shell], dtype=int)
    if len(told) < FEWEST_DIRECTIONS:
        return float("nan"), float("nan")
    inside = tokens.brain.any(dim=1)
    patches, brain = tokens.patches[:, inside], tokens.brain[inside]
    voxels = brain.sum(dim=1)
    offsets = []
    total = torch.zeros_like(voxels)
    for hidden in (told[::2], told[1::2]):
        kept = np.setdiff1d(np.arange(len(tokens.qspace)), hidden)
        found = predict_by_process(
            patches[kept], brain, tokens.qspace[kept], tokens.qspace[hidden]
        )
        missing = (found - patches[hidden]) * brain
        offsets.append((missing.sum(dim=2) / voxels).mean(dim=1))
        total += missing.square().sum(dim=(0, 2))
    errors = (total / (len(told) * voxels)).sqrt()
    tail = torch.quantile(errors, 0.95) / errors.median().clamp(min=1e-9)
    return float(torch.cat(offsets).std(correction=0).clamp(min=1e-9).log()), -float(tail.log())


def fit_unusual(reference: Sequence[ScanCode], held_out: Sequence[ScanCode]) -> dict[str, Tensor]:
    """Describe sound scans.

    Parameters
    ----------
    reference, held_out
        Two sets of draws; scans that nothing was trained on in the second, where there are any.

    Returns
    -------
    dict
        What :func:`~dmri_fm.out_of_distribution.fit_familiarity` gives of the codes; `middle` and
        `scale` (5,) of :data:`SIGNS`; and `quantiles` (101,) of the scores of held-out scans.
    """
    statistics = fit_familiarity([c.code for c in reference], [c.code for c in held_out])
    rows = np.stack([_all_signs(c, statistics) for c in held_out])
    rows[:, np.isnan(rows).all(axis=0)] = 0.0
    middle, upper = np.nanquantile(rows, [0.5, UPPER_QUANTILE], axis=0)
    statistics["middle"] = torch.from_numpy(middle).float()
    statistics["scale"] = torch.from_numpy(np.maximum(upper - middle, 1e-3)).float()
    scores = [float(np.nanmax(scaled_signs(c, statistics))) for c in held_out]
    statistics["quantiles"] = torch.from_numpy(np.percentile(scores, np.arange(101))).float()
    return statistics


def _all_signs(code: ScanCode, statistics: Mapping[str, Tensor]) -> NDArray[np.float64]:
    distance = float(score_features(code.code, statistics))
    return np.array([distance, *code.signs.astype(np.float64)])


def scaled_signs(code: ScanCode, statistics: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Return :data:`SIGNS` (5,): zero is usual, one the fifth that is most so; NaN if unknown."""
    middle, scale = (statistics[k].numpy().astype(np.float64) for k in ("middle", "scale"))
    found: NDArray[np.float64] = (_all_signs(code, statistics) - middle) / scale
    return found


def judge_scan_code(
    code: ScanCode, statistics: Mapping[str, Tensor]
) -> tuple[float, float, dict[str, float | None]]:
    """Return a scan's score, its percentile among sound scans, and all signs; None if unknown."""
    signs = scaled_signs(code, statistics)
    score = float(np.nanmax(signs))
    known = (None if np.isnan(s) else round(float(s), 3) for s in signs)
    named = dict(zip(SIGNS, known, strict=True))
    return score, float(percentile_of(score, statistics)), named
