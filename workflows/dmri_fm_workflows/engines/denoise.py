"""Engines that remove noise, and Gibbs ringing on request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmri_fm_workflows.engines.base import EngineText, Method, StageEngines

if TYPE_CHECKING:
    from dmri_fm_workflows.stages.denoise.engine import DenoiseEngine

DENOISE: StageEngines[DenoiseEngine] = StageEngines(
    "dmri_fm_workflows.stages.denoise",
    {
        "dwidenoise": EngineText(
            "MRtrix3",
            (
                Method(
                    "MRtrix3 dwidenoise",
                    "Noise was removed by {method} [@veraart2016; @tournier2019].",
                ),
            ),
        ),
        "mppca": EngineText(
            "MP-PCA of DIPY",
            (
                Method(
                    "MP-PCA", "Noise was removed by {method} [@veraart2016; @garyfallidis2014]."
                ),
            ),
        ),
        "patch2self": EngineText(
            "Patch2Self of DIPY",
            (
                Method(
                    "Patch2Self",
                    "Noise was removed by {method} [@fadnavis2020; @garyfallidis2014].",
                ),
            ),
        ),
        "none": EngineText(
            "",
            (
                Method("none$", "Noise was not removed."),
                Method(
                    "none .zero-filled",
                    "Noise was not removed from images that were zero-filled in plane.",
                ),
                Method("none", "Noise was not removed where a run has too few volumes."),
            ),
        ),
    },
)
