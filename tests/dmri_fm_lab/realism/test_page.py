from __future__ import annotations

import numpy as np

from dmri_fm_lab.realism.classifiers import Verdict
from dmri_fm_lab.realism.measures import QUANTITIES
from dmri_fm_lab.realism.page import (
    BEGIN,
    END,
    SCANNERS,
    distance,
    insert_tables,
    table_of_quantities,
    table_of_verdicts,
)


def test_tables_stand_between_the_marks(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    insert_tables(page, ["| a |", "|---|"])
    assert page.read_text() == f"before\n{BEGIN}\n\n| a |\n|---|\n\n{END}\nafter\n"
    insert_tables(tmp_path / "new.md", ["x"])
    assert (tmp_path / "new.md").read_text().split() == [*BEGIN.split(), "x", *END.split()]


def test_distances_between_samples() -> None:
    a = np.array([1.0, 2.0, np.nan])
    assert distance(a, a) == 0.0
    assert distance(a, a + 10) == 1.0


def test_tables_have_a_row_for_each_quantity_and_classifier() -> None:
    rng = np.random.default_rng(0)
    real, simulated = (
        {s: rng.uniform(0.1, 1, (5, len(QUANTITIES))) for s in SCANNERS} for _ in range(2)
    )
    lines = table_of_quantities(real, simulated)
    assert len(lines) == 2 + len(QUANTITIES) * len(SCANNERS) + 1
    lines = table_of_verdicts({("drawn", "network", s): Verdict(0.75, 0.8) for s in SCANNERS})
    assert lines[2] == "| drawn | network | " + " | ".join(["0.75, 0.80"] * 4) + " |"
