"""Engines of a run, chosen before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dmri_fm.errors import ConfigError, MissingToolError
from dmri_fm_workflows.stages import denoise as denoise_stage
from dmri_fm_workflows.stages import hmc as hmc_stage
from dmri_fm_workflows.stages import sdc as sdc_stage

__all__ = [
    "Engines",
    "choose_device",
    "choose_engines",
]


@dataclass(frozen=True)
class Engines:
    """Engines of the steps of a run.

    Attributes
    ----------
    denoise, pair_sdc, hmc
        Names of the engines for noise, for distortion where there is a pair of images, and for
        motion and eddy currents.
    device
        Torch device of the networks.
    """

    denoise: str
    pair_sdc: str
    hmc: str
    device: str = "cpu"


def choose_engines(
    *, denoise: str, sdc: str, hmc: str, unring: bool, device: str = "cpu"
) -> Engines:
    """Choose engines; `auto` is the first engine of a stage whose programs are installed.

    Raises
    ------
    MissingToolError
        If the programs of an engine that was named are missing.
    ConfigError
        If the device is missing.
    """
    return Engines(
        denoise=_choose(denoise_stage, denoise, unring=unring),
        pair_sdc=_choose(sdc_stage, sdc),
        hmc=_choose(hmc_stage, hmc),
        device=choose_device(device),
    )


def _choose(package: Any, name: str, *, unring: bool = False) -> str:
    """Return the engine of a stage that runs."""
    if name == "auto":
        names: tuple[str, ...] = package.NAMES
        return next(n for n in names if not _missing(package.load(n), unring=unring))
    if missing := _missing(package.load(name), unring=unring):
        program = name if missing == package.load(name).programs else missing[0]
        raise MissingToolError(
            f"{program} was asked for and is not on the PATH",
            expected=" or ".join(missing),
            advice="install or load it, or leave the choice to `auto`",
        )
    return name


def _missing(engine: Any, *, unring: bool) -> tuple[str, ...]:
    """Return the executables that an engine lacks; none if it can run."""
    if not engine.is_present:
        return tuple(engine.programs)
    if unring and not engine.can_unring:
        return tuple(engine.unring_programs)
    return ()


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
