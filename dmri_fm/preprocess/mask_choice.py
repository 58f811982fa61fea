"""Choice among brain masks by their volumes."""

from __future__ import annotations

from collections.abc import Mapping


def pick_single(volumes_ml: Mapping[str, float], possible_ml: tuple[float, float]) -> str:
    """Return the method whose mask is taken where there is no consensus.

    It is the first whose volume is possible; if there is none, the one nearest to the limits. An
    empty mask is taken only where all are empty.

    Parameters
    ----------
    volumes_ml
        Volumes of the brain by name of the method, in the order of trust.
    possible_ml
        Smallest and largest volume.

    Examples
    --------
    >>> pick_single({"deepbet": 0, "median_otsu": 3000}, (500, 2760))
    'median_otsu'
    """
    low, high = possible_ml

    def excess(name: str) -> float:
        volume = volumes_ml[name]
        return max(1.0, low / volume, volume / high) if volume else float("inf")

    return min(volumes_ml, key=excess)
