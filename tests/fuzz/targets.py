"""Readers under test, their valid inputs, and checks of what they accept."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from dmri_fm.encoders.drope import config as drope
from dmri_fm.errors import DmriError
from dmri_fm.gradient_files import RawGradients, read_raw_gradients
from dmri_fm.image_files import check_affine
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.series import load_image, read_array
from dmri_fm.tensor_networks.refiner import RefinerConfig
from dmri_fm.weights import save_weights
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.scans import open_run, why_no_signal
from dmri_fm_workflows.outputs.publish import to_json
from dmri_fm_workflows.outputs.sidecars import carry_over
from tests.fuzz.damage import (
    EXTREME_JSON,
    EXTREME_WORDS,
    damage_bytes,
    damage_header,
    damage_json,
    replace_value,
    replace_word,
)
from tests.fuzz.run import Files, Target

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
N_VOLUMES = 7


def make_images() -> list[Files]:
    """Return small images: plain and compressed, NIfTI-1 and 2, both byte orders, scaled."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 1000, (5, 4, 3, 2))
    images: list[Files] = []
    for name, image_class, dtype, order, slope in (
        ("x.nii.gz", nib.Nifti1Image, np.int16, "<", 1.0),
        ("x.nii.gz", nib.Nifti1Image, np.float32, "<", 1.0),
        ("x.nii.gz", nib.Nifti2Image, np.uint16, "<", 0.5),
        ("x.nii.gz", nib.Nifti1Image, np.int16, ">", 0.1),
        ("x.nii", nib.Nifti1Image, np.float64, "<", 1.0),
        ("x.nii", nib.Nifti2Image, np.int32, ">", 1.0),
    ):
        header = image_class.header_class(endianness=order)
        header.set_data_dtype(dtype)
        header.set_xyzt_units("mm", "sec")
        image = image_class(data.astype(dtype), AFFINE, header)
        image.set_sform(AFFINE, code=1)
        image.set_qform(AFFINE, code=1)
        content = bytearray(image.to_bytes())
        stored = image_class.header_class(bytes(content[: header.sizeof_hdr]), order, check=False)
        stored["scl_slope"] = slope
        content[: header.sizeof_hdr] = stored.binaryblock
        packed = gzip.compress(bytes(content), mtime=0) if name.endswith("gz") else bytes(content)
        images.append({name: packed})
    return images


def _damage_image(
    rng: np.random.Generator, files: Files, seeds: Sequence[Files]
) -> tuple[Files, bool]:
    (name, data), *_ = files.items()
    is_packed = name.endswith(".gz")
    others = [c for f in seeds for n, c in f.items() if n == name]
    plain = gzip.decompress(data) if is_packed else data
    if rng.random() < 0.4:
        # Bits of a stream that its checksum covers; anything spliced may be a whole stream.
        changed = damage_bytes(rng, data, others)
        return {name: changed}, is_packed and len(changed) == len(data) and changed[:3] == data[:3]
    is_header = rng.random() < 0.8
    plain = damage_header(rng, plain) if is_header else damage_bytes(rng, plain, [plain])
    return {name: gzip.compress(plain, 1, mtime=0) if is_packed else plain}, False


def _read_image(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    # Both names may lie there: the newer one is the input.
    path = max(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    image = load_image(path)
    affine = np.asarray(image.affine)
    return read_array(image), affine


def _judge_image(image: tuple[np.ndarray, np.ndarray]) -> str | None:
    data, affine = image
    if data.size == 0 or data.dtype != np.float32 or not np.isfinite(data).all():
        return f"voxels of shape {data.shape}, type {data.dtype}, finite or not"
    try:
        check_affine(affine, data.shape, None)
    except DmriError as error:
        return error.found
    return None


def _is_same_image(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _make_gradients() -> list[Files]:
    rng = np.random.default_rng(1)
    bvecs = rng.normal(size=(3, N_VOLUMES))
    bvecs /= np.linalg.norm(bvecs, axis=0)
    bvecs[:, 0] = 0
    scaled = bvecs * [0, 1, 1, 1, 0.6, 0.6, 0.6]
    table, scaled_table = (
        "".join(" ".join(f"{x:.6f}" for x in row) + "\n" for row in rows).encode()
        for rows in (bvecs, scaled)
    )
    return [
        # One nominal b-value: lengths scale it.
        {"x.bval": b"3000 " * N_VOLUMES, "x.bvec": scaled_table},
        {"x.bval": b"0 1000 1000 1000 2000 2000 2000\n", "x.bvec": table},
        {"x.bval": b"5\n1000\n1000\n995\n2000\n2005\n3000\n", "x.bvec": table.replace(b" ", b",")},
    ]


def _damage_gradients(rng: np.random.Generator, files: Files) -> tuple[Files, bool]:
    changed = dict(files)
    name = str(rng.choice(sorted(files)))
    if rng.random() < 0.5:
        changed[name] = damage_bytes(rng, files[name], list(files.values()))
    else:
        changed[name] = replace_word(rng, files[name], EXTREME_WORDS)
    return changed, False


def _judge_gradients(gradients: RawGradients) -> str | None:
    gtab = gradients.gtab
    length = np.linalg.norm(gtab.bvecs_ras, axis=1)
    is_possible = (
        len(gtab) == len(gradients.kept)
        and sorted([*gradients.kept, *gradients.left_out]) == list(range(N_VOLUMES))
        and np.isfinite(gtab.bvals).all()
        and (gtab.bvals >= 0).all()
        and gtab.bvals.max() <= 1e6
        and np.isclose(length[~gtab.is_b0], 1).all()
        and (np.isclose(length, 1) | ((length == 0) & gtab.is_b0)).all()
        # A warning names every change and every dropped volume.
        and bool(gradients.warnings) >= bool(gradients.left_out or gradients.lengths)
    )
    return None if is_possible else f"b-values {gtab.bvals}, lengths {length}"


SIDECAR = {
    "Manufacturer": "Siemens",
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"],
    "SeriesDescription": "ep2d_diff",
    "PhaseEncodingDirection": "j-",
    "TotalReadoutTime": 0.05,
    "EffectiveEchoSpacing": 0.0005,
    "ReconMatrixPE": 100,
    "EchoTime": 0.08,
    "IntendedFor": ["dwi/sub-01_dwi.nii.gz"],
    "SliceTiming": [0, 0.1, 0.2],
    "Nested": {"a": {"b": [1, 2, {"c": None}]}},
}


def _make_sidecars() -> list[Files]:
    other = {
        "sub-01_dwi.nii.gz": make_images()[0]["x.nii.gz"],
        "sub-01_dwi.bval": b"0 1000",
        "sub-01_dwi.bvec": b"0 1\n0 0\n0 0",
    }
    texts = [json.dumps(SIDECAR, indent=2), json.dumps(SIDECAR, separators=(", ", ": "))]
    return [{"sub-01_dwi.json": text.encode(), **other} for text in texts]


def _damage_sidecar(rng: np.random.Generator, files: Files) -> tuple[Files, bool]:
    return {"sub-01_dwi.json": damage_json(rng, files["sub-01_dwi.json"])}, False


def _read_sidecar(folder: Path) -> Any:
    image, reading = folder / "sub-01_dwi.nii.gz", Reading(folder)
    metadata = reading.sidecars.metadata(image)
    why_no_signal({}, metadata)
    run = open_run(image, reading)
    carried = json.dumps(to_json(carry_over([metadata])), ensure_ascii=False, allow_nan=False)
    whole = json.dumps(to_json(metadata), ensure_ascii=False, allow_nan=False, sort_keys=True)
    return run, carried.encode(), whole.encode(), "\n".join(run.warnings).encode()


def _judge_sidecar(scan: Any) -> str | None:
    run, *_ = scan
    is_possible = run.phase_encoding in {None, "i", "i-", "j", "j-", "k", "k-"} and (
        run.readout_time_s is None or 0 < run.readout_time_s <= 1
    )
    return None if is_possible else f"{run.phase_encoding}, {run.readout_time_s} s"


def _make_weights() -> list[Files]:
    inputs: list[Files] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, config in (
            (
                "tensor-refiner",
                RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,)),
            ),
            ("drope", replace(drope.SMALL, dim=24, depth=1, heads=2)),
        ):
            torch.manual_seed(0)
            path = Path(folder) / "x.safetensors"
            model = MODELS[name].network(config)
            statistics = {"mean": torch.ones(3)}
            save_weights(path, model, name=name, version="1", training={}, statistics=statistics)
            beside = path.with_suffix(".json")
            inputs.append({p.name: p.read_bytes() for p in (path, beside)})
    return inputs


def _damage_weights(rng: np.random.Generator, files: Files) -> tuple[Files, bool]:
    tensors, text = files["x.safetensors"], files["x.json"]
    if rng.random() < 0.5:
        return {"x.safetensors": tensors, "x.json": damage_json(rng, text)}, False
    size = 8 + int.from_bytes(tensors[:8], "little")
    head, body = tensors[:size], tensors[size:]
    if rng.random() < 0.3:
        head = damage_bytes(rng, head, [head])
    elif rng.random() < 0.7:
        extremes = (*EXTREME_JSON, b'"F8_E5M2"', b'"C64"', b'"BOOL"', b"[0, 1e9]", b"[-1]")
        described = replace_value(rng, head[8:], extremes)
        head = len(described).to_bytes(8, "little") + described
    else:
        body = damage_bytes(rng, body, [body])
    description = json.loads(text) | {"sha256": sha256(head + body).hexdigest()}
    return {"x.safetensors": head + body, "x.json": json.dumps(description).encode()}, False


def _judge_weights(weights: Any) -> str | None:
    tensors = [*weights.model.state_dict().values(), *weights.statistics.values()]
    return None if all(torch.isfinite(t).all() for t in tensors) else "a weight is not finite"


def make_targets() -> dict[str, Target]:
    """Return the readers under test, by name."""
    images, sidecars = make_images(), _make_sidecars()
    return {
        "images": Target(
            images,
            lambda rng, files: _damage_image(rng, files, images),
            _read_image,
            _judge_image,
            share=0.4,
            is_same=_is_same_image,
        ),
        "gradients": Target(
            _make_gradients(),
            _damage_gradients,
            lambda folder: read_raw_gradients(
                folder / "x.bval", folder / "x.bvec", affine=AFFINE, n_volumes=N_VOLUMES
            ),
            _judge_gradients,
            share=0.25,
        ),
        "sidecars": Target(sidecars, _damage_sidecar, _read_sidecar, _judge_sidecar, share=0.25),
        "weights": Target(
            _make_weights(),
            _damage_weights,
            lambda folder: load_weights(folder / "x.safetensors"),
            _judge_weights,
            share=0.1,
        ),
    }
