from __future__ import annotations

import numpy as np
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from dmri_fm_lab.prediction.ridge import PENALTIES, fit_ridge


def test_ridge_equals_another_implementation() -> None:
    rng = np.random.default_rng(0)
    for shape in ((40, 12), (20, 60)):
        x, y = rng.normal(2.0, 3.0, size=shape), rng.normal(1.0, 1.0, size=shape[0])
        own = fit_ridge(x, y)
        left_out = own.left_out(np.arange(len(y)))
        scaled = StandardScaler().fit(x)
        theirs = RidgeCV(PENALTIES, store_cv_results=True).fit(scaled.transform(x), y)
        np.testing.assert_allclose(left_out, theirs.cv_results_.mean(axis=0), rtol=1e-6)
        best = left_out.argmin()
        assert PENALTIES[best] == theirs.alpha_
        predicted = theirs.predict(scaled.transform(x))
        np.testing.assert_allclose(own.predict(x)[best], predicted, rtol=1e-8)


#: Groups of one, two and six.
GROUPS = np.array([*range(4), 4, 4, 5, 5, *[6] * 6, *[7] * 10])


def test_groups_are_left_out_as_if_regressions_were_fitted_again() -> None:
    rng = np.random.default_rng(0)
    x, y, groups = rng.normal(size=(24, 6)), rng.normal(size=24), GROUPS
    scaled = StandardScaler().fit_transform(x)
    expected = np.zeros(len(PENALTIES))
    for k, penalty in enumerate(PENALTIES):
        for group in np.unique(GROUPS):
            block = groups == group
            model = Ridge(penalty).fit(scaled[~block], y[~block])
            expected[k] += ((model.predict(scaled[block]) - y[block]) ** 2).sum() / 24
    np.testing.assert_allclose(fit_ridge(x, y).left_out(groups), expected, rtol=1e-6)
