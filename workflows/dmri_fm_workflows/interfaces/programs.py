"""External programs: their executables, and their names with versions for plan and sidecars."""

from __future__ import annotations

import shutil
from functools import cache

from dmri_fm.errors import MissingToolError
from dmri_fm.preprocess.denoise import FEWEST_VOLUMES, name_too_few

#: Executables of each program, any of which will do.
DWIDENOISE = ("dwidenoise",)
MRDEGIBBS = ("mrdegibbs",)
TOPUP = ("topup",)
EDDY = ("eddy_cpu", "eddy_openmp", "eddy")


def list_missing(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return executables of which none is on the PATH; none if one is, or none is needed."""
    return () if not names or any(map(shutil.which, names)) else names


def find_program(*names: str) -> str:
    """Return the path of the first executable that is on the PATH.

    Raises
    ------
    MissingToolError
        If there is none.
    """
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        raise MissingToolError(
            f"{names[0]} is not on the PATH",
            expected=" or ".join(names),
            advice="install or load it, or leave the choice of engines to `auto`",
        )
    return program


@cache
def mrtrix_version() -> str:
    """Return the version of the MRtrix3 on the PATH."""
    from nipype.interfaces.mrtrix3.base import Info

    return Info.version() or "of unknown version"


def fsl_version() -> str:
    """Return the version of the FSL that FSLDIR names."""
    from fsl.utils.platform import platform

    return platform.fslVersion or "version unknown"


def name_dwidenoise(n_volumes: int) -> str:
    """Return the name of MRtrix3's denoising of a run of this number of volumes."""
    if n_volumes < FEWEST_VOLUMES:
        return name_too_few(n_volumes)
    return f"MRtrix3 dwidenoise {mrtrix_version()}"


def name_mrdegibbs() -> str:
    """Return the name of MRtrix3's removal of Gibbs ringing."""
    return f"MRtrix3 mrdegibbs {mrtrix_version()}"


def name_topup() -> str:
    """Return the name of FSL's susceptibility correction."""
    return f"FSL topup ({fsl_version()})"


def name_eddy() -> str:
    """Return the name of FSL's motion and eddy-current correction."""
    return f"FSL eddy ({fsl_version()}) with outlier replacement"
