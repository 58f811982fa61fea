"""Methods that correct susceptibility distortion (SDC)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmri_fm_workflows.engines.base import EngineText, Method, StageEngines

if TYPE_CHECKING:
    from dmri_fm_workflows.stages.sdc.engine import SdcEngine

_VARIATIONAL = (
    "Distortion by magnetic susceptibility was estimated from images of opposite phase encoding "
    "by a variational method after [@ruthotto2012], with a penalty of the field's Laplacian"
)

_FIELDMAP = (
    "Distortion by magnetic susceptibility was corrected with a gradient-echo field map "
    "[@jezzard1995]"
)

SDC: StageEngines[SdcEngine] = StageEngines(
    "dmri_fm_workflows.stages.sdc",
    {
        "topup": EngineText(
            "FSL, from reverse-phase images",
            (
                Method(
                    "FSL topup",
                    "Distortion by magnetic susceptibility was estimated from images of opposite "
                    "phase encoding by {method} [@andersson2003].",
                ),
            ),
        ),
        "pepolar": EngineText(
            "built in, from reverse-phase images",
            (
                Method(
                    "Variational estimate.*readout times unknown",
                    f"{_VARIATIONAL}, with readout times that are unknown and were taken to be "
                    "equal.",
                ),
                Method("Variational estimate", f"{_VARIATIONAL}."),
            ),
        ),
        "fieldmap": EngineText(
            "built in, from a gradient-echo field map",
            (
                Method(
                    "Gradient-echo phase difference|Two gradient-echo phase images",
                    f"{_FIELDMAP}: {{method}} [@abdulrahman2007; @vanderwalt2014].",
                ),
                Method("Gradient-echo field map", f"{_FIELDMAP}, as the scanner computed it."),
            ),
        ),
        "syn": EngineText(
            "built in, from the T1w image, approximate and never chosen by auto",
            (
                Method(
                    "Registration to the T1w image",
                    "Distortion by magnetic susceptibility was estimated without a field map, by "
                    "registration of the b=0 image to the T1w image along the phase-encoding axis "
                    "[@wang2017; @avants2008].",
                ),
            ),
        ),
        "none": EngineText(
            "",
            (Method("none", "Distortion by magnetic susceptibility was not corrected."),),
        ),
    },
)
