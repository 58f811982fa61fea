"""Tables over all participants."""

from dmri_fm_workflows.group.page import find_pages, render_group_page
from dmri_fm_workflows.group.regional import RegionSet
from dmri_fm_workflows.group.tables import GroupTables, collect_tables
from dmri_fm_workflows.group.writing import write_tables

__all__ = [
    "GroupTables",
    "RegionSet",
    "collect_tables",
    "find_pages",
    "render_group_page",
    "write_tables",
]
