"""Which scans of a group were corrected for susceptibility distortion, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from dmri_fm_workflows.group.by_group import CrossTable, cross_tabulate
from dmri_fm_workflows.outputs.tsv import MISSING, SDC_METHOD
from dmri_fm_workflows.report.content import ReportWarning

#: Method of a scan that is not corrected.
UNCORRECTED = "none"


def count_methods(quality: pd.DataFrame) -> dict[str, int]:
    """Return how many scans each method corrected, the most frequent first.

    `quality` is the table of image quality; scans whose correction it does not tell (preprocessed
    input, outputs of earlier versions) are `n/a`.
    """
    methods = quality.get(SDC_METHOD, pd.Series(dtype=str))
    return {str(method): int(n) for method, n in methods.value_counts().items()}


def tabulate_methods(
    quality: pd.DataFrame, groups: Mapping[str, Mapping[str, str]]
) -> tuple[CrossTable, ...]:
    """Count the methods by the groups of `participants.tsv`; empty if all scans share one."""
    methods = count_methods(quality)
    if len(methods) < 2:
        return ()
    levels = {method: (quality[SDC_METHOD] == method).tolist() for method in methods}
    return cross_tabulate(levels, quality["participant_id"].tolist(), groups)


def warn_of_methods(quality: pd.DataFrame) -> Iterator[ReportWarning]:
    """Yield a warning if scans differ in the correction of susceptibility distortion."""
    methods = count_methods(quality)
    if len(methods) < 2:
        return
    listed = ", ".join(f"{method}: {n}" for method, n in methods.items())
    if {UNCORRECTED, MISSING} & set(methods):
        yield ReportWarning(
            "warning",
            f"Scans differ in the correction of susceptibility distortion ({listed}): "
            f"{UNCORRECTED} were not corrected, of {MISSING} it is not known here.",
            advice="Frontal and temporal regions differ by it: leave out the uncorrected scans, "
            "or model sdc_method where it does not go with the groups that you compare.",
        )
    else:
        yield ReportWarning(
            "note",
            f"Susceptibility distortion was corrected by different methods ({listed}).",
            advice="Model sdc_method, or compare within one method.",
        )
