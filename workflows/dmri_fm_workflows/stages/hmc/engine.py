"""Record of a method that corrects head motion and eddy currents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.programs import list_missing
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import MERGED_FILES, Engine, open_workflow

#: Fields that every method offers besides the series, by output of its last node.
RESULTS = {
    "motion_file": "motion_file",
    "motion_record": "motion_record",
    "confounds_file": "confounds_file",
    "confounds_record": "confounds_record",
    "outliers_file": "outliers_file",
    "record": "hmc_record",
}


@dataclass(frozen=True, kw_only=True)
class HmcEngine(Engine):
    """A method that corrects head motion and eddy currents.

    Attributes
    ----------
    resamples
        Whether it interpolates the series and corrects the distortion; otherwise the field passes
        to the normalise stage, which interpolates once.
    list_gpu_builds
        Return its executables for GPUs; none: there are none, or it needs none.
    quality_programs
        Executables that measure the quality of its results, any of which will do.
    """

    resamples: bool = False
    list_gpu_builds: Callable[[], tuple[str, ...]] = tuple
    quality_programs: tuple[str, ...] = ()

    def has_quality_program(self) -> bool:
        """Tell whether a program that measures the quality of its results is there."""
        return bool(self.quality_programs) and not list_missing(self.quality_programs)


def wire_estimate(
    name: str,
    node: pe.Node,
    plan: SeriesPlan,
    images: Mapping[str, str] | None = None,
    *,
    gives_series: bool = False,
) -> pe.Workflow:
    """Return the workflow of a node that estimates transforms; nothing is resampled.

    Parameters
    ----------
    name
        Name of the workflow.
    node
        Its only node; inputs :data:`~dmri_fm_workflows.stages.base.MERGED_FILES`, outputs
        :data:`RESULTS`.
    plan
        Plan of the series.
    images
        Further inputs of the node, by field. The field in Hz is used where there is one.
    gives_series
        Whether the node hands on the series, `dwi_file`; else it passes unchanged.
    """
    field = {"field_file": "remaining_field_file"} if plan.sdc.has_field else {}
    series = {} if gives_series else {"denoised_file": "dwi_file"}
    kept = {**series, "raw_bvec_file": "bvec_file", **field}
    given = RESULTS | ({"dwi_file": "dwi_file"} if gives_series else {})
    taken = MERGED_FILES | {
        f: i for f, i in (images or {}).items() if f != "field_file" or plan.sdc.has_field
    }
    workflow, inputnode, outputnode = open_workflow(
        name, taken | field, [*kept.values(), *given.values()]
    )
    workflow.connect([
        (inputnode, node, list(taken.items())),
        (node, outputnode, list(given.items())),
        (inputnode, outputnode, list(kept.items())),
    ])  # fmt: skip
    return workflow
