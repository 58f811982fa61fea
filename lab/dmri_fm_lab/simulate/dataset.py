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

from dmri_fm.errors import OutputError
from dmri_fm.gradient_files import write_gradients
from dmri_fm.gradients import GradientTable
from dmri_fm.series import save_image
from dmri_fm_lab.simulate.anatomy import Anatomy, draw_anatomy
from dmri_fm_lab.simulate.cohort import Participant, Site, draw_participant, draw_sites
from dmri_fm_lab.simulate.dataset_files import write_json, write_root, write_table
from dmri_fm_lab.simulate.mixture import scalars
from dmri_fm_lab.simulate.protocol import check_range, truth_bval
from dmri_fm_lab.simulate.scanner import (
    Acquisition,
    acquire,
    acquire_fieldmap,
    draw_motion,
    t1w_image,
)
from dmri_fm_lab.simulate.subject import Subject, grid, place_subject
from dmri_fm_lab.simulate.truth import Truth, true_tensor

logger = logging.getLogger(__name__)

T1W_VOXEL_SIZE_MM = 2.0
FIELD_PEAK_HZ = 65.0
MOTION_STEP_MM = 0.25
MOTION_STEP_DEG = 0.2

#: Sidecar fields of all images.
SCANNER = {"Manufacturer": "Simulated", "MagneticFieldStrength": 3}

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
    is_at_rest: bool = False,
) -> Path:
    """Write a raw BIDS dataset of simulated participants.

    Each has a T1w image (scalp included) and a `dir-AP` series (two b=0 and one shell, head
    motion, eddy currents, susceptibility distortion). Distortion data differ between sites: the
    first adds a `dir-PA` series of two b=0, the second a gradient-echo fieldmap, the third
    nothing, and so on. Every second site stores its diffusion images LAS, the others RAS, and
    the T1w the other way round. `derivatives/truth` holds the truth on the undistorted grid of
    the first `dir-AP` volume: tensor and scalars, crossing fibres, field, tissue fractions,
    mask, motion, and the effects of age and group.

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
    voxel_size_mm, n_directions, bval, gtab
        Protocols, see :func:`~.cohort.draw_sites`.
    is_at_rest
        Whether heads do not move and there are no eddy currents: then the truth's field alone
        brings a series to its truth, as `dmri-fm evaluate tensor` does. All else is the same.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    OutputError
        If the folder is not empty or cannot be written.
    """
    check_range(n_participants, 1, 999, "participants")
    check_range(n_sites, 1, min(20, n_participants), "sites")
    check_range(seed, 0, 2**63, "as the seed")
    sites = draw_sites(
        seed, n_sites, voxel_size_mm=voxel_size_mm, n_directions=n_directions, bval=bval, gtab=gtab
    )
    people = [draw_participant(seed, n + 1, n_sites) for n in range(n_participants)]
    out = Path(out).resolve()
    with _staged(out) as staging:
        truth = []
        for number, person in enumerate(people, start=1):
            logger.info("simulating sub-%s (%d of %d)", person.label, number, n_participants)
            rng = np.random.default_rng([seed, 2, number])
            lesions_ml = _write_participant(
                staging, person, sites[person.site], rng, is_at_rest=is_at_rest
            )
            truth.append(person.truth() | {"lesions_ml": lesions_ml})
        write_root(staging, people, sites, truth, seed=seed, is_at_rest=is_at_rest)
    return out


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Yield a folder whose content is moved into `out` at the end, or removed after an error."""
    is_new = not out.exists()
    staging = out / ".part"
    try:
        if not is_new and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(
                "the folder is not empty" if out.is_dir() else "a file is in the way",
                path=out,
                expected="a folder that does not exist yet, or is empty",
                advice="remove it or name another folder",
            )
        staging.mkdir(parents=True)
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


def _write_image(
    data: NDArray[Any],
    affine: NDArray[np.float64],
    stem: Path,
    *,
    is_las: bool,
    dtype: Any = np.int16,
    sidecar: Mapping[str, Any] | None = None,
) -> NDArray[np.float64]:
    """Write an array of a RAS grid as RAS or LAS, and its sidecar; return the affine on disk."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    if is_las:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, 0] * (data.shape[0] - 1)
        affine[:3, 0] *= -1
        data = data[::-1]
    if np.issubdtype(dtype, np.integer):
        data = np.clip(np.rint(data), 0, np.iinfo(dtype).max)
    repetition_s = sidecar.get("RepetitionTime") if sidecar else None
    save_image(data, affine, Path(f"{stem}.nii.gz"), dtype=dtype, repetition_s=repetition_s)
    if sidecar:
        write_json(Path(f"{stem}.json"), sidecar)
    return affine


def _write_participant(
    root: Path, person: Participant, site: Site, rng: np.random.Generator, *, is_at_rest: bool
) -> float:
    """Scan a participant; return the volume of the lesions, ml."""
    folder = root / f"sub-{person.label}"
    anatomy = draw_anatomy(rng, person.shape)
    _write_t1w(folder, anatomy, rng, is_las=not site.is_las)
    subject = place_subject(
        anatomy,
        person.tissue,
        voxel_size_mm=site.voxel_size_mm,
        rng=rng,
        field_peak_hz=FIELD_PEAK_HZ,
    )
    truth = true_tensor(subject, bval=truth_bval(site.gtab), echo_ms=site.echo_ms)
    acquisition = Acquisition(
        echo_ms=site.echo_ms,
        readout_s=site.readout_s,
        partial_fourier=site.partial_fourier,
        sigma=float(np.median(truth.b0[subject.fractions.wm > 0.9])) / site.snr,
        eddy=0.0 if is_at_rest else EDDY,
        ghost=GHOST,
    )
    series = {"AP": (site.gtab, "j-")}
    if site.distortion_data == "pair":
        series["PA"] = (GradientTable(np.zeros(2), np.zeros((2, 3))), "j")
    volumes = [(direction, n) for direction, (gtab, _) in series.items() for n in range(len(gtab))]
    motion = draw_motion(rng, len(volumes), step_mm=MOTION_STEP_MM, step_deg=MOTION_STEP_DEG)
    first = 0
    for direction, (gtab, phase_encoding) in series.items():
        seed = int(rng.integers(2**31))
        played = replace(acquisition, phase_encoding=phase_encoding, seed=seed)
        xfms = None if is_at_rest else motion[first : first + len(gtab)]
        data = acquire(subject, gtab, played, xfms=xfms)
        first += len(gtab)
        stem = folder / "dwi" / f"{folder.name}_dir-{direction}_dwi"
        _write_series(stem, data, subject, site, gtab, phase_encoding)
    if site.distortion_data == "fieldmap":
        _write_fieldmap(folder, subject, seed=int(rng.integers(2**31)), is_las=site.is_las)
    truth_folder = root / "derivatives" / "truth" / folder.name / "dwi"
    for name, image in _true_maps(subject, truth).items():
        dtype: Any = np.float32 if np.issubdtype(image.dtype, np.floating) else np.uint8
        stem = truth_folder / f"{folder.name}_{name}"
        _write_image(image, subject.affine, stem, is_las=site.is_las, dtype=dtype)
    if not is_at_rest:
        name = f"{folder.name}_from-dwiref_to-orig_mode-image_desc-truth_xfm"
        _write_motion(truth_folder / name, volumes, motion)
    return float(subject.fractions.lesion.sum() * np.prod(site.voxel_size_mm) / 1000)


def _write_t1w(folder: Path, anatomy: Anatomy, rng: np.random.Generator, *, is_las: bool) -> None:
    shape, affine = grid((T1W_VOXEL_SIZE_MM,) * 3)
    image = t1w_image(rng, anatomy.fractions(shape, affine), voxel_size_mm=T1W_VOXEL_SIZE_MM)
    stem = folder / "anat" / f"{folder.name}_T1w"
    _write_image(image, affine, stem, is_las=is_las, sidecar={**SCANNER, "Modality": "MR"})


def _write_series(
    stem: Path,
    data: NDArray[np.float32],
    subject: Subject,
    site: Site,
    gtab: GradientTable,
    phase_encoding: str,
) -> None:
    sidecar = {
        "Manufacturer": SCANNER["Manufacturer"],
        "ManufacturersModelName": site.name,
        "MagneticFieldStrength": SCANNER["MagneticFieldStrength"],
        "PhaseEncodingDirection": phase_encoding,
        "TotalReadoutTime": site.readout_s,
        "EffectiveEchoSpacing": site.readout_s / (subject.shape[1] - 1),
        "PartialFourier": site.partial_fourier,
        "RepetitionTime": site.repetition_s,
        "EchoTime": site.echo_ms / 1000,
        "FlipAngle": 90,
    }
    stored = _write_image(data, subject.affine, stem, is_las=site.is_las, sidecar=sidecar)
    write_gradients(gtab, Path(f"{stem}.bval"), Path(f"{stem}.bvec"), affine=stored)


def _write_fieldmap(folder: Path, subject: Subject, *, seed: int, is_las: bool) -> None:
    images = acquire_fieldmap(subject, seed=seed)
    for name, (data, echo_s) in images.items():
        sidecar: dict[str, Any] = {**SCANNER, "EchoTime": echo_s}
        if name == "phasediff":
            sidecar = {
                **SCANNER,
                "EchoTime1": images["magnitude1"][1],
                "EchoTime2": images["magnitude2"][1],
                "IntendedFor": [f"bids::{folder.name}/dwi/{folder.name}_dir-AP_dwi.nii.gz"],
            }
        stem = folder / "fmap" / f"{folder.name}_{name}"
        _write_image(data, subject.affine, stem, is_las=is_las, sidecar=sidecar)


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


def _write_motion(
    stem: Path, volumes: Sequence[tuple[str, int]], motion: NDArray[np.float64]
) -> None:
    """Write the head's pose (N, 4, 4) during each volume, named by series and number."""
    names = [f"m{i}{j}" for i in range(3) for j in range(4)]
    rows = [
        {"dir": direction, "volume": volume}
        | {name: f"{x:.8f}" for name, x in zip(names, xfm[:3].ravel(), strict=True)}
        for (direction, volume), xfm in zip(volumes, motion, strict=True)
    ]
    write_table(Path(f"{stem}.tsv"), rows)
    columns = {
        "dir": {"Description": "Series, by the entity dir"},
        "volume": {"Description": "Volume of the series, from zero"},
        "m00": {"Description": "First entry of the first of three rows of M; so on to m23"},
    }
    where = "Where the head is during each volume: a point x, RAS mm, is at M x"
    write_json(Path(f"{stem}.json"), {"Description": where, **columns})
