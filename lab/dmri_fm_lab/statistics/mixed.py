"""Mixed models: a random intercept for each participant, by statsmodels."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from dmri_fm.errors import ConfigError
from dmri_fm_lab.statistics.linear import Floats, Integers


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


def fit_mixed(
    design: Floats, values: Floats, participants: Integers, contrasts: Floats
) -> MixedFit:
    """Fit a random intercept for each participant by restricted maximum likelihood.

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
    # A share of this size changes no standard error; the optimiser ends near zero, not at it.
    is_zero = between < 1e-4 * result.scale
    return MixedFit(
        contrasts @ np.asarray(result.fe_params) * scale,
        errors * scale,
        scale * float(np.sqrt(between + result.scale)),
        "no variance between participants" if is_zero else "",
    )
