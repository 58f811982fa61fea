"""Tractography from seven volumes, compared with that from all directions.

Usage: python benchmarks/tractography.py BIDS [--participant-label LABEL ...] [--weights FILE]

For each series that `dmri-fm evaluate tensor` can judge: deterministic tractography by the main
axis (dipy's EuDX with steps from voxel border to voxel border, as FACT takes them; FA above .2,
turns below 45 degrees, one seed in each voxel of white matter), from the tensors of each method
and of all directions. Prints Dice of the voxels that more than five streamlines cross, as Zheng
et al. 2025 (doi:10.1631/FITEE.2400766) score it. The reference holds the six test volumes here,
as theirs does.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from dipy.data import default_sphere
from dipy.direction.peaks import PeaksAndMetrics
from dipy.reconst.dti import quantize_evecs
from dipy.tracking.local_tracking import LocalTracking
from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
from dipy.tracking.utils import density_map
from numpy.typing import NDArray

from dmri_fm import predict_tensor
from dmri_fm.gradients import rotation_part
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.baselines import BASELINES
from dmri_fm_lab.evaluate.subsets import choose_subsets
from dmri_fm_lab.scans import find_scans

LEAST_FA = 0.2
MORE_THAN = 5
COMPARED = ("wls", "gaussian", "nlmeans", "tv", "mppca")


def crossed(maps: TensorMaps) -> NDArray[np.bool_]:
    """Return the voxels that more than five streamlines cross, (X, Y, Z)."""
    peaks = PeaksAndMetrics()
    # Tracking goes along the voxel axes.
    v1 = maps.v1.astype(np.float64) @ rotation_part(maps.affine)
    frames = np.zeros((*maps.fa.shape, 3, 3))
    frames[..., 0] = v1
    frames[..., 1:] = 1.0
    peaks.sphere = default_sphere
    peaks.peak_indices = quantize_evecs(frames, odf_vertices=default_sphere.vertices)[..., None]
    peaks.peak_values = np.where(maps.mask, maps.fa, 0.0).astype(np.float64)[..., None]
    peaks.ang_thr = 45.0
    seeds = np.argwhere(maps.mask & (maps.fa > LEAST_FA)).astype(np.float64)
    tracking = LocalTracking(
        peaks,
        ThresholdStoppingCriterion(peaks.peak_values[..., 0], LEAST_FA),
        seeds,
        np.eye(4),
        step_size=0.5,
        fixedstep=False,
        max_cross=1,
    )
    density = density_map((s for s in tracking if len(s) > 1), np.eye(4), maps.fa.shape)
    return np.asarray(density > MORE_THAN)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    total = a.sum() + b.sum()
    return float(2 * (a & b).sum() / total) if total else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--participant-label", nargs="+")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--subsets", type=int, default=2)
    options = parser.parse_args()
    for scan in find_scans(options.bids, participant_labels=options.participant_label):
        scores: dict[str, list[float]] = defaultdict(list)
        for subset in choose_subsets(scan.dwi.gtab, n_subsets=options.subsets, seed=0):
            brain = scan.brain(subset.reference_b0)
            shell = scan.dwi.select(
                sorted(
                    {subset.b0, *subset.reference_b0, *subset.weighted, *subset.reference_weighted}
                )
            )
            reference = crossed(fit_tensor(shell.with_mask(brain), shell="all"))
            test = scan.dwi.select(subset.volumes).with_mask(brain)
            for name in COMPARED:
                scores[name].append(dice(crossed(BASELINES[name].apply(test)), reference))
            network = predict_tensor(test, weights=options.weights)
            scores["network"].append(dice(crossed(network), reference))
        line = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in scores.items())
        print(f"{scan.name}: Dice {line or 'too few directions'}", flush=True)


if __name__ == "__main__":
    main()
