"""A small raw BIDS dataset of simulated scans, with its truth under `derivatives/truth`."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm.gradients import GradientTable, write_gradients
from dmri_fm.simulate.anatomy import Anatomy, draw_anatomy
from dmri_fm.simulate.protocol import draw_protocol
from dmri_fm.simulate.scanner import (
    distort,
    draw_field_hz,
    draw_motion,
    head_shell,
    move_volume,
    t1w_image,
)
from dmri_fm.simulate.signal import (
    Tissue,
    add_noise,
    blur_volumes,
    draw_tissue,
    noise_free_signal,
    true_tensor,
)
from dmri_fm.volumes import save_image

__all__ = ["simulate_dataset"]

logger = logging.getLogger(__name__)

#: Box that holds a head, RAS mm from the scanner's centre.
FIELD_OF_VIEW_MM = (192.0, 228.0, 186.0)
FIELD_OF_VIEW_CENTRE_MM = (0.0, -16.0, 8.0)

T1W_VOXEL_SIZE_MM = 2.0
READOUT_TIME_S = 0.05
FIELD_PEAK_HZ = 65.0
SNR = 25.0
MOTION_STEP_MM = 0.25
MOTION_STEP_DEG = 0.2

#: How far participants differ in tissue, see `draw_tissue`.
TISSUE_VARIETY = 0.25

#: How far orientations follow the rough atlas, see `draw_anatomy`. Its bundles run along the
#: body's axes: with oblique ones among them, b-vectors that are mirrored or permuted show.
ATLAS_WEIGHT = 0.3

#: Width of the point spread, see `blur_volumes`.
BLUR = 0.08

SITES = ("north", "south")

#: Relative growth of radial diffusivity per year of age: an effect for group statistics to find.
AGE_EFFECT = 0.004


@dataclass(frozen=True)
class _Subject:
    label: str
    age: int
    sex: str
    site: str
    is_las: bool

    def stem(self, folder: str) -> str:
        return f"sub-{self.label}/{folder}/sub-{self.label}"


def simulate_dataset(
    out: str | Path,
    *,
    n_participants: int,
    seed: int,
    voxel_size_mm: float = 3.0,
    n_directions: int = 16,
    bval: float = 1000.0,
) -> Path:
    """Write a raw BIDS dataset of simulated participants.

    Each has a T1w image (skull and scalp included), a `dir-AP` series (two b=0 and one shell,
    head motion, susceptibility distortion) and a `dir-PA` series of two b=0. Every second
    participant's diffusion series is stored LAS, the others RAS; the T1w the other way round.
    The truth (tensor, FA, MD, field, tissue fractions, mask, motion) is under
    `derivatives/truth`, on the undistorted grid of the first `dir-AP` volume.

    Parameters
    ----------
    out
        Folder to create; it must not exist or be empty. It appears complete or not at all.
    n_participants
        1 or more. A participant's scan depends on the seed and on its own number only.
    seed
        Zero or more; the same seed gives the same files, byte for byte on one machine.
    voxel_size_mm
        Isotropic, of the diffusion series, 1.5 to 6 mm.
    n_directions
        Diffusion-weighted volumes, 6 or more.
    bval
        s/mm^2, 400 to 3000.

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
        (seed, 0, 2**63, "as the seed"),
        (n_directions, 6, 300, "directions"),
        (voxel_size_mm, 1.5, 6.0, "mm voxel size"),
        (bval, 400.0, 3000.0, "s/mm^2 as the b-value"),
    ):
        if not least <= value <= most:
            raise ConfigError(f"{value:g} {what}", expected=f"{least:g} to {most:g}")
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            "the folder is not empty" if out.is_dir() else "a file is in the way",
            path=out,
            expected="a folder that does not exist yet, or is empty",
            advice="remove it or name another folder",
        )
    staging = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        staging.mkdir(parents=True)
        subjects = _draw_subjects(n_participants, seed)
        _write_root(staging, subjects, seed=seed)
        for number, subject in enumerate(subjects, start=1):
            logger.info("simulating sub-%s (%d of %d)", subject.label, number, n_participants)
            _write_subject(
                staging,
                subject,
                np.random.default_rng([seed, number]),
                voxel_size_mm=voxel_size_mm,
                n_directions=n_directions,
                bval=bval,
            )
        staging.rename(out)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error})",
            path=out,
            expected="a folder on a disk with room, in a place that you may write to",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


def _draw_subjects(n_participants: int, seed: int) -> list[_Subject]:
    subjects = []
    for number in range(1, n_participants + 1):
        rng = np.random.default_rng([seed, number, 0])
        subjects.append(
            _Subject(
                label=f"{number:02d}",
                age=int(rng.integers(20, 81)),
                sex=str(rng.choice(["F", "M"])),
                site=SITES[(number - 1) % len(SITES)],
                is_las=number % 2 == 0,
            )
        )
    return subjects


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_root(root: Path, subjects: list[_Subject], *, seed: int) -> None:
    from dmri_fm import __version__

    generator = {"Name": "dmri-fm simulate", "Version": __version__}
    _write_json(
        root / "dataset_description.json",
        {
            "Name": f"Simulated diffusion scans, seed {seed}",
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "License": "CC0-1.0",
            "Authors": ["dmri-fm simulate"],
            "GeneratedBy": [generator],
        },
    )
    _write_json(
        root / "derivatives" / "truth" / "dataset_description.json",
        {
            "Name": "Truth of the simulated scans",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [generator],
        },
    )
    (root / "derivatives" / "truth" / ".bidsignore").write_text(
        "*_dwimap.*\n*_fieldmap.*\n*_xfm.*\n", encoding="utf-8"
    )
    (root / "README.md").write_text(
        f"# Simulated diffusion scans\n\nMade by `dmri-fm simulate --seed {seed}`: no person was "
        "scanned. Anatomy is the MNI152 2009a template, deformed at random; fibres, "
        "diffusivities, contrast, noise, head motion and susceptibility distortion are drawn at "
        f"random. Radial diffusivity grows by {AGE_EFFECT:.1%} per year of age.\n\n"
        "`derivatives/truth` holds the tensor of the noise-free signal (mm^2/s, RAS+, order xx, "
        "xy, xz, yy, yz, zz), FA, MD, the field in Hz, tissue fractions and the brain mask, on "
        "the undistorted grid of the first `dir-AP` volume, and the motion of each volume.\n",
        encoding="utf-8",
    )
    rows = ["participant_id\tage\tsex\tsite"]
    rows += [f"sub-{s.label}\t{s.age}\t{s.sex}\t{s.site}" for s in subjects]
    (root / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    _write_json(
        root / "participants.json",
        {
            "age": {"Description": "Age, drawn at random", "Units": "year"},
            "sex": {
                "Description": "Sex, drawn at random, without effect on the images",
                "Levels": {"F": "female", "M": "male"},
            },
            "site": {
                "Description": "Made-up site, without effect on the images",
                "Levels": {site: f"site {site}" for site in SITES},
            },
        },
    )


def _grid(voxel_size_mm: float) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Return shape and RAS affine of a grid over the field of view."""
    x, y, z = (round(length / voxel_size_mm / 2) * 2 for length in FIELD_OF_VIEW_MM)
    affine = np.diag([voxel_size_mm, voxel_size_mm, voxel_size_mm, 1.0])
    half = (np.array([x, y, z]) - 1) / 2 * voxel_size_mm
    affine[:3, 3] = np.array(FIELD_OF_VIEW_CENTRE_MM) - half
    return (x, y, z), affine


def _store(
    data: NDArray[Any], affine: NDArray[np.float64], path: Path, *, is_las: bool, dtype: Any
) -> NDArray[np.float64]:
    """Save an array of a RAS grid as RAS or LAS; return the affine on disk."""
    if is_las:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, 0] * (data.shape[0] - 1)
        affine[:3, 0] *= -1
        data = data[::-1]
    if np.issubdtype(dtype, np.integer):
        data = np.clip(np.rint(data), 0, np.iinfo(dtype).max)
    save_image(data, affine, path, dtype=dtype)
    return affine


def _write_subject(
    root: Path,
    subject: _Subject,
    rng: np.random.Generator,
    *,
    voxel_size_mm: float,
    n_directions: int,
    bval: float,
) -> None:
    shape, affine = _grid(voxel_size_mm)
    anatomy = draw_anatomy(rng, shape, affine=affine, lesion_chance=0.0, atlas_weight=ATLAS_WEIGHT)
    tissue = _age(draw_tissue(rng, variety=TISSUE_VARIETY), subject.age)
    _write_t1w(root, subject, rng, anatomy)

    field_hz = draw_field_hz(rng, anatomy, peak_hz=FIELD_PEAK_HZ)
    up = draw_protocol(rng, kind="shell", n_directions=n_directions, bvals=bval, n_b0=2)
    down = GradientTable(np.zeros(2), np.zeros((2, 3)))
    n_up = len(up)
    motion = draw_motion(rng, n_up + 2, step_mm=MOTION_STEP_MM, step_deg=MOTION_STEP_DEG)
    for direction, gtab, xfms, sign in (
        ("AP", up, motion[:n_up], -1),
        ("PA", down, motion[n_up:], 1),
    ):
        data = _scan(rng, anatomy, tissue, gtab, xfms, shift=sign * READOUT_TIME_S * field_hz)
        stem = root / f"{subject.stem('dwi')}_dir-{direction}_dwi"
        # Raw intensities of scanners are integers: bring white matter to about 1000.
        scaled = data * (1000.0 / tissue.intensity[0])
        path = stem.with_name(stem.name + ".nii.gz")
        stored = _store(scaled, affine, path, is_las=subject.is_las, dtype=np.int16)
        write_gradients(
            gtab,
            stem.with_name(stem.name + ".bval"),
            stem.with_name(stem.name + ".bvec"),
            affine=stored,
        )
        _write_json(
            stem.with_name(stem.name + ".json"),
            {
                "Manufacturer": "Simulated",
                "MagneticFieldStrength": 3,
                "PhaseEncodingDirection": "j" if sign > 0 else "j-",
                "TotalReadoutTime": READOUT_TIME_S,
                "EffectiveEchoSpacing": READOUT_TIME_S / (shape[1] - 1),
                "RepetitionTime": 6.0,
                "EchoTime": 0.08,
                "FlipAngle": 90,
            },
        )
    _write_truth(root, subject, anatomy, tissue, field_hz, motion, bval=bval)


def _age(tissue: Tissue, age: int) -> Tissue:
    """Raise radial diffusivity with age, around the age of 50."""
    white = tissue.white.copy()
    white[:, 3] *= 1.0 + AGE_EFFECT * (age - 50)
    white[:, 3] = np.minimum(white[:, 3], 0.9 * white[:, 2])
    return Tissue(
        white=white,
        grey=tissue.grey,
        grey_shape=tissue.grey_shape,
        grey_fibres=tissue.grey_fibres,
        csf=tissue.csf,
        intensity=tissue.intensity,
    )


def _scan(
    rng: np.random.Generator,
    anatomy: Anatomy,
    tissue: Tissue,
    gtab: GradientTable,
    xfms: NDArray[np.float64],
    *,
    shift: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return a series as measured, in the tissue's scanner units."""
    # The head turns under gradients that stay: in its own frame they turn the other way.
    seen = gtab.rotated(xfms[:, :3, :3].transpose(0, 2, 1))
    signal = noise_free_signal(anatomy, tissue, seen)
    fluid, scalp = head_shell(anatomy.mni_mm)
    b = (gtab.bvals / 1000.0).astype(np.float32)
    around = 0.3 * tissue.intensity[2] * fluid[..., None] * np.exp(-b * tissue.csf)
    around += 0.25 * tissue.intensity[0] * scalp[..., None] * np.exp(-b * 0.4)
    signal += np.where(anatomy.mask[..., None], 0.0, around).astype(np.float32)
    signal = blur_volumes(signal, BLUR)
    for n, xfm in enumerate(xfms):
        signal[..., n] = move_volume(signal[..., n], anatomy.affine, xfm)
    voxel_size_mm = np.linalg.norm(anatomy.affine[:3, :3], axis=0)
    signal = distort(signal, shift, axis=1)
    # Thicker voxels hold more signal; the stated SNR is that of 3 mm, within limits.
    snr = SNR * float(np.clip(np.prod(voxel_size_mm) / 27.0, 0.5, 2.0))
    return add_noise(rng, signal, sigma=tissue.intensity[0] / snr)


def _write_t1w(root: Path, subject: _Subject, rng: np.random.Generator, anatomy: Anatomy) -> None:
    shape, affine = _grid(T1W_VOXEL_SIZE_MM)
    t1w2dwi = np.linalg.inv(anatomy.affine) @ affine
    axes = [np.arange(n) * t1w2dwi[k, k] + t1w2dwi[k, 3] for k, n in enumerate(shape)]
    where = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    # Where a voxel lies in MNI space varies smoothly: interpolate that, then look up tissue.
    linear = np.stack([map_coordinates(m, where, order=1, mode="nearest") for m in anatomy.mni_mm])
    image = t1w_image(rng, linear, sharpness=anatomy.sharpness, voxel_size_mm=T1W_VOXEL_SIZE_MM)
    path = root / f"{subject.stem('anat')}_T1w.nii.gz"
    _store(image, affine, path, is_las=not subject.is_las, dtype=np.int16)
    _write_json(
        path.with_name(path.name.replace(".nii.gz", ".json")),
        {"Manufacturer": "Simulated", "MagneticFieldStrength": 3, "Modality": "MR"},
    )


def _write_truth(
    root: Path,
    subject: _Subject,
    anatomy: Anatomy,
    tissue: Tissue,
    field_hz: NDArray[np.float32],
    motion: NDArray[np.float64],
    *,
    bval: float,
) -> None:
    stem = root / "derivatives" / "truth" / subject.stem("dwi")
    tensor = true_tensor(anatomy, tissue, bval=bval, blur=BLUR)
    matrices = tensor[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(*tensor.shape[:3], 3, 3)
    values = np.linalg.eigvalsh(matrices.astype(np.float64))
    md = values.mean(axis=3)
    spread = ((values - md[..., None]) ** 2).sum(axis=3)
    fa = np.sqrt(1.5 * spread / np.maximum((values**2).sum(axis=3), 1e-30))
    for suffix, data in {
        "model-tensor_param-diffusivity_desc-truth_dwimap": tensor,
        "model-tensor_param-fa_desc-truth_dwimap": np.where(anatomy.mask, fa, 0.0),
        "model-tensor_param-md_desc-truth_dwimap": md,
        "desc-truth_fieldmap": field_hz,
        "label-WM_desc-truth_probseg": anatomy.wm,
        "label-GM_desc-truth_probseg": anatomy.gm,
        "label-CSF_desc-truth_probseg": anatomy.csf,
        "desc-truth_mask": anatomy.mask,
    }.items():
        dtype = np.uint8 if data.dtype == bool else np.float32
        path = stem.with_name(f"{stem.name}_{suffix}.nii.gz")
        _store(data, anatomy.affine, path, is_las=subject.is_las, dtype=dtype)
    names = [f"m{i}{j}" for i in range(3) for j in range(4)]
    rows = ["\t".join(names)]
    rows += ["\t".join(f"{x:.8f}" for x in xfm[:3].ravel()) for xfm in motion]
    path = stem.with_name(f"{stem.name}_from-dwiref_to-orig_mode-image_desc-truth_xfm.tsv")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
