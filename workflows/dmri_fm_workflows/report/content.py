"""Value objects of a participant's page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal, get_args

from dmri_fm.errors import ConfigError

Level = Literal["error", "warning", "note"]

#: Levels of warnings, most serious first.
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class ReportWarning:
    """A warning that the reader needs before using the outputs.

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
        if self.level not in LEVELS:
            raise ConfigError(f"a warning of level {self.level!r}", expected=" or ".join(LEVELS))


@dataclass(frozen=True)
class Entry:
    """A label and its value: one line of a table."""

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
        Path of the file relative to the output folder, with forward slashes.
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
        If the path is absolute, leaves the output folder or is a URL: the page must work
        wherever that folder is copied to, without a network.
    """

    title: str
    path: str
    caption: str
    look_for: str = ""
    alt: str = ""
    is_interactive: bool = False

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts or ":" in parts[0]:
            raise ConfigError(
                f"a figure at {self.path!r}",
                expected="a relative path inside the output folder, such as sub-01/figures/x.svg",
            )


@dataclass(frozen=True)
class QualityRow:
    """A measure of image quality: column of the table, value as written, and its meaning."""

    name: str
    value: str
    unit: str
    description: str
    is_flagged: bool  # outside the expected range


@dataclass(frozen=True)
class AnatomySection:
    """Anatomy of one session, under its heading."""

    name: str
    entries: tuple[Entry, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class SeriesSection:
    """A diffusion series.

    Attributes
    ----------
    name
        Its BIDS name without suffix ("sub-01_ses-01_dir-AP").
    entries
        Geometry, sampling and methods: one column of the summary table.
    figures
        In the order of processing.
    quality
        Rows of its quality table.
    viewer
        Path of its viewer relative to the output folder; empty without one.
    not_used
        Images that could have corrected its distortion, and why they do not: path and reason.
    """

    name: str
    entries: tuple[Entry, ...] = ()
    figures: tuple[Figure, ...] = ()
    quality: tuple[QualityRow, ...] = ()
    not_used: tuple[Entry, ...] = ()
    viewer: str = ""


@dataclass(frozen=True)
class RunError:
    """A step that failed, its message, and the scan concerned."""

    stage: str
    message: str
    scan: str = ""


@dataclass(frozen=True)
class RunSummary:
    """What a page says about the run that made the outputs.

    Attributes
    ----------
    version
        Version of this software.
    command
        Command line.
    config
        Configuration, TOML.
    software
        Versions of programs and libraries.
    errors
        Steps that failed.
    """

    version: str
    command: str
    config: str
    software: Mapping[str, str]
    errors: tuple[RunError, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """Content of a participant's page.

    Attributes
    ----------
    participant
        Label without `sub-`.
    dataset
        Name of the dataset.
    run
        The run that made the outputs.
    session
        Session with the prefix, if the page is that of one session alone.
    root
        Path from the page's folder to the output folder: empty, or `../` once or more.
    embedded
        Figures that the page holds, as `data:` URIs by path; it links to others.
    summary
        Series and T1w images of the participant.
    warnings
        Shown first, most serious first.
    anatomy, series
        Sections.
    methods
        Methods text; paragraphs parted by empty lines, headings start with `#`, citations are
        `[@key]` with keys of `references.yaml`.
    """

    participant: str
    dataset: str
    run: RunSummary
    session: str = ""
    root: str = ""
    embedded: Mapping[str, str] = field(default_factory=dict)
    summary: tuple[Entry, ...] = ()
    warnings: tuple[ReportWarning, ...] = ()
    anatomy: tuple[AnatomySection, ...] = ()
    series: tuple[SeriesSection, ...] = ()
    methods: str = ""

    @property
    def title(self) -> str:
        """Whose page it is."""
        return ", ".join(filter(None, (f"sub-{self.participant}", self.session)))

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Every figure."""
        of_anatomy = (figure for section in self.anatomy for figure in section.figures)
        of_series = (figure for section in self.series for figure in section.figures)
        return (*of_anatomy, *of_series)
