"""Tables of numbers, as markdown and as aligned text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Column(NamedTuple):
    """Column of a table: its title, the format of its numbers, and a factor that sets the unit."""

    title: str
    spec: str
    factor: float = 1.0

    def cell(self, value: float | None) -> str:
        """Return a number as text, a dash for None."""
        return "-" if value is None else format(value * self.factor, self.spec)


def table_cells(
    rows: Mapping[str, Mapping[str, float | None]], columns: Mapping[str, Column]
) -> list[list[str]]:
    """Return the lines of a table, titles first; columns without any number are dropped.

    Parameters
    ----------
    rows
        Numbers by the title of the row and the key of the column.
    columns
        By key, in the order of the table.

    Examples
    --------
    >>> columns = {"fa": Column("FA", ".2f"), "md": Column("MD", ".2f", 1e3)}
    >>> table_cells({"WLS": {"fa": 0.125, "md": 5e-5}, "mean": {"fa": 0.5}}, columns)
    [['method', 'FA', 'MD'], ['WLS', '0.12', '0.05'], ['mean', '0.50', '-']]
    >>> table_cells({"WLS": {"fa": 0.125}}, columns)
    [['method', 'FA'], ['WLS', '0.12']]
    """
    used = {
        key: column
        for key, column in columns.items()
        if any(row.get(key) is not None for row in rows.values())
    }
    return [
        ["method", *(column.title for column in used.values())],
        *(
            [title, *(column.cell(row.get(key)) for key, column in used.items())]
            for title, row in rows.items()
        ),
    ]


def markdown(cells: Sequence[Sequence[str]]) -> str:
    """Return the lines of a table, titles first, as markdown.

    Examples
    --------
    >>> print(markdown([["method", "x"], ["mean", "1"]]))
    | method | x |
    |---|---|
    | mean | 1 |
    """
    titles, *rows = (f"| {' | '.join(line)} |" for line in cells)
    return "\n".join([titles, "|---" * len(cells[0]) + "|", *rows])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return the lines of a table as text: the first column to the left, numbers to the right."""
    width = max(len(line[0]) for line in cells)
    return "\n".join(
        title.ljust(width) + "".join(f"{cell:>10}" for cell in numbers)
        for title, *numbers in cells
    )
