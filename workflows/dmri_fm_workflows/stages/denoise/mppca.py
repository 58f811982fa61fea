"""Marchenko-Pastur PCA (MP-PCA), with DIPY."""

from __future__ import annotations

from dmri_fm.preprocess.denoise import name_denoiser
from dmri_fm_workflows.outputs.steps import Method
from dmri_fm_workflows.stages.denoise.engine import DenoiseEngine, init_dipy_wf

__all__ = ["ENGINE"]

ENGINE = DenoiseEngine(
    name="mppca",
    builder=init_dipy_wf,
    describe=lambda n_volumes: name_denoiser("mppca", n_volumes),
    methods=(
        Method("MP-PCA", "Noise was removed by {method} [@veraart2016; @garyfallidis2014]."),
    ),
)
