"""Harmonised outcomes of an analysis, and how far apart sites were before and after."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from dmri_fm_lab.harmonise import Combat
from dmri_fm_lab.statistics.design_matrix import build_design
from dmri_fm_lab.statistics.linear import Floats


class SiteSpread(NamedTuple):
    """Sites after covariates are taken out, in units of each outcome's standard deviation.

    Attributes
    ----------
    sites
        S names.
    before, after
        Shape (2, S, D): mean and standard deviation of each site in each outcome.
    """

    sites: tuple[str, ...]
    before: Floats
    after: Floats


def harmonise(
    values: pd.DataFrame, site: pd.Series, people: pd.DataFrame, *, preserve: tuple[str, ...]
) -> tuple[pd.DataFrame, SiteSpread]:
    """Remove location and scale of sites by ComBat.

    Parameters
    ----------
    values
        Outcomes, NaN where missing.
    site
        Site of each row.
    people
        Covariates of each row.
    preserve
        Terms of a formula whose effects stay.

    Raises
    ------
    ConfigError, InputError
        As :func:`~dmri_fm_lab.statistics.design_matrix.build_design` and
        :meth:`~dmri_fm_lab.harmonise.Combat.fit`.
    """
    covariates = np.empty((len(values), 0))
    if preserve:
        design = build_design(f"value ~ {' + '.join(preserve)}", people)
        columns = [i for i, name in enumerate(design.names) if name != "Intercept"]
        covariates = design.matrix[:, columns]
    before = values.to_numpy(dtype=np.float64)
    combat = Combat.fit(before, list(site), covariates)
    after = combat.transform(before, list(site), covariates)
    # Sites are compared at equal covariates, by the effects that were estimated within sites.
    explained = covariates @ combat.slopes
    spread = SiteSpread(
        combat.sites,
        _moments((before - explained - combat.mean) / combat.sigma, site, combat.sites),
        _moments((after - explained - combat.mean) / combat.sigma, site, combat.sites),
    )
    return pd.DataFrame(after, index=values.index, columns=values.columns), spread


def _moments(z: Floats, site: pd.Series, sites: tuple[str, ...]) -> Floats:
    parts = [z[(site == s).to_numpy()] for s in sites]
    return np.stack(
        [
            [np.nanmean(part, axis=0) for part in parts],
            [np.nanstd(part, axis=0, ddof=1) for part in parts],
        ]
    )
