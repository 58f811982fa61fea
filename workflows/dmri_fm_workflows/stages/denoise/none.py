"""No denoising; Gibbs ringing can be removed nevertheless."""

from __future__ import annotations

from dmri_fm_workflows.outputs.steps import Method
from dmri_fm_workflows.stages.denoise.engine import DenoiseEngine, init_dipy_wf

__all__ = ["ENGINE"]

ENGINE = DenoiseEngine(
    name="none",
    builder=init_dipy_wf,
    describe=lambda n_volumes: "none",
    methods=(
        Method("none$", "Noise was not removed."),
        Method("none", "Noise was not removed where a run has too few volumes."),
    ),
)
