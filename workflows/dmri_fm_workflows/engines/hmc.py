"""Engines that correct head motion and eddy currents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dmri_fm_workflows.engines.base import EngineText, Method, StageEngines

if TYPE_CHECKING:
    from dmri_fm_workflows.stages.hmc.engine import HmcEngine

_ROTATED = "b-vectors were rotated accordingly"
_ONCE = (
    f"all transforms of a volume were composed, its voxels were interpolated once, and {_ROTATED}"
)

#: Parts of eddy's name in sidecars, and their works.
_EDDY_PARTS = {
    "outlier replacement": "andersson2016b",
    "slice-to-volume motion": "andersson2017",
    "a field that moves with the head": "andersson2018",
}


def _eddy_methods() -> Iterator[Method]:
    """Yield the sentences about eddy, those with most of its parts first."""
    for n in range(len(_EDDY_PARTS), -1, -1):
        for parts in itertools.combinations(_EDDY_PARTS, n):
            keys = "; ".join(f"@{key}" for key in ("andersson2016", *map(_EDDY_PARTS.get, parts)))
            yield Method(
                ".*".join(["FSL eddy", *parts]),
                f"Head motion and eddy currents were corrected by {{method}} [{keys}], which "
                "interpolates the series; its result was interpolated once more into each output "
                f"space, and {_ROTATED}.",
            )


HMC: StageEngines[HmcEngine] = StageEngines(
    "dmri_fm_workflows.stages.hmc",
    {
        "eddy": EngineText("FSL", tuple(_eddy_methods())),
        "builtin": EngineText(
            "registration to predicted volumes",
            (
                Method(
                    "registration to leave-one-out.*Gaussian process",
                    "Head motion and eddy currents were estimated by {method} "
                    f"[@andersson2015]; {_ONCE}.",
                ),
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
