"""A simulated cohort as the app's derivatives: no scanner, no preprocessing, in MNI space at once.

Written are the series on the encoder's grid with gradients and mask, tensor maps, features and
image quality, all by the app's own code and under its names; the group level makes its tables from
them. A participant appears complete or not at all, and one that is there is not simulated again.
Features by other weights than the request's are computed anew, from the series.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm import __version__, extract_features, feature_grid
from dmri_fm.encoders.features import ScanFeatures
from dmri_fm.errors import ConfigError
from dmri_fm.gradient_files import read_gradients, write_gradients, write_mrtrix_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.json_files import read_object
from dmri_fm.normalise.grid import Grid
from dmri_fm.preprocess.quality import mask_volume_ml, series_quality, tensor_quality
from dmri_fm.registry import load_weights
from dmri_fm.series import Dwi, save_image
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.simulate.dataset_files import write_json
from dmri_fm_lab.simulate.derivative_files import (
    SPACE,
    add_record,
    add_sidecar,
    write_root,
    write_row,
)
from dmri_fm_lab.simulate.mni_cohort import (
    CohortMember,
    CohortRequest,
    Scanner,
    draw_member,
    draw_scanners,
    effect_map,
    scan_seed,
)
from dmri_fm_lab.simulate.mni_heads import (
    FIBRE_VOXEL_MM,
    FibreTemplate,
    Head,
    draw_fibre_template,
    draw_head,
)
from dmri_fm_lab.simulate.voxel_effects import EFFECTS, CohortTissue
from dmri_fm_lab.simulate.voxel_tissue import add_noise, tissue_signal
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.tsv import read_table, scan_entities
from dmri_fm_workflows.run_group import run_group

logger = logging.getLogger(__name__)

#: File of the request that a folder was made by.
REQUEST = Path("truth") / "request.json"

#: Folder of a participant that is not complete yet.
_PART = ".part"


@dataclass(frozen=True)
class Features:
    """Encoder of the features.

    Attributes
    ----------
    model, weights, device
        See :func:`dmri_fm.extract_features`.
    """

    model: str = "drope"
    weights: Path | None = None
    device: str = "cpu"

    def of(self, dwi: Dwi) -> ScanFeatures:
        """Return the features of a series."""
        return extract_features(dwi, model=self.model, weights=self.weights, device=self.device)

    def sha256(self) -> str:
        """Return the checksum of the weights that run."""
        return load_weights(self.weights or self.model, model=self.model).sha256


@dataclass(frozen=True)
class Cost:
    """CPU-seconds of each participant that was simulated, and of the fibres of all."""

    participants: tuple[float, ...]
    n_found: int
    n_refreshed: int
    fibres: float

    def __str__(self) -> str:
        found = f"{self.n_found} found complete, {self.n_refreshed} of them with new features"
        if not self.participants:
            return f"0 participants simulated; {found}"
        return (
            f"{len(self.participants)} participants simulated, median "
            f"{np.median(self.participants):.1f} CPU-seconds each; courses of fibres "
            f"{self.fibres:.1f} CPU-seconds; {found}"
        )


def simulate_derivatives(
    out: str | Path,
    request: CohortRequest,
    features: Features = Features(),
    *,
    cache: Path | None = None,
    fibre_voxel_mm: float = FIBRE_VOXEL_MM,
) -> Cost:
    """Write a simulated cohort as derivatives of the app, and the tables of its group level.

    Parameters
    ----------
    out
        Output folder; where it holds participants of the same request, those missing are added.
    request
        What is simulated.
    features
        Encoder of the features.
    cache
        Folder of the courses of fibres, for several cohorts; `truth/fibres` of the output folder
        if None.
    fibre_voxel_mm
        Voxels of the courses of fibres.

    Raises
    ------
    ConfigError
        If the folder was made by another request.
    OutputError
        If a file cannot be written.
    """
    out = Path(out)
    _check_request(out, request)
    scanners, grid = draw_scanners(request), feature_grid(features.model)
    numbers = range(1, request.n_participants + 1)
    labels = {n: f"{n:0{max(3, len(str(request.n_participants)))}d}" for n in numbers}
    missing = [n for n in numbers if not (out / f"sub-{labels[n]}").is_dir()]
    found = [labels[n] for n in numbers if n not in missing]
    refreshed = _refresh(out, found, features) if found else 0
    start = time.process_time()
    templates = {
        number: draw_fibre_template(
            1000 * request.seed + number,
            voxel_mm=fibre_voxel_mm,
            cache=cache or out / "truth" / "fibres",
        )
        for number in sorted({(n - 1) % request.n_fibres for n in missing})
    }
    fibres = time.process_time() - start
    writer = _Writer(out, request, scanners, templates, grid, features)
    costs = []
    for n in missing:
        start = time.process_time()
        writer.write(n, labels[n])
        costs.append(time.process_time() - start)
        logger.info("sub-%s: %.1f CPU-seconds (%d of %d)", labels[n], costs[-1], n, len(numbers))
    members = {
        labels[n]: [draw_member(request, n, s + 1) for s in range(request.n_sessions)]
        for n in numbers
    }
    write_root(out, request, scanners, members, grid)
    run_group(out)
    return Cost(tuple(costs), len(found), refreshed, fibres)


def _check_request(out: Path, request: CohortRequest) -> None:
    """Write the request into a new folder; refuse one that was made by another."""
    stated = {**asdict(request), "protocols": list(request.protocols), "version": __version__}
    path = out / REQUEST
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise ConfigError(
                "the folder holds something else",
                path=out,
                expected="a folder that does not exist yet, is empty, or was made by this command",
                advice="name another folder",
            )
        write_json(path, stated)
        return
    before = read_object(path)
    # A participant does not depend on their number: a cohort may grow.
    keys = (stated.keys() | before.keys()) - {"n_participants"}
    if differing := sorted(k for k in keys if stated.get(k) != before.get(k)):
        raise ConfigError(
            f"{', '.join(f'{k} {before.get(k)!r}' for k in differing)}",
            path=path,
            expected=", ".join(f"{k} {stated.get(k)!r}" for k in differing),
            advice="name another folder, or ask for what this one was made by",
        )
    write_json(path, stated)


def _refresh(out: Path, labels: Sequence[str], features: Features) -> int:
    """Compute features by other weights anew; return how many participants had such."""
    own, n = features.sha256(), 0
    for label in labels:
        stale = [
            path
            for path in sorted((out / f"sub-{label}").rglob("*_desc-scan_features.tsv"))
            if read_table(path)[0]["weights_sha256"] != own
        ]
        for path in stale:
            entities = scan_entities(read_table(path)[0])
            _write_features(out, entities, features.of(_read_series(out, entities)))
        if stale:
            logger.info("sub-%s: new features", label)
            add_record(out, label)
        n += bool(stale)
    return n


def _read_series(out: Path, entities: Mapping[str, str]) -> Dwi:
    """Open a series of the output folder with its mask."""
    series, bval, bvec = (
        out / output_path(entities, "preproc_dwi", space=SPACE, extension=end)
        for end in (".nii.gz", ".bval", ".bvec")
    )
    return Dwi.from_files(series, bval, bvec, out / output_path(entities, "dwi_mask", space=SPACE))


def _write_features(root: Path, entities: Mapping[str, str], found: ScanFeatures) -> None:
    path = output_path(entities, "features_scan", model=found.model, space=SPACE)
    write_row(root / path, entities, found.row(), digits=9)
    add_sidecar(root, path, extra={**found.metadata, "Columns": list(found.row())})


@dataclass(frozen=True, eq=False)
class _Writer:
    """What all participants of a cohort have in common."""

    out: Path
    request: CohortRequest
    scanners: Sequence[Scanner]
    templates: Mapping[int, FibreTemplate]
    grid: Grid
    features: Features

    def write(self, number: int, label: str) -> None:
        """Simulate a participant in all sessions, by all protocols."""
        root = self.out / _PART
        shutil.rmtree(root, ignore_errors=True)
        for session in range(1, self.request.n_sessions + 1):
            member = draw_member(self.request, number, session)
            head = draw_head(
                (self.request.seed, number),
                self.grid,
                member.shape,
                self.templates[member.fibres],
            )
            changed: CohortTissue | None = None
            for place, protocol in enumerate(self.request.protocols):
                # One tissue for all protocols: FA and MD are kept as the first one measures them.
                changed = changed or self._change(member, head)
                entities = {"subject": label}
                if self.request.n_sessions > 1:
                    entities["session"] = f"{session}"
                if len(self.request.protocols) > 1:
                    entities["acquisition"] = f"{protocol}{place + 1}"
                self._scan(root, entities, member, head, changed, place)
        add_record(root, label)
        (root / f"sub-{label}").rename(self.out / f"sub-{label}")
        root.rmdir()

    def _change(self, member: CohortMember, head: Head) -> CohortTissue:
        """Return the tissue of a participant, changed by the effects."""
        effect = effect_map(self.request, member, head.geometry.mask, head.mni_mm)
        how = "compensated" if self.request.effect == "compensated" else "fa-md"
        gtab = self.scanners[member.site].gtabs[0]
        return EFFECTS[how](head.geometry, member.tissue, gtab, effect)

    def _scan(
        self,
        root: Path,
        entities: Mapping[str, str],
        member: CohortMember,
        head: Head,
        changed: CohortTissue,
        place: int,
    ) -> None:
        """Scan a participant, and write everything of the scan."""
        scanner, gtab = self.scanners[member.site], self.scanners[member.site].gtabs[place]
        clean = tissue_signal(
            changed.geometry, changed.tissue, scanner.played(place), fibres=changed.fibres
        )
        rng = scan_seed(self.request, member, place)
        noisy = scanner.gain * add_noise(clean, snr=scanner.snr, rng=rng)
        mask = head.geometry.mask
        images = np.zeros((*mask.shape, len(gtab)), dtype=np.float32)
        images[mask] = np.clip(np.rint(noisy), 0, np.iinfo(np.int16).max)
        dwi = Dwi.from_arrays(images, self.grid.affine, gtab, mask=mask)
        # Whole numbers and rounded vectors: maps and features are those of the files.
        dwi = replace(dwi, gtab=_write_series(root, entities, dwi, scanner))
        maps = fit_tensor(dwi)
        _write_maps(root, entities, maps)
        found = self.features.of(dwi)
        _write_features(root, entities, found)
        _write_quality(root, entities, dwi, maps, found)


def _write_series(
    root: Path, entities: Mapping[str, str], dwi: Dwi, scanner: Scanner
) -> GradientTable:
    """Write a series with mask, gradients and sidecars; return the table as the files hold it."""
    path = output_path(entities, "preproc_dwi", space=SPACE)
    target = root / path
    save_image(dwi.data, dwi.affine, target, dtype=np.int16)
    bval, bvec, table = (
        root / output_path(entities, "preproc_dwi", space=SPACE, extension=end)
        for end in (".bval", ".bvec", ".b")
    )
    write_gradients(dwi.gtab, bval, bvec, affine=dwi.affine)
    write_mrtrix_gradients(dwi.gtab, table)
    steps = ("SDCMethod", "HMCMethod", "Denoising", "GibbsCorrection", "GradientCheck")
    about: dict[str, Any] = {
        **dict.fromkeys(steps, "none"),
        "SDCReason": "simulated without distortion",
        "SkullStripped": True,
        "B0NormalizationScale": 1.0,
        "Manufacturer": scanner.vendor,
        "ManufacturersModelName": scanner.name,
        "B0Threshold": dwi.gtab.b0_threshold,
    }
    add_sidecar(root, path, extra=about)
    path = output_path(entities, "dwi_mask", space=SPACE)
    save_image(dwi.brain, dwi.affine, root / path, dtype=np.uint8)
    add_sidecar(root, path)
    return read_gradients(bval, bvec, affine=dwi.affine)


def _write_maps(root: Path, entities: Mapping[str, str], maps: TensorMaps) -> None:
    for of in load_catalogue().maps_of("tensor", space=SPACE):
        path = output_path(entities, of.name, model="tensor", space=SPACE)
        save_image(of.find_in(maps), maps.affine, root / path)
        add_sidecar(root, path, extra=dict(maps.metadata))


def _write_quality(
    root: Path, entities: Mapping[str, str], dwi: Dwi, maps: TensorMaps, found: ScanFeatures
) -> None:
    n, slices = len(dwi.gtab), dwi.shape[2]
    # The head is at rest.
    no_outlier = np.zeros((n, slices), dtype=bool)
    row = {
        **series_quality(dwi, dwi, fd_mm=np.zeros(n), is_outlier=no_outlier),
        **tensor_quality(maps.diffusivity, dwi.brain),
        "mask_volume_ml": mask_volume_ml(dwi),
        "mask_agreement_dice": None,
        "registration_dice": None,
        "ood_score": float(found.ood_score),
        "ood_percentile": float(found.ood_percentile),
    }
    path = output_path(entities, "image_qc")
    write_row(root / path, entities, row)
    add_sidecar(root, path, extra={"Columns": list(row)})
