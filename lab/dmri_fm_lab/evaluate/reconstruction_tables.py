"""Scores of reconstructions as markdown tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmri_fm_lab.evaluate.reconstruction import METHOD_TITLES
from dmri_fm_lab.evaluate.records import markdown

__all__ = ["format_scan"]

#: Column: title, factor, digits.
_SCORES = {
    "rmse": ("RMSE", 1.0, 4),
    "psnr": ("PSNR, dB", 1.0, 2),
    "ssim": ("SSIM", 1.0, 3),
    "rmse_truth": ("RMSE to truth", 1.0, 4),
}
_TENSORS = {
    "fa": ("FA error", 1.0, 4),
    "fa_white": ("FA error, white", 1.0, 4),
    "md": ("MD error", 1e3, 4),
    "md_white": ("MD error, white", 1e3, 4),
}
_AUTHORS = {
    "authors_psnr": ("authors' PSNR, dB", 1.0, 2),
    "authors_ms_ssim": ("authors' SSIM", 1.0, 3),
    "authors_scales": ("scales", 1.0, 0),
}
_MASKINGS = {
    "diffusion": "masked directions",
    "spatial": "masked patches",
    "spatial-per-direction": "masked patches, masks of each direction",
}


def format_scan(record: Mapping[str, Any]) -> str:
    """Return the record of a scan: a table for each number of directions and type of mask.

    Errors of MD are in 1e-3 mm^2/s.
    """
    shells = ", ".join(f"{n} x b{b}" for b, n in record["shells"].items())
    title = f"{record['name']} ({record['origin']}), {shells}, {record['n_voxels']} voxels"
    blocks = [title]
    for n, maskings in record["results"].items():
        for masking, found in maskings.items():
            blocks.append(f"{_MASKINGS[masking]} of {n} directions")
            blocks.append(_scores_table(found))
            if found["tensors"]:
                blocks.append(_table(found["tensors"], _TENSORS))
            if found["authors"]:
                blocks.append(_table(found["authors"], _AUTHORS))
    if not record["results"]:
        blocks.append("too few directions")
    return "\n\n".join(blocks)


def _scores_table(found: Mapping[str, Any]) -> str:
    shells = list(dict.fromkeys(s for by_shell in found["rows"].values() for s in by_shell))
    rows = {}
    for shell in shells:
        for method in (m for m in METHOD_TITLES if shell in found["rows"].get(m, {})):
            label = "" if len(shells) == 1 else f", b {shell}"
            rows[f"{METHOD_TITLES[method]}{label}"] = found["rows"][method][shell]
    return _cells(rows, _SCORES)


def _table(rows: Mapping[str, Mapping[str, float | None]], columns: Mapping[str, Any]) -> str:
    named = {METHOD_TITLES[m]: rows[m] for m in METHOD_TITLES if m in rows}
    return _cells(named, columns)


def _cells(rows: Mapping[str, Mapping[str, float | None]], columns: Mapping[str, Any]) -> str:
    used = [c for c in columns if any(row.get(c) is not None for row in rows.values())]
    body = []
    for title, row in rows.items():
        cells = [title]
        for name in used:
            value, (_, factor, digits) = row.get(name), columns[name]
            cells.append("-" if value is None else f"{value * factor:.{digits}f}")
        body.append(cells)
    return markdown(["method", *(columns[c][0] for c in used)], body)
