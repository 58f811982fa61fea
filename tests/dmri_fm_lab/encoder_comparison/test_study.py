"""The comparison end to end on small heads: scores, resuming, tables, figure, real scans."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid
from dmri_fm.series import Dwi
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.encoder_comparison import real_scans, study
from dmri_fm_lab.encoder_comparison.cohort import (
    FACTOR_TITLES,
    ComparisonRequest,
    draw_site_scanners,
)
from dmri_fm_lab.encoder_comparison.connectome import connectome_method
from dmri_fm_lab.encoder_comparison.method import Absent, Sample
from dmri_fm_lab.encoder_comparison.noddi import has_amico
from dmri_fm_lab.encoder_comparison.real_scans import RealScan, compare_on_scans, halves
from dmri_fm_lab.encoder_comparison.report import (
    draw_comparison,
    format_cohort_comparison,
    format_scan_comparison,
    write_markdown,
)
from dmri_fm_lab.encoder_comparison.study import baseline_methods, compare_encoders
from dmri_fm_lab.evaluate import cohorts
from dmri_fm_lab.evaluate.cohorts import CohortRequest, draw_participants
from dmri_fm_lab.simulate import spread_directions
from tests.dmri_fm_lab.encoder_comparison.conftest import AFFINE, SIDE

GRID = Grid((SIDE,) * 3, AFFINE)
REQUEST = ComparisonRequest(CohortRequest(20, 4, n_directions=7), n_sites=2)


def test_every_head_is_scanned_at_every_site() -> None:
    people = draw_participants(REQUEST.cohort)
    met = {(p.head, REQUEST.site_of(p)) for p in people}
    assert len(met) == 4 * 2
    scanners = draw_site_scanners(REQUEST)
    stated = scanners[1].gtabs[0].bvals
    assert scanners[0].b_scale == scanners[0].snr == 1
    tables = [s.gtabs[0].bvecs_ras for s in scanners]
    assert not np.allclose(tables[0], tables[1])
    np.testing.assert_allclose(scanners[1].played(0).bvals, scanners[1].b_scale * stated)
    with pytest.raises(ConfigError, match="each head at each site"):
        ComparisonRequest(CohortRequest(20, 12), n_sites=3)


def test_the_comparison_of_a_cohort(ball, tmp_path: Path, monkeypatch) -> None:
    # One ball for all heads: anatomy is not what is tested here.
    monkeypatch.setattr(cohorts, "brain_geometry", lambda *_, **__: ball)
    absent = [Absent("artefact-unet", "no weights")]

    def compare(encoders) -> dict:
        return compare_encoders(
            encoders,
            absent,
            REQUEST,
            grid=GRID,
            folder=tmp_path,
            baselines=("tensor", "rish"),
        )

    found = compare([connectome_method()])
    assert list(found["probes"]) == ["connectome", "regional FA, MD"]
    assert list(found["probes"]["connectome"]) == list(FACTOR_TITLES)
    # FA and MD follow the share of CSF and the tissue by either protocol.
    assert found["probes"]["regional FA, MD"]["csf"]["A"] > 0.5
    assert len(found["winners"]) == 2 * len(FACTOR_TITLES) + 2
    for name in ("site", "retrieval"):
        assert all(0 <= share <= 1 for share in found[name].values())
    assert all(cost["seconds"] > 0 for cost in found["cost"].values())
    text = format_cohort_comparison(found)
    assert "- artefact-unet: no weights" in text
    assert "- regional RISH: not applicable: protocol A: 7 directions" in text
    assert "| regional FA, MD | 32 |" in text
    assert text in write_markdown(text, tmp_path / "t.md").read_text()
    assert draw_comparison(found, tmp_path / "f.png").stat().st_size > 1000

    def refuse(*_) -> None:
        raise AssertionError("everything is there")

    # A second call reads vectors and costs back.
    monkeypatch.setattr(study, "measured", refuse)
    assert compare([connectome_method()]) == found


def with_data(dwi: Dwi, data: np.ndarray) -> Dwi:
    return Dwi.from_arrays(data, np.asarray(dwi.affine), dwi.gtab, mask=dwi.mask)


def test_real_scans_are_retrieved_by_runs_and_by_halves(
    sample: Sample, tmp_path: Path, monkeypatch
) -> None:
    """Three participants, each of whom differs in another half of the brain, two runs each."""
    monkeypatch.setattr(real_scans, "template_labels", lambda: sample.labels)
    b0 = sample.dwi.data[..., :1]
    ratio = np.divide(sample.dwi.data, b0, out=np.zeros_like(sample.dwi.data), where=b0 > 0)
    scans = []
    for number in range(3):
        half = (np.indices((SIDE,) * 3)[number] > 7)[..., None]
        data = b0 * ratio.clip(1e-3) ** np.where(half, 1.3, 1.0).astype(np.float32)
        for run in range(2):
            noise = np.random.default_rng(10 * number + run).normal(1, 0.01, data.shape)
            dwi = with_data(sample.dwi, data * noise.astype(np.float32))
            name = f"sub-{number}_run-{run}"
            scans.append(RealScan(name, str(number), dwi.gtab, name, partial(lambda x: x, dwi)))
    found = compare_on_scans(
        [],
        [],
        scans,
        folder=tmp_path,
        baselines=("tensor", "rish"),
        seen={"drope": "drope: nobody"},
    )
    # Halves have 10 directions a shell, too few for RISH.
    reason = "half of sub-0_run-0: 10 directions in its largest shell; order 4 needs 15"
    assert found["absent"] == {"regional RISH": f"not applicable: {reason}"}
    assert found["runs"] == {"regional FA, MD": 1.0}
    assert found["directions"] == {"regional FA, MD": 1.0}
    assert found["runs_chance"] == pytest.approx(1 / 5)
    assert found["directions_chance"] == pytest.approx(1 / 3)
    text = format_scan_comparison(found)
    assert "6 scans of 3 participants" in text
    assert "- drope: nobody" in text

    def refuse(*_) -> None:
        raise AssertionError("everything is there")

    monkeypatch.setattr(real_scans, "measured", refuse)
    again = compare_on_scans([], [], scans, folder=tmp_path, baselines=("tensor",), seen={})
    assert again["runs"] == found["runs"]
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="two participants or more"):
        compare_on_scans([], [], scans[:2], seen={})
    first = np.arange(22)
    shell = [replace(s, gtab=s.gtab.select(first)) for s in scans]
    with pytest.raises(ConfigError, match="no method applies to every scan"):
        compare_on_scans([], [], shell, baselines=("noddi",), seen={})


def test_baselines_by_name() -> None:
    methods, absent = baseline_methods(["tensor", "noddi"], None)
    titles = [m.title for m in methods] + [a.title for a in absent]
    assert sorted(titles) == ["regional FA, MD", "regional NODDI"]
    assert bool(absent) != has_amico()
    with pytest.raises(ConfigError, match="tensor, rish, noddi, connectome"):
        baseline_methods(["atlas"], None)


def test_halves_share_no_volume(sample: Sample) -> None:
    parts = halves(sample.dwi.gtab)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(42))
    for index in parts.values():
        assert [len(s.index) for s in sample.dwi.gtab.select(index).shells] == [10, 10]


def test_halves_share_no_direction_that_was_measured_twice() -> None:
    axes = spread_directions(np.random.default_rng(0), 8)
    bvals = np.repeat([0.0, 1000.0, 1000.0], [1, 8, 8])
    parts = halves(GradientTable(bvals, np.concatenate([np.zeros((1, 3)), axes, -axes])))
    first, second = ({(i - 1) % 8 for i in index if i} for index in parts.values())
    assert len(first) == len(second) == 4
    assert not first & second


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys) -> None:
    arguments = ["compare-encoders", str(tmp_path), "--models", "ssdiff"]
    assert main([*arguments, "--weights", "ssdiff"]) == 1
    assert "NAME=PATH" in capsys.readouterr().err
    assert main([*arguments, "--weights", "drope=x.safetensors"]) == 1
    assert "weights of drope" in capsys.readouterr().err
    assert main([*arguments, "--participants", "24", "--heads", "12"]) == 1
    assert "each head at each site" in capsys.readouterr().err
