"""Plans of runs that are merged or kept apart, by the options of qsiprep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.bids.series import SessionImages, group_runs
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.plan_text import describe_plan
from tests.dmri_fm_workflows.tiny_series import make_run, plan_for

#: Options, and of each series that they plan: its name, number of volumes, and runs merged.
GOLDEN = [
    ({}, {"sub-01": (27, "3 runs")}),
    (
        {"distortion_group_merge": "none"},
        {"sub-01_dir-AP": (18, "2 runs"), "sub-01_dir-PA": (9, "")},
    ),
    (
        {"separate_all_dwis": True},
        {"sub-01_dir-AP_run-1": (9, ""), "sub-01_dir-AP_run-2": (9, ""), "sub-01_dir-PA": (9, "")},
    ),
]


@pytest.mark.parametrize(("options", "expected"), GOLDEN)
def test_plan_of_each_way_of_merging(
    tmp_path: Path, options: dict[str, object], expected: dict[str, tuple[int, str]]
) -> None:
    raw = tmp_path / "raw"
    first, other = make_run(raw, "AP"), make_run(raw, "PA")
    runs = [
        *(
            replace(
                first,
                path=raw / f"sub-01_dir-AP_run-{n}_dwi.nii.gz",
                entities=dict(first.entities) | {"run": n},
            )
            for n in "12"
        ),
        other,
    ]
    config = RunConfig(raw, tmp_path / "out", **options)
    grouped = group_runs(SessionImages(runs=runs), root=raw, merging=config.merging)
    assert grouped.errors == ()
    plan = plan_for(*grouped.series, root=tmp_path, models=(), **options)
    assert {s.name: len(s.gtab) for s in plan.series} == {k: n for k, (n, _) in expected.items()}
    for series, (_, merged) in zip(plan.series, expected.values(), strict=True):
        text = " ".join(describe_plan(replace_series(plan, series)).split())
        assert ("merge " + merged in text) == bool(merged)
        # A pair corrects each of them: runs of its own, or of the scan that they were parted from.
        assert series.sdc.method == "pepolar"
        apart = "a run of the same scan, kept apart on request"
        assert (apart in text) == (len(expected) > 1)


def group_scan(root: Path, merging: str, **changes: dict[str, object]) -> list[str]:
    """Return the series of two runs of one encoding and one of the other, as `dir/run` names."""
    ahead = make_run(root, "AP")
    runs = [
        *(replace(ahead, path=root / f"{n}.nii.gz", entities=dict(ahead.entities) | {"run": n},
                  **changes.get(n, {})) for n in "12"),
        make_run(root, "PA"),
    ]  # fmt: skip
    grouped = group_runs(SessionImages(runs=runs), root=root, merging=merging)
    return [f"{s.name}: {s.pair_reason}" for s in grouped.series]


def test_runs_of_another_readout_are_of_another_distortion(tmp_path: Path) -> None:
    other = {"2": {"readout_time_s": 0.09}}
    assert len(group_scan(tmp_path, "phase encoding")) == 2
    assert len(group_scan(tmp_path, "phase encoding", **other)) == 3


def test_runs_that_no_one_parted_are_not_said_to_be_kept_apart(tmp_path: Path) -> None:
    """A head that moved twice: the ends are two series, and what lies between joins the first."""
    far = np.eye(4)
    far[2, 3] = 8.0
    moved = {"2": {"affine": far @ make_run(tmp_path, "AP").affine}}
    assert not any("on request" in text for text in group_scan(tmp_path, "all", **moved))


def replace_series(plan, series):
    """Return the plan of a participant with one of its series alone."""
    (session,) = plan.sessions
    return replace(plan, sessions=(replace(session, series=(series,)),))


def test_averages_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="distortion_group_merge is 'average'"):
        RunConfig(Path("/in"), Path("/out"), distortion_group_merge="average")
