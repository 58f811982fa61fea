"""Whether Gibbs ringing can be removed from a series: only with full k-space.

The methods that are installed (DIPY's and MRtrix3's, both by local subvoxel shifts, Kellner et al.
2016, doi:10.1002/mrm.26054) expect the ringing of images whose k-space was measured to the end.
With partial Fourier the ringing along the phase encoding has another period, and they shift not
all of it. The variant for such images (RPG, Lee et al. 2021, doi:10.1002/mrm.28830) is in
neither.
"""

from __future__ import annotations

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.bids import DwiRun, DwiSeries
from dmri_fm_workflows.bids.metadata import read_number, read_text

#: Reason against unringing of such images, behind the files that it is told of.
_REASON = "the methods for Gibbs ringing that are installed fit images of full k-space only"


def is_partial(run: DwiRun) -> bool | None:
    """Tell whether k-space was measured in part; None where the sidecar does not tell."""
    fraction = read_number(run.metadata, "PartialFourier")
    if fraction is not None and 0 < fraction <= 1:
        return fraction < 1
    # As dcm2niix takes it over from DICOM's (0018,9081).
    return {"YES": True, "NO": False}.get(read_text(run.metadata, "PartialFourierEnabled").upper())


def check_unringing(series: DwiSeries) -> str | None:
    """Return a warning where sidecars do not tell whether Gibbs ringing can be removed.

    Raises
    ------
    ConfigError
        If a run was acquired with partial Fourier.
    """
    if partial := [run for run in series.runs if is_partial(run)]:
        names = ", ".join(run.path.name for run in partial)
        fraction = read_number(partial[0].metadata, "PartialFourier")
        shown = "" if fraction is None else f" ({fraction:g} of k-space)"
        raise ConfigError(
            f"--unring, and {names} was acquired with partial Fourier{shown}: {_REASON}",
            path=partial[0].path,
            expected="PartialFourier of 1 in the sidecar, or no --unring",
            advice="leave --unring away; to unring other scans, tell them apart by "
            "--bids-filter-file; tools with the method RPG (DESIGNER, TORTOISE) can unring such "
            "images before this app, denoised first: then use --denoise none",
        )
    if unknown := [run.path.name for run in series.runs if is_partial(run) is None]:
        return (
            f"{series.name}: Gibbs ringing is removed, and the sidecar of {', '.join(unknown)} "
            f"has no PartialFourier: {_REASON}."
        )
    return None
