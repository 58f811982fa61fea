"""Known effects of a simulated cohort, looked for in the app's group tables.

Usage: python -m dmri_fm_lab.evaluate.effects BIDS OUT

BIDS was made by `dmri-fm simulate --participants N --sites M`, OUT by `drope-bidsapp BIDS OUT
participant` and `group`. White-matter FA and MD of the group table are regressed on age, group and
site by least squares. The same regression on the truth, averaged over the true white matter,
shows the effects that a pipeline without error would find.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import statsmodels.api as sm
from numpy.typing import NDArray

from dmri_fm.errors import DmriError, LayoutError
from dmri_fm.series import load_image, read_array

#: Effects that a correct pipeline finds, by (measure, cause): their sign.
EXPECTED = {("FA", "age"): -1, ("MD", "age"): 1, ("FA", "group"): -1, ("MD", "group"): 1}


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Read a table by participant."""
    if not path.exists():
        raise LayoutError("not there", path=path, expected="a table of participants")
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["participant_id"]: row for row in csv.DictReader(stream, delimiter="\t")}


def true_means(bids: Path, name: str) -> tuple[float, float]:
    """Return the true FA and MD of a participant's white matter, MD in mm^2/s."""
    stem = bids / "derivatives" / "truth" / name / "dwi" / f"{name}_"
    fa, md, white = (
        read_array(load_image(Path(f"{stem}{ending}.nii.gz")))
        for ending in (
            "model-tensor_param-fa_desc-truth_dwimap",
            "model-tensor_param-md_desc-truth_dwimap",
            "label-WM_desc-truth_probseg",
        )
    )
    inside = white > 0.9
    return float(fa[inside].mean()), float(md[inside].mean())


def design(people: list[dict[str, str]]) -> NDArray[np.float64]:
    """Return columns: constant, age, patient, and a column for each site but the first."""
    sites = sorted({p["site"] for p in people})[1:]
    columns = [
        [1.0, float(p["age"]), float(p["group"] == "patient"), *(p["site"] == s for s in sites)]
        for p in people
    ]
    return np.array(columns, dtype=np.float64)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the effects; exit 1 if one has the wrong sign in the app's table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    try:
        people = read_table(options.bids / "participants.tsv")
        table = read_table(options.out / "group" / "desc-scalars_features.tsv")
    except DmriError as error:
        print(error)
        return 1
    names = [name for name in people if name in table]
    print(f"{len(names)} of {len(people)} participants in the group table")
    truth = np.array([true_means(options.bids, name) for name in names])
    keys = ("tensor_fa_mean_wm", "tensor_md_mean_wm")
    measured = np.array([[float(table[name][key]) for key in keys] for name in names])
    columns = design([people[name] for name in names])
    is_right = True
    print("effect on white matter               truth          group table")
    for k, measure in enumerate(("FA", "MD")):
        scale = 1.0 if measure == "FA" else 1e3  # MD in 1e-3 mm^2/s
        fits = [sm.OLS(scale * data[:, k], columns).fit() for data in (truth, measured)]
        for j, cause in ((1, "age"), (2, "group")):
            cells = [f"{fit.params[j]:+.5f} (t {fit.tvalues[j]:+.1f})" for fit in fits]
            agrees = bool(np.sign(fits[1].params[j]) == EXPECTED[measure, cause])
            is_right &= agrees
            unit = "per year" if cause == "age" else "patient - control"
            print(f"{measure} {unit:24s} {cells[0]:>20s} {cells[1]:>20s}"
                  f"{'' if agrees else '   WRONG SIGN'}")  # fmt: skip
        apart = np.corrcoef(truth[:, k], measured[:, k])[0, 1]
        print(
            f"   correlation of the app's {measure} with the truth over participants: {apart:.2f}"
        )
    return 0 if is_right else 1


if __name__ == "__main__":
    raise SystemExit(main())
