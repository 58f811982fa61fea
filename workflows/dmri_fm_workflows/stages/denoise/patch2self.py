"""Patch2Self, with DIPY."""

from __future__ import annotations

from dmri_fm.preprocess.denoise import name_denoiser
from dmri_fm_workflows.outputs.steps import Method
from dmri_fm_workflows.stages.denoise.engine import DenoiseEngine, init_dipy_wf

__all__ = ["ENGINE"]

ENGINE = DenoiseEngine(
    name="patch2self",
    builder=init_dipy_wf,
    describe=lambda n_volumes: name_denoiser("patch2self", n_volumes),
    methods=(
        Method("Patch2Self", "Noise was removed by {method} [@fadnavis2020; @garyfallidis2014]."),
    ),
)
