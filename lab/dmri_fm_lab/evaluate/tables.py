"""Comparisons of tensor estimates as text: one block for each series and shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmri_fm_lab.evaluate.comparison import METHOD_TITLES

__all__ = ["format_series"]

#: Column: title, factor, digits. Diffusivities in 1e-3 mm^2/s.
_COLUMNS = {
    "tensor": ("tensor", 1e3, 3),
    "fa": ("FA", 1.0, 4),
    "md": ("MD", 1e3, 4),
    "ad": ("AD", 1e3, 4),
    "rd": ("RD", 1e3, 4),
    "v1_deg": ("V1", 1.0, 1),
    "v1_deg_fa03": ("V1 FA>.3", 1.0, 1),
    "fa_bias": ("FA bias", 1.0, 4),
    "fa_bias_corrected": ("FA bias*", 1.0, 4),
    "md_bias": ("MD bias", 1e3, 4),
    "fa_rmse_corrected": ("FA rmse*", 1.0, 4),
    "md_rmse_corrected": ("MD rmse*", 1e3, 4),
    "fa_coverage": ("FA 90%", 1.0, 2),
    "md_coverage": ("MD 90%", 1.0, 2),
}

#: Columns that are left out where no row has them.
_OPTIONAL = (
    "fa_bias_corrected",
    "fa_rmse_corrected",
    "md_rmse_corrected",
    "fa_coverage",
    "md_coverage",
)


def format_series(record: Mapping[str, Any]) -> str:
    """Return the tables of one series, as :func:`~.comparison.compare_scan` describes it."""
    edges = " x ".join(f"{x:g}" for x in record["voxel_size_mm"])
    title = f"{record['scanner']}, {record['name']}, {record['origin']}, {edges} mm"
    if record.get("is_trained_on"):
        title += ", the network was TRAINED on this brain"
    if not record["subsets"]:
        return f"{title}: too few directions for six and a reference"
    blocks = []
    for bval, means in record["means"].items():
        subsets = [s for s in record["subsets"] if f"{s['bval']:.0f}" == bval]
        blocks.append(f"{title}, b = {bval} s/mm^2\n{_describe(subsets)}")
        for region, count in means["n_voxels"].items():
            rows = {METHOD_TITLES[m]: r[region] for m, r in means["methods"].items()}
            floor = means["floor"][region]
            boot = {k.removesuffix("_bootstrap"): v for k, v in floor.items() if "_boot" in k}
            if boot:
                noise = {**boot, "v1_deg": boot.get("v1"), "v1_deg_fa03": boot.get("v1_fa03")}
                rows["reference's noise, bootstrap"] = noise
            halves = {k.removesuffix("_halves"): v for k, v in floor.items() if "_halves" in k}
            if halves:
                rows["reference's noise, halves"] = halves
            blocks.append(f"{region}, {count:.0f} voxels\n{format_rows(rows)}")
    return "\n\n".join(blocks)


def _describe(subsets: Sequence[Mapping[str, Any]]) -> str:
    conditions = [s["condition_number"] for s in subsets]
    angles = [s["skare_angle_deg"] for s in subsets]
    numbers = [len(s["reference_weighted"]) for s in subsets]
    lines = [
        f"{len(subsets)} subsets, condition number {_range(conditions, 2)}"
        + ("" if all(s["is_well_conditioned"] for s in subsets) else " (NOT below 3)")
        + f", mean angle to Skare's {_range(angles, 1)} degrees, SNR "
        + _range([s["estimated_snr"] for s in subsets if s["estimated_snr"]], 0),
        f"reference: WLS of {_range(numbers, 0)} other weighted volumes and "
        + ("the SAME b=0" if any(s["shares_b0"] for s in subsets) else "another b=0"),
    ]
    free = subsets[0]["reference_free"]
    lines.append(
        "the reference's noise is unknown: too few volumes"
        if free is None
        else f"*: without the reference's noise, from {free} residual degrees of freedom"
    )
    return "\n".join(lines)


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{f(values):.{digits}f}" for f in (min, max)) if values else ("?", "?")
    return low if low == high else f"{low} to {high}"


def format_rows(rows: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return rows of numbers as a table; diffusivities in 1e-3 mm^2/s.

    Examples
    --------
    >>> format_rows({"WLS": {"fa": 0.125, "md": 5e-5}}).splitlines()[1].split()[:5]
    ['WLS', '-', '0.1250', '0.0500', '-']
    """
    names = [
        name
        for name in _COLUMNS
        if name not in _OPTIONAL or any(r.get(name) is not None for r in rows.values())
    ]
    width = max(len("method"), *map(len, rows))
    lines = ["method".ljust(width) + "".join(f"{_COLUMNS[n][0]:>10}" for n in names)]
    for title, row in rows.items():
        cells = (_cell(row.get(n), *_COLUMNS[n][1:]) for n in names)
        lines.append(title.ljust(width) + "".join(f"{c:>10}" for c in cells))
    return "\n".join(lines)


def _cell(value: float | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"
