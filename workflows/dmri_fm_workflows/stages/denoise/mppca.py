"""Marchenko-Pastur PCA (MP-PCA), with DIPY."""

from __future__ import annotations

from dmri_fm.preprocess.denoise import name_denoiser
from dmri_fm_workflows.stages.denoise.engine import DenoiseEngine, describe_runs, init_dipy_wf

ENGINE = DenoiseEngine(
    builder=init_dipy_wf,
    describe=describe_runs(lambda n_volumes: name_denoiser("mppca", n_volumes)),
    needs_full_kspace=True,
)
