"""Regression of mean and variance on age, sex and site."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm, t
from sklearn.preprocessing import SplineTransformer

#: Knots of the cubic spline of age: the ends and the median.
_N_KNOTS = 3

#: Fits of mean and variance in turn; the weights change by less than a percent after it.
_N_ROUNDS = 4

#: A site has a variance of its own from this many reference participants on.
MIN_FOR_VARIANCE = 30


@dataclass(frozen=True, eq=False)
class Design:
    """Columns of the regressions, as the reference cohort defines them.

    Attributes
    ----------
    age, sex, site
        Columns of participants.
    spline
        Of age.
    sexes, sites
        Levels that have an indicator column: all but the first.
    variance_sites
        Sites with a variance of their own.
    centre, scale
        Mean and standard deviation of age.
    """

    age: str
    sex: str
    site: str | None
    spline: SplineTransformer
    sexes: tuple[object, ...]
    sites: tuple[object, ...]
    variance_sites: tuple[object, ...]
    centre: float
    scale: float

    @classmethod
    def of(cls, people: pd.DataFrame, age: str, sex: str, site: str | None) -> Design:
        """Lay out the columns for a reference cohort."""
        ages = people[age].to_numpy(dtype=np.float64)
        spline = SplineTransformer(
            _N_KNOTS, degree=3, knots="quantile", extrapolation="linear", include_bias=False
        ).fit(ages[:, None])
        counts = people[site].value_counts() if site else pd.Series(dtype=int)
        large = sorted(counts.index[counts >= MIN_FOR_VARIANCE])
        # One level is the reference: the small sites together, or the first of the large ones.
        own = large if len(large) < len(counts) else large[1:]
        return cls(
            age, sex, site, spline,
            tuple(sorted(people[sex].unique())[1:]),
            tuple(sorted(counts.index)[1:]),
            tuple(own),
            float(ages.mean()), float(ages.std() or 1.0),
        )  # fmt: skip

    @property
    def n_columns(self) -> int:
        """Columns of the regression of the mean."""
        return 1 + int(self.spline.n_features_out_) + len(self.sexes) + len(self.sites)

    def mean_columns(self, people: pd.DataFrame) -> NDArray[np.float64]:
        """Return the regressors of the mean, shape (N, n_columns)."""
        curve = self.spline.transform(people[self.age].to_numpy(dtype=np.float64)[:, None])
        return np.column_stack(
            [np.ones(len(people)), curve, *self._indicators(people, self.sites)]
        )

    def variance_columns(self, people: pd.DataFrame) -> NDArray[np.float64]:
        """Return the regressors of the logarithm of the variance."""
        ages = (people[self.age].to_numpy(dtype=np.float64) - self.centre) / self.scale
        return np.column_stack(
            [np.ones(len(people)), ages, *self._indicators(people, self.variance_sites)]
        )

    def _indicators(
        self, people: pd.DataFrame, sites: tuple[object, ...]
    ) -> list[NDArray[np.float64]]:
        sexes = [(people[self.sex] == level).to_numpy(np.float64) for level in self.sexes]
        if self.site is None:
            return sexes
        return sexes + [(people[self.site] == level).to_numpy(np.float64) for level in sites]


@dataclass(frozen=True, eq=False)
class LocationScale:
    """Mean and variance of a measure given age, sex and site.

    Attributes
    ----------
    design
        Columns.
    mean, variance
        Coefficients.
    covariance
        Of the coefficients of the mean.
    df
        Degrees of freedom of the residuals.
    """

    design: Design
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    covariance: NDArray[np.float64]
    df: float

    def score(self, people: pd.DataFrame, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return z of new people: normal quantiles of Student's t of their distance."""
        columns = self.design.mean_columns(people)
        spread = np.exp(self.design.variance_columns(people) @ self.variance)
        spread += _quadratic(columns, self.covariance)
        distance = (values - columns @ self.mean) / np.sqrt(spread)
        # The far tail through the survival function: 1 - cdf would round to 0.
        tail = norm.isf(t.sf(np.abs(distance), self.df))
        return np.asarray(np.sign(distance) * tail)


def fit_log_variance(
    columns: NDArray[np.float64], squares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit the logarithm of a variance to squared residuals by a gamma regression.

    Its deviance with the logarithmic link is convex in the coefficients: any minimiser ends at
    the same place, where the steps of iteratively reweighted least squares overshoot for skewed
    measures.

    Parameters
    ----------
    columns
        Shape (N, K), the first of them 1.
    squares
        Shape (N,): squared residuals, freed of the fit's leverage.

    Returns
    -------
    ndarray
        Shape (K,).
    """

    def deviance(coefficients: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_variance = np.clip(columns @ coefficients, -50, 50)
        ratio = squares * np.exp(-log_variance)
        return float((log_variance + ratio).mean()), columns.T @ (1 - ratio) / len(squares)

    start = np.zeros(columns.shape[1])
    start[0] = np.log(squares.mean())
    found = minimize(deviance, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-12})
    return np.asarray(found.x)


def _quadratic(rows: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x' M x of each row x."""
    return np.asarray(((rows @ matrix) * rows).sum(axis=1))


def fit_location_scale(
    design: Design, people: pd.DataFrame, values: NDArray[np.float64]
) -> LocationScale:
    """Fit mean and variance of a measure in a reference cohort.

    Parameters
    ----------
    design
        Columns.
    people
        Reference participants, N of them.
    values
        Shape (N,), finite.
    """
    columns, scale = design.mean_columns(people), design.variance_columns(people)
    # Measures such as diffusivities are tiny: fit in units of their spread.
    unit = float(values.std()) or 1.0
    y = values / unit
    weights = np.ones(len(y))
    for _ in range(_N_ROUNDS):
        line = sm.WLS(y, columns, weights=weights).fit()
        leverage = weights * _quadratic(columns, line.normalized_cov_params)
        squares = line.resid**2 / (1 - leverage)
        log_variance = fit_log_variance(scale, squares)
        weights = np.exp(-scale @ log_variance)
    log_variance[0] += 2 * np.log(unit)
    return LocationScale(
        design,
        line.params * unit,
        log_variance,
        line.normalized_cov_params * unit**2,
        float(line.df_resid),
    )
