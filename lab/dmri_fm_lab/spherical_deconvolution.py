"""Constrained spherical deconvolution (CSD) of one shell, by DIPY.

Tournier et al. 2007, https://doi.org/10.1016/j.neuroimage.2007.02.016.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from dipy.core.gradients import GradientTable as DipyTable
from dipy.core.gradients import gradient_table
from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel, response_from_mask_ssst
from numpy.typing import NDArray

from dmri_fm.gradients import GradientTable


class Response(NamedTuple):
    """Signal of a single fibre: eigenvalues of its tensor (3,), mm^2/s, and its b=0 signal."""

    evals: NDArray[np.float64]
    s0: float


def dipy_table(gtab: GradientTable) -> DipyTable:
    """Return a table as DIPY's, axes as they are, with b-values of zero at b=0 volumes."""
    bvals = np.where(gtab.is_b0, 0.0, gtab.bvals)
    table: DipyTable = gradient_table(bvals, bvecs=gtab.bvecs_ras)
    return table


def estimate_response(signals: NDArray[np.floating], gtab: GradientTable) -> Response:
    """Return the mean tensor of signals (V, N) of voxels that hold a single fibre each."""
    voxels = signals[:, None, None]
    everywhere = np.ones(voxels.shape[:3], dtype=bool)
    (evals, s0), _ = response_from_mask_ssst(dipy_table(gtab), voxels, everywhere)
    return Response(np.asarray(evals, dtype=np.float64), float(s0))


@contextmanager
def deconvolution(
    gtab: GradientTable, response: Response, *, order: int
) -> Iterator[ConstrainedSphericalDeconvModel]:
    """Give DIPY's model, which is silent within the block about what its callers know.

    Parameters
    ----------
    gtab
        b=0 volumes and one shell.
    response
        Signal of a single fibre, in the units of the series.
    order
        Largest order of the fibre orientation distribution.
    """
    with warnings.catch_warnings():
        # DIPY says that its default basis will change: powers and amplitudes do not depend on it.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        # An order may have more coefficients than there are directions: its callers choose it.
        warnings.filterwarnings("ignore", "Number of parameters required", UserWarning)
        yield ConstrainedSphericalDeconvModel(
            dipy_table(gtab), (response.evals, response.s0), sh_order_max=order
        )
