"""What a participant's page holds, as value objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import yaml
from numpy.typing import ArrayLike

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import identity
from dmri_fm_workflows.outputs.sidecars import describe_columns

__all__ = [
    "AnatomySection",
    "Fact",
    "Figure",
    "QualityRow",
    "ReportData",
    "ReportWarning",
    "RunError",
    "SeriesSection",
    "describe_series",
    "quality_limits",
    "quality_rows",
    "standard_figure",
]

Level = Literal["error", "warning", "note"]

#: Values outside these ranges are marked in the quality table: lowest and highest expected, by the
#: pattern of the column's name. Those of networks start with the label of the network.
QUALITY_LIMITS: Mapping[str, tuple[float, float]] = {
    "mean_fd": (0.0, 1.0),
    "max_fd": (0.0, 5.0),
    "fa_nan_fraction": (0.0, 0.0),
    "fa_out_of_range_fraction": (0.0, 0.02),
    "*_fa_out_of_range_fraction": (0.0, 0.02),
    "*_negative_diffusivity_fraction": (0.0, 0.02),
    "*_md_bias": (0.0, 0.15),
    "*_ood_fraction": (0.0, 0.1),
    "ood_percentile": (0.0, 95.0),
    "*_ood_percentile": (0.0, 95.0),
}


@dataclass(frozen=True)
class ReportWarning:
    """Something the reader must know before using the outputs.

    Attributes
    ----------
    level
        "error": an output is missing or unusable; "warning": usable with care; "note": a choice
        worth knowing.
    text
        What is the matter.
    where
        Name of the series or anatomy section it concerns; empty for the participant.
    advice
        What to do about it.
    """

    level: Level
    text: str
    where: str = ""
    advice: str = ""

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise ConfigError(
                f"a warning of level {self.level!r}", expected=" or ".join(get_args(Level))
            )


@dataclass(frozen=True)
class Fact:
    """A label and its value, one line of a table."""

    label: str
    value: str


@dataclass(frozen=True)
class Figure:
    """A picture on the page.

    Attributes
    ----------
    title
        Heading.
    path
        Path of the file relative to the page, with forward slashes.
    caption
        What is drawn.
    look_for
        What the reader should check.
    alt
        Words for those who cannot see it; the caption by default.
    is_interactive
        The picture reacts to the pointer.

    Raises
    ------
    ConfigError
        If the path is absolute, leaves the page's folder or is a URL: the page must work
        wherever its folder is copied to, without a network.
    """

    title: str
    path: str
    caption: str
    look_for: str = ""
    alt: str = ""
    is_interactive: bool = False

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        first = parts[0] if parts else ""
        if not parts or self.path.startswith("/") or ".." in parts or ":" in first:
            raise ConfigError(
                f"a figure at {self.path!r}",
                expected="a relative path inside the page's folder, such as sub-01/figures/x.svg",
            )


@dataclass(frozen=True)
class QualityRow:
    """One measure of image quality.

    Attributes
    ----------
    name
        Column of the quality table on disk.
    value
        As written.
    unit, description
        From the tables' dictionary.
    is_flagged
        Outside the expected range.
    """

    name: str
    value: str
    unit: str
    description: str
    is_flagged: bool


@dataclass(frozen=True)
class AnatomySection:
    """Anatomy of one session: `name` is the heading ("ses-01", or "Anatomy")."""

    name: str
    facts: tuple[Fact, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class SeriesSection:
    """A diffusion series.

    Attributes
    ----------
    name
        Its BIDS name without suffix ("sub-01_ses-01_dir-AP").
    facts
        Geometry, sampling and what ran: one column of the summary table.
    figures
        In the order of processing.
    quality
        Rows of its quality table.
    not_used
        Images that could have corrected its distortion, and why they do not: path and reason.
    """

    name: str
    facts: tuple[Fact, ...] = ()
    figures: tuple[Figure, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    not_used: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class RunError:
    """A step that failed.

    Attributes
    ----------
    stage
        Name of the step.
    message
        What went wrong.
    scan
        The scan concerned.
    advice
        What to do.
    crash_file
        Path of the crash report, relative to the page.
    """

    stage: str
    message: str
    scan: str = ""
    advice: str = ""
    crash_file: str = ""


@dataclass(frozen=True)
class ReportData:
    """All that the page of a participant shows.

    Attributes
    ----------
    participant
        Label without `sub-`.
    dataset
        Name of the dataset.
    version
        Version of this software.
    summary
        Facts of the participant: sessions, spaces, models, run identifier.
    warnings
        Shown first, most serious first.
    anatomy, series
        Sections.
    methods
        Methods text; paragraphs parted by empty lines, headings start with `#`, citations are
        `[@key]` with keys of `references.yaml`.
    software
        Programs and libraries with their versions.
    command
        Command line of the run.
    config
        Configuration of the run, TOML.
    errors
        Steps that failed.
    """

    participant: str
    dataset: str
    version: str
    summary: tuple[Fact, ...] = ()
    warnings: tuple[ReportWarning, ...] = ()
    anatomy: tuple[AnatomySection, ...] = ()
    series: tuple[SeriesSection, ...] = ()
    methods: str = ""
    software: tuple[Fact, ...] = ()
    command: str = ""
    config: str = ""
    errors: tuple[RunError, ...] = ()


@cache
def _captions() -> Mapping[str, Mapping[str, Any]]:
    text = files("dmri_fm_workflows.report").joinpath("captions.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)
    return table


def standard_figure(desc: str, path: str, *, model: str | None = None) -> Figure:
    """Return a figure with its standard title, caption and advice.

    Parameters
    ----------
    desc
        The `desc` label of the figure, a key of `captions.yaml`.
    path
        Path relative to the page.
    model
        Name or label of the model whose figure it is; by default that of `captions.yaml`.

    Raises
    ------
    ConfigError
        If the label is unknown or the path cannot stand on a page.

    Examples
    --------
    >>> standard_figure("sdc", "sub-01/figures/sub-01_desc-sdc_dwi.svg").title
    'Susceptibility distortion'
    """
    entry = _captions().get(desc)
    if entry is None:
        raise ConfigError(f"a figure named {desc!r}", expected=", ".join(sorted(_captions())))
    if "model" in entry:
        record = identity(model or entry["model"])
        names = {n: getattr(record, n) for n in ("title", "architecture", "provenance")}
        entry = {k: v.format(**names) if isinstance(v, str) else v for k, v in entry.items()}
    return Figure(
        title=entry["title"],
        path=path,
        caption=entry["caption"].strip(),
        look_for=entry["look_for"],
        alt=entry["alt"],
        is_interactive=entry.get("interactive", False),
    )


def describe_series(
    shape: tuple[int, ...], affine: ArrayLike, gtab: GradientTable
) -> tuple[Fact, ...]:
    """Describe the geometry and the sampling of a series.

    Parameters
    ----------
    shape
        X, Y, Z, N.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    gtab
        Gradient table.

    Examples
    --------
    >>> gtab = GradientTable([0, 990, 1010], [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> for fact in describe_series((64, 64, 20, 3), np.diag([2, 2, 3, 1]), gtab):
    ...     print(fact.label, "|", fact.value)
    Grid | 64 x 64 x 20 voxels, 3 volumes
    Voxel size | 2 x 2 x 3 mm
    Stored as | RAS
    Sampling | 1 of b=0; b=1000: 2 volumes, 2 directions
    """
    import nibabel as nib

    matrix = np.asarray(affine, dtype=np.float64)
    voxel_mm = np.linalg.norm(matrix[:3, :3], axis=0)
    parts = [f"{int(gtab.is_b0.sum())} of b=0"]
    for shell in gtab.shells:
        directions = gtab.select(shell.index).count_directions()
        parts.append(f"b={shell.bval:.0f}: {len(shell.index)} volumes, {directions} directions")
    turned = np.degrees(np.arccos(np.clip(np.abs(matrix[:3, :3] / voxel_mm).max(axis=0), 0, 1)))
    oblique = f", oblique by {turned.max():.0f}°" if turned.max() >= 1 else ""
    return (
        Fact("Grid", f"{' x '.join(str(n) for n in shape[:3])} voxels, {shape[3]} volumes"),
        Fact("Voxel size", " x ".join(f"{v:.3g}" for v in voxel_mm) + " mm"),
        Fact("Stored as", "".join(nib.aff2axcodes(matrix)) + oblique),
        Fact("Sampling", "; ".join(parts)),
    )


def quality_limits(column: str) -> tuple[float, float] | None:
    """Return the lowest and highest expected value of a quality measure, or None.

    Examples
    --------
    >>> quality_limits("qcgdtipaper_md_bias"), quality_limits("snr_b0")
    ((0.0, 0.15), None)
    """
    return next((v for pattern, v in QUALITY_LIMITS.items() if fnmatchcase(column, pattern)), None)


def quality_rows(measures: Mapping[str, float | int | str | None]) -> tuple[QualityRow, ...]:
    """Describe measures of image quality, and mark those outside the expected range.

    Parameters
    ----------
    measures
        Columns of the quality table of one series, in order; NaN and None are written `n/a`.

    Examples
    --------
    >>> row, = quality_rows({"ood_percentile": 97.25})
    >>> row.value, row.is_flagged
    ('97.25', True)
    """
    described = describe_columns(list(measures))
    rows = []
    for name, value in measures.items():
        about = described.get(name, {})
        limits = quality_limits(name)
        number = float(value) if isinstance(value, int | float | np.number) else None
        flagged = (
            limits is not None
            and number is not None
            and bool(np.isfinite(number))
            and not limits[0] <= number <= limits[1]
        )
        rows.append(
            QualityRow(
                name=name,
                value=_written(value),
                unit=str(about.get("Units", "")),
                description=str(about.get("Description", "")),
                is_flagged=flagged,
            )
        )
    return tuple(rows)


def _written(value: float | int | str | None) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if np.isfinite(value) else "n/a"
    return str(value)
