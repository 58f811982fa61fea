"""Calibration of normative z-scores in new controls, against a simulated truth.

Usage: python benchmarks/norms.py [--repeats N] [--figure docs/img/norms_calibration.svg]

The mean of the measure bends with age, its variance grows with age, three sites shift and widen
it. For reference cohorts of several sizes, 500 new controls and 500 patients one standard
deviation below are scored: mean, standard deviation and tails of their z over all repeats, and
how often the command refuses the measure. A measure with skewed errors has to be refused.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from dmri_fm.errors import ConfigError
from dmri_fm_lab.exports import NormsRequest
from dmri_fm_lab.exports.calibration import draw_calibration
from dmri_fm_lab.exports.norms import compute_norms
from dmri_fm_lab.scan_tables import Cohort

SIZES = (120, 200, 500, 2000)


def simulate(
    sizes: dict[str, int], *, seed: int = 0, shift: float = -1.0
) -> tuple[Cohort, NDArray[np.float64]]:
    """Draw a measure (`fa`), one with skewed errors (`skewed`), and the true z of the first.

    Parameters
    ----------
    sizes
        Participants of each group; the group `patient` lies off the others.
    seed
        Of the draw.
    shift
        How far patients lie off, standard deviations of their age, sex and site.
    """
    rng = np.random.default_rng(seed)
    n = sum(sizes.values())
    people = pd.DataFrame(
        {
            "age": rng.uniform(20, 80, n),
            "sex": rng.choice(["F", "M"], n),
            "site": rng.choice(["A", "B", "C"], n, p=[0.5, 0.35, 0.15]),
            "group": np.repeat(list(sizes), list(sizes.values())),
        },
        index=[f"sub-{i:04d}" for i in range(n)],
    )
    people["participant_id"] = people.index
    age = (people["age"] - 50) / 30
    mean = 0.45 - 0.02 * age - 0.03 * age**2 + 0.01 * (people["sex"] == "M")
    mean += people["site"].map({"A": 0.0, "B": 0.03, "C": -0.02})
    spread = 0.02 * np.exp(0.4 * age) * people["site"].map({"A": 1.0, "B": 1.5, "C": 1.0})
    z = rng.normal(size=n) + shift * (people["group"] == "patient").to_numpy()
    skewed = np.exp(2 * rng.normal(size=n))
    values = pd.DataFrame({"fa": mean + spread * z, "skewed": skewed}, people.index)
    return Cohort(people, values), z


def main() -> None:
    """Print the calibration, and draw that of one cohort."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    print("| reference | new controls: mean | sd | below 5% | above 95% | patients: mean |"
          " error of z | refused | skewed refused |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    limit = norm.ppf(0.95)
    for size in SIZES:
        new, patients, errors, refused, caught = [], [], [], 0, 0
        for seed in range(options.repeats):
            cohort, truth = simulate({"control": size, "new": 500, "patient": 500}, seed=seed)
            try:
                compute_norms(cohort, NormsRequest(["skewed"], "group == control"))
            except ConfigError:
                caught += 1
            try:
                norms = compute_norms(cohort, NormsRequest(["fa"], "group == control"))
            except ConfigError:
                refused += 1
                continue
            z, group = norms.scores["fa"], norms.cohort.people["group"]
            known = pd.Series(truth, cohort.people.index)[z.index]
            new.append(z[group == "new"])
            patients.append(z[group == "patient"])
            errors.append((z - known)[group != "control"])
        z, out = np.concatenate(new), np.concatenate(patients)
        print(
            f"| {size} | {z.mean():.2f} | {z.std():.2f} | {100 * (z < -limit).mean():.1f}% | "
            f"{100 * (z > limit).mean():.1f}% | {out.mean():.2f} | "
            f"{np.concatenate(errors).std():.2f} | {refused} of {options.repeats} | "
            f"{caught} of {options.repeats} |",
            flush=True,
        )
    if options.figure:
        cohort, _ = simulate({"control": 500, "patient": 50}, seed=0)
        found = compute_norms(cohort, NormsRequest(["fa", "skewed"], "group == control"))
        options.figure.write_text(draw_calibration(found.calibration), encoding="utf-8")


if __name__ == "__main__":
    main()
