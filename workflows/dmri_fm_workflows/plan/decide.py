"""Every decision about a participant, from names, headers, sidecars and gradient files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import ENCODERS, TENSOR_NETWORKS, identity
from dmri_fm.qspace import SixDirections, find_six
from dmri_fm.shell_resampling import FEWEST_DIRECTIONS, find_shell
from dmri_fm.tensor_design import describe_widening, determines_tensor, select_shells
from dmri_fm_workflows.bids import DwiSeries, Participant, Problem, Session
from dmri_fm_workflows.bids.names import contrast_of, session_of
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.plan.anatomy import choose_template
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.plan.hmc import choose_hmc
from dmri_fm_workflows.plan.records import SLOPPY_WARNING, SeriesPlan
from dmri_fm_workflows.plan.sdc import SdcChoice, choose_sdc
from dmri_fm_workflows.plan.unring import check_unringing
from dmri_fm_workflows.plan.visits import ParticipantPlan, SessionPlan
from dmri_fm_workflows.plan.weights import explain_lacking, network_maps
from dmri_fm_workflows.templates import OWN_SPACES


def plan_participant(
    config: RunConfig, participant: Participant, engines: Engines
) -> ParticipantPlan:
    """Return the plan of a participant; a series that has none is among its problems.

    Parameters
    ----------
    config
        The request.
    participant
        Sessions and series, of :func:`dmri_fm_workflows.bids.read_dataset`.
    engines
        Engines of this machine.
    """
    sessions: list[SessionPlan] = []
    problems: list[Problem] = []
    for session in participant.sessions:
        planned: list[SeriesPlan] = []
        for series in session.series:
            try:
                planned.append(plan_series(config, series, session, engines))
            except ConfigError as error:
                problems.append(Problem(participant.label, error))
        if planned:
            sessions.append(_plan_session(config, session, tuple(planned), engines))
    return ParticipantPlan(
        label=participant.label, sessions=tuple(sessions), problems=tuple(problems)
    )


def _plan_session(
    config: RunConfig, session: Session, planned: tuple[SeriesPlan, ...], engines: Engines
) -> SessionPlan:
    """Return the plan of a session, by those of its series."""
    return SessionPlan(
        label=session.label,
        t1w=session.t1w[0] if session.t1w else None,
        unused_t1w=session.t1w[1:],
        normalisation=config.normalisation,
        sloppy=config.sloppy,
        prepared_t1w=session.prepared_t1w,
        user_t1w_mask=session.user_t1w_mask,
        series=planned,
        templates=engines.templates,
        lesion_mask=session.lesion_mask,
    )


def plan_series(
    config: RunConfig, series: DwiSeries, session: Session, engines: Engines
) -> SeriesPlan:
    """Return the plan of one series of a session.

    Raises
    ------
    ConfigError
        If a method that the user named cannot correct it.
    """
    gtab = GradientTable.concatenate([run.gtab for run in series.runs])
    volumes = select_shells(gtab) if determines_tensor(gtab) else np.array([], dtype=int)
    wanted = tuple(m for m in config.models if m in TENSOR_NETWORKS)
    encoders = tuple(m for m in config.models if m in ENCODERS)
    of_shell = {m for m in encoders if identity(m).extraction.directions == "shell"}
    lacking = of_shell if of_shell and find_shell(gtab) is None else set()
    six = find_six(gtab, seed=config.random_seed) if len(volumes) and wanted else None
    networks = wanted if six is not None else ()
    sdc = (
        choose_sdc(
            series, engines.sdc, has_t1w=bool(session.t1w) and contrast_of(session.t1w[0]) == "T1w"
        )
        if series.preprocessing is None
        else SdcChoice("none", "the input is preprocessed")
    )
    warnings = [*([SLOPPY_WARNING] * config.sloppy), *session.warnings, *series.warnings]
    hmc = choose_hmc(series, gtab, engines, config.eddy_config, sdc=sdc)
    ringing = check_unringing(series) if config.unring else None
    warnings += [text for text in (sdc.warning, hmc.warning, ringing) if text is not None]
    warnings += _explain_left_out(
        series.name,
        six,
        lacks_six=bool(len(volumes) and wanted and not networks),
        lacking=sorted(lacking),
    )
    maps = {network: network_maps(network, config.weights) for network in networks}
    for network, types in maps.items():
        warnings += explain_lacking(network, types)
    return SeriesPlan(
        series=series,
        gtab=gtab,
        t1w=session.t1w[0] if session.t1w else None,
        t1w_session=session_of(session.t1w[0]) if session.t1w else "",
        engines=hmc.engines,
        sdc=sdc,
        eddy=hmc.eddy,
        is_denoiser_named=config.denoise != "auto",
        unring=config.unring,
        unbias=config.b1_biascorrect_stage == "final",
        repol=config.repol == "on",
        b_scaling=config.b_scaling,
        normalisation=config.normalisation,
        normalisation_name=choose_template(session.prepared_t1w, config.normalisation).name,
        voxel_size_mm=config.output_resolution,
        lesion_mask=session.lesion_mask,
        output_spaces=tuple(s for s in config.output_spaces if s in OWN_SPACES),
        tensor_volumes=tuple(int(i) for i in volumes),
        tensor_widening=describe_widening(gtab, volumes) if len(volumes) else None,
        models=config.models,
        networks=networks,
        maps=maps,
        six=six,
        encoders=tuple(m for m in encoders if m not in lacking),
        weights=config.weights,
        region=config.region,
        random_seed=config.random_seed,
        sloppy=config.sloppy,
        age=session.age,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _explain_left_out(
    name: str, six: SixDirections | None, *, lacks_six: bool, lacking: Sequence[str]
) -> list[str]:
    """Return the warnings about networks and encoders that the directions of a series lack."""
    texts = []
    if lacks_six:
        texts.append(
            f"{name}: no shell has six directions that determine a tensor: the tensor "
            "network is left out."
        )
    if six is not None and six.problem is not None:
        texts.append(f"{name}: {six.problem} for a tensor network.")
    return texts + [
        f"{name}: no shell has {FEWEST_DIRECTIONS} directions that are spread over the "
        f"sphere: {encoder} is left out."
        for encoder in lacking
    ]
