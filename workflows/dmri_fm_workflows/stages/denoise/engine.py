"""Record of a denoising engine, and the graph of DIPY's engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.preprocess import DenoiseDwi
from dmri_fm_workflows.interfaces.programs import is_present, name_gibbs_removal
from dmri_fm_workflows.interfaces.records import MergeRunRecords
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import RUN_FILES, Engine, Resources, open_workflow

__all__ = ["DenoiseEngine", "init_dipy_wf"]


@dataclass(frozen=True, kw_only=True)
class DenoiseEngine(Engine):
    """A denoising engine, and its program for Gibbs ringing.

    Attributes
    ----------
    unring_programs
        Executables for Gibbs ringing; none: built in.
    describe_unringing
        Name of the method for Gibbs ringing, with its version.
    """

    unring_programs: tuple[str, ...] = ()
    describe_unringing: Callable[[], str] = name_gibbs_removal

    @property
    def can_unring(self) -> bool:
        """Whether its program for Gibbs ringing is present."""
        return not self.unring_programs or is_present(self.unring_programs)

    def name_unringing(self, *, unring: bool) -> str:
        """Return the entry of plan and sidecar about Gibbs ringing."""
        return self.describe_unringing() if unring else "none"


def init_dipy_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "denoise_wf"
) -> pe.Workflow:
    """Denoise each run, and remove Gibbs ringing on request, with DIPY.

    Inputs
    ------
    run_dwi_files, run_bval_files, run_bvec_files
        The runs.

    Outputs
    -------
    denoised_files
        Denoised runs, in order.
    denoise_record
        Method, with its version.
    """
    workflow, inputnode, outputnode = open_workflow(
        name, RUN_FILES, ["denoised_files", "denoise_record"]
    )
    denoise = pe.MapNode(
        DenoiseDwi(
            method=plan.engines.denoise, unring=plan.unring, n_threads=resources.omp_nthreads
        ),
        iterfield=list(RUN_FILES.values()),
        name="denoise",
        n_procs=resources.omp_nthreads if plan.unring else 1,
        mem_gb=4 * plan.size_gb,
    )
    collect = pe.Node(MergeRunRecords(), name="collect_records", run_without_submitting=True)
    workflow.connect([
        (inputnode, denoise, list(RUN_FILES.items())),
        (denoise, collect, [("record", "in_records")]),
        (denoise, outputnode, [("out_file", "denoised_files")]),
        (collect, outputnode, [("record", "denoise_record")]),
    ])  # fmt: skip
    return workflow
