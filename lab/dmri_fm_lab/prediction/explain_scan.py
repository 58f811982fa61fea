"""Maps of one scan: occlusion, of a prediction that a cohort taught or of a feature; attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dmri_fm.encoders.base import Encoder
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.features import FeatureType, feature_columns
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.errors import ConfigError
from dmri_fm.identity import RESEARCH_ONLY, identity
from dmri_fm.qspace import FEATURE_DIRECTIONS
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
from dmri_fm_lab.prediction.scan_maps import (
    DropeScan,
    Predict,
    SsdiffScan,
    cls_attention,
    occlude,
    write_map,
)
from dmri_fm_lab.scan_tables import ScanTable, listed, read_cells, read_people, read_scan_table
from dmri_fm_lab.table_cells import level_text
from dmri_fm_workflows.outputs.tsv import MISSING

#: Folds in which the head's own score is found.
N_FOLDS = 5

#: Head whose prediction is mapped.
HEAD = "tuned"


@dataclass(frozen=True)
class CohortRequest:
    """Cohort that teaches a prediction.

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
    """

    features: Path
    participants: Path
    target: str
    excluded: tuple[str, ...]
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScanRequest:
    """What is mapped.

    Attributes
    ----------
    cohort
        Whose prediction is mapped; or:
    dimension
        Place of the number that is mapped itself in the vector of the feature.
    feature
        What the head reads, or what the number belongs to.
    model, weights, device, n_directions, region, seed
        See :func:`dmri_fm.extract_features`; as for the table.
    block
        Patches (of SSDiff: blocks of its signal) of a masked cube along each axis; None: two,
        four of SSDiff.

    Raises
    ------
    ConfigError
        If not one of cohort and dimension is given.
    """

    cohort: CohortRequest | None = None
    dimension: int | None = None
    feature: FeatureType = "pooled"
    model: str = "drope"
    weights: Path | None = None
    device: str = "cpu"
    n_directions: int | None = None
    region: str | None = None
    seed: int = 0
    block: int | None = None

    def __post_init__(self) -> None:
        if (self.cohort is None) == (self.dimension is None):
            raise ConfigError(
                "both or none of a cohort's target and a dimension of the features",
                expected="one of them: what is mapped",
            )


class ScanMaps(NamedTuple):
    """Text about what is mapped, and the maps that were written."""

    text: str
    paths: list[Path]


class _Mapped(NamedTuple):
    """Number that is mapped: how it follows from a vector, unit, sidecar entries and text."""

    predict: Predict
    unit: str
    about: dict[str, Any]
    text: str


def explain_scan(
    dwi: Dwi,
    request: ScanRequest,
    stem: Path,
    *,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> ScanMaps:
    """Map how a prediction of a cohort's head, or a feature, depends on regions of one scan.

    Writes `<stem>_desc-occlusion_map.nii.gz` and, of a D-RoPE encoder,
    `<stem>_desc-clsattention_map.nii.gz` in MNI152NLin2009aSym, each with a sidecar.

    Parameters
    ----------
    dwi
        On the encoder's grid, see :func:`dmri_fm.extract_features`.
    request
        See :class:`ScanRequest`.
    stem
        Folder and stem of the names.
    report
        Is told how many cubes are masked, of how many.

    Raises
    ------
    ConfigError
        If the model is neither a D-RoPE nor an SSDiff encoder, the table has no such features, or
        was made by other weights or with another number of directions, or the target
        cannot be predicted.
    InputError
        If a file or the scan cannot be used.
    """
    encoder = load_encoder(request.model, weights=request.weights, device=request.device)
    scan, n_directions = _prepare(encoder, dwi, request)
    block = request.block or (2 if isinstance(scan, DropeScan) else 4)
    if request.cohort is None:
        mapped = _map_dimension(request, len(scan.vector()))
    else:
        mapped = _map_prediction(request, request.cohort, encoder.weights.sha256, n_directions)
    changes = occlude(scan, mapped.predict, block=block, report=report)
    about: dict[str, Any] = {"Model": encoder.weights.describe()}
    text = f"{RESEARCH_ONLY} {mapped.text}"
    if identity(encoder.name).extraction.reads_rotations:
        about["LocalRotation"] = False
        text += (
            " Note: directions are those of the gradient table at every place; behind a warp "
            "(--normalisation syn) the features of the app turn them from place to place."
        )
    paths = [
        write_map(
            scan.image(changes),
            stem.with_name(f"{stem.name}_desc-occlusion_map.nii.gz"),
            {
                **about,
                **mapped.about,
                "Feature": request.feature,
                "Description": "Value without the signal of a cube minus that of the whole scan",
                "BlockPatches" if isinstance(scan, DropeScan) else "BlockVoxels": block,
                "Units": mapped.unit,
            },
        )
    ]
    if isinstance(scan, DropeScan):
        image = scan.image(cls_attention(scan.network, scan.tokens))
        path = stem.with_name(f"{stem.name}_desc-clsattention_map.nii.gz")
        described = (
            "Attention weights of the class token in the last block, mean over attention heads "
            "and directions. They need not follow what the features depend on"
        )
        paths.append(
            write_map(image, path, {**about, "Description": described, "Units": "arbitrary"})
        )
    return ScanMaps(text, paths)


def _prepare(
    encoder: Encoder[Any], dwi: Dwi, request: ScanRequest
) -> tuple[DropeScan | SsdiffScan, int | None]:
    """Return the scan as its encoder reads it, and the number of directions it was asked for."""
    network, n = encoder.weights.model, request.n_directions
    if not isinstance(network, Drope | Ssdiff):
        raise ConfigError(
            f"maps of a scan by {encoder.name}",
            expected="a D-RoPE or an SSDiff encoder",
            advice="dmri-fm explain features works with the features of every encoder",
        )
    if isinstance(network, Drope):
        n = n or FEATURE_DIRECTIONS
    prepared = encoder.prepare(dwi, n_directions=n, seed=request.seed, region=request.region)
    if isinstance(network, Ssdiff):
        return SsdiffScan(network, prepared, request.feature), n
    return DropeScan(network, prepared.tokens, request.feature), n


def _map_dimension(request: ScanRequest, size: int) -> _Mapped:
    dimension = request.dimension
    if dimension is None or not 0 <= dimension < size:
        raise ConfigError(
            f"dimension {dimension} of {request.feature}", expected=f"0 to {size - 1}"
        )
    return _Mapped(
        lambda vector: float(vector[dimension]),
        "arbitrary",
        {"Dimension": dimension},
        f"Number {dimension} of {request.feature}, of {size}.",
    )


def _map_prediction(
    request: ScanRequest, asked: CohortRequest, sha256: str, n_directions: int | None
) -> _Mapped:
    notes = _check_table(asked.features, sha256, n_directions)
    cohort = _read_cohort(asked, request.feature)
    predict, unit = _fit_head(cohort, request, asked)
    held_out = _score_head(cohort, request, asked)
    scores = "; ".join(f"{TITLES[name]} {cell}" for name, cell in held_out.items())
    text = (
        f"{asked.target} from {request.feature} in {len(cohort.target)} other "
        f"scans, {N_FOLDS} folds: {scores}. A map of a prediction that is no better than chance, "
        "or than site, motion or head size (`dmri-fm probe`), shows nothing about the target."
        + "".join(f" Note: {note}." for note in notes)
    )
    return _Mapped(predict, unit, {"Target": asked.target, "HeldOutScores": held_out}, text)


def _check_table(path: Path, sha256: str, n_directions: int | None) -> list[str]:
    """Refuse a table of other weights or directions; return notes on what it does not say."""
    cells = pd.DataFrame() if path.suffix == ".npz" else read_cells(path)
    notes = []
    wanted = {WEIGHTS_COLUMN: sha256}
    if n_directions is not None:
        wanted["n_directions"] = f"{n_directions}"
    for column, own in wanted.items():
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


def _read_cohort(request: CohortRequest, feature: FeatureType) -> CohortVectors:
    people = read_people(request.participants)
    table = read_scan_table(request.features)
    columns = feature_columns(table.values).get(feature)
    if columns is None:
        raise ConfigError(
            f"no columns of {feature} in {request.features.name}",
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
    return gather_vectors({feature: chosen}, people, vectors)


def _fit_head(
    cohort: CohortVectors, request: ScanRequest, asked: CohortRequest
) -> tuple[Predict, str]:
    """Return a head that is fitted to the whole cohort, and the unit of its predictions."""
    values = cohort.sets[request.feature].values
    settings = HeadSettings(cohort.task, seed=request.seed)
    nobody = Vectors(values[:0], cohort.groups[:0])
    trainer = prepare_head(HEAD, Vectors(values, cohort.groups), nobody, settings)
    target, middle, scale = cohort.target, 0.0, 1.0
    unit = f"of {asked.target}"
    if cohort.task == "regression":
        middle, scale = float(target.mean()), float(target.std(ddof=1))
        target = (target - middle) / scale
    else:
        unit = f"probability of {cohort.classes[1]}"
    fitted = trainer(target, target[:0])
    return lambda vector: middle + scale * float(fitted.predict(vector[None])[0, 0]), unit


def _score_head(
    cohort: CohortVectors, request: ScanRequest, asked: CohortRequest
) -> dict[str, str]:
    drawn = SplitRequest(n_folds=N_FOLDS, stratify=(asked.target,), seed=request.seed)
    folds, _ = draw_splits(cohort.people, drawn)
    settings = ProbeSettings((HEAD,), HeadSettings(cohort.task, seed=request.seed))
    (found,) = run_probe(cohort, folds, settings)
    return {
        name: format_summary(name, summarise(found.scores[name])) for name in SCORES[cohort.task]
    }
