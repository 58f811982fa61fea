"""Print what features, regional FA and MD, site and head size predict in simulated cohorts.

Usage: python benchmarks/cohort_bars.py COHORT [COHORT ...] [--folds 5] [--repeats 1] [--json OUT]

COHORT is an output of `dmri-fm simulate-cohort`. Age, sex, group and score are predicted by the
tuned and by the unpenalised head, in folds of participants that are stratified by the target; what
a region's FA and MD show of each target stands before. On the cohorts of the bars:

    dmri-fm simulate-cohort cohorts/fa-md --participants 200 --cache cohorts/fibres
    dmri-fm simulate-cohort cohorts/compensated --participants 200 --effect compensated \
        --cache cohorts/fibres
    python benchmarks/cohort_bars.py cohorts/fa-md cohorts/compensated
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dmri_fm_lab.evaluate.records import write_json
from dmri_fm_lab.evaluate.transfer import read_predictors
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.cohort_vectors import VectorRequest, gather_vectors
from dmri_fm_lab.prediction.draw_splits import Units, make_folds, make_strata
from dmri_fm_lab.prediction.heads import HeadSettings
from dmri_fm_lab.prediction.metrics import SCORES, TITLES, format_summary, summarise
from dmri_fm_lab.prediction.probe import Prediction, ProbeSettings, run_probe
from dmri_fm_lab.scan_tables import join_people, read_people, read_scan_table

TARGETS = ("age", "sex", "group", "score")

#: Scores of a table, by type of target.
N_SCORES = 2

#: Column of image quality that is a baseline.
HEAD_SIZE = "mask_volume_ml"


def predict(
    folder: Path, target: str, *, n_folds: int, n_repeats: int
) -> tuple[str, list[Prediction]]:
    """Predict a target from all vectors of a cohort; return its type and the predictions."""
    group = folder / "group"
    cohort = gather_vectors(
        read_predictors(group),
        read_people(folder / "participants.tsv"),
        VectorRequest(target, columns=("*",), site="site", baselines=(HEAD_SIZE,)),
        measures=read_scan_table(group / "desc-image_qc.tsv"),
    )
    strata, _ = make_strata({target: cohort.people[target]}, fewest=n_folds)
    units = Units(cohort.participants, strata, cohort.groups)
    folds = make_folds(units, n_folds=n_folds, n_repeats=n_repeats)
    settings = ProbeSettings(("tuned", "linear"), HeadSettings(cohort.task))
    return cohort.task, run_probe(cohort, folds, settings)


def show_regions(folder: Path) -> list[list[str]]:
    """Return the largest correlation of a region's FA and MD with each target, sites removed."""
    table = read_scan_table(folder / "group" / "desc-scalars_features.tsv")
    cohort = join_people(table, read_people(folder / "participants.tsv"))
    site = pd.get_dummies(cohort.people["site"]).to_numpy(dtype=float)

    def within_sites(values: Any) -> Any:
        columns = np.asarray(values, dtype=np.float64)
        return columns - site @ np.linalg.lstsq(site, columns, rcond=None)[0]

    lines = [["target", *(f"largest abs r, {m.upper()} in white matter" for m in ("fa", "md"))]]
    for target in TARGETS:
        codes = cohort.people[target]
        codes = codes if codes.dtype == float else pd.Series(pd.factorize(codes)[0])
        known = within_sites(codes.to_numpy())
        cells = []
        for measure in ("fa", "md"):
            regions = cohort.values.filter(regex=f"^tensor_{measure}_mean_wm_").dropna(axis=1)
            values = within_sites(regions)
            r = known @ values / np.linalg.norm(known) / np.linalg.norm(values, axis=0)
            cells.append(f"{np.abs(r).max():.2f}")
        lines.append([target, *cells])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohorts", type=Path, nargs="+", metavar="COHORT")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    record: dict[str, Any] = {}
    for folder in options.cohorts:
        print(f"## {folder.name}\n\n{markdown(show_regions(folder))}\n", flush=True)
        for target in TARGETS:
            task, found = predict(folder, target, n_folds=options.folds, n_repeats=options.repeats)
            names = SCORES[task][:N_SCORES]  # type: ignore[index]
            lines = [[target, "head", *(TITLES[s] for s in names)]]
            for own in found:
                cells = [format_summary(s, summarise(own.scores[s])) for s in names]
                lines.append([own.predictor.removesuffix(" *"), own.head, *cells])
            print(markdown(lines), end="\n\n", flush=True)
            record.setdefault(folder.name, {})[target] = {p.title: p.scores for p in found}
    if options.json:
        print(write_json(record, options.json))


if __name__ == "__main__":
    main()
