"""ComBat: remove the location and scale of sites from measures, fitted on some scans, applied
to others.

W. E. Johnson, C. Li and A. Rabinovic, Biostatistics 2007, doi:10.1093/biostatistics/kxj037;
J.-P. Fortin et al., NeuroImage 2017, doi:10.1016/j.neuroimage.2017.08.047.

Covariates that are preserved are named by the caller. A prediction must never preserve its
target: the harmonised measures of a test scan would then contain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.scan_tables import listed

Floats = NDArray[np.float64]

#: Relative change of all estimates below which the empirical Bayes iteration stops.
TOLERANCE = 1e-4

#: Most iterations; tables of brain measures need a few dozen.
MAX_ITERATIONS = 1000


@dataclass(frozen=True, eq=False)
class Combat:
    """Location and scale of each site in each measure.

    Attributes
    ----------
    sites
        Names of the sites it was fitted on, S of them, sorted.
    mean
        Shape (D,): mean of each measure over the scans, sites weighted by their size.
    slopes
        Shape (C, D): effects of the preserved covariates.
    sigma
        Shape (D,): residual standard deviation within sites.
    shift
        Shape (S, D): location of each site, in units of `sigma`.
    scale
        Shape (S, D): standard deviation of each site, in units of `sigma`.
    """

    sites: tuple[str, ...]
    mean: Floats
    slopes: Floats
    sigma: Floats
    shift: Floats
    scale: Floats

    @classmethod
    def fit(
        cls, values: ArrayLike, site: Sequence[str], covariates: ArrayLike | None = None
    ) -> Combat:
        """Estimate location and scale of sites by parametric empirical Bayes.

        Parameters
        ----------
        values
            Shape (N, D), NaN where missing. Measures share what they tell about a site, so they
            should be of one type; a single measure gets its own estimates without sharing.
        site
            N names. A scanner whose software was upgraded is two sites.
        covariates
            Shape (N, C), numbers without an intercept: effects that are preserved.

        Raises
        ------
        InputError
            If there is one site, a site has fewer than two scans with a value of some measure, a
            measure is constant, or covariates cannot be told from sites.
        """
        values, labels, covariates = _arrays(values, site, covariates)
        sites, index = np.unique(labels, return_inverse=True)
        if len(sites) < 2:
            raise InputError(
                f"one site: {listed(list(sites))}", expected="two sites or more to harmonise"
            )
        indicators = np.eye(len(sites))[index]
        known = ~np.isnan(values)
        counts = indicators.T @ known
        if (few := (counts < 2).any(axis=1)).any():
            raise InputError(
                f"fewer than two scans with values at site {listed(list(sites[few]))}",
                expected="at least two scans of each site, for its standard deviation",
                advice="leave the site out, or merge it with another of the same scanner",
            )
        design = np.hstack([indicators, covariates])
        coefficients, sigma = _fit_columns(design, values)
        mean = (counts * coefficients[: len(sites)]).sum(axis=0) / counts.sum(axis=0)
        slopes = coefficients[len(sites) :]
        flat = sigma <= 1e-12 * np.abs(mean)
        if values.shape[1] == 1:
            flat |= any(np.nanstd(values[index == s]) == 0 for s in range(len(sites)))
        if flat.any():
            raise InputError(
                f"{flat.sum()} measures are constant within sites",
                expected="measures that vary",
                advice="leave out columns " + listed([str(c) for c in np.flatnonzero(flat)]),
            )
        z = (values - mean - covariates @ slopes) / sigma
        estimates = [_site_estimates(z[index == s]) for s in range(len(sites))]
        return cls(
            sites=tuple(map(str, sites)),
            mean=mean,
            slopes=slopes,
            sigma=sigma,
            shift=np.stack([shift for shift, _ in estimates]),
            scale=np.sqrt(np.stack([variance for _, variance in estimates])),
        )

    def transform(
        self, values: ArrayLike, site: Sequence[str], covariates: ArrayLike | None = None
    ) -> Floats:
        """Return measures without the location and scale of their sites.

        Parameters
        ----------
        values
            Shape (N, D), of any scans of the sites that were fitted.
        site
            N names.
        covariates
            Shape (N, C): those that were preserved in the fit.

        Returns
        -------
        ndarray
            Shape (N, D).

        Raises
        ------
        InputError
            If a site was not among those of the fit.
        ConfigError
            If measures or covariates are not as many as in the fit.
        """
        values, labels, covariates = _arrays(values, site, covariates)
        if unseen := sorted(set(labels) - set(self.sites)):
            raise InputError(
                f"site {listed(unseen)} was not among those that ComBat was fitted on",
                expected=listed(self.sites),
                advice="harmonise scans of a new site with some of its own in the fit",
            )
        expected = (len(self.mean), len(self.slopes))
        if (values.shape[1], covariates.shape[1]) != expected:
            raise ConfigError(
                f"{values.shape[1]} measures and {covariates.shape[1]} covariates",
                expected=f"{expected[0]} and {expected[1]}, as in the fit",
            )
        index = np.searchsorted(self.sites, labels)
        fitted = self.mean + covariates @ self.slopes
        z = (values - fitted) / self.sigma
        harmonised: Floats = (z - self.shift[index]) / self.scale[index] * self.sigma + fitted
        return harmonised


def join_levels(*columns: Sequence[str]) -> list[str]:
    """Return sites whose levels are the combinations of several columns.

    Examples
    --------
    >>> join_levels(["A", "A", "B"], ["VE11", "XA30", "XA30"])
    ['A | VE11', 'A | XA30', 'B | XA30']
    """
    return [" | ".join(map(str, levels)) for levels in zip(*columns, strict=True)]


def _arrays(
    values: ArrayLike, site: Sequence[str], covariates: ArrayLike | None
) -> tuple[Floats, NDArray[np.str_], Floats]:
    table = np.asarray(values, dtype=np.float64)
    labels = np.asarray([str(s) for s in site], dtype=np.str_)
    preserved = np.empty((len(table), 0)) if covariates is None else covariates
    preserved = np.asarray(preserved, dtype=np.float64).reshape(len(table), -1)
    if table.ndim != 2 or len(labels) != len(table):
        raise ConfigError(
            f"measures of shape {table.shape} with {len(labels)} sites",
            expected="a row and a site for each scan",
        )
    if not np.isfinite(preserved).all():
        raise InputError("missing covariates", expected="a number of every scan")
    return table, labels, preserved


def _fit_columns(design: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return least-squares coefficients (P, D) and residual standard deviations (D,)."""
    known = ~np.isnan(values)
    coefficients = np.empty((design.shape[1], values.shape[1]))
    sigma = np.empty(values.shape[1])
    patterns, pattern_of = np.unique(known, axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        columns = pattern_of.ravel() == number
        part = values[np.ix_(rows, columns)]
        fitted, _, rank, _ = np.linalg.lstsq(design[rows], part, rcond=None)
        if rank < design.shape[1]:
            raise InputError(
                "preserved covariates cannot be told from sites",
                expected="covariates that vary within sites and do not follow from each other",
                advice="preserve fewer covariates, or leave out sites",
            )
        coefficients[:, columns] = fitted
        sigma[columns] = np.sqrt(np.mean((part - design[rows] @ fitted) ** 2, axis=0))
    return coefficients, sigma


def _site_estimates(z: Floats) -> tuple[Floats, Floats]:
    """Return location and variance of a site: posterior means given those of all measures.

    Parameters
    ----------
    z
        Shape (scans of the site, D): standardised measures, NaN where missing.
    """
    n = (~np.isnan(z)).sum(axis=0)
    own_shift, own_variance = np.nanmean(z, axis=0), np.nanvar(z, axis=0, ddof=1)
    if z.shape[1] == 1:
        return own_shift, own_variance
    prior_shift, prior_spread = own_shift.mean(), own_shift.var(ddof=1)
    m, s2 = own_variance.mean(), own_variance.var(ddof=1)
    if not s2 > 0 or not prior_spread > 0:  # measures that are copies of each other
        return own_shift, own_variance
    shape, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    shift, variance = own_shift, own_variance
    for _ in range(MAX_ITERATIONS):
        last_shift, last_variance = shift, variance
        shift = (prior_spread * n * own_shift + variance * prior_shift) / (
            prior_spread * n + variance
        )
        squares = (n - 1) * own_variance + n * (own_shift - shift) ** 2
        variance = (rate + 0.5 * squares) / (n / 2 + shape - 1)
        changes = np.abs(shift - last_shift), np.abs(last_variance / variance - 1)
        if max(changes[0].max(), changes[1].max()) < TOLERANCE:
            return shift, variance
    raise InputError(
        f"ComBat did not settle in {MAX_ITERATIONS} iterations",
        expected="measures of a common type",
        advice="harmonise measures of each type apart",
    )
