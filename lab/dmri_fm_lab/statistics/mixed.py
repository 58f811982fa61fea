"""Mixed models: a random intercept for each participant, by statsmodels."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from dmri_fm.errors import ConfigError
from dmri_fm_lab.statistics.linear import Floats, Integers

#: Ratios of the variance between participants to that within at which the likelihood is compared
#: with that at zero. The smallest changes no standard error.
_RATIOS = np.geomspace(1e-4, 1e3, 22)


class MixedFit(NamedTuple):
    """A mixed model of one outcome.

    Attributes
    ----------
    estimates, errors
        Shape (K,), of the contrasts.
    deviation
        Square root of the sum of variances between and within participants.
    note
        What a reader should know, such as a variance of zero between participants.
    """

    estimates: Floats
    errors: Floats
    deviation: float
    note: str = ""


class MixedFailureError(Exception):
    """The model of an outcome cannot be used; the message says why."""


def degrees_of_freedom(participants: Integers, n_columns: int) -> int:
    """Return participants minus columns of the design: right between, careful within them.

    Raises
    ------
    ConfigError
        If no participant has two scans, or there are too few participants.
    """
    n = len(np.unique(participants))
    if n == len(participants):
        raise ConfigError(
            "every participant has one scan",
            expected="repeated scans for a random intercept",
            advice="leave out random",
        )
    if n <= n_columns:
        raise ConfigError(
            f"{n} participants for {n_columns} columns of the design",
            expected="more participants than columns",
        )
    return n - n_columns


def is_zero_between(design: Floats, values: Floats, participants: Integers) -> bool:
    """Tell whether the restricted likelihood is highest without variance between participants.

    Parameters
    ----------
    design, values, participants
        As in :func:`fit_mixed`; values with a standard deviation near 1.

    Returns
    -------
    bool
        False also where the design explains the values exactly.
    """
    _, who = np.unique(participants, return_inverse=True)
    both = np.column_stack([design, values])
    sums = np.zeros((who.max() + 1, both.shape[1]))
    np.add.at(sums, who, both)
    counts = np.bincount(who)
    n_free = len(values) - design.shape[1]

    def likelihood(ratio: float) -> float:
        """Return twice the restricted log likelihood, but for a constant."""
        weights = ratio / (1.0 + counts * ratio)
        products = both.T @ both - (sums.T * weights) @ sums
        xx, xy = products[:-1, :-1], products[:-1, -1]
        squares = products[-1, -1] - xy @ np.linalg.solve(xx, xy)
        if squares <= 1e-12 * len(values):
            return float("nan")
        spread = np.log1p(counts * ratio).sum() + np.linalg.slogdet(xx)[1]
        return float(-n_free * np.log(squares) - spread)

    at_zero = likelihood(0.0)
    return all(at_zero >= likelihood(ratio) for ratio in _RATIOS)


def _least_squares(design: Floats, values: Floats, contrasts: Floats) -> MixedFit:
    """Fit a model whose variance between participants is zero."""
    from statsmodels.regression.linear_model import OLS

    result = OLS(values, design).fit()
    errors = np.sqrt(np.einsum("kp,pq,kq->k", contrasts, result.cov_params(), contrasts))
    return MixedFit(
        contrasts @ result.params,
        errors,
        float(np.sqrt(result.scale)),
        "no variance between participants",
    )


def fit_mixed(
    design: Floats, values: Floats, participants: Integers, contrasts: Floats
) -> MixedFit:
    """Fit a random intercept for each participant by restricted maximum likelihood.

    Where the likelihood is highest without variance between participants, the fit is ordinary
    least squares; an optimiser that approaches zero from above stops short of it, or fails.

    Parameters
    ----------
    design, values
        Shapes (N, P) and (N,).
    participants
        Shape (N,): number of each scan's participant.
    contrasts
        Shape (K, P).

    Raises
    ------
    MixedFailureError
        If the fit did not converge or has no standard errors.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    scale = float(values.std())  # REML of diffusivities near 1e-3 stops too early
    if is_zero_between(design, values / scale, participants):
        return _least_squares(design, values, contrasts)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model = MixedLM(values / scale, design, groups=participants)
            result = model.fit(reml=True)
            covariance = np.asarray(result.cov_params())[: design.shape[1], : design.shape[1]]
        except (np.linalg.LinAlgError, ValueError) as error:
            raise MixedFailureError(f"no fit ({str(error).splitlines()[0]})") from None
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(np.einsum("kp,pq,kq->k", contrasts, covariance, contrasts))
    if not result.converged or not np.isfinite(errors).all() or not (errors > 0).all():
        said = [str(w.message) for w in caught if issubclass(w.category, ConvergenceWarning)]
        raise MixedFailureError(f"not converged ({said[-1] if said else 'no standard errors'})")
    between = float(np.asarray(result.cov_re).ravel()[0])
    return MixedFit(
        contrasts @ np.asarray(result.fe_params) * scale,
        errors * scale,
        scale * float(np.sqrt(between + result.scale)),
    )
