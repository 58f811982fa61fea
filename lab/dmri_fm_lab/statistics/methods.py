"""Methods text of an analysis, with works to cite and versions."""

from __future__ import annotations

from importlib.metadata import version

from dmri_fm import __version__
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.scan_tables import count_reasons
from dmri_fm_lab.statistics.analysis import Analysis
from dmri_fm_lab.statistics.request import StatsRequest

#: On the page and in every JSON file of an analysis.
USE = f"{RESEARCH_ONLY} Effects of groups say nothing about one person."

#: Packages that the numbers rest on.
PACKAGES = ("numpy", "scipy", "pandas", "statsmodels", "formulaic", "nilearn")


def versions() -> dict[str, str]:
    """Return the versions of this package and of those that the numbers rest on."""
    return {"dmri_fm": __version__, **{name: version(name) for name in PACKAGES}}


def is_by_site(request: StatsRequest) -> bool:
    """Tell whether sites have variances of their own."""
    return bool(request.site) and request.fit == "gls" and request.random is None


def write_methods(analysis: Analysis) -> str:
    """Return the methods text: paragraphs, `#` headings, citations `[@key]`."""
    request, sample = analysis.request, analysis.sample
    reasons = count_reasons(sample.cohort.left_out)
    left_out = "; ".join(f"{reason}: {n}" for reason, n in reasons.items())
    parts = [
        "# Sample",
        f"{len(sample.cohort)} scans of {sample.n_participants} participants were analysed. "
        + (f"Left out: {left_out}." if left_out else "None was left out."),
    ]
    if request.harmonise == "combat":
        kept = ", ".join(request.preserve or ()) or "no covariate"
        parts += [
            "# Harmonisation",
            f"Location and scale of sites ({', '.join(request.site)}) were removed by ComBat with "
            f"parametric empirical Bayes [@johnson2007; @fortin2017], preserving {kept}. Effects "
            "of sites are estimated from the scans that are tested, which later tests do not know "
            "of; covariates that are preserved can look more certain than they are "
            "[@nygaard2016].",
        ]
    parts += ["# Tests", f"The model is {request.formula}, value being each outcome in turn."]
    if request.tables:
        parts += [_model(analysis), _corrections(analysis)]
    if analysis.maps:
        parts += ["# Maps", _maps(analysis)]
    listed = ", ".join(f"{name} {v}" for name, v in versions().items())
    return "\n\n".join([*parts, "# Software", f"Computed with {listed}."])


def _model(analysis: Analysis) -> str:
    request = analysis.request
    if request.random:
        return (
            "Repeated scans have a random intercept for each participant, by restricted maximum "
            "likelihood [@lindstrom1988]; t has as many degrees of freedom as participants minus "
            "columns of the design. Cohen's d is in units of the total standard deviation, "
            "between and within participants."
        )
    known = [
        *(["the residual variance of each site"] if is_by_site(request) else []),
        *([f"the correlation within a {request.families}"] if request.families else []),
    ]
    is_weighted = request.fit == "gls" and bool(known)
    fit = (
        f"generalised least squares, {' and '.join(known)} being estimated for each outcome"
        if is_weighted
        else "ordinary least squares"
    )
    errors = (
        f"cluster-robust ({'CR3' if is_weighted else 'CR2'}) over blocks of one {request.families}"
        if request.families
        else f"heteroscedasticity-consistent ({'HC3' if is_weighted else 'HC2'})"
    )
    return (
        f"Columns of tables are fitted by {fit}; standard errors are {errors}, t has "
        "Satterthwaite's degrees of freedom [@pustejovsky2018]. The partial correlation "
        "relates residuals of outcome and regressor; Cohen's d is the difference in residual "
        "standard deviations; their intervals are those of the estimate on these scales. "
        "Intervals cover 95%."
    )


def _corrections(analysis: Analysis) -> str:
    request = analysis.request
    text = (
        "False discovery rates are those of Benjamini and Hochberg over the outcomes of one "
        "effect [@benjamini1995]."
    )
    if not request.permutations:
        return text
    units = {
        "whole": "exchanged as wholes among blocks of one size",
        "within": "permuted within blocks",
        "flip": "given random signs, block by block",
    }[request.exchange]
    blocks = f"blocks of one {request.families}" if request.families else "single scans"
    inside = ", within sites" if is_by_site(request) else ""
    works = "[@winkler2014; @winkler2015]" if request.families else "[@winkler2014]"
    return text + (
        f" Family-wise p are those of the largest absolute robust t over the outcomes of one "
        f"effect in {request.permutations} permutations of residuals of the reduced model "
        f"{works}: {blocks} were {units}{inside}."
    )


def _maps(analysis: Analysis) -> str:
    first = analysis.maps[0]
    request = analysis.request
    work = "[@winkler2015]" if first.is_robust else "[@abraham2014; @smith2009]"
    robust = (
        f"cluster-robust standard errors (CR2) over blocks of one {request.families}"
        if request.families
        else "heteroscedasticity-consistent standard errors (HC2)"
    )
    errors = robust if first.is_robust else "the residual variance that all scans share"
    return (
        "Maps in the space of the ICBM 152 template [@fonov2011] were tested in "
        f"{int(first.mask.sum())} voxels of grey and white matter that every scan covers, or of "
        f"the given mask. Voxels are fitted by ordinary least squares; t has {errors}. "
        f"Family-wise p over voxels: {first.method} {work}."
    )
