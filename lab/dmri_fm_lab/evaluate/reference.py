"""Reference of a comparison: a tensor, its noise, and the regions of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmri_fm.qspace import condition_number
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_design import DIAGONAL
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.bootstrap import ReferenceNoise, bootstrap_noise
from dmri_fm_lab.evaluate.regions import Regions, reference_regions
from dmri_fm_lab.evaluate.subsets import SixSubset
from dmri_fm_lab.evaluate.tensor_errors import AXIS_FA

#: Random splits of the reference's volumes into two halves, of which the best is taken.
N_SPLITS = 100

#: Largest condition number of a half.
LARGEST_HALF_CONDITION = 10.0


@dataclass(frozen=True, eq=False)
class Reference:
    """Tensor that an estimate is compared with.

    Attributes
    ----------
    maps
        The tensor.
    regions
        Tissue, white and grey matter.
    noise
        Noise of the tensor, in the voxels of `regions.tissue`; None: the truth, or unknown.
    halves
        Half the difference of the tensors of two halves of the volumes: `tensor` (sum over six
        elements) and `md`, shape (M,), mm^2/s, in the same voxels. None where the volumes are
        too few.
    is_truth
        Whether the tensor is known exactly.
    has_tensor
        Whether the tensor itself is known, and its main axis; if not, its scalars alone are.
    """

    maps: TensorMaps
    regions: Regions
    noise: ReferenceNoise | None
    halves: dict[str, NDArray[np.float64]] | None
    is_truth: bool
    has_tensor: bool = True

    def floor(self, region: NDArray[np.bool_]) -> dict[str, float | None]:
        """Return mean errors in a region that come from the reference's own noise."""
        inside = region[self.regions.tissue]
        row: dict[str, float | None] = {}
        if not inside.any():
            return row
        if self.noise is not None:
            floor = self.noise.floor
            row |= {f"{k}_bootstrap": float(v[inside].mean()) for k, v in floor.items()}
            with_axis = inside & (self.maps.fa[self.regions.tissue] > AXIS_FA)
            if with_axis.any():
                row["v1_fa03_bootstrap"] = float(floor["v1"][with_axis].mean())
            row["fa_bias_bootstrap"] = float(self.noise.fa_bias[inside].mean())
        if self.halves is not None:
            row |= {f"{k}_halves": float(v[inside].mean()) for k, v in self.halves.items()}
        return row


def make_reference(
    dwi: Dwi,
    subset: SixSubset,
    *,
    brain: NDArray[np.bool_],
    rng: np.random.Generator,
    n_replicates: int = 40,
) -> Reference:
    """Fit the reference of a subset: weighted least squares of the shell's other volumes.

    Parameters
    ----------
    dwi
        The whole series.
    subset
        Positions of the reference's volumes.
    brain
        Shape (X, Y, Z).
    rng
        Source of randomness.
    n_replicates
        Bootstrap replicates.
    """
    maps = fit_tensor(dwi.select(subset.reference), mask=brain, shell="all")
    regions = reference_regions(maps, brain)
    noise = bootstrap_noise(
        dwi,
        subset.reference,
        mask=regions.tissue,
        rng=rng,
        more=subset.volumes,
        has_b0_noise=not subset.shares_b0,
        n_replicates=n_replicates,
    )
    halves = _half_difference(dwi, subset, regions.tissue, rng)
    return Reference(maps, regions, noise, halves, is_truth=False)


def _half_difference(
    dwi: Dwi, subset: SixSubset, tissue: NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, NDArray[np.float64]] | None:
    """Return half the difference of the tensors of two halves, or None."""
    halves = _split(dwi, subset.reference_weighted, rng)
    if halves is None or not tissue.any():
        return None
    b0 = list(subset.reference_b0)
    # One b=0 volume has to serve both halves; its noise is then not in their difference.
    own = (b0[::2], b0[1::2]) if len(b0) > 1 else (b0, b0)
    first, second = (
        fit_tensor(dwi.select([*own[k], *halves[k]]), mask=tissue, shell="all").diffusivity[tissue]
        for k in (0, 1)
    )
    half = 0.5 * (first.astype(np.float64) - second)
    return {
        "tensor": np.abs(half).sum(axis=1),
        "md": np.abs(half[:, DIAGONAL].mean(axis=1)),
    }


def _split(
    dwi: Dwi, weighted: Sequence[int], rng: np.random.Generator
) -> tuple[list[int], list[int]] | None:
    """Cut volumes into two halves whose larger condition number is low."""
    best, lowest = None, LARGEST_HALF_CONDITION
    if len(weighted) < 12:
        return None
    for _ in range(N_SPLITS):
        order = rng.permutation(weighted)
        parts = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        worst = max(condition_number(dwi.gtab.bvecs_ras[part]) for part in parts)
        if worst < lowest:
            best, lowest = (parts[0].tolist(), parts[1].tolist()), worst
    return best
