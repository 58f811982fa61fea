"""Coverage of 90 % intervals in cells of tissue, lesion, b-value and voxel size."""

from __future__ import annotations

from collections.abc import Mapping

from dmri_fm_lab.evaluate.scores import Row
from dmri_fm_lab.markdown_tables import Column, markdown, table_cells

#: Bars: share of voxels whose interval holds the truth, over all cells, and in each cell.
OVERALL, EACH = (0.85, 0.95), 0.80

_COLUMNS = {
    "n": Column("voxels", ".0f"),
    "fa_coverage": Column("FA 90%", ".3f"),
    "fa_half_width": Column("FA half-width", ".4f"),
    "md_coverage": Column("MD 90%", ".3f"),
    "md_half_width": Column("MD half-width", ".4f", 1e3),
}

#: Cells by name: number of voxels, and the numbers of :func:`~.scores.score`.
Cells = Mapping[str, tuple[float, Row]]


def overall(cells: Cells, key: str) -> float | None:
    """Return the mean of a number over the cells that have it, each voxel counting once.

    Examples
    --------
    >>> overall({"a": (30, {"x": 1.0}), "b": (10, {"x": 0.0}), "c": (99, {})}, "x")
    0.75
    """
    known = [(n, value) for n, row in cells.values() if (value := row.get(key)) is not None]
    total = sum(n for n, _ in known)
    return sum(n * value for n, value in known) / total if total else None


def coverage_table(cells: Cells) -> str:
    """Return coverage and mean half-width of FA and MD by cell, and over all cells."""
    rows: dict[str, Row] = {name: {**row, "n": float(n)} for name, (n, row) in cells.items()}
    rows["all"] = {key: overall(cells, key) for key in _COLUMNS if key != "n"}
    rows["all"]["n"] = float(sum(n for n, _ in cells.values()))
    return markdown(table_cells(rows, _COLUMNS))


def judge_coverage(name: str, cells: Cells) -> list[str]:
    """Return the verdicts on the intervals of a method, a line each.

    Examples
    --------
    >>> cells = {"white": (90, {"fa_coverage": 0.9}), "grey": (10, {"fa_coverage": 0.7})}
    >>> for line in judge_coverage("net", cells):
    ...     print(line)
    verdict, net, FA intervals, all: PASS, 88.0 % (bar: 85 to 95 %)
    verdict, net, FA intervals, each cell: FAIL, lowest grey, 70.0 % (bar: 80 %)
    """
    lines = []
    for key in ("fa_coverage", "md_coverage"):
        share = overall(cells, key)
        if share is None:
            continue
        title = f"verdict, {name}, {key[:2].upper()} intervals"
        low, high = OVERALL
        outcome = "PASS" if low <= share <= high else "FAIL"
        bar = f"(bar: {100 * low:.0f} to {100 * high:.0f} %)"
        lines.append(f"{title}, all: {outcome}, {100 * share:.1f} % {bar}")
        known = {c: v for c, (_, row) in cells.items() if (v := row.get(key)) is not None}
        worst = min(known, key=lambda cell: known[cell])
        outcome = "PASS" if known[worst] >= EACH else "FAIL"
        lines.append(
            f"{title}, each cell: {outcome}, lowest {worst}, {100 * known[worst]:.1f} % "
            f"(bar: {100 * EACH:.0f} %)"
        )
    return lines
