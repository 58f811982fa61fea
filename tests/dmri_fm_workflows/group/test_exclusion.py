"""Exclusion of scans by rules: the grammar, what a rule means, and what is counted."""

from __future__ import annotations

import pandas as pd
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.group.exclusion import (
    Exclusions,
    exclude_scans,
    parse_rule,
    tabulate_exclusions,
)

QUALITY = pd.DataFrame(
    {
        "scan_id": ["sub-1", "sub-2", "sub-3"],
        "participant_id": ["sub-1", "sub-2", "sub-3"],
        "mean_fd": ["0.2", "0.7", "n/a"],
        "snr_b0": ["4", "20", "20"],
        "note": ["good", "bad", "n/a"],
    }
)
SCANS = pd.DataFrame(
    {
        "scan_id": ["sub-1", "sub-2", "sub-3", "sub-4"],
        "participant_id": ["sub-1", "sub-2", "sub-3", "sub-4"],
    }
)
STATUS = {"sub-1": "complete", "sub-2": "complete", "sub-3": "failed", "sub-4": "complete"}


def excluded(*rules: str) -> Exclusions:
    return exclude_scans([parse_rule(r) for r in rules], SCANS, QUALITY, STATUS)


@pytest.mark.parametrize(
    ("rule", "out"),
    [
        ("mean_fd > 0.5", ["sub-2"]),
        ("mean_fd>=0.2", ["sub-1", "sub-2"]),
        ("mean_fd > 5e-1 and snr_b0 < 5", []),
        ("mean_fd > 0.5 or snr_b0 < 5", ["sub-1", "sub-2"]),
        # `and` binds closer than `or`.
        ("snr_b0 < 5 or mean_fd > 0.5 and snr_b0 < 5", ["sub-1"]),
        ("status != complete", ["sub-3"]),
        ("note == bad", ["sub-2"]),
        # What is missing neither equals nor differs.
        ("note != bad", ["sub-1"]),
        ("mean_fd != 0.2", ["sub-2"]),
        ("snr_b0 == 20.0", ["sub-2", "sub-3"]),
    ],
)
def test_rules_mean_what_they_say(rule: str, out: list[str]) -> None:
    assert list(excluded(rule).rule_of) == out


def test_every_rule_that_holds_is_named_and_counted() -> None:
    found = excluded("mean_fd > 0.1", "snr_b0 < 5")
    assert found.rule_of == {"sub-1": "mean_fd > 0.1; snr_b0 < 5", "sub-2": "mean_fd > 0.1"}
    assert found.counts == {"mean_fd > 0.1": 2, "snr_b0 < 5": 1}
    # sub-3 has no value, sub-4 no table of quality.
    assert found.not_judged == {"mean_fd > 0.1": 2, "snr_b0 < 5": 1}
    (first, second) = found.describe()["QCExcludeRules"]
    assert first == {"Rule": "mean_fd > 0.1", "ScansExcluded": 2, "ScansNotJudged": 2}
    assert second["Rule"] == "snr_b0 < 5"


def test_one_side_that_holds_is_enough_to_judge() -> None:
    found = excluded("mean_fd > 0.5 or snr_b0 > 10")
    assert list(found.rule_of) == ["sub-2", "sub-3"]
    assert found.not_judged["mean_fd > 0.5 or snr_b0 > 10"] == 1


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "mean_fd",
        "mean_fd >",
        "> 0.5",
        "mean_fd > 0.5 and",
        "mean_fd > 0.5 mean_fd < 1",
        "0.1 < mean_fd < 0.5",
        "mean_fd > nan",
        "mean_fd < inf",
        "mean_fd > high",
        "__import__('os').getcwd() == 1",
        "mean_fd > 0.5; 1 == 1",
        "(mean_fd > 0.5)",
    ],
)
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="--qc-exclude"):
        parse_rule(rule)


def test_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no column mean_fb") as caught:
        excluded("mean_fd > 0.1 or mean_fb > 1")
    assert caught.value.expected is not None
    assert "mean_fd" in caught.value.expected


def test_exclusions_are_tabulated_by_group() -> None:
    groups = {"sub-1": {"group": "patient"}, "sub-2": {"group": "control"}}
    (group,) = tabulate_exclusions(excluded("mean_fd > 0.5"), SCANS, groups)
    assert group.rows == (("control", 1, (1,)), ("n/a", 2, (0,)), ("patient", 1, (0,)))
    assert tabulate_exclusions(excluded(), SCANS, groups) == ()
