"""No denoising; Gibbs ringing can be removed nevertheless."""

from __future__ import annotations

from dmri_fm_workflows.stages.denoise.engine import DenoiseEngine, init_dipy_wf

ENGINE = DenoiseEngine(
    builder=init_dipy_wf,
    describe=lambda plan: "none",
)
