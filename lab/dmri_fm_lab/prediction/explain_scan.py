"""Maps of one scan for a prediction that a cohort taught: occlusion, and attention of the CLS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.features import FeatureType, feature_columns
from dmri_fm.errors import ConfigError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.registry import load_encoder
from dmri_fm.series import Dwi
from dmri_fm_lab.prediction.cohort_vectors import (
    CohortVectors,
    VectorRequest,
    gather_vectors,
)
from dmri_fm_lab.prediction.draw_splits import SplitRequest, draw_splits
from dmri_fm_lab.prediction.heads import HeadSettings, Vectors, prepare_head
from dmri_fm_lab.prediction.metrics import SCORES, TITLES, format_summary, summarise
from dmri_fm_lab.prediction.pretrained_on import WEIGHTS_COLUMN
from dmri_fm_lab.prediction.probe import ProbeSettings, run_probe
from dmri_fm_lab.prediction.scan_maps import cls_attention, occlude, patch_image, write_map
from dmri_fm_lab.scan_tables import ScanTable, listed, read_cells, read_people, read_scan_table
from dmri_fm_lab.table_cells import level_text
from dmri_fm_workflows.outputs.tsv import MISSING

#: Folds in which the head's own score is found.
N_FOLDS = 5

#: Head whose prediction is mapped.
HEAD = "tuned"


@dataclass(frozen=True)
class ScanRequest:
    """What is mapped.

    Attributes
    ----------
    features
        Table of the cohort's features, by the same weights.
    participants
        See :func:`dmri_fm_lab.scan_tables.read_people`.
    target, classes
        See :class:`~dmri_fm_lab.prediction.cohort_vectors.VectorRequest`.
    excluded
        Participants whom the head must not be fitted to: the one who is mapped.
    feature
        What the head reads.
    model, weights, device, n_directions, region, seed
        See :func:`dmri_fm.extract_features`; as for the table.
    block
        Patches of a masked block along each axis.
    """

    features: Path
    participants: Path
    target: str
    excluded: tuple[str, ...]
    classes: tuple[str, ...] = ()
    feature: FeatureType = "cls"
    model: str = "drope"
    weights: Path | None = None
    device: str = "cpu"
    n_directions: int = 12
    region: str | None = None
    seed: int = 0
    block: int = 2


class ScanMaps(NamedTuple):
    """Text about the head, and the maps that were written."""

    text: str
    paths: list[Path]


def explain_scan(
    dwi: Dwi,
    request: ScanRequest,
    stem: Path,
    *,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> ScanMaps:
    """Map how a prediction of a cohort's head depends on regions of one scan.

    Writes `<stem>_desc-occlusion_map.nii.gz` and `<stem>_desc-clsattention_map.nii.gz` on the
    encoder's grid in MNI152NLin2009aSym, each with a sidecar.

    Parameters
    ----------
    dwi
        On the encoder's grid, see :func:`dmri_fm.extract_features`.
    request
        See :class:`ScanRequest`.
    stem
        Folder and stem of the names.
    report
        Is told how many blocks are masked, of how many.

    Raises
    ------
    ConfigError
        If the table has no such features, or was made by other weights or with another number of
        directions, or the target cannot be predicted.
    InputError
        If a file or the scan cannot be used.
    """
    encoder = load_encoder(request.model, weights=request.weights, device=request.device)
    network = encoder.weights.model
    if not isinstance(network, Drope):
        raise ConfigError(f"maps of {request.model}", expected="a D-RoPE encoder")
    prepared = encoder.prepare(
        dwi, n_directions=request.n_directions, seed=request.seed, region=request.region
    )
    notes = _check_table(request, encoder.weights.sha256)
    cohort = _read_cohort(request)
    predict, unit = _fit_head(cohort, request)
    tokens = prepared.tokens
    changes = occlude(
        network, tokens, predict, feature=request.feature, block=request.block, report=report
    )
    attention = cls_attention(network, tokens)
    held_out = _score_head(cohort, request)
    about = {
        "Model": encoder.weights.describe(),
        "Target": request.target,
        "Feature": request.feature,
        "HeldOutScores": held_out,
    }
    config = network.config
    paths = [
        write_map(
            patch_image(changes, tokens, config),
            stem.with_name(f"{stem.name}_desc-occlusion_map.nii.gz"),
            {
                **about,
                "Description": "Prediction without the patches of a block minus that of the whole "
                "scan",
                "BlockPatches": request.block,
                "Units": unit,
            },
        ),
        write_map(
            patch_image(attention, tokens, config),
            stem.with_name(f"{stem.name}_desc-clsattention_map.nii.gz"),
            {
                "Model": about["Model"],
                "Description": "Attention weights of the class token in the last block, mean over "
                "attention heads and directions",
                "Units": "arbitrary",
            },
        ),
    ]
    scores = "; ".join(f"{TITLES[name]} {cell}" for name, cell in held_out.items())
    text = (
        f"{RESEARCH_ONLY} {request.target} from {request.feature} in {len(cohort.target)} other "
        f"scans, {N_FOLDS} folds: {scores}. A map of a prediction that is no better than chance, "
        "or than site, motion or head size (`dmri-fm probe`), shows nothing about the target."
        + "".join(f" Note: {note}." for note in notes)
    )
    return ScanMaps(text, paths)


def _check_table(request: ScanRequest, sha256: str) -> list[str]:
    """Refuse a table of other weights or directions; return notes on what it does not say."""
    path = request.features
    cells = pd.DataFrame() if path.suffix == ".npz" else read_cells(path)
    notes = []
    for column, own in ((WEIGHTS_COLUMN, sha256), ("n_directions", f"{request.n_directions}")):
        found = {level_text(v) for v in cells.get(column, ())} - {MISSING, "", "nan", "None"}
        if not found:
            notes.append(f"{path.name} does not say its {column}, which must be {own[:12]}")
        elif found != {own} if column == WEIGHTS_COLUMN else own not in found:
            raise ConfigError(
                f"{column} {listed([f[:12] for f in sorted(found)])} of {path.name}, "
                f"{own[:12]} of the scan",
                expected="features by the same weights, of as many directions",
                advice="name the table's weights and directions, or extract its features again",
            )
    return notes


def _read_cohort(request: ScanRequest) -> CohortVectors:
    people = read_people(request.participants)
    table = read_scan_table(request.features)
    columns = feature_columns(table.values).get(request.feature)
    if columns is None:
        raise ConfigError(
            f"no columns of {request.feature} in {request.features.name}",
            expected="a table of the encoder's features",
        )
    own = [f"sub-{p.removeprefix('sub-')}" for p in request.excluded]
    kept = ~table.scans["participant_id"].isin(own)
    if unknown := sorted(set(own) - set(table.scans["participant_id"])):
        raise ConfigError(
            f"participant {listed(unknown)} is not in {request.features.name}",
            expected="the participant who is mapped, so that the head is not fitted to them",
            advice="--not-in-table says that there is none",
        )
    chosen = ScanTable(table.scans[kept], table.values.loc[kept, columns], table.left_out)
    vectors = VectorRequest(request.target, request.classes)
    return gather_vectors({request.feature: chosen}, people, vectors)


def _fit_head(
    cohort: CohortVectors, request: ScanRequest
) -> tuple[Callable[[NDArray[np.float64]], float], str]:
    """Return a head that is fitted to the whole cohort, and the unit of its predictions."""
    values = cohort.sets[request.feature].values
    settings = HeadSettings(cohort.task, seed=request.seed)
    nobody = Vectors(values[:0], cohort.groups[:0])
    trainer = prepare_head(HEAD, Vectors(values, cohort.groups), nobody, settings)
    target, middle, scale = cohort.target, 0.0, 1.0
    unit = f"of {request.target}"
    if cohort.task == "regression":
        middle, scale = float(target.mean()), float(target.std(ddof=1))
        target = (target - middle) / scale
    else:
        unit = f"probability of {cohort.classes[1]}"
    fitted = trainer(target, target[:0])
    return lambda vector: middle + scale * float(fitted.predict(vector[None])[0, 0]), unit


def _score_head(cohort: CohortVectors, request: ScanRequest) -> dict[str, str]:
    drawn = SplitRequest(n_folds=N_FOLDS, stratify=(request.target,), seed=request.seed)
    folds, _ = draw_splits(cohort.people, drawn)
    settings = ProbeSettings((HEAD,), HeadSettings(cohort.task, seed=request.seed))
    (found,) = run_probe(cohort, folds, settings)
    return {
        name: format_summary(name, summarise(found.scores[name])) for name in SCORES[cohort.task]
    }
