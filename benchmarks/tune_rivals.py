"""Find how strongly plain methods should smooth, by the estimated signal-to-noise ratio.

Usage: python benchmarks/tune_baselines.py [--samples 48] [--side 36]

Draws patches of the simulation that networks are trained on, with one b=0 volume and six
directions, and prints the strengths with the smallest errors of FA and MD over those of weighted
least squares, for `TUNED` of `lab/dmri_fm_lab/evaluate/baselines.py`. The scans that methods are
evaluated
on have no part in it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.baselines import (
    CANDIDATES,
    SNR_EDGES,
    fit_gaussian,
    fit_nlmeans,
    fit_total_variation,
    fit_weighted,
)
from dmri_fm_lab.simulate import draw_protocol, draw_sample
from dmri_fm_lab.smoothing import brain_snr

#: Outside the seeds of training and of other benchmarks.
SEED = 881_000

FITS: dict[str, Callable[[Dwi, float], TensorMaps]] = {
    "gaussian": fit_gaussian,
    "nlmeans": fit_nlmeans,
    "tv": fit_total_variation,
}


def draw_case(number: int, side: int) -> tuple[Dwi, TensorMaps, np.ndarray] | None:
    """Return a scan, its truth and where to compare them; None where there is little tissue."""
    rng = np.random.default_rng([SEED, number])
    gtab = draw_protocol(rng, bvals=float(rng.uniform(700, 2500)))
    # As many draws at each level of noise, and some beyond both ends.
    snr = float(np.exp(rng.uniform(np.log(5), np.log(70))))
    sample = draw_sample(rng, shape=(side,) * 3, gtab=gtab, snr=snr)
    tissue = sample.mask & (sample.fractions[..., 2] < 0.1)
    if tissue.mean() < 0.2 or sample.truth_tensor is None:
        return None
    truth = TensorMaps.from_tensor(
        sample.truth_tensor, sample.mask, affine=sample.affine, model="tensor"
    )
    dwi = Dwi.from_arrays(sample.signal, sample.affine, gtab, mask=sample.mask)
    return dwi, truth, tissue


def errors(maps: TensorMaps, truth: TensorMaps, where: np.ndarray) -> np.ndarray:
    """Return mean absolute errors of FA and MD."""
    return np.array([np.abs(getattr(maps, n) - getattr(truth, n))[where].mean() for n in _NAMES])


_NAMES = ("fa", "md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--side", type=int, default=36, help="of a patch, voxels")
    options = parser.parse_args()

    found: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for number in range(options.samples):
        case = draw_case(number, options.side)
        if case is None:
            continue
        dwi, truth, where = case
        place = int(np.searchsorted(SNR_EDGES, brain_snr(dwi), side="right"))
        base = errors(fit_weighted(dwi), truth, where)
        for kind, strengths in CANDIDATES.items():
            row = [
                float((errors(FITS[kind](dwi, s), truth, where) / base).mean()) for s in strengths
            ]
            found[kind, place].append(row)
    bins = [f"< {e:g}" for e in SNR_EDGES] + [f">= {SNR_EDGES[-1]:g}"]
    for kind, strengths in CANDIDATES.items():
        best = []
        print(f"\n{kind}: error over that of WLS, mean of FA and MD\n")
        print("| SNR | patches | " + " | ".join(f"{s:g}" for s in strengths) + " |")
        print("|---" * (len(strengths) + 2) + "|")
        for place, name in enumerate(bins):
            rows = np.array(found[kind, place])
            if not rows.size:
                continue
            mean = rows.mean(axis=0)
            best.append(strengths[int(mean.argmin())])
            numbers = " | ".join(f"{m:.3f}" for m in mean)
            print(f"| {name} | {len(rows)} | {numbers} |")
        print(f"\n{kind}: {tuple(best)}")


if __name__ == "__main__":
    main()
