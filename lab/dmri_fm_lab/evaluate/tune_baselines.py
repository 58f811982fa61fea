"""Tune the smoothing strength of the baselines, by the estimated signal-to-noise ratio.

Usage: python -m dmri_fm_lab.evaluate.tune_baselines [--samples 48] [--side 36]

Draws patches of the simulation that networks are trained on, with one b=0 volume and six
directions, and prints the strengths with the smallest errors of FA and MD over those of weighted
least squares, for :data:`~dmri_fm_lab.evaluate.baselines.TUNED`. Scans of an evaluation are not
used.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.baselines import (
    CANDIDATES,
    SMOOTHERS,
    SNR_EDGES,
    fit_weighted,
)
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.simulate import draw_protocol, draw_sample
from dmri_fm_lab.smoothing import brain_snr

#: Outside the seeds of training and of other benchmarks.
SEED = 881_000


def draw_case(number: int, side: int) -> tuple[Dwi, TensorMaps, NDArray[Any]] | None:
    """Return a scan, its true tensor and its tissue; None where there is little tissue."""
    rng = np.random.default_rng([SEED, number])
    gtab = draw_protocol(rng, bvals=float(rng.uniform(700, 2500)))
    # Uniform over the logarithm, and a little wider than the bins.
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


def errors(maps: TensorMaps, truth: TensorMaps, where: NDArray[Any]) -> NDArray[Any]:
    """Return mean absolute errors of FA and MD."""
    names = ("fa", "md")
    return np.array([np.abs(getattr(maps, n) - getattr(truth, n))[where].mean() for n in names])


def tune(n_samples: int, side: int) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Return errors over those of WLS by baseline and SNR bin: shape (patches, candidates)."""
    ratios: dict[tuple[str, int], list[list[float]]] = defaultdict(list)
    for number in range(n_samples):
        case = draw_case(number, side)
        if case is None:
            continue
        dwi, truth, where = case
        snr_bin = int(np.searchsorted(SNR_EDGES, brain_snr(dwi), side="right"))
        base = errors(fit_weighted(dwi), truth, where)
        for name, strengths in CANDIDATES.items():
            fits = (SMOOTHERS[name](dwi, strength) for strength in strengths)
            row = [float((errors(maps, truth, where) / base).mean()) for maps in fits]
            ratios[name, snr_bin].append(row)
    return {key: np.array(rows) for key, rows in ratios.items()}


def main() -> None:
    """Print the tables, and the strengths for TUNED."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--side", type=int, default=36, help="of a patch, voxels")
    options = parser.parse_args()

    ratios = tune(options.samples, options.side)
    bins = [f"< {e:g}" for e in SNR_EDGES] + [f">= {SNR_EDGES[-1]:g}"]
    for name, strengths in CANDIDATES.items():
        best = []
        lines = [["SNR", "patches", *(f"{s:g}" for s in strengths)]]
        for snr_bin, label in enumerate(bins):
            rows = ratios.get((name, snr_bin))
            if rows is None:
                continue
            mean = rows.mean(axis=0)
            best.append(strengths[int(mean.argmin())])
            lines.append([label, str(len(rows)), *(f"{m:.3f}" for m in mean)])
        print(f"\n{name}: error over that of WLS, mean of FA and MD\n")
        print(f"{markdown(lines)}\n\n{name}: {tuple(best)}")


if __name__ == "__main__":
    main()
