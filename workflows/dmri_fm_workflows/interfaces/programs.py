"""External programs: their executables, and their names with versions for plan and sidecars."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dmri_fm.errors import MissingToolError
from dmri_fm.preprocess.denoise import FEWEST_VOLUMES, name_too_few

#: Executables of each program, any of which will do.
DWIDENOISE = ("dwidenoise",)
MRDEGIBBS = ("mrdegibbs",)
TOPUP = ("topup",)
EDDY = ("eddy_cpu", "eddy_openmp", "eddy")
EDDY_QUAD = ("eddy_quad",)

#: Builds of eddy for GPUs: `eddy_cuda`, or one for each version of CUDA, as in FSL 6.0.5.
_CUDA_BUILD = re.compile(r"eddy_cuda([\d.]*)")


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


def list_cuda_eddies() -> tuple[str, ...]:
    """Return the builds of eddy for GPUs on the PATH: `eddy_cuda`, then from the newest CUDA."""
    found = {
        path.name
        for folder in os.environ.get("PATH", "").split(os.pathsep)
        if folder
        for path in Path(folder).glob("eddy_cuda*")
        if _CUDA_BUILD.fullmatch(path.name) and os.access(path, os.X_OK)
    }

    def version(name: str) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", name)] or [1000]

    return tuple(sorted(found, key=version, reverse=True))


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


def name_eddy(options: Mapping[str, Any]) -> str:
    """Return the name of FSL's motion and eddy-current correction with some of its options.

    Parameters
    ----------
    options
        See :data:`dmri_fm_workflows.eddy_config.OPTIONS`.
    """
    words = {
        "repol": "outlier replacement",
        "mporder": "slice-to-volume motion",
        "estimate_move_by_susceptibility": "a field that moves with the head",
    }
    done = [word for key, word in words.items() if options.get(key)]
    told = f" with {' and '.join(done)}" if done else ""
    return f"FSL eddy ({fsl_version()}){told}"
