"""What tensor maps of a brain look like, by b-value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["WHITE_MATTER_FA", "WHITE_MATTER_MD", "check_white_matter"]

#: Plausible medians of FA in white matter, at any b-value. Group
#: means of tracts over a lifetime lie between 0.35 and 0.6 (Lebel et al. 2012,
#: doi:10.1016/j.neuroimage.2011.11.094); partial volume of a whole-mask median lowers it.
WHITE_MATTER_FA = (0.25, 0.65)

#: Plausible medians of MD in white matter, mm^2/s, up to each b-value, s/mm^2. At b = 1000
#: tracts of healthy people have 0.7e-3 to 0.9e-3 (Lebel et al. 2012). Kurtosis lowers what a
#: tensor finds at higher b: MD(b) is about MD (1 - b MD K / 6), with MD = 0.95e-3 and K = 1
#: 0.80e-3 at 1000, 0.73e-3 at 1500, 0.57e-3 at 2500 (Jensen et al. 2005, doi:10.1002/mrm.20508).
WHITE_MATTER_MD: tuple[tuple[float, tuple[float, float]], ...] = (
    (600.0, (0.65e-3, 1.15e-3)),
    (1200.0, (0.60e-3, 1.00e-3)),
    (1800.0, (0.52e-3, 0.92e-3)),
    (2600.0, (0.42e-3, 0.82e-3)),
    (np.inf, (0.30e-3, 0.75e-3)),
)


def check_white_matter(
    fa: NDArray[Any], md: NDArray[Any], *, white_matter: ArrayLike, bval: float
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """Compare FA and MD in white matter with what adult brains show.

    Parameters
    ----------
    fa, md
        Shape (X, Y, Z); MD in mm^2/s.
    white_matter
        Shape (X, Y, Z): deep white matter, from a registered template.
    bval
        Highest b-value the tensor was fitted to, s/mm^2.

    Returns
    -------
    medians
        `wm_fa_median` and `wm_md_median`, None without white matter.
    warnings
        A sentence for each median out of its range; empty if both are plausible.

    Examples
    --------
    >>> one = np.ones((2, 2, 2))
    >>> check_white_matter(0.45 * one, 0.75e-3 * one, white_matter=one, bval=1000)[1]
    ()
    >>> print(check_white_matter(0.45 * one, 0.75 * one, white_matter=one, bval=1000)[1][0])
    median MD of white matter is 750 x 1e-3 mm^2/s; 0.6 to 1 is plausible at b = 1000 s/mm^2
    """
    inside = (np.asarray(white_matter) > 0) & np.isfinite(fa) & np.isfinite(md)
    if not inside.any():
        return {"wm_fa_median": None, "wm_md_median": None}, ()
    fa_median, md_median = float(np.median(fa[inside])), float(np.median(md[inside]))
    warnings = []
    low, high = WHITE_MATTER_FA
    if not low <= fa_median <= high:
        warnings.append(
            f"median FA of white matter is {fa_median:.2f}; {low:g} to {high:g} is plausible"
        )
    low, high = next(limits for most, limits in WHITE_MATTER_MD if bval <= most)
    if not low <= md_median <= high:
        warnings.append(
            f"median MD of white matter is {1e3 * md_median:.3g} x 1e-3 mm^2/s; "
            f"{1e3 * low:g} to {1e3 * high:g} is plausible at b = {bval:.0f} s/mm^2"
        )
    return {"wm_fa_median": fa_median, "wm_md_median": md_median}, tuple(warnings)
