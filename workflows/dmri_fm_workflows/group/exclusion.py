"""Exclusion of scans by rules on their quality: `mean_fd > 0.5 or status != complete`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.group.by_group import CrossTable, cross_tabulate
from dmri_fm_workflows.group.conditions import Condition, parse_condition
from dmri_fm_workflows.outputs.tsv import (
    MISSING,
    QC_EXCLUDE,
    SCAN_COLUMNS,
    SCAN_ID,
)


def parse_rule(text: str) -> Condition:
    """Parse a rule; ConfigError, which names the option, if it does not follow the grammar."""
    return parse_condition(text, name="--qc-exclude")


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Scans that rules exclude.

    Attributes
    ----------
    rules
        Texts of the rules.
    rule_of
        Rules that hold for a scan, joined by `; `, by scan; only of excluded scans.
    counts
        Scans that each rule excludes.
    not_judged
        Scans of which a rule's columns have no value, so that the rule does not hold, by rule.
    n_scans
        Scans in all.
    """

    rules: tuple[str, ...] = ()
    rule_of: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    not_judged: Mapping[str, int] = field(default_factory=dict)
    n_scans: int = 0

    def mark(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table of scans with the column `qc_exclude` after those that name the scan."""
        marked = table.copy(deep=False)
        place = sum(c in (SCAN_ID, *SCAN_COLUMNS) for c in table.columns)
        marks = [self.rule_of.get(scan, MISSING) for scan in table[SCAN_ID]]
        is_long = isinstance(table[SCAN_ID].dtype, pd.CategoricalDtype)
        kept = pd.Categorical(marks) if is_long else pd.Series(marks, table.index, dtype=object)
        marked.insert(place, QC_EXCLUDE, kept)
        return marked

    def describe(self) -> dict[str, Any]:
        """Return the entries of a sidecar about the rules."""
        if not self.rules:
            return {}
        return {
            "QCExcludeRules": [
                {
                    "Rule": rule,
                    "ScansExcluded": self.counts[rule],
                    "ScansNotJudged": self.not_judged[rule],
                }
                for rule in self.rules
            ],
            "ScansExcluded": len(self.rule_of),
            "Scans": self.n_scans,
        }


def exclude_scans(
    rules: Sequence[Condition],
    scans: pd.DataFrame,
    quality: pd.DataFrame,
    status: Mapping[str, str],
) -> Exclusions:
    """Apply rules to scans.

    Parameters
    ----------
    rules
        Rules; a scan is excluded where one of them holds.
    scans
        `scan_id` and `participant_id` of all scans.
    quality
        Image quality, one row per scan, cells as text.
    status
        Status of each participant; the column `status` of the rules.

    Raises
    ------
    ConfigError
        If a rule names a column that the table of image quality has not.
    """
    known = [c for c in quality.columns if c not in (SCAN_ID, QC_EXCLUDE)]
    for rule in rules:
        if unknown := [c for c in rule.columns if c != "status" and c not in known]:
            raise ConfigError(
                f"--qc-exclude {rule.text!r}: no column {', '.join(unknown)} in the table of "
                "image quality",
                expected=", ".join(["status", *known]),
            )
    table = quality.set_index(SCAN_ID).reindex(scans[SCAN_ID]).fillna(MISSING)
    table["status"] = [status.get(p, MISSING) for p in scans["participant_id"]]
    hits: dict[str, list[str]] = {}
    counts, not_judged = {}, {}
    for rule in rules:
        holds, known_all = rule.judge(table)
        counts[rule.text] = int(holds.sum())
        not_judged[rule.text] = int((~known_all & ~holds).sum())
        for scan in table.index[holds]:
            hits.setdefault(str(scan), []).append(rule.text)
    return Exclusions(
        tuple(r.text for r in rules),
        {scan: "; ".join(texts) for scan, texts in hits.items()},
        counts,
        not_judged,
        len(scans),
    )


def tabulate_exclusions(
    exclusions: Exclusions, scans: pd.DataFrame, groups: Mapping[str, Mapping[str, str]]
) -> tuple[CrossTable, ...]:
    """Count exclusions by the groups of `participants.tsv`; empty without a rule."""
    if not exclusions.rules:
        return ()
    out = [scan in exclusions.rule_of for scan in scans[SCAN_ID]]
    return cross_tabulate({"excluded": out}, scans["participant_id"].tolist(), groups)
