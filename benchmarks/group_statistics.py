"""Do the group statistics keep what they promise, on simulated cohorts with known effects?

    python benchmarks/group_statistics.py [--repetitions N] [--skip-large]
    python benchmarks/group_statistics.py --example FOLDER

Prints rates of false positives and coverage of intervals over cohorts without an effect, power
beside that of a regression that knows the true covariance of the errors, family-wise error rates,
what ComBat leaves of sites in new participants, and time and memory of large tables. The second
form writes tables of a simulated cohort with a DESIGN.toml, and the figure of the page in docs/,
drawn from them.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dmri_fm_lab.harmonise import Combat
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.simulate.cohort_tables import (
    CohortModel,
    draw_cohort,
    draw_people,
    draw_site_shifts,
    draw_values,
    write_cohort,
)
from dmri_fm_lab.statistics.analysis import analyse
from dmri_fm_lab.statistics.charts import draw_forest
from dmri_fm_lab.statistics.design_matrix import DesignMatrix, build_design
from dmri_fm_lab.statistics.linear import Effects, effects_of
from dmri_fm_lab.statistics.outcomes import Dependence, Permutations, score_outcomes
from dmri_fm_lab.statistics.request import read_request
from dmri_fm_workflows.report.svg import write_svg

Floats = NDArray[np.float64]

FORMULA = "value ~ age + C(group) + C(site)"

GROUP, AGE = "C(group)[T.patient]", "age"

#: Outcomes of one draw of participants; each is a repetition.
PER_COHORT = 50

SITES = CohortModel(age_effect=0.5, site_shift=1.0)
UNEQUAL = replace(SITES, site_scales=(2.0, 1.0, 0.5), patient_shares=(0.2, 0.5, 0.8))
FAMILIES = CohortModel(site_shift=1.0, family_size=3, family_share=0.5)
ALL = replace(FAMILIES, site_scales=(2.0, 1.0, 0.5), patient_shares=(0.2, 0.5, 0.8))

SCENARIOS = {
    "no effect": (CohortModel(), GROUP),
    "age and sites": (SITES, GROUP),
    "age and sites, confounded": (replace(SITES, site_age=0.6), GROUP),
    "unequal variances of sites": (UNEQUAL, GROUP),
    "families of 3": (FAMILIES, AGE),
    "families, unequal variances": (ALL, AGE),
}

METHODS = ("plain", "ols", "gls")


class Counts(NamedTuple):
    """Number of repetitions, and of those in which something happened."""

    n: int
    hits: int

    def __str__(self) -> str:
        low, high = stats.binomtest(self.hits, self.n).proportion_ci(method="wilson")
        return f"{100 * self.hits / self.n:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def cohorts(
    model: CohortModel, n: int, rng: np.random.Generator
) -> Iterator[tuple[pd.DataFrame, DesignMatrix, Floats]]:
    """Yield participants, design and outcomes until there are n outcomes."""
    model = replace(model, correlation=0.0)  # outcomes are repetitions: independent
    for _ in range(-(-n // PER_COHORT)):
        people = draw_people(model, rng)
        yield (
            people,
            build_design(FORMULA, people),
            draw_values(model, people, rng, n_outcomes=PER_COHORT),
        )


def scores(
    method: str, people: pd.DataFrame, design: DesignMatrix, values: Floats, effect: str
) -> pd.DataFrame:
    """Test an effect by one of METHODS."""
    if method == "plain":
        return plain(design.matrix, values, design.names.index(effect))
    dependence = Dependence(
        np.unique(people["family_id"], return_inverse=True)[1],
        np.unique(people["site"], return_inverse=True)[1] if method == "gls" else None,
        is_estimated=method == "gls",
    )
    return score_outcomes(pd.DataFrame(values), design, design.contrasts([effect], {}), dependence)


def plain(design: Floats, values: Floats, column: int) -> pd.DataFrame:
    """Test by least squares of independent errors of one variance."""
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ values
    df = len(design) - design.shape[1]
    squares = ((values - design @ coefficients) ** 2).sum(axis=0)
    errors = np.sqrt(squares / df * inverse[column, column])
    found = effects_of(coefficients[column], errors, np.full(len(errors), float(df)), level=0.95)
    return frame(found)


def frame(effects: Effects) -> pd.DataFrame:
    return pd.DataFrame({"p": effects.p, "ci_low": effects.low, "ci_high": effects.high})


def oracle(
    model: CohortModel, people: pd.DataFrame, design: Floats, values: Floats, column: int
) -> pd.DataFrame:
    """Test by the regression that knows the covariance of the errors up to a factor."""
    scales = np.asarray(model.site_scales)[people["site"].str[4:].astype(int) - 1]
    same = people["family_id"].to_numpy()[:, None] == people["family_id"].to_numpy()
    correlation = model.family_share * same + (1 - model.family_share) * np.eye(len(people))
    root = np.linalg.cholesky(scales[:, None] * correlation * scales)
    return plain(np.linalg.solve(root, design), np.linalg.solve(root, values), column)


def print_rates(n: int) -> None:
    """Print false positives without an effect."""
    rates = []
    for number, (name, (model, effect)) in enumerate(SCENARIOS.items()):
        hits = dict.fromkeys(METHODS, 0)
        rng, total = np.random.default_rng([1, number]), 0
        for people, design, values in cohorts(model, n, rng):
            total += values.shape[1]
            for method in METHODS:
                found = scores(method, people, design, values, effect)
                hits[method] += int((found["p"] < 0.05).sum())
        rates.append([f"{name} ({effect})", *(str(Counts(total, hits[m])) for m in METHODS)])
    print(f"\nFalse positives at 5%, {n} repetitions, 200 participants, 3 sites (95% interval)\n")
    print(markdown([["cohort (effect tested)", *METHODS], *rates]), flush=True)


def print_power(n: int) -> None:
    """Print power and coverage with an effect, beside the oracle."""
    power, coverage = [], []
    for number, (name, (model, effect)) in enumerate(SCENARIOS.items()):
        size = {GROUP: 0.4, AGE: 0.2}[effect]
        key = {GROUP: "group_effect", AGE: "age_effect"}[effect]
        truth = size / (15 if effect == AGE else 1)
        model = replace(model, **{key: size})
        methods = (*METHODS, "oracle")
        hits, covered = dict.fromkeys(methods, 0), dict.fromkeys(methods, 0)
        rng, total = np.random.default_rng([2, number]), 0
        for people, design, values in cohorts(model, n, rng):
            total += values.shape[1]
            column = design.names.index(effect)
            for method in methods:
                found = (
                    oracle(model, people, design.matrix, values, column)
                    if method == "oracle"
                    else scores(method, people, design, values, effect)
                )
                hits[method] += int((found["p"] < 0.05).sum())
                is_in = (found["ci_low"] < truth) & (found["ci_high"] > truth)
                covered[method] += int(is_in.sum())
        power.append([f"{name} ({effect})", *(f"{100 * hits[m] / total:.1f}%" for m in methods)])
        coverage.append([name, *(str(Counts(total, covered[m])) for m in methods)])
    head = ["cohort (effect tested)", *METHODS, "oracle"]
    print(f"\nPower at 5%, {n} repetitions; effects of .4 (group) and .2 (age, per 15 years)\n")
    print(markdown([head, *power]))
    print("\nCoverage of 95% intervals of these effects\n")
    print(markdown([head, *coverage]), flush=True)


def print_family_wise(n: int) -> None:
    """Print family-wise error rates of permutations over correlated outcomes."""
    rows = []
    for name in ("age and sites", "unequal variances of sites", "families, unequal variances"):
        model, effect = SCENARIOS[name]
        cells = []
        for method in METHODS[1:]:
            rng, hits = np.random.default_rng(3), 0
            for seed in range(n):
                people = draw_people(model, rng)
                values = draw_values(model, people, rng, n_outcomes=20)
                design = build_design(FORMULA, people)
                dependence = Dependence(
                    np.unique(people["family_id"], return_inverse=True)[1],
                    np.unique(people["site"], return_inverse=True)[1] if method == "gls" else None,
                    is_estimated=method == "gls",
                )
                found = score_outcomes(
                    pd.DataFrame(values),
                    design,
                    design.contrasts([effect], {}),
                    dependence,
                    permutations=Permutations(199, seed=seed),
                )
                hits += int((found["p_fwe"] <= 0.05).any())
            cells.append(str(Counts(n, hits)))
        rows.append([f"{name} ({effect})", *cells])
    print(f"\nFamily-wise error at 5%, {n} cohorts of 20 outcomes, 199 permutations\n")
    print(markdown([["cohort (effect tested)", *METHODS[1:]], *rows]), flush=True)


def print_combat_tests(n: int) -> None:
    """Print false positives of tests after ComBat, with and without sites in the formula."""
    rows = []
    for name, model in (
        ("balanced", SITES),
        ("patients unequally spread", replace(SITES, patient_shares=(0.1, 0.5, 0.9))),
    ):
        hits, total = {"without": 0, "with": 0}, 0
        rng = np.random.default_rng(4)
        for people, design, values in cohorts(model, n, rng):
            kept = design.matrix[:, [design.names.index(c) for c in (AGE, GROUP)]]
            site = people["site"].tolist()
            after = Combat.fit(values, site, kept).transform(values, site, kept)
            without = build_design("value ~ age + C(group)", people)
            total += values.shape[1]
            for key, of in (("without", without), ("with", design)):
                found = scores("gls", people, of, after, GROUP)
                hits[key] += int((found["p"] < 0.05).sum())
        rows.append([name, *(str(Counts(total, h)) for h in hits.values())])
    print("\nFalse positives of a group effect after ComBat that preserves age and group\n")
    print(markdown([["cohort", "formula without site", "formula with site"], *rows]), flush=True)


def print_combat_sites(n: int) -> None:
    """Print how well sites are predicted from new participants' measures, and age as well."""
    rows = []
    for name, site_age in (("balanced", 0.0), ("confounded", 0.6)):
        model = CohortModel(
            n_outcomes=48, age_effect=0.5, site_shift=1.0, site_scales=(1.5, 1.0, 0.7),
            site_age=site_age,
        )  # fmt: skip
        cells: dict[str, list[list[float]]] = {}
        for seed in range(n):
            rng = np.random.default_rng([5, seed])
            shifts = draw_site_shifts(model, rng, model.n_outcomes)
            test = draw_people(model, rng)
            new = draw_values(model, test, rng, site_shifts=shifts)
            age, site = test["age"].to_numpy(), test["site"].to_numpy()
            measures = {"before": new}
            for n_train in (200, 2000):
                train = draw_people(replace(model, n_participants=n_train), rng)
                known = draw_values(model, train, rng, site_shifts=shifts)
                combat = Combat.fit(known, train["site"].tolist(), train[["age"]])
                measures[f"ComBat fitted on {n_train}"] = combat.transform(
                    new, site.tolist(), age[:, None]
                )
            same = replace(model, site_shift=0.0, site_scales=(1.0, 1.0, 1.0))
            measures["sites without effects"] = draw_values(same, test, rng)
            measures["age alone"] = age[:, None]
            for key, data in measures.items():
                cells.setdefault(key, []).append(_predictability(data, site, age))
        for key, found in cells.items():
            means = [f"{m:.3f}" for m in np.mean(found, axis=0)]
            rows.append([name, key, *means[:2], "-" if key == "age alone" else means[2]])
    print(f"\nSites from measures of 200 new participants, mean of {n} cohorts; chance is .333\n")
    head = ["age and site", "measures", "site, linear", "site, forest", "age R2"]
    print(markdown([head, *rows]), flush=True)


def _predictability(measures: Floats, site: NDArray[np.str_], age: Floats) -> list[float]:
    """Return balanced accuracies of site, linear and forest, and R2 of age, cross-validated."""
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    forest = RandomForestClassifier(100, random_state=0)
    found = [
        float(balanced_accuracy_score(site, cross_val_predict(classifier, measures, site, cv=5)))
        for classifier in (linear, forest)
    ]
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11)))
    predicted = cross_val_predict(ridge, measures, age, cv=5)
    return [*found, float(1 - np.mean((age - predicted) ** 2) / age.var())]


def print_cost() -> None:
    """Print time and peak memory of tests with permutations of a large table."""
    model = CohortModel(
        10_000, 400, age_effect=0.1, site_shift=1.0, family_size=2, family_share=0.3
    )
    rng = np.random.default_rng(6)
    people = draw_people(model, rng)
    values = pd.DataFrame(draw_values(model, people, rng))
    design = build_design(FORMULA, people)
    blocks = np.unique(people["family_id"], return_inverse=True)[1]
    site = np.unique(people["site"], return_inverse=True)[1]
    print("\n10,000 scans x 400 outcomes, 1,000 permutations, families of 2\n")
    for name, groups in (("ols", None), ("gls", site)):
        start, cpu = time.perf_counter(), time.process_time()
        score_outcomes(
            values,
            design,
            design.contrasts([AGE], {}),
            Dependence(blocks, groups, is_estimated=groups is not None),
            permutations=Permutations(1000),
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{name}: {time.process_time() - cpu:.0f} CPU-s, "
            f"{time.perf_counter() - start:.0f} s on the clock, {peak:.2f} GiB at most so far",
            flush=True,
        )


EXAMPLE = """tables = ["regions.tsv"]
participants = "participants.tsv"
formula = "value ~ age + C(sex) + C(group) + C(site)"
terms = ["age", "C(group)"]
site = ["site"]
families = "family_id"
"""


def write_example(folder: Path) -> None:
    """Write a simulated cohort with its DESIGN.toml, and draw the effect of its group."""
    model = CohortModel(
        n_outcomes=24, age_effect=-0.4, group_effect=-0.6, n_affected=8, site_shift=1.0,
        site_scales=(1.0, 1.5, 0.7), family_size=2, family_share=0.3,
    )  # fmt: skip
    write_cohort(draw_cohort(model, np.random.default_rng(0)), folder)
    design = folder / "design.toml"
    design.write_text(EXAMPLE, encoding="utf-8")
    analysis = analyse(read_request(design))
    of_group = analysis.results[analysis.results["effect"] == GROUP]
    print(write_svg(draw_forest(of_group, alpha=0.05), folder / "group_statistics.svg"))
    print(design)


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--example", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.example:
        write_example(options.example)
        return
    n = options.repetitions
    print_rates(n)
    print_power(n)
    print_family_wise(max(n // 10, 1))
    print_combat_tests(n)
    print_combat_sites(max(n // 400, 1))
    if not options.skip_large:
        print_cost()


if __name__ == "__main__":
    main()
