"""Engines that correct head motion and eddy currents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmri_fm_workflows.engines.base import EngineText, Method, StageEngines

if TYPE_CHECKING:
    from dmri_fm_workflows.stages.hmc.engine import HmcEngine

_ROTATED = "b-vectors were rotated accordingly"
_ONCE = (
    f"all transforms of a volume were composed, its voxels were interpolated once, and {_ROTATED}"
)

HMC: StageEngines[HmcEngine] = StageEngines(
    "dmri_fm_workflows.stages.hmc",
    {
        "eddy": EngineText(
            "FSL",
            (
                Method(
                    "FSL eddy",
                    "Head motion and eddy currents were corrected by {method} [@andersson2016], "
                    "which interpolates the series; its result was interpolated once more into "
                    f"each output space, and {_ROTATED}.",
                ),
            ),
        ),
        "builtin": EngineText(
            "registration to predicted volumes",
            (
                Method(
                    "registration to leave-one-out",
                    f"Head motion and eddy currents were estimated by {{method}}; {_ONCE}.",
                ),
            ),
        ),
        "none": EngineText(
            "",
            (Method("none", f"Head motion and eddy currents were not corrected; {_ONCE}."),),
        ),
    },
)
