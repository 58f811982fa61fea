"""Choice of the method that corrects head motion and eddy currents of a series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.plan.eddy import EddyPlan, plan_eddy
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.plan.sdc import SdcChoice


@dataclass(frozen=True)
class HmcChoice:
    """Correction of head motion and eddy currents of one series.

    Attributes
    ----------
    engines
        Engines of the series: `hmc` is the one that corrects it.
    eddy
        What FSL's eddy is told; None if another engine is chosen.
    warning
        Reason why the first engine cannot correct it, or None.
    """

    engines: Engines
    eddy: EddyPlan | None = None
    warning: str | None = None


def choose_hmc(
    series: DwiSeries,
    gtab: GradientTable,
    engines: Engines,
    options: Mapping[str, Any],
    *,
    sdc: SdcChoice,
) -> HmcChoice:
    """Choose the engine of a series: the first that can correct it.

    Parameters
    ----------
    series
        Its runs.
    gtab
        Gradients of all runs.
    engines
        Engines of the run.
    options
        Options of eddy, those of the user.
    sdc
        Susceptibility correction of the series.

    Raises
    ------
    ConfigError
        If the engine that the user named cannot correct the series.
    """
    if engines.hmc != "eddy":
        return HmcChoice(replace(engines, hmc_fallbacks=()))
    try:
        eddy = plan_eddy(options, series, gtab, sdc=sdc, has_quad=engines.has_eddy_quad)
    except ConfigError as error:
        if not engines.hmc_fallbacks:
            raise
        # The engines of our own take every series.
        other = engines.hmc_fallbacks[0]
        chosen = replace(
            engines, hmc=other, hmc_fallbacks=(), uses_cuda_eddy=False, has_eddy_quad=False
        )
        warning = (
            f"{series.name}: head motion is corrected by {other}, not by eddy: {error.found}."
        )
        return HmcChoice(chosen, warning=warning)
    return HmcChoice(replace(engines, hmc_fallbacks=()), eddy)
