"""Coverage of 90 % intervals in cells of tissue, lesion, b-value and voxel size.

The region `tissue` of a scan holds all tissue, voxels of mixed tissue included, and stands for the
scan where all cells are averaged; the other regions are parts of it, pure white and grey matter
and lesions.
"""

from __future__ import annotations

from collections.abc import Mapping

from dmri_fm_lab.evaluate.scores import Row
from dmri_fm_lab.markdown_tables import Column, markdown, table_cells

#: Bars: share of voxels whose interval holds the truth, over all tissue, and in each cell.
OVERALL, EACH = (0.85, 0.95), 0.80

_COLUMNS = {
    "n": Column("voxels", ".0f"),
    "fa_coverage": Column("FA 90%", ".3f"),
    "fa_half_width": Column("FA half-width", ".4f"),
    "md_coverage": Column("MD 90%", ".3f"),
    "md_half_width": Column("MD half-width", ".4f", 1e3),
}

#: Region that holds all tissue of a scan.
ALL = "tissue"

#: Cells by scan or condition and by region: number of voxels, and the numbers of
#: :func:`~.scores.score`.
Cells = Mapping[tuple[str, str], tuple[float, Row]]


def overall(cells: Cells, key: str) -> float | None:
    """Return the mean of a number over all tissue, each voxel counting once.

    Examples
    --------
    >>> cells = {("a", "tissue"): (30, {"x": 1.0}), ("a", "white"): (20, {"x": 0.9}),
    ...          ("b", "tissue"): (10, {"x": 0.0}), ("c", "tissue"): (99, {})}
    >>> overall(cells, "x")
    0.75
    """
    known = [
        (n, value)
        for (_, region), (n, row) in cells.items()
        if region == ALL and (value := row.get(key)) is not None
    ]
    total = sum(n for n, _ in known)
    return sum(n * value for n, value in known) / total if total else None


def coverage_table(cells: Cells) -> str:
    """Return coverage and mean half-width of FA and MD by cell, and over all tissue."""
    rows: dict[str, Row] = {
        _name(cell): {**row, "n": float(n)} for cell, (n, row) in cells.items()
    }
    rows["all tissue"] = {key: overall(cells, key) for key in _COLUMNS if key != "n"}
    rows["all tissue"]["n"] = float(sum(n for (_, r), (n, _) in cells.items() if r == ALL))
    return markdown(table_cells(rows, _COLUMNS))


def interval_tables(cells: Mapping[str, Cells]) -> dict[str, str]:
    """Return a table for each cell, and one for all tissue, with a row for each method.

    Parameters
    ----------
    cells
        By method; one without intervals in a cell has no row there.
    """
    columns = {key: column for key, column in _COLUMNS.items() if key != "n"}
    tables = {}
    for cell in dict.fromkeys(cell for own in cells.values() for cell in own):
        rows = {method: own[cell][1] for method, own in cells.items() if cell in own}
        tables[_name(cell)] = markdown(table_cells(rows, columns))
    rows = {m: {key: overall(own, key) for key in columns} for m, own in cells.items() if own}
    if rows:
        tables["all tissue"] = markdown(table_cells(rows, columns))
    return tables


def _name(cell: tuple[str, str]) -> str:
    return ", ".join(cell)


def judge_coverage(name: str, cells: Cells) -> list[str]:
    """Return the verdicts on the intervals of a method, a line each.

    Examples
    --------
    >>> cells = {("b 600", "tissue"): (100, {"fa_coverage": 0.88}),
    ...          ("b 600", "grey"): (10, {"fa_coverage": 0.7})}
    >>> for line in judge_coverage("net", cells):
    ...     print(line)
    verdict, net, FA intervals, all tissue: PASS, 88.0 % (bar: 85 to 95 %)
    verdict, net, FA intervals, each cell: FAIL, lowest b 600, grey, 70.0 % (bar: 80 %)
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
        lines.append(f"{title}, all tissue: {outcome}, {100 * share:.1f} % {bar}")
        known = {c: v for c, (_, row) in cells.items() if (v := row.get(key)) is not None}
        worst = min(known, key=lambda cell: known[cell])
        outcome = "PASS" if known[worst] >= EACH else "FAIL"
        lines.append(
            f"{title}, each cell: {outcome}, lowest {_name(worst)}, {100 * known[worst]:.1f} % "
            f"(bar: {100 * EACH:.0f} %)"
        )
    return lines
