"""What PLINK 2 and REGENIE accept in phenotype and covariate files, and how they read it.

Both read text that is split at tabs and spaces, with a header.

PLINK 2 (cog-genomics.org/plink/2.0/input#pheno; `LoadPhenos` in plink2_psam.cc):

* The header starts with `#FID IID` or `#IID`. Names are unique and none of FID, IID, SID, PAT,
  MAT. No later line starts with `#`; no sample stands there twice.
* `NA`, `nan` (any case) and -9 are missing. A column whose values are all 0, 1, 2 or missing is a
  case/control trait: 1 control, 2 case, 0 missing. A column that starts with text is categorical;
  numbers and text do not mix.
* `--glm` stops at covariates with a variance inflation factor above 50 or a correlation above
  0.999 (cog-genomics.org/plink/2.0/assoc#glm), and needs variance in a phenotype.

REGENIE (rgcgithub.github.io/regenie/options; `pheno_read` and `covariate_read` in Pheno.cpp):

* The header starts with `FID IID`. Each line has as many fields as the header.
* `NA` is missing, and so is the number -999. All traits of a run are quantitative, or (`--bt`)
  binary: 0 control, 1 case. Traits with fewer than 10 cases are passed over (`--minCaseCount`).
* Samples are matched by `FID_IID`; none may stand there twice.
* Samples without a value of a covariate leave the analysis. A phenotype needs variance.
* Lists of columns (`--phenoColList`) are split at commas and expand braces and colons.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm_lab.scan_tables import listed

#: Names that neither program splits, expands or keeps for itself.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")

_RESERVED = ("FID", "IID", "SID", "PAT", "MAT")

#: `--glm` of PLINK 2 stops beyond these.
MAX_VIF, MAX_CORRELATION = 50.0, 0.999

#: Fewest participants of a trait, and cases (and controls) of a binary one.
MIN_PARTICIPANTS, MIN_CASES = 10, 10


class Trait(NamedTuple):
    """A phenotype: its values, 0 and 1 (case) where it is binary."""

    values: pd.Series
    is_binary: bool


@dataclass(frozen=True)
class Dialect:
    """How a program wants its files.

    Attributes
    ----------
    program
        For people.
    header
        First two words of a header.
    control
        Code of controls; cases have one more.
    missing_number
        A number that is read as missing.
    is_split
        Whether quantitative and binary traits need files of their own.
    """

    program: str
    header: tuple[str, str]
    control: int
    missing_number: float
    is_split: bool

    def flags(self, files: Sequence[str]) -> list[str]:
        """Return the flags under which the program reads the files, one text per run."""
        covariates = [f for f in files if f.endswith(".covar")]
        if self.is_split:
            tail = f" --covarFile {covariates[0]}" if covariates else ""
            modes = {".bt.pheno": " --bt", ".qt.pheno": ""}
            return [
                f"--phenoFile {f}{mode}{tail}"
                for f in files
                for ending, mode in modes.items()
                if f.endswith(ending)
            ]
        # Their scales differ; the scale of a covariate changes no test of a variant.
        tail = f" --covar {covariates[0]} --covar-variance-standardize" if covariates else ""
        return [f"--pheno {f}{tail}" for f in files if f.endswith(".pheno")]


DIALECTS: Mapping[str, Dialect] = {
    "plink": Dialect("PLINK 2", ("#FID", "IID"), 1, -9.0, is_split=False),
    "regenie": Dialect("REGENIE", ("FID", "IID"), 0, -999.0, is_split=True),
}


def read_back(text: str, is_binary: Mapping[str, bool], form: Dialect) -> pd.DataFrame:
    """Read a file as the program would, and refuse what it would refuse or misread.

    Parameters
    ----------
    text
        Contents of the file.
    is_binary
        Whether each phenotype is binary; empty for a file of covariates.
    form
        The program's rules.

    Returns
    -------
    DataFrame
        Index of (FID, IID); float64, NaN where the program sees a missing value; binary traits
        are 0 and 1.

    Raises
    ------
    ConfigError
        If a rule is broken.
    """
    header, *lines = text.splitlines()
    first, second, *names = re.split(r"[\t ]+", header)
    if (first, second) != form.header:
        raise _refusal(form, f"header starts with {first} {second}", " ".join(form.header))
    _check_names(names, form)
    rows = [re.split(r"[\t ]+", line) for line in lines]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names) + 2 or "" in row:
            raise _refusal(
                form,
                f"line {number} has {len(row)} fields under {len(names) + 2} names",
                "identifiers without spaces",
            )
    _check_identifiers(rows, form)
    cells = np.array([row[2:] for row in rows], dtype=object).reshape(len(rows), len(names))
    index = pd.MultiIndex.from_tuples([(r[0], r[1]) for r in rows], names=["FID", "IID"])
    columns = {}
    for position, name in enumerate(names):
        values = _as_the_program_reads(cells[:, position], name, form)
        columns[name] = _check_column(values, name, is_binary.get(name), form)
    return pd.DataFrame(columns, index)


def _refusal(form: Dialect, found: str, expected: str, advice: str | None = None) -> ConfigError:
    return ConfigError(f"{form.program}: {found}", expected=expected, advice=advice)


def _check_names(names: Sequence[str], form: Dialect) -> None:
    if not names:
        raise _refusal(form, "no column", "at least one phenotype or covariate")
    bad = [n for n in names if not _NAME.fullmatch(n) or n.upper() in _RESERVED]
    if bad or len(set(names)) < len(names):
        twice = sorted(name for name, n in Counter(names).items() if n > 1)
        raise _refusal(
            form,
            f"names that it would refuse or split: {listed(bad or twice)}",
            "unique names of letters, digits, `_` and `.`, the first a letter; none of "
            + ", ".join(_RESERVED),
            "rename the columns, or the levels of a covariate",
        )


def _check_identifiers(rows: Sequence[Sequence[str]], form: Dialect) -> None:
    bad = [r[1] for r in rows if r[1] == "0" or r[0].startswith("#")]
    if bad:
        raise _refusal(form, f"identifiers {listed(bad)}", "IID other than 0, no FID with #")
    keys = [f"{r[0]}_{r[1]}" for r in rows]
    if twice := sorted(key for key, n in Counter(keys).items() if n > 1):
        raise _refusal(
            form,
            f"{len(twice)} samples stand there twice (FID_IID): {listed(twice)}",
            "one row per sample",
        )


def _as_the_program_reads(
    cells: NDArray[np.object_], name: str, form: Dialect
) -> NDArray[np.float64]:
    is_missing = np.array([cell.lower() in ("na", "nan") for cell in cells], dtype=bool)
    try:
        values = np.array(
            [np.nan if out else float(cell) for cell, out in zip(cells, is_missing, strict=True)]
        )
    except ValueError:
        raise _refusal(form, f"{name} has text among its values", "numbers and NA") from None
    if np.isinf(values).any():
        raise _refusal(form, f"{name} has an infinite value", "finite numbers and NA")
    lost = values == form.missing_number
    if lost.any():
        raise _refusal(
            form,
            f"{name} has {lost.sum()} values of {form.missing_number:g}, its code for missing",
            "another value",
            "write missing values as n/a, or shift the scale of the column",
        )
    return values


def _check_column(
    values: NDArray[np.float64], name: str, is_binary: bool | None, form: Dialect
) -> NDArray[np.float64]:
    """Return a column in the form that is analysed; `is_binary` is None for a covariate."""
    known = values[np.isfinite(values)]
    if is_binary is None:
        if len(known) < len(values):
            raise _refusal(form, f"covariate {name} has missing values", "none")
        return values
    if len(known) < MIN_PARTICIPANTS:
        raise _refusal(
            form, f"{name} has {len(known)} values", f"at least {MIN_PARTICIPANTS} participants"
        )
    if is_binary:
        codes = (form.control, form.control + 1)
        n_controls, n_cases = (int((known == code).sum()) for code in codes)
        if n_controls + n_cases < len(known):
            raise _refusal(form, f"{name} has other codes than {codes}", "two classes")
        if min(n_controls, n_cases) < MIN_CASES:
            raise _refusal(
                form,
                f"{name} has {n_cases} cases and {n_controls} controls",
                f"at least {MIN_CASES} of each (REGENIE passes traits with fewer cases over)",
            )
        return values - form.control
    if known.std() <= 1e-12 * max(1.0, float(np.abs(known).max())):
        raise _refusal(form, f"{name} is constant", "a phenotype that varies")
    if not form.is_split and np.isin(known, (0.0, 1.0, 2.0)).all():
        raise _refusal(
            form,
            f"{name} has no values but 0, 1 and 2: it would be read as case/control, 0 as missing",
            "a quantitative trait",
            f"if it is a binary trait, name it by --binary {name}=CASE",
        )
    return values


def check_covariates(covariates: pd.DataFrame) -> None:
    """Refuse covariates that regression cannot tell apart.

    Raises
    ------
    ConfigError
        If one is constant, or they are collinear beyond the limits of PLINK 2.
    """
    spread = covariates.std(ddof=0)
    scale = covariates.abs().max().clip(lower=1.0)
    if constant := [str(c) for c in covariates if spread[c] <= 1e-12 * scale[c]]:
        raise ConfigError(
            f"covariates are constant: {listed(constant)}", expected="covariates that vary"
        )
    if len(covariates) <= len(covariates.columns) + 1:
        raise ConfigError(
            f"{len(covariates)} participants for {len(covariates.columns)} covariates",
            expected="more participants than covariates",
        )
    scaled = ((covariates - covariates.mean()) / spread).to_numpy()
    correlation = scaled.T @ scaled / len(scaled)
    names = list(map(str, covariates))
    apart = np.abs(np.triu(correlation, k=1))
    if apart.size and apart.max() > MAX_CORRELATION:
        one, other = np.unravel_index(int(apart.argmax()), apart.shape)
        raise ConfigError(
            f"covariates {names[one]} and {names[other]} correlate by {apart.max():.4f}",
            expected=f"at most {MAX_CORRELATION:g}, PLINK 2's limit",
            advice="leave one out",
        )
    is_singular = np.linalg.matrix_rank(correlation, tol=1e-8, hermitian=True) < len(names)
    inflation = np.full(len(names), np.inf) if is_singular else np.diag(np.linalg.inv(correlation))
    if too_high := [n for n, v in zip(names, inflation, strict=True) if v > MAX_VIF]:
        raise ConfigError(
            f"covariates are collinear: {listed(too_high)}",
            expected=f"variance inflation factors up to {MAX_VIF:g}, PLINK 2's limit",
            advice="leave one out",
        )
