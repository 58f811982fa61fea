"""Comparisons of tensor methods as text: tables, and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dmri_fm_lab.evaluate.scores import Row
from dmri_fm_lab.evaluate.verdicts import TO_BEAT, Verdict, judge, verdict_line
from dmri_fm_lab.markdown_tables import Column, aligned, table_cells

#: Columns of the tables; diffusivities in 1e-3 mm^2/s, angles in degrees.
_COLUMNS = {
    "tensor": Column("tensor", ".3f", 1e3),
    "fa": Column("FA", ".4f"),
    "md": Column("MD", ".4f", 1e3),
    "ad": Column("AD", ".4f", 1e3),
    "rd": Column("RD", ".4f", 1e3),
    "v1_deg": Column("V1", ".1f"),
    "v1_deg_fa03": Column("V1 FA>.3", ".1f"),
    "fa_bias": Column("FA bias", ".4f"),
    "fa_bias_corrected": Column("FA bias*", ".4f"),
    "md_bias": Column("MD bias", ".4f", 1e3),
    "fa_rmse_corrected": Column("FA rmse*", ".4f"),
    "md_rmse_corrected": Column("MD rmse*", ".4f", 1e3),
    "fa_coverage": Column("FA 90%", ".2f"),
    "md_coverage": Column("MD 90%", ".2f"),
}

#: Regions that verdicts are given for.
JUDGED = ("white", "grey")


def judge_means(means: Mapping[str, Any], model: str, region: str, **options: Any) -> Verdict:
    """Judge a network by the means of a series, a scanner or a simulated condition.

    Parameters
    ----------
    means
        Holds `methods`, `uncertainties` and `titles`.
    model, region
        The network's row, and the region.
    options
        Of :func:`~dmri_fm_lab.evaluate.verdicts.judge`.
    """
    methods, titles = means["methods"], means["titles"]
    doubts = means["uncertainties"][model].get(region, {})
    baselines = [name for name in TO_BEAT if name in methods]
    return judge(
        methods[model].get(region, {}),
        {titles[name]: methods[name].get(region, {}) for name in baselines},
        {titles[name]: doubts.get(name, {}) for name in baselines},
        **options,
    )


def verdict_lines(means: Mapping[str, Any], *, bval: float) -> list[str]:
    """Return the verdicts of every network in white and grey matter, a line each.

    There are none, and a line says so, where a baseline that has to be beaten is missing.
    """
    missing = [name for name in TO_BEAT if name not in means["methods"]]
    if missing and means["uncertainties"]:
        return [f"no verdict without the methods {', '.join(missing)}"]
    return [
        verdict_line(model, region, judge_means(means, model, region), bval=bval)
        for model in means["uncertainties"]
        for region in JUDGED
    ]


def format_series(record: Mapping[str, Any]) -> str:
    """Return the record of a series as text: a table for each shell and region, and verdicts."""
    edges = " x ".join(f"{x:g}" for x in record["voxel_size_mm"])
    title = f"{record['scanner']}, {record['name']}, {record['origin']}, {edges} mm"
    title = ", ".join([title, *say_trained(record.get("trained_on", ()))])
    if not record["subsets"]:
        return f"{title}: too few directions for six and a reference"
    blocks = []
    for bval, means in record["means"].items():
        subsets = [s for s in record["subsets"] if f"{s['bval']:.0f}" == bval]
        blocks.append(f"{title}, b = {bval} s/mm^2\n{_describe(subsets, record['is_truth'])}")
        for region, count in means["n_voxels"].items():
            methods = means["methods"]
            rows = {record["titles"][m]: methods[m].get(region, {}) for m in methods}
            rows |= _floor_rows(means["floor"][region])
            table = aligned(table_cells(rows, _COLUMNS))
            blocks.append(f"{region}, {count:.0f} voxels\n{table}")
        lines = verdict_lines({**means, "titles": record["titles"]}, bval=float(bval))
        blocks += ["\n".join(lines)] if lines else []
    return "\n\n".join(blocks)


def say_trained(models: Iterable[str]) -> list[str]:
    """Return what tables say of networks that were trained on the brain of a series."""
    return [f"{model} was TRAINED on this brain" for model in models]


def format_scanners(scanners: Sequence[Mapping[str, Any]]) -> str:
    """Return the verdicts of every scanner as text."""
    blocks = ["Verdicts by scanner, over the means of its series"]
    for record in scanners:
        against = "against the truth" if record["is_truth"] else "against its own volumes"
        lines = [
            f"{record['scanner']}, b = {record['bval']} s/mm^2, {len(record['series'])} series, "
            f"{against}"
        ]
        lines += say_trained(record["trained_on"])
        blocks.append("\n".join([*lines, *verdict_lines(record, bval=record["bval"])]))
    return "\n\n".join(blocks)


def _floor_rows(floor: Mapping[str, float | None]) -> dict[str, Row]:
    """Return the rows of the reference's own noise; none where it is unknown."""
    rows: dict[str, Row] = {}
    for suffix in ("bootstrap", "halves"):
        row = {k.removesuffix(f"_{suffix}"): v for k, v in floor.items() if k.endswith(suffix)}
        if row:
            angles = {"v1_deg": row.get("v1"), "v1_deg_fa03": row.get("v1_fa03")}
            rows[f"reference's noise, {suffix}"] = {**row, **angles}
    return rows


def _describe(subsets: Sequence[Mapping[str, Any]], is_truth: bool) -> str:
    """Return subsets and reference of a shell in words."""
    conditions = [s["condition_number"] for s in subsets]
    angles = [s["skare_angle_deg"] for s in subsets]
    numbers = [len(s["reference_weighted"]) for s in subsets]
    snrs = [s["estimated_snr"] for s in subsets if s["estimated_snr"]]
    is_well_conditioned = all(s["is_well_conditioned"] for s in subsets)
    b0 = "the SAME b=0" if any(s["shares_b0"] for s in subsets) else "another b=0"
    free = subsets[0]["reference_free"]
    head = (
        f"{len(subsets)} subsets, condition number {_range(conditions, 2)}"
        f"{'' if is_well_conditioned else ' (NOT below 3)'}, mean angle to Skare's "
        f"{_range(angles, 1)} degrees, SNR {_range(snrs, 0)}"
    )
    if is_truth:
        return f"{head}\nreference: the truth; distortion is undone by the true field"
    return "\n".join(
        [
            head,
            f"reference: WLS of {_range(numbers, 0)} other weighted volumes and {b0}",
            "the reference's noise is unknown: too few volumes"
            if free is None
            else f"*: without the reference's noise, from {free} residual degrees of freedom",
        ]
    )


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{f(values):.{digits}f}" for f in (min, max)) if values else ("?", "?")
    return low if low == high else f"{low} to {high}"
