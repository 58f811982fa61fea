"""The page of a participant: its content, read from the output folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml
from numpy.typing import ArrayLike

from dmri_fm.errors import ConfigError
from dmri_fm.gradient_files import read_gradients, stated_b0_threshold
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import identity
from dmri_fm.json_files import read_object
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.bids.scans import ASSUMED_READOUT_NOTE
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.methods import describe_methods, find_processed
from dmri_fm_workflows.outputs.naming import identify, output_path, sidecar_path
from dmri_fm_workflows.outputs.steps import CONTRAST_KEY, LESION_KEY
from dmri_fm_workflows.outputs.tsv import (
    MISSING,
    NOT_MEASURED_KEY,
    SDC_METHOD,
    read_table,
    scan_columns,
)
from dmri_fm_workflows.report.content import (
    AnatomySection,
    Entry,
    Figure,
    ReportData,
    ReportWarning,
    SeriesSection,
)
from dmri_fm_workflows.report.quality import quality_rows

#: Figures of an anatomy on the page, in order.
ANATOMY_FIGURES = ("t1wmask", "t1wtemplate")

#: Figures of a series on the page, in order.
SERIES_FIGURES = (
    "samplingscheme",
    "denoising",
    "unringing",
    "noise",
    "sdc",
    "fieldmap",
    "bias",
    "dwiref",
    "coreg",
    "carpetplot",
    "cnr",
    "fa",
    "famni",
    "tensorvsnetwork",
    "features",
)

#: Entries of the preprocessed series' sidecar that the page shows, with their headings.
ENTRIES = {
    "B0Threshold": "b-values below this count as b=0, s/mm^2",
    "BScaling": "b-vectors of another length than 1",
    "BScalingCheck": "Check of the b-values",
    "GradientsFixed": "b-vectors repaired by --fix-gradients",
    "GradientCheck": "b-vectors against the fibres",
    "VolumesLeftOut": "Volumes left out (counted from 0)",
    "KSpaceExtent": "Share of k-space that is filled, along i, j, k",
    "VolumesCutShort": "Volumes cut short (counted from 0; share of slices that are zero)",
    "Denoising": "Denoising",
    "NoiseMap": "Noise map",
    "GibbsCorrection": "Gibbs ringing",
    "SDCMethod": "Susceptibility distortion",
    "SDCReason": "because",
    "HMCMethod": "Head motion and eddy currents",
    "B1Correction": "Bias of the receive field",
    "EddyTranslation": "Translation by eddy currents",
    "SlicesReplaced": "Slices replaced by predictions, by volume (both counted from 0)",
    "SlicesLostNotReplaced": "Lost slices that others do not determine, likewise",
    "MaskMethod": "Brain mask",
    "MaskFile": "file of that mask",
    "T1wMaskFile": "Brain mask of the T1w image, given by the user",
    LESION_KEY: "Mask of lesions",
    CONTRAST_KEY: "Contrast of the anatomical image",
    "CoregistrationMethod": "Registration to the anatomical image",
    "NormalisationMethod": "Registration to the template",
    "GradientNonlinearity": "Deviation of the gradient coils",
    "RunIntensityScales": "Intensity factor per run",
    "TotalReadoutTimeAssumed": f"Readout times assumed, s ({ASSUMED_READOUT_NOTE})",
}


@dataclass(frozen=True)
class _Scan:
    """A preprocessed image of the output folder, by its sidecar."""

    path: Path
    entities: Mapping[str, str]
    sidecar: Mapping[str, Any]

    @property
    def name(self) -> str:
        return scan_name(self.entities)


def read_report(output_dir: Path, paths: Collection[Path], report: ReportData) -> ReportData:
    """Return a report with what some outputs say.

    Parameters
    ----------
    output_dir
        Root of the output dataset.
    paths
        Outputs, the figures among them.
    report
        Whose page it is, its run, and further warnings.

    Raises
    ------
    DmriError
        If an output cannot be read.
    """
    series = _read_scans(output_dir, paths, "*_space-ACPC_desc-preproc_dwi.json")
    anatomies = _read_scans(output_dir, paths, "*_space-ACPC_desc-preproc_T[12]w.json")
    where = [(s, s.name) for s in series] + [(s, f"Anatomy of {s.name}") for s in anatomies]
    found = tuple(
        ReportWarning("warning", str(text), where=section)
        for scan, section in where
        for text in _as_list(scan.sidecar.get("Warnings"))
    )
    return replace(
        report,
        summary=(
            Entry("Series", ", ".join(s.name for s in series) or "none completed"),
            Entry("Anatomical images", _count_anatomies(anatomies)),
        ),
        warnings=(*report.warnings, *found),
        anatomy=tuple(
            AnatomySection(
                f"Anatomy of {scan.name}",
                _sidecar_entries(scan.sidecar),
                _figures(output_dir, paths, scan, ANATOMY_FIGURES),
            )
            for scan in anatomies
        ),
        series=tuple(_series_section(output_dir, paths, scan) for scan in series),
        methods=describe_methods(find_processed(paths)),
    )


def list_series(output_dir: Path, paths: Collection[Path]) -> list[Mapping[str, str]]:
    """Return the entities of the series of some outputs; errors are those of a report."""
    scans = _read_scans(output_dir, paths, "*_space-ACPC_desc-preproc_dwi.json")
    return [scan.entities for scan in scans]


def _read_scans(output_dir: Path, paths: Collection[Path], pattern: str) -> list[_Scan]:
    return [
        _Scan(path, identify(path.relative_to(output_dir)).source_entities, read_object(path))
        for path in sorted(p for p in paths if p.match(pattern))
    ]


def _count_anatomies(anatomies: Sequence[_Scan]) -> str:
    """Return the number of anatomical images by their contrast, as text."""
    counted = Counter(str(scan.sidecar.get(CONTRAST_KEY, "T1w")) for scan in anatomies)
    return ", ".join(f"{n} {contrast}" for contrast, n in counted.items()) or "none"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _figures(
    output_dir: Path, paths: Collection[Path], scan: _Scan, labels: Sequence[str]
) -> tuple[Figure, ...]:
    """Return the figures of a scan that exist, by `desc` label and then by model."""
    types = {label: load_catalogue().output_type(f"figure_{label}") for label in labels}
    candidates = (
        (label, output_path(scan.entities, of.name, model=model), model)
        for label, of in types.items()
        for model in ((None, *of.models) if of.has_optional_model else of.models)
    )
    return tuple(
        standard_figure(label, str(path), model=model)
        for label, path, model in candidates
        if output_dir / path in paths
    )


def _sidecar_entries(sidecar: Mapping[str, Any]) -> tuple[Entry, ...]:
    return tuple(
        Entry(title, _in_words(sidecar[key])) for key, title in ENTRIES.items() if key in sidecar
    )


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        # A measure with a summary, or a value for each file.
        told = "; ".join(f"{name}: {_in_words(part)}" for name, part in value.items())
        return str(value.get("Summary") or told or "none")
    if isinstance(value, list):
        return ", ".join(map(_in_words, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _series_section(output_dir: Path, paths: Collection[Path], scan: _Scan) -> SeriesSection:
    geometry: tuple[Entry, ...] = ()
    series = scan.path.with_suffix(".nii.gz")
    if series in paths:
        image = load_image(series, ndim=4)
        gtab = read_gradients(
            scan.path.with_suffix(".bval"),
            scan.path.with_suffix(".bvec"),
            affine=image.affine,
            n_volumes=image.shape[3],
            b0_threshold=stated_b0_threshold(scan.sidecar),
        )
        geometry = describe_series(image.shape, image.affine, gtab)
    viewer = output_path(scan.entities, "viewer")
    return SeriesSection(
        scan.name,
        viewer=str(viewer) if output_dir / viewer in paths else "",
        entries=(*geometry, *_sidecar_entries(scan.sidecar)),
        figures=_figures(output_dir, paths, scan, SERIES_FIGURES),
        quality=quality_rows(*_read_measures(output_dir, paths, scan)),
        not_used=tuple(
            Entry(entry["File"].removeprefix("bids:raw:"), entry["Reason"])
            for entry in scan.sidecar.get("SDCImagesNotUsed", [])
        ),
    )


def _read_measures(
    output_dir: Path, paths: Collection[Path], scan: _Scan
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the measures in a scan's table of image quality; none without a table.

    The second dictionary has the reason by measure that could not be known.
    """
    table = output_dir / output_path(scan.entities, "image_qc")
    if table not in paths:
        return {}, {}
    described = read_object(Path(sidecar_path(table)))
    (row,) = read_table(table)
    measures = {
        column: None if cell == MISSING else float(cell)
        for column, cell in row.items()
        if column in described and column not in (SDC_METHOD, *scan_columns(scan.entities))
    }
    return measures, described.get(NOT_MEASURED_KEY, {})


@cache
def _captions() -> Mapping[str, Mapping[str, Any]]:
    text = files("dmri_fm_workflows.report").joinpath("captions.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)
    return table


def standard_figure(desc: str, path: str, *, model: str | None = None) -> Figure:
    """Return a figure with its standard title, caption and advice.

    Parameters
    ----------
    desc
        The `desc` label of the figure, a key of `captions.yaml`.
    path
        Path relative to the page.
    model
        Name or label of the model whose figure it is; by default that of `captions.yaml`.

    Raises
    ------
    ConfigError
        If the label is unknown or the path cannot stand on a page.

    Examples
    --------
    >>> standard_figure("sdc", "sub-01/figures/sub-01_desc-sdc_dwi.svg").title
    'Susceptibility distortion'
    """
    entry = _captions().get(desc)
    if entry is None:
        raise ConfigError(f"a figure named {desc!r}", expected=", ".join(sorted(_captions())))
    if "model" in entry:
        record = identity(model or entry["model"])
        names = {n: getattr(record, n) for n in ("title", "architecture", "provenance")}
        entry = {k: v.format(**names) if isinstance(v, str) else v for k, v in entry.items()}
    return Figure(
        title=entry["title"],
        path=path,
        caption=entry["caption"].strip(),
        look_for=entry["look_for"],
        alt=entry["alt"],
        is_interactive=entry.get("interactive", False),
    )


def describe_series(
    shape: tuple[int, ...], affine: ArrayLike, gtab: GradientTable
) -> tuple[Entry, ...]:
    """Describe the geometry and the sampling of a series.

    Parameters
    ----------
    shape
        X, Y, Z, N.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    gtab
        Gradient table.

    Examples
    --------
    >>> gtab = GradientTable([0, 990, 1010], [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> for entry in describe_series((64, 64, 20, 3), np.diag([2, 2, 3, 1]), gtab):
    ...     print(entry.label, "|", entry.value)
    Grid | 64 x 64 x 20 voxels, 3 volumes
    Voxel size | 2 x 2 x 3 mm
    Stored as | RAS
    Sampling | 1 of b=0; b=1000: 2 volumes, 2 directions
    """
    matrix = np.asarray(affine, dtype=np.float64)
    voxel_mm = np.linalg.norm(matrix[:3, :3], axis=0)
    parts = [f"{int(gtab.is_b0.sum())} of b=0"]
    for shell in gtab.shells:
        directions = gtab.select(shell.index).count_directions()
        parts.append(f"b={shell.bval:.0f}: {len(shell.index)} volumes, {directions} directions")
    turned = np.degrees(np.arccos(np.clip(np.abs(matrix[:3, :3] / voxel_mm).max(axis=0), 0, 1)))
    oblique = f", oblique by {turned.max():.0f}°" if turned.max() >= 1 else ""
    return (
        Entry("Grid", f"{' x '.join(str(n) for n in shape[:3])} voxels, {shape[3]} volumes"),
        Entry("Voxel size", " x ".join(f"{v:.3g}" for v in voxel_mm) + " mm"),
        Entry("Stored as", "".join(nib.aff2axcodes(matrix)) + oblique),
        Entry("Sampling", "; ".join(parts)),
    )
