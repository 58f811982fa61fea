"""A raw BIDS dataset of simulated scans, with its truth under `derivatives/truth`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.series import save_image
from dmri_fm_lab.simulate.anatomy import draw_anatomy
from dmri_fm_lab.simulate.cohort import Participant, Site, draw_participant, draw_sites
from dmri_fm_lab.simulate.dataset_files import write_json, write_root, write_table
from dmri_fm_lab.simulate.mixture import scalars
from dmri_fm_lab.simulate.protocol import check_protocol, truth_bval
from dmri_fm_lab.simulate.scanner import (
    Acquisition,
    acquire,
    acquire_fieldmap,
    draw_motion,
    t1w_image,
)
from dmri_fm_lab.simulate.subject import Subject, grid, place_subject
from dmri_fm_lab.simulate.truth import Truth, true_tensor

__all__ = ["simulate_dataset"]

logger = logging.getLogger(__name__)

T1W_VOXEL_SIZE_MM = 2.0
FIELD_PEAK_HZ = 65.0
MOTION_STEP_MM = 0.25
MOTION_STEP_DEG = 0.2

#: Eddy currents and Nyquist ghost of all sites, see :class:`~.scanner.Acquisition`.
EDDY, GHOST = 2e-4, 0.005


def simulate_dataset(
    out: str | Path,
    *,
    n_participants: int,
    seed: int,
    n_sites: int = 1,
    voxel_size_mm: float = 3.0,
    n_directions: int = 16,
    bval: float = 1000.0,
    gtab: GradientTable | None = None,
) -> Path:
    """Write a raw BIDS dataset of simulated participants.

    Each has a T1w image (scalp included) and a `dir-AP` series (two b=0 and one shell, head
    motion, eddy currents, susceptibility distortion). What else there is differs between
    sites: the first adds a `dir-PA` series of two b=0, the second a gradient-echo fieldmap, the
    third nothing, and so on; every second site stores its diffusion images LAS, the others RAS,
    and the T1w the other way round. The truth (tensor and its scalars, crossing fibres, field,
    tissue fractions, mask, motion, and what age and group did) is under `derivatives/truth`, on
    the undistorted grid of the first `dir-AP` volume.

    Parameters
    ----------
    out
        Folder to create; it must not exist or be empty. It appears complete or not at all.
    n_participants
        1 or more. A participant's scan depends on the seed, the sites and its own number only.
    seed
        Zero or more; the same seed gives the same files, byte for byte on one machine.
    n_sites
        1 to the number of participants, 20 at most; participants are spread over them in turn.
    voxel_size_mm
        Of the diffusion series of the first site, isotropic, 1.2 to 6 mm; others have slices up
        to a fifth thicker.
    n_directions
        Diffusion-weighted volumes, 6 or more.
    bval
        s/mm^2, 400 to 3000, of the first site; up to a tenth apart at others.
    gtab
        Gradient table of all sites, RAS+, in place of `n_directions` and `bval`.

    Returns
    -------
    Path
        The dataset's folder.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    OutputError
        If the folder is not empty or cannot be written.
    """
    for value, least, most, what in (
        (n_participants, 1, 999, "participants"),
        (n_sites, 1, min(20, n_participants), "sites"),
        (seed, 0, 2**63, "as the seed"),
        (n_directions, 6, 300, "directions"),
        (voxel_size_mm, 1.2, 6.0, "mm voxel size"),
        (bval, 400.0, 3000.0, "s/mm^2 as the b-value"),
    ):
        if not least <= value <= most:
            raise ConfigError(f"{value:g} {what}", expected=f"{least:g} to {most:g}")
    if gtab is not None:
        check_protocol(gtab)
    out = Path(out).resolve()
    sites = draw_sites(
        seed, n_sites, voxel_size_mm=voxel_size_mm, n_directions=n_directions, bval=bval, gtab=gtab
    )
    people = [draw_participant(seed, n + 1, n_sites) for n in range(n_participants)]
    with _staged(out) as staging:
        truth = []
        for number, person in enumerate(people, start=1):
            logger.info("simulating sub-%s (%d of %d)", person.label, number, n_participants)
            rng = np.random.default_rng([seed, 2, number])
            lesions_ml = _write_participant(staging, person, sites[person.site], rng)
            truth.append(person.truth() | {"lesions_ml": lesions_ml})
        write_root(staging, people, sites, truth, seed=seed)
    return out


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Yield a folder whose content is moved into `out` at the end, or removed after an error."""
    is_new = not out.exists()
    staging = out / ".part"
    try:
        _make_folder(out)
        staging.mkdir()
        yield staging
        # The description comes last: without it, no one takes the folder for a dataset.
        for path in sorted(staging.iterdir(), key=lambda p: p.name == "dataset_description.json"):
            path.rename(out / path.name)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error})",
            path=out,
            expected="a folder on a disk with room, in a place that you may write to",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _make_folder(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "the folder is not empty" if out.is_dir() else "a file is in the way",
            path=out,
            expected="a folder that does not exist yet, or is empty",
            advice="remove it or name another folder",
        )
    out.mkdir(parents=True, exist_ok=True)


def _store(
    data: NDArray[Any],
    affine: NDArray[np.float64],
    path: Path,
    *,
    is_las: bool,
    dtype: Any,
    repetition_s: float | None = None,
) -> NDArray[np.float64]:
    """Save an array of a RAS grid as RAS or LAS; return the affine on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_las:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, 0] * (data.shape[0] - 1)
        affine[:3, 0] *= -1
        data = data[::-1]
    if np.issubdtype(dtype, np.integer):
        data = np.clip(np.rint(data), 0, np.iinfo(dtype).max)
    save_image(data, affine, path, dtype=dtype, repetition_s=repetition_s)
    return affine


def _write_participant(
    root: Path, person: Participant, site: Site, rng: np.random.Generator
) -> float:
    """Scan a participant; return the volume of the lesions, ml."""
    folder = root / f"sub-{person.label}"
    anatomy = draw_anatomy(rng, person.shape)
    shape, affine = grid((T1W_VOXEL_SIZE_MM,) * 3)
    t1w = t1w_image(rng, anatomy.fractions(shape, affine), voxel_size_mm=T1W_VOXEL_SIZE_MM)
    path = folder / "anat" / f"sub-{person.label}_T1w.nii.gz"
    _store(t1w, affine, path, is_las=not site.is_las, dtype=np.int16)
    scanner = {"Manufacturer": "Simulated", "MagneticFieldStrength": 3}
    write_json(path.with_name(f"sub-{person.label}_T1w.json"), {**scanner, "Modality": "MR"})

    subject = place_subject(
        anatomy,
        person.tissue,
        voxel_size_mm=site.voxel_size_mm,
        rng=rng,
        field_peak_hz=FIELD_PEAK_HZ,
    )
    bval = truth_bval(site.gtab)
    truth = true_tensor(subject, bval=bval, echo_ms=site.echo_ms)
    white = subject.fractions.wm > 0.9
    acquisition = Acquisition(
        echo_ms=site.echo_ms,
        readout_s=site.readout_s,
        partial_fourier=site.partial_fourier,
        sigma=float(np.median(truth.b0[white])) / site.snr,
        eddy=EDDY,
        ghost=GHOST,
    )
    reverse = GradientTable(np.zeros(2), np.zeros((2, 3)))
    series = {"AP": (site.gtab, "j-")}
    if site.distortion_data == "pair":
        series["PA"] = (reverse, "j")
    n_volumes = sum(len(gtab) for gtab, _ in series.values())
    motion = draw_motion(rng, n_volumes, step_mm=MOTION_STEP_MM, step_deg=MOTION_STEP_DEG)
    first = 0
    for direction, (gtab, phase_encoding) in series.items():
        data = acquire(
            subject,
            gtab,
            replace(acquisition, phase_encoding=phase_encoding, seed=int(rng.integers(2**31))),
            xfms=motion[first : first + len(gtab)],
        )
        first += len(gtab)
        stem = folder / "dwi" / f"sub-{person.label}_dir-{direction}_dwi"
        _write_series(stem, data, subject, site, gtab, phase_encoding)
    if site.distortion_data == "fieldmap":
        _write_fieldmap(folder, person, subject, site, seed=int(rng.integers(2**31)))
    maps = _true_maps(subject, truth)
    scans = [(direction, n) for direction, (gtab, _) in series.items() for n in range(len(gtab))]
    _write_truth(root, person, site, subject, maps, list(zip(scans, motion, strict=True)))
    return float(subject.fractions.lesion.sum() * np.prod(site.voxel_size_mm) / 1000)


def _write_series(
    stem: Path,
    data: NDArray[np.float32],
    subject: Subject,
    site: Site,
    gtab: GradientTable,
    phase_encoding: str,
) -> None:
    path = stem.with_name(stem.name + ".nii.gz")
    stored = _store(
        data,
        subject.affine,
        path,
        is_las=site.is_las,
        dtype=np.int16,
        repetition_s=site.repetition_s,
    )
    write_gradients(
        gtab,
        stem.with_name(stem.name + ".bval"),
        stem.with_name(stem.name + ".bvec"),
        affine=stored,
    )
    write_json(
        stem.with_name(stem.name + ".json"),
        {
            "Manufacturer": "Simulated",
            "ManufacturersModelName": site.name,
            "MagneticFieldStrength": 3,
            "PhaseEncodingDirection": phase_encoding,
            "TotalReadoutTime": site.readout_s,
            "EffectiveEchoSpacing": site.readout_s / (subject.shape[1] - 1),
            "PartialFourier": site.partial_fourier,
            "RepetitionTime": site.repetition_s,
            "EchoTime": site.echo_ms / 1000,
            "FlipAngle": 90,
        },
    )


def _write_fieldmap(
    folder: Path, person: Participant, subject: Subject, site: Site, *, seed: int
) -> None:
    images = acquire_fieldmap(subject, seed=seed)
    times = {name: echo for name, (_, echo) in images.items()}
    for name, (data, echo) in images.items():
        stem = folder / "fmap" / f"sub-{person.label}_{name}"
        path = stem.with_name(stem.name + ".nii.gz")
        _store(data, subject.affine, path, is_las=site.is_las, dtype=np.int16)
        content: dict[str, Any] = {"EchoTime": echo}
        if name == "phasediff":
            content = {
                "EchoTime1": times["magnitude1"],
                "EchoTime2": times["magnitude2"],
                "IntendedFor": [
                    f"bids::sub-{person.label}/dwi/sub-{person.label}_dir-AP_dwi.nii.gz"
                ],
            }
        write_json(
            stem.with_name(stem.name + ".json"),
            {"Manufacturer": "Simulated", "MagneticFieldStrength": 3, **content},
        )


def _true_maps(subject: Subject, truth: Truth) -> dict[str, NDArray[Any]]:
    """Return the truth as maps on the grid of the series, by the endings of their names."""
    parts = subject.fractions
    tensor = torch.from_numpy(truth.tensor)
    maps = {"diffusivity": tensor, **scalars(tensor.movedim(-1, 0))}
    return {
        **{
            f"model-tensor_param-{name}_desc-truth_dwimap": values.numpy()
            * (parts.mask if values.ndim == 3 else parts.mask[..., None])
            for name, values in maps.items()
        },
        "desc-truth_npeaks": truth.n_peaks,
        "desc-truth_fieldmap": subject.field_hz,
        "label-WM_desc-truth_probseg": parts.wm,
        "label-GM_desc-truth_probseg": parts.gm,
        "label-CSF_desc-truth_probseg": parts.csf,
        "label-lesion_desc-truth_probseg": parts.lesion,
        "desc-truth_mask": parts.mask,
    }


def _write_truth(
    root: Path,
    person: Participant,
    site: Site,
    subject: Subject,
    maps: Mapping[str, NDArray[Any]],
    motion: Sequence[tuple[tuple[str, int], NDArray[np.float64]]],
) -> None:
    folder = root / "derivatives" / "truth" / f"sub-{person.label}" / "dwi"
    for suffix, data in maps.items():
        dtype: Any = np.float32 if np.issubdtype(data.dtype, np.floating) else np.uint8
        path = folder / f"sub-{person.label}_{suffix}.nii.gz"
        _store(data, subject.affine, path, is_las=site.is_las, dtype=dtype)
    names = [f"m{i}{j}" for i in range(3) for j in range(4)]
    stem = f"sub-{person.label}_from-dwiref_to-orig_mode-image_desc-truth_xfm"
    rows = [
        {"dir": direction, "volume": volume}
        | {name: f"{x:.8f}" for name, x in zip(names, xfm[:3].ravel(), strict=True)}
        for (direction, volume), xfm in motion
    ]
    write_table(folder / f"{stem}.tsv", rows)
    write_json(
        folder / f"{stem}.json",
        {
            "Description": "Where the head is during each volume: a point x, RAS mm, is at M x",
            "dir": {"Description": "Series, by the entity dir"},
            "volume": {"Description": "Volume of the series, from zero"},
            "m00": {"Description": "First entry of the first of three rows of M; so on to m23"},
        },
    )
