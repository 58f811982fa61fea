"""Mixed models at and off the boundary, where participants do not differ from one another."""

from __future__ import annotations

import numpy as np
import statsmodels.api as sm

from dmri_fm_lab.statistics.mixed import fit_mixed


def test_without_variance_between_participants_the_fit_is_least_squares() -> None:
    """Null data: about half of the fits lie on the boundary, and none is without numbers."""
    rng = np.random.default_rng(0)
    n, k = 40, 3
    who = np.repeat(np.arange(n), k)[: n * k - 5]  # unbalanced
    design = np.column_stack(
        [np.ones(len(who)), rng.normal(size=n)[who], rng.normal(size=len(who))]
    )
    members = np.eye(n)[who]
    residual = np.eye(len(who)) - design @ np.linalg.pinv(design)
    trace = np.trace(members.T @ residual @ members)
    n_zero = 0
    for _ in range(25):
        values = 1e-3 * rng.normal(size=len(who))
        fit = fit_mixed(design, values, who, np.eye(3))
        assert np.isfinite([*fit.estimates, *fit.errors, fit.deviation]).all()
        # The slope of the restricted likelihood at zero variance between participants.
        r = residual @ values
        slope = (len(who) - 3) * ((members.T @ r) ** 2).sum() / (r @ r) - trace
        assert bool(fit.note) == (slope <= 0)
        if fit.note:
            n_zero += 1
            plain = sm.OLS(values, design).fit()
            np.testing.assert_allclose(fit.estimates, plain.params, rtol=1e-8)
            np.testing.assert_allclose(fit.errors, plain.bse, rtol=1e-8)
            np.testing.assert_allclose(fit.deviation, np.sqrt(plain.scale), rtol=1e-8)
    assert 5 <= n_zero <= 20
