"""NODDI by AMICO, where that is installed: neurite density, dispersion, free water.

Zhang et al. 2012, https://doi.org/10.1016/j.neuroimage.2012.03.072, in the linear form of Daducci
et al. 2015, https://doi.org/10.1016/j.neuroimage.2014.10.026, with AMICO's default diffusivities
and penalties. AMICO (`dmri-amico`) is no dependency of this package: its licence is for research
and education alone. It keeps rotation matrices in the folder `.dipy` of the home folder, or in
that of the variable DIPY_HOME.
"""

from __future__ import annotations

import importlib
import warnings
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import InputError
from dmri_fm.gradients import GradientTable

#: Maps of the fit: neurite density index, orientation dispersion index, free water fraction.
MEASURES = ("NDI", "ODI", "FWF")

#: Fewest shells.
FEWEST_SHELLS = 2

#: Why NODDI is not compared where AMICO is not installed.
NOT_INSTALLED = "dmri-amico is not installed (pip install dmri-amico; for research alone)"

#: Voxels of a row of the image that AMICO reads.
_ROW = 256

#: Order of spherical harmonics and number of directions of AMICO's rotation matrices: its own.
_ORDER, _DIRECTIONS = 12, 500


def has_amico() -> bool:
    """Return whether AMICO is installed."""
    return find_spec("amico") is not None


def noddi_obstacle(gtab: GradientTable) -> str | None:
    """Return why volumes do not determine NODDI; None if they do."""
    if not gtab.is_b0.any():
        return "no b=0 volume"
    n = len(gtab.shells)
    return None if n >= FEWEST_SHELLS else f"{n} shell; NODDI needs {FEWEST_SHELLS} or more"


def fit_noddi(signals: NDArray[np.floating], gtab: GradientTable) -> NDArray[np.float64]:
    """Fit NODDI to voxels.

    Parameters
    ----------
    signals
        Shape (V, N), scanner units.
    gtab
        Of the N volumes, two shells or more.

    Returns
    -------
    ndarray
        Shape (V, 3), the :data:`MEASURES`.

    Raises
    ------
    InputError
        If AMICO refuses the data.
    """
    amico: Any = importlib.import_module("amico")
    lut: Any = importlib.import_module("amico.lut")
    amico.set_verbose(0)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # AMICO uses DIPY's older basis.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        _write(Path(folder) / "scan", signals, gtab)
        try:
            # It returns at once where the matrices are there.
            lut.precompute_rotation_matrices(_ORDER, _DIRECTIONS)
            study = amico.Evaluation(folder, "scan")
            study.set_config("nthreads", 1)
            study.load_data("dwi.nii", "dwi.scheme")
            study.set_model("NODDI")
            study.generate_kernels(lmax=_ORDER, ndirs=_DIRECTIONS)
            study.load_kernels()
            study.fit()
        except SystemExit:
            # AMICO ends the program where it refuses data.
            raise InputError("AMICO refuses the series", expected="b=0 and two shells") from None
        found = np.asarray(study.RESULTS["MAPs"], dtype=np.float64)
    return found.reshape(-1, len(MEASURES))[: len(signals)]


def _write(folder: Path, signals: NDArray[np.floating], gtab: GradientTable) -> None:
    """Write voxels as AMICO reads them; each shell has one b-value there."""
    folder.mkdir()
    bvals = np.where(gtab.is_b0, 0.0, gtab.bvals)
    for shell in gtab.shells:
        bvals[list(shell.index)] = shell.bval
    # NIfTI has at most 32,767 voxels along an axis. The last row is filled up.
    rows = -(-len(signals) // _ROW)
    filled = np.resize(np.asarray(signals, dtype=np.float32), (rows * _ROW, signals.shape[1]))
    nib.save(nib.Nifti1Image(filled.reshape(rows, _ROW, 1, -1), np.eye(4)), folder / "dwi.nii")
    axes = np.where(gtab.is_b0[:, None], 0.0, gtab.bvecs_ras)
    np.savetxt(
        folder / "dwi.scheme",
        np.column_stack([axes, bvals]),
        header="VERSION: BVECTOR",
        comments="",
    )
