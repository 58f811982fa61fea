"""An analysis from request to results: tables, maps and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dmri_fm.errors import ConfigError
from dmri_fm_lab.scan_tables import listed
from dmri_fm_lab.statistics.design_matrix import DesignMatrix, build_design
from dmri_fm_lab.statistics.gather import (
    Sample,
    exclusions_by_group,
    find_groups,
    gather_sample,
)
from dmri_fm_lab.statistics.harmonised import SiteSpread, harmonise
from dmri_fm_lab.statistics.linear import Floats, Integers
from dmri_fm_lab.statistics.maps import MapScores, score_maps
from dmri_fm_lab.statistics.outcomes import (
    COLUMNS,
    Dependence,
    Permutations,
    find_unusable,
    score_outcomes,
)
from dmri_fm_lab.statistics.permutations import find_exchangeable
from dmri_fm_lab.statistics.request import StatsRequest
from dmri_fm_workflows.report.content import ReportWarning

#: More sites than this are many for fixed effects.
MANY_SITES = 10

#: Fewer effective degrees of freedom than this leave the tests little to go by.
FEW_DF = 10


@dataclass(frozen=True, eq=False)
class Analysis:
    """Results of an analysis.

    Attributes
    ----------
    request
        What was asked for.
    sample
        What was analysed, and left out.
    design, contrasts
        Design matrix, and linear combinations of its coefficients by name.
    results
        See :func:`~dmri_fm_lab.statistics.outcomes.score_outcomes`; empty without tables.
    maps
        Voxel-wise results.
    spread
        Sites before and after ComBat.
    exclusions
        Scans by reason and group.
    warnings
        What a reader must know first.
    """

    request: StatsRequest
    sample: Sample
    design: DesignMatrix
    contrasts: Mapping[str, Floats]
    results: pd.DataFrame
    maps: tuple[MapScores, ...]
    spread: SiteSpread | None
    exclusions: pd.DataFrame
    warnings: tuple[ReportWarning, ...]


def analyse(request: StatsRequest) -> Analysis:
    """Run an analysis.

    Raises
    ------
    InputError, ConfigError
        As :func:`~dmri_fm_lab.statistics.gather.gather_sample`,
        :func:`~dmri_fm_lab.statistics.design_matrix.build_design` and the tests raise them.
    """
    sample = gather_sample(request)
    people, values = sample.cohort.people, sample.cohort.values
    design = build_design(request.formula, people)
    contrasts = design.contrasts(request.terms, request.contrasts)
    dependence = _dependence(sample, request)
    permutations = Permutations(
        request.permutations, request.exchange, request.seed, request.alpha
    )
    spread = None
    if request.harmonise == "combat":
        usable = values[[c for c in values if c not in find_unusable(values)]]
        harmonised, spread = harmonise(
            usable, people[sample.site], people, preserve=request.preserve or ()
        )
        values = values.assign(**{str(c): harmonised[c] for c in harmonised})
    results = pd.DataFrame(columns=list(COLUMNS))
    if request.tables:
        if values.shape[1] == 0:
            raise ConfigError(
                "no outcome is left",
                expected="columns of numbers that are no covariate",
                advice="look at columns and formula",
            )
        results = score_outcomes(values, design, contrasts, dependence, permutations=permutations)
    maps: list[MapScores] = []
    if request.maps is not None:
        scans = people.index
        maps = score_maps(
            request.maps, scans, design.matrix, contrasts, dependence, permutations=permutations
        )
    sites = [sample.site] if sample.site else []
    groups = find_groups(people, [*sample.variables, *sites], request)
    return Analysis(
        request=request,
        sample=sample,
        design=design,
        contrasts=contrasts,
        results=results,
        maps=tuple(maps),
        spread=spread,
        exclusions=exclusions_by_group(sample, groups),
        warnings=(
            *_column_warnings(sample),
            *_site_warnings(request, sample),
            *_exchange_warnings(request, dependence, design.matrix, contrasts),
            *_result_warnings(results),
        ),
    )


def _dependence(sample: Sample, request: StatsRequest) -> Dependence:
    people = sample.cohort.people
    blocks = np.arange(len(people))
    if request.families:
        blocks = _numbered(people[request.families])
    return Dependence(
        blocks=blocks,
        groups=_numbered(people[sample.site]) if sample.site and request.fit == "gls" else None,
        is_estimated=request.fit == "gls",
        participants=_numbered(people[request.random]) if request.random else None,
    )


def _numbered(column: pd.Series) -> Integers:
    return np.unique(column.astype(str), return_inverse=True)[1]


def _column_warnings(sample: Sample) -> Iterator[ReportWarning]:
    if sample.untested:
        yield ReportWarning(
            "note",
            f"{len(sample.untested)} columns were not tested: they tell of protocol, coverage or "
            f"counts, not of the brain ({listed(sample.untested)}).",
            advice="Name one in columns to test it, or in the formula to adjust for it.",
        )


def _site_warnings(request: StatsRequest, sample: Sample) -> Iterator[ReportWarning]:
    if not request.site:
        return
    if not {sample.site, *request.site} & {*sample.variables}:
        yield ReportWarning(
            "warning",
            "The formula has no site, though ComBat estimated effects of sites from the same "
            "scans: standard errors are too small where sites differ in the covariates."
            if request.harmonise == "combat"
            else "Sites are known but neither in the formula nor harmonised.",
            advice=f"Add C({sample.site}) to the formula.",
        )
    elif (n_sites := sample.cohort.people[sample.site].nunique()) > MANY_SITES:
        yield ReportWarning(
            "note",
            f"{n_sites} sites are fixed effects.",
            advice="ComBat shares information between outcomes where sites are small.",
        )


def _exchange_warnings(
    request: StatsRequest, dependence: Dependence, design: Floats, contrasts: Mapping[str, Floats]
) -> Iterator[ReportWarning]:
    if not request.permutations or request.random:
        return
    allowed = find_exchangeable(dependence.blocks, dependence.groups, exchange=request.exchange)
    if allowed.n_fixed:
        yield ReportWarning(
            "note",
            f"{allowed.n_fixed} of {len(dependence.blocks)} scans never move in the permutations: "
            "no other block has their size and site.",
            advice='exchange = "flip" moves them all, if errors are symmetric.',
        )
    unmoved = [
        name
        for name, contrast in contrasts.items()
        if all(
            np.ptp((design @ contrast)[units], axis=0).max() < 1e-9 for units in allowed.classes
        )
    ]
    if unmoved and request.exchange == "whole":
        yield ReportWarning(
            "warning",
            f"Family-wise p of {listed(unmoved)} cannot be small: all blocks have the same values "
            "of it, and blocks that take each other's place do not change it.",
            advice='exchange = "within" or "flip" tests effects inside families.',
        )


def _result_warnings(results: pd.DataFrame) -> Iterator[ReportWarning]:
    failed = results[results["p"].isna()]
    if len(failed):
        reasons = failed.drop_duplicates("outcome")["problem"].value_counts()
        words = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
        yield ReportWarning(
            "warning",
            f"Outcomes that were not tested: {failed['outcome'].nunique()} ({words}).",
            advice="They are named in statistics.tsv, column problem.",
        )
    low = results[results["df"] < FEW_DF]
    if len(low):
        yield ReportWarning(
            "warning",
            f"As few as {low['df'].min():.1f} degrees of freedom for "
            f"{', '.join(low['effect'].unique())}.",
            advice="Few families or scans carry these effects; read their intervals.",
        )
    holed = results[(results["n_missing"] > 0) & results["p"].notna()]
    if len(holed):
        yield ReportWarning(
            "note",
            f"{holed['outcome'].nunique()} outcomes lack values of some scans, which are left out "
            "of that outcome alone. Outcomes of different scans are permuted apart, which makes "
            "their family-wise p careful.",
        )
