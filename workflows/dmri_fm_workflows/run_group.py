"""The group level: tables and a page from the output folder; no raw data, no graph."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import get_console

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.normalise.template import load_regions
from dmri_fm_workflows.group.atlases import read_atlas, read_bundles, split_atlas
from dmri_fm_workflows.group.by_group import read_groups
from dmri_fm_workflows.group.collect import choose_participants
from dmri_fm_workflows.group.exclusion import parse_rule
from dmri_fm_workflows.group.page import find_pages, render_group_page
from dmri_fm_workflows.group.ratings import read_ratings
from dmri_fm_workflows.group.regional import RegionSet, RegionSource
from dmri_fm_workflows.group.tables import collect_tables
from dmri_fm_workflows.group.writing import write_tables
from dmri_fm_workflows.outputs.methods import Processed, find_processed, write_citations
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.outputs.root import read_name

LOGGER = logging.getLogger(__name__)


def run_group(
    output_dir: str | Path,
    *,
    participant_labels: Sequence[str] = (),
    dry_run: bool = False,
    bids_dir: str | Path | None = None,
    qc_exclude: Sequence[str] = (),
    ratings: Sequence[str | Path] = (),
    atlases: Sequence[str] = (),
    bundles: str | Path | None = None,
) -> int:
    """Write the tables and the page of the group, and the methods text of its participants.

    Parameters
    ----------
    output_dir
        Output folder of the participant level.
    participant_labels
        With or without the prefix; all participants by default.
    dry_run
        Name the participants that would be tabulated; write nothing.
    bids_dir
        Raw dataset, by whose `participants.tsv` scans are tabulated, if it is there.
    qc_exclude
        Rules by which scans are marked as excluded, see
        :func:`~dmri_fm_workflows.group.exclusion.parse_rule`.
    ratings
        Tables of ratings (:func:`~dmri_fm_workflows.group.ratings.read_ratings`).
    atlases
        Label images in the template's space, `FILE` or `FILE:TABLE`, see
        :func:`~dmri_fm_workflows.group.atlases.read_atlas`.
    bundles
        Folder of fibre bundles, see :func:`~dmri_fm_workflows.group.atlases.read_bundles`.

    Returns
    -------
    int
        0 if every output could be tabulated, else 1.

    Raises
    ------
    LayoutError
        If the folder holds no participant, or not those asked for.
    ConfigError
        If a rule cannot be parsed or names an unknown column, or two regions have one name.
    InputError
        If an atlas, a bundle, ratings or `participants.tsv` cannot be used.
    OutputError
        If a file cannot be written.
    """
    output_dir = Path(output_dir)
    rules = [parse_rule(text) for text in dict.fromkeys(qc_exclude)]
    participants = choose_participants(output_dir, participant_labels)
    given = read_ratings(ratings)
    if dry_run:
        get_console().print(f"{len(participants)} participants: {', '.join(participants)}")
        return 0
    regions = _read_regions(atlases, bundles)
    groups = _read_groups(Path(bids_dir), is_needed=bool(rules)) if bids_dir else {}
    tables = collect_tables(
        output_dir, regions, participants=participants, rules=rules, ratings=given
    )
    for problem in tables.problems:
        LOGGER.warning("%s: %s", problem.participant, problem.message)
    if unknown := given.find_unknown(tables.quality):
        LOGGER.warning("Ratings of scans that are not there: %s", ", ".join(unknown))
    for path in write_tables(output_dir, tables):
        LOGGER.info("Wrote %s", path)
    page = render_group_page(
        tables,
        dataset=read_name(output_dir),
        pages=find_pages(output_dir, participants),
        groups=groups,
    )
    target = output_dir / output_path({}, "group_report")
    publish_text(page, target)
    LOGGER.info("Wrote %s", target)
    all_described = _describe_methods(output_dir, participants)
    return 1 if tables.problems or not all_described else 0


def _read_groups(bids_dir: Path, *, is_needed: bool) -> dict[str, dict[str, str]]:
    """Return the groups of the participants; without rules a damaged table is a warning."""
    try:
        return read_groups(bids_dir / "participants.tsv")
    except InputError as error:
        if is_needed:
            raise
        LOGGER.warning("%s: scans are not counted by group", error)
        return {}


def _describe_methods(output_dir: Path, participants: Sequence[str]) -> bool:
    """Write the methods text of participants; tell whether the outputs of all could be read."""
    processed = Processed()
    described: list[str] = []
    for label in participants:
        try:
            processed += find_processed(set((output_dir / label).rglob("*")))
        except InputError as error:
            LOGGER.warning("%s: its methods are not in logs/CITATION.*: %s", label, error)
        else:
            described.append(label)
    write_citations(output_dir, processed, described)
    return len(described) == len(participants)


def _read_regions(atlases: Sequence[str], bundles: str | Path | None) -> tuple[RegionSource, ...]:
    """Return the blocks of the template, and the regions that a user names."""
    sources: list[RegionSource] = [_packaged_regions()]
    sources += [read_atlas(*split_atlas(text)) for text in atlases]
    if bundles is not None:
        sources.append(read_bundles(Path(bundles)))
    counted = Counter(name for source in sources for name in source.about)
    if twice := [name for name, n in counted.items() if n > 1]:
        raise ConfigError(
            f"two regions are called {twice[0]}",
            expected="atlases of different file names",
        )
    return tuple(sources)


def _packaged_regions() -> RegionSet:
    packaged = load_regions()
    return RegionSet.from_table(
        packaged.labels,
        packaged.grid.affine,
        names={region.index: region.name for region in packaged.table},
        tissues={region.index: region.tissue for region in packaged.table},
    )
