"""A connectome as a method: streamlines between regions, and their mean FA.

Deterministic tracking along the tensor's main axis (EuDX, Garyfallidis 2012,
https://doi.org/10.17863/CAM.16476; DIPY). It stands for the structural connectomes that SSDiff was
compared with, and is much simpler than these: no spherical deconvolution, no probabilistic
streamlines, no anatomical constraint, no filtering, and the regions at hand in place of an atlas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from dipy.data import get_sphere
from dipy.direction.peaks import PeaksAndMetrics
from dipy.reconst.dti import quantize_evecs
from dipy.tracking.stopping_criterion import ThresholdStoppingCriterion
from dipy.tracking.streamline import values_from_volume
from dipy.tracking.tracker import eudx_tracking
from dipy.tracking.utils import connectivity_matrix
from numpy.typing import NDArray

from dmri_fm.gradients import rotation_part
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.encoder_comparison.method import Method, Sample
from dmri_fm_lab.encoder_comparison.regional import tensor_obstacle
from dmri_fm_lab.evaluate.fact import LARGEST_TURN_DEG, LEAST_FA
from dmri_fm_lab.feature_cache import Vectors
from dmri_fm_lab.prediction.rish import labels_on

_Array = NDArray[np.float64]

#: Streamlines start in one of so many voxels along each axis of FA above `LEAST_FA`.
SEED_STEP = 2

#: Least length of a streamline, mm, and its step.
LEAST_MM, STEP_MM = 10.0, 1.0


def connectome_method() -> Method:
    """Return the connectome of a scan: for each pair of nodes log(1 + streamlines), and FA.

    The FA is the mean over the streamlines between two nodes; pairs that no streamline joins in
    some scan have none there, and are not read.
    """

    def compute(sample: Sample) -> Vectors:
        nodes, n = merge_tissues(labels_on(sample.dwi, sample.labels), sample.labels.names)
        maps = fit_tensor(sample.dwi, mask=sample.dwi.mask, n_threads=1)
        counts, fa = connect(maps, nodes, n)
        pairs = np.triu_indices(n, 1)
        return {"": np.concatenate([np.log1p(counts[pairs]), fa[pairs]])}

    state = ("connectome", SEED_STEP, LEAST_MM, STEP_MM, LEAST_FA, LARGEST_TURN_DEG)
    return Method("connectome", compute, state, tensor_obstacle)


def merge_tissues(
    labels: NDArray[np.int16], names: Mapping[int, str]
) -> tuple[NDArray[np.int_], int]:
    """Return nodes (X, Y, Z), numbered from one, and their number; 0 is none.

    Regions whose names differ in the tissue before the first `_` alone are one node: streamlines
    end at the border of white matter, on either side of it.

    Examples
    --------
    >>> nodes, n = merge_tissues(
    ...     np.int16([0, 3, 7, 9]), {3: "wm_left", 7: "gm_left", 9: "wm_right"}
    ... )
    >>> nodes.tolist(), n
    ([0, 1, 1, 2], 2)
    """
    places = {index: name.partition("_")[2] for index, name in names.items()}
    number = {place: k + 1 for k, place in enumerate(sorted(set(places.values())))}
    table = np.zeros(max(places) + 1, dtype=int)
    for index, place in places.items():
        table[index] = number[place]
    return table[labels], len(number)


def connect(maps: TensorMaps, nodes: NDArray[np.int_], n: int) -> tuple[_Array, _Array]:
    """Return numbers of streamlines between n nodes (n, n), and their mean FA; NaN without any.

    Parameters
    ----------
    maps
        Of the scan.
    nodes
        Shape (X, Y, Z): node of each voxel, from one; streamlines count where they end.
    n
        Number of nodes.
    """
    lines = track(maps)
    counts, fa = np.zeros((n, n)), np.full((n, n), np.nan)
    if not len(lines):
        return counts, fa
    found: Any = connectivity_matrix(
        lines, maps.affine, nodes, return_mapping=True, mapping_as_streamlines=False
    )
    means = [float(np.mean(v)) for v in values_from_volume(maps.fa, lines, maps.affine)]
    for (a, b), members in found[1].items():
        if a and b:
            counts[a - 1, b - 1] = counts[b - 1, a - 1] = len(members)
            mean = float(np.mean([means[k] for k in members]))
            fa[a - 1, b - 1] = fa[b - 1, a - 1] = mean
    return counts, fa


def track(maps: TensorMaps) -> Any:
    """Return streamlines along the main axis, RAS+ mm, of :data:`LEAST_MM` or more."""
    allowed = maps.mask & (maps.fa > LEAST_FA)
    seeds = np.argwhere(allowed)
    seeds = seeds[(seeds % SEED_STEP == 0).all(axis=1)]
    sphere = get_sphere(name="repulsion724")
    peaks = PeaksAndMetrics()
    peaks.sphere = sphere
    # DIPY takes directions along the voxel axes.
    axes = maps.v1.astype(np.float64) @ rotation_part(maps.affine)
    peaks.peak_dirs = np.ascontiguousarray(axes[..., None, :])
    peaks.peak_values = np.where(allowed, maps.fa, 0.0)[..., None].astype(np.float64)
    nearest = quantize_evecs(axes[..., None], odf_vertices=sphere.vertices)
    peaks.peak_indices = nearest[..., None].astype(np.int64)
    made = eudx_tracking(
        seeds @ maps.affine[:3, :3].T + maps.affine[:3, 3],
        ThresholdStoppingCriterion(np.where(allowed, maps.fa, 0.0).astype(np.float64), LEAST_FA),
        maps.affine,
        pam=peaks,
        max_angle=LARGEST_TURN_DEG,
        min_len=LEAST_MM,
        step_size=STEP_MM,
        nbr_threads=1,
        random_seed=1,
        sphere=sphere,
    )
    return list(made)
