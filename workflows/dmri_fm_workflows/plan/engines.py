"""Engines of a run, chosen before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dmri_fm.errors import ConfigError, MissingToolError
from dmri_fm_workflows.engines import DENOISE, HMC, SDC
from dmri_fm_workflows.engines.base import StageEngines
from dmri_fm_workflows.templates import TemplateFiles

if TYPE_CHECKING:
    from dmri_fm_workflows.stages.base import Engine


@dataclass(frozen=True)
class Engines:
    """Engines of the steps of a run.

    Attributes
    ----------
    denoise, hmc
        Names of the engines for noise, and for motion and eddy currents.
    sdc
        Names of the methods for distortion, in the order in which a series tries them.
    device
        Torch device of the networks.
    uses_cuda_eddy
        Whether eddy's build for GPUs runs.
    has_eddy_quad
        Whether eddy_quad runs behind eddy.
    hmc_fallbacks
        Engines for motion of a series that `hmc` cannot correct, in order; none if the user named
        it.
    templates
        Templates of TemplateFlow in whose spaces maps are written.
    """

    denoise: str
    sdc: tuple[str, ...]
    hmc: str
    device: str = "cpu"
    uses_cuda_eddy: bool = False
    has_eddy_quad: bool = False
    hmc_fallbacks: tuple[str, ...] = ()
    templates: tuple[TemplateFiles, ...] = ()


def choose_engines(
    *,
    denoise: str,
    sdc: str,
    hmc: str,
    unring: bool,
    device: str = "cpu",
    eddy_config: Mapping[str, Any] = MappingProxyType({}),
    templates: tuple[TemplateFiles, ...] = (),
) -> Engines:
    """Choose engines; `auto` takes those whose programs are installed, in order of preference.

    Raises
    ------
    MissingToolError
        If the programs of an engine that was named are missing.
    ConfigError
        If the device is missing, or options of eddy are given and another engine is chosen.
    """
    hmc, *fallbacks = _list_usable(HMC, hmc)
    engines = Engines(
        denoise=_list_usable(DENOISE, denoise, unring=unring)[0],
        sdc=_list_usable(SDC, sdc),
        hmc=hmc,
        hmc_fallbacks=tuple(fallbacks),
        device=choose_device(device),
        templates=templates,
    )
    if engines.hmc == "eddy":
        return replace(
            engines,
            uses_cuda_eddy=_uses_cuda_eddy(eddy_config, engines.device),
            has_eddy_quad=HMC.load("eddy").has_quality_program(),
        )
    if eddy_config:
        raise ConfigError(
            f"--eddy-config was given, and head motion is corrected by {engines.hmc}",
            expected="FSL's eddy",
            advice="install or load FSL and use --hmc eddy, or leave --eddy-config out",
        )
    return engines


def _uses_cuda_eddy(options: Mapping[str, Any], device: str) -> bool:
    """Tell whether eddy's build for GPUs runs: as the user says, else where it and a GPU are."""
    has_build = bool(HMC.load("eddy").list_gpu_builds())
    if options.get("use_cuda") and not has_build:
        raise MissingToolError(
            "use_cuda of --eddy-config, and no build of eddy for GPUs is on the PATH",
            expected="eddy_cuda, or eddy_cuda10.2 and the like",
            advice="install or load it, or leave out use_cuda and what needs it, such as mporder",
        )
    return bool(options.get("use_cuda", has_build and device == "cuda"))


def _list_usable(
    engines: StageEngines[Engine], name: str, *, unring: bool = False
) -> tuple[str, ...]:
    """Return the engines of a stage that may run: the named one, or all that are installed."""
    if name == "auto":
        known = {name: engines.load(name) for name in engines.names}
        return tuple(
            n for n, e in known.items() if e.in_auto and not e.list_missing(unring=unring)
        )
    engine = engines.load(name)
    if missing := engine.list_missing(unring=unring):
        program = name if missing == engine.programs else missing[0]
        raise MissingToolError(
            f"{program} was asked for and is not on the PATH",
            expected=" or ".join(missing),
            advice="install or load it, or leave the choice to `auto`",
        )
    return (name,)


def choose_device(requested: str) -> str:
    """Resolve `auto`: a CUDA device where torch sees one.

    Raises
    ------
    ConfigError
        If CUDA was asked for and there is none.
    """
    if requested == "cpu":
        return "cpu"
    import torch

    has_cuda = torch.cuda.is_available()
    if requested == "cuda" and not has_cuda:
        raise ConfigError(
            "--device cuda was asked for and torch sees no CUDA device",
            expected="an NVIDIA GPU, its driver, and a CUDA build of torch",
            advice="use --device cpu, or leave the choice to `auto`",
        )
    return "cuda" if has_cuda else "cpu"
