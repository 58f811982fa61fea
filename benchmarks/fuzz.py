"""Feed damaged files to the readers of images, gradients, sidecars and weights, and count.

A file may be refused, with one of our errors, or accepted, if what comes out of it is possible.
Everything else is a failure: another exception, a warning, a line in the log, memory beyond the
limit, voxels of a damaged gzip stream that differ from those written, a value that no scan has.

    python benchmarks/fuzz.py --inputs 100000 --seed 0
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from dmri_fm.encoders.drope import network as drope
from dmri_fm.errors import DmriError
from dmri_fm.gradient_files import RawGradients, read_raw_gradients
from dmri_fm.image_files import check_affine
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.series import load_image, read_array
from dmri_fm.tensor_networks.refiner import RefinerConfig
from dmri_fm.weights import save_weights
from dmri_fm_workflows.bids.scans import is_diffusion_signal, open_run
from dmri_fm_workflows.bids.sidecars import Sidecars
from dmri_fm_workflows.outputs.publish import to_json
from dmri_fm_workflows.outputs.sidecars import carry_over

#: Contents by file name: what one reader reads together.
Files = Mapping[str, bytes]

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
N_VOLUMES = 7
EXTREME_NUMBERS = (0, -1, 1, 2, 7, 255, 348, 32767, -32768, 2**31 - 1, -(2**31), 2**62, 0.5,
                   -0.0, 1e-40, 1e30, -1e30, 3e38, np.nan, np.inf, -np.inf)  # fmt: skip
EXTREME_WORDS = (b"nan", b"inf", b"-inf", b"1e400", b"-1", b"1e308", b"1e-400", b"9" * 400,
                 b"1_000", "\uff11".encode(), "\u00b2".encode(), b"\0", b"0x10", b"", b"-",
                 b"1,5", b"\xff\xfe", b"1000;", b"1e5", b"0 " * 5_000)  # fmt: skip
EXTREME_JSON = (b"9" * 400, b"-" + b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"null", b"true",
                b"[]", b"{}", b"3", b"-0", b'""', b'"\\ud800"', b'"\\u0000"', b'"\xff"',
                b"[" * 100_000, b"[" * 70 + b"]" * 70, b'{"a":' * 500 + b"1" + b"}" * 500,
                b'["j", 3]', b'[["j"]]', b'"' + b"x" * 100_000 + b'"', b"0.05,",
                b'1, "EchoTime": 2', b"1e-5", b"[1000000000]", b"[100000, 0]")  # fmt: skip


@dataclass
class Tally:
    """What became of the inputs of one target."""

    n_accepted: int = 0
    n_refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def n_inputs(self) -> int:
        """How many there were."""
        return self.n_accepted + self.n_refused + len(self.failures)


@dataclass(frozen=True)
class Target:
    """A reader, what it is fed, and what it must not accept.

    Attributes
    ----------
    seeds
        Valid inputs.
    damage
        Damages one: takes a generator and an input, returns an input, and whether what is read
        from it must be what is read from the undamaged one, if it is accepted.
    read
        Reads from the folder that holds an input's files.
    judge
        Says what is impossible in what was read; nothing if all is well.
    is_same
        Compares what two inputs gave.
    share
        Part of all inputs.
    """

    seeds: Sequence[Files]
    damage: Callable[[np.random.Generator, Files], tuple[Files, bool]]
    read: Callable[[Path], Any]
    judge: Callable[[Any], str | None]
    share: float
    is_same: Callable[[Any, Any], bool] = lambda one, other: True


def run_target(target: Target, *, n_inputs: int, seed: int, folder: Path) -> Tally:
    """Feed a reader with damaged inputs.

    Parameters
    ----------
    target
        Reader and inputs.
    n_inputs
        How many; input i of a seed is always the same.
    seed
        Of the damage.
    folder
        For the files, empty.
    """
    tally = Tally()
    logged = _LogRecords()
    start = time.perf_counter()
    sound = [_try(target, files, folder) for files in target.seeds]
    for i in range(n_inputs):
        rng = np.random.default_rng([seed, i])
        which = int(rng.integers(len(target.seeds)))
        files, must_agree = target.damage(rng, target.seeds[which])
        before = time.perf_counter()
        try:
            with logged:
                value = _try(target, files, folder)
            fault = target.judge(value)
            if fault is None and must_agree and not target.is_same(value, sound[which]):
                fault = "damage was not noticed"
            fault = fault or logged.first
        except DmriError as error:
            str(error).encode()
            if logged.first is None:
                tally.n_refused += 1
            else:
                tally.failures.append(f"input {i}: {logged.first}")
        except Exception as error:  # what the fuzz is for
            tally.failures.append(f"input {i}: {type(error).__name__}: {str(error)[:200]}")
        else:
            if fault is None:
                tally.n_accepted += 1
            else:
                tally.failures.append(f"input {i}: accepted: {fault}")
        tally.slowest_s = max(tally.slowest_s, time.perf_counter() - before)
    tally.seconds = time.perf_counter() - start
    return tally


class _LogRecords(logging.Handler):
    """Catches what is logged as a warning, by any package."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: str | None = None

    def __enter__(self) -> None:
        self.first = None
        logging.getLogger().addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first record."""
        self.first = self.first or f"logged: {record.getMessage()[:200]}"


def _try(target: Target, files: Files, folder: Path) -> Any:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return target.read(folder)


def damage_bytes(rng: np.random.Generator, data: bytes, others: Sequence[bytes]) -> bytes:
    """Flip bits, cut, repeat, remove or overwrite a piece, or append one."""
    content = bytearray(data)
    kind = rng.integers(6)
    start, stop = sorted(int(n) for n in rng.integers(0, len(data) + 1, 2))
    if kind == 0:
        for place in rng.integers(0, 8 * len(data), rng.integers(1, 4)):
            content[place // 8] ^= 1 << (place % 8)
    elif kind == 1:
        del content[start:]
    elif kind == 2:
        content[start:start] = content[start:stop]
    elif kind == 3:
        del content[start:stop]
    elif kind == 4:
        other = others[rng.integers(len(others))]
        content[start:stop] = other[start:stop]
    else:
        content += bytes(rng.integers(0, 256, rng.integers(1, 64), dtype=np.uint8))
    return bytes(content)


# Images


def make_images() -> list[Files]:
    """Return small images: plain and compressed, NIfTI-1 and 2, both byte orders, scaled."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 1000, (5, 4, 3, 2))
    found: list[Files] = []
    for name, kind, dtype, order, slope in (
        ("x.nii.gz", nib.Nifti1Image, np.int16, "<", 1.0),
        ("x.nii.gz", nib.Nifti1Image, np.float32, "<", 1.0),
        ("x.nii.gz", nib.Nifti2Image, np.uint16, "<", 0.5),
        ("x.nii.gz", nib.Nifti1Image, np.int16, ">", 0.1),
        ("x.nii", nib.Nifti1Image, np.float64, "<", 1.0),
        ("x.nii", nib.Nifti2Image, np.int32, ">", 1.0),
    ):
        header = kind.header_class(endianness=order)
        header.set_data_dtype(dtype)
        header.set_xyzt_units("mm", "sec")
        image = kind(data.astype(dtype), AFFINE, header)
        image.set_sform(AFFINE, code=1)
        image.set_qform(AFFINE, code=1)
        content = bytearray(image.to_bytes())
        stored = kind.header_class(bytes(content[: header.sizeof_hdr]), order, check=False)
        stored["scl_slope"] = slope
        content[: header.sizeof_hdr] = stored.binaryblock
        packed = gzip.compress(bytes(content), mtime=0) if name.endswith("gz") else bytes(content)
        found.append({name: packed})
    return found


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
    plain = _damage_header(rng, plain) if is_header else damage_bytes(rng, plain, [plain])
    return {name: gzip.compress(plain, 1, mtime=0) if is_packed else plain}, False


def _damage_header(rng: np.random.Generator, plain: bytes) -> bytes:
    """Set one to three fields of a header to extreme values."""
    size = 348 if 348 in (int.from_bytes(plain[:4], o) for o in ("little", "big")) else 540
    order = "<" if int.from_bytes(plain[:4], "little") == size else ">"
    dtype = (nib.nifti1 if size == 348 else nib.nifti2).header_dtype.newbyteorder(order)
    header = np.frombuffer(plain[:size], dtype).copy()
    names = [n for n in dtype.names or () if header[n].dtype.kind in "iuf"]
    # Half of the time a field that describes the array or its place.
    chosen = [n for n in names if n.startswith(("dim", "pix", "vox", "scl", "q", "s", "x", "d"))]
    for _ in range(rng.integers(1, 4)):
        key = str(rng.choice(chosen if rng.random() < 0.5 else names))
        values = header[key].reshape(-1)
        value = EXTREME_NUMBERS[rng.integers(len(EXTREME_NUMBERS))]
        place = rng.integers(values.size)
        if values.dtype.kind == "f":
            with np.errstate(all="ignore"):
                values[place] = value
        else:
            limits = np.iinfo(values.dtype)
            number = int(value) if np.isfinite(value) else limits.max
            values[place] = min(max(number, limits.min), limits.max)
        header[key] = values.reshape(header[key].shape)
    return header.tobytes() + plain[size:]


def _read_image(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    # Both names may lie there: the newer one is the input.
    path = max(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
    image = load_image(path)
    affine = np.asarray(image.affine)
    return read_array(image), affine


def _judge_image(found: tuple[np.ndarray, np.ndarray]) -> str | None:
    data, affine = found
    if data.size == 0 or data.dtype != np.float32 or not np.isfinite(data).all():
        return f"voxels of shape {data.shape}, type {data.dtype}, finite or not"
    try:
        check_affine(affine, data.shape, None)
    except DmriError as error:
        return error.found
    return None


def _is_same_image(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# Gradients


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
        changed[name] = _replace_word(rng, files[name], EXTREME_WORDS)
    return changed, False


def _replace_word(rng: np.random.Generator, data: bytes, extremes: Sequence[bytes]) -> bytes:
    words = re.split(rb"([\s,]+)", data)
    words[2 * rng.integers((len(words) + 1) // 2)] = extremes[rng.integers(len(extremes))]
    return b"".join(words)


def _judge_gradients(found: RawGradients) -> str | None:
    gtab = found.gtab
    length = np.linalg.norm(gtab.bvecs_ras, axis=1)
    is_possible = (
        len(gtab) == len(found.kept)
        and sorted([*found.kept, *found.left_out]) == list(range(N_VOLUMES))
        and np.isfinite(gtab.bvals).all()
        and (gtab.bvals >= 0).all()
        and gtab.bvals.max() <= 1e6
        and np.isclose(length[~gtab.is_b0], 1).all()
        and (np.isclose(length, 1) | ((length == 0) & gtab.is_b0)).all()
        # What was changed or left out is said.
        and bool(found.warnings) >= bool(found.left_out or found.lengths)
    )
    return None if is_possible else f"b-values {gtab.bvals}, lengths {length}"


# Sidecars

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
    image = {k: v for k, v in make_images()[0].items() if k == "x.nii.gz"}["x.nii.gz"]
    other = {"sub-01_dwi.nii.gz": image, "sub-01_dwi.bval": b"0 1000", "sub-01_dwi.bvec":
             b"0 1\n0 0\n0 0"}  # fmt: skip
    texts = [json.dumps(SIDECAR, indent=2), json.dumps(SIDECAR, separators=(", ", ": "))]
    return [{"sub-01_dwi.json": text.encode(), **other} for text in texts]


def _damage_sidecar(rng: np.random.Generator, files: Files) -> tuple[Files, bool]:
    return {"sub-01_dwi.json": damage_json(rng, files["sub-01_dwi.json"])}, False


def damage_json(rng: np.random.Generator, text: bytes) -> bytes:
    """Damage the text, replace a value by a hostile one, or prefix a mark of another code."""
    kind = rng.random()
    if kind < 0.3:
        return damage_bytes(rng, text, [text])
    if kind < 0.35:
        return (b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"", b"[")[rng.integers(5)] + text
    return _replace_value(rng, text, EXTREME_JSON)


def _replace_value(rng: np.random.Generator, text: bytes, extremes: Sequence[bytes]) -> bytes:
    """Replace a value of an object, or of one within it."""
    mark = "a hostile value stands here"
    content = json.loads(text)
    entries = content
    while True:
        key = str(rng.choice(sorted(entries)))
        if not (isinstance(entries[key], dict) and entries[key] and rng.random() < 0.8):
            break
        entries = entries[key]
    entries[key] = mark
    extreme = extremes[rng.integers(len(extremes))]
    return json.dumps(content).encode().replace(json.dumps(mark).encode(), extreme)


def _read_sidecar(folder: Path) -> Any:
    image, sidecars = folder / "sub-01_dwi.nii.gz", Sidecars(folder)
    metadata = sidecars.metadata(image)
    is_diffusion_signal({}, metadata)
    run, _, doubts = open_run(image, metadata, sidecars=sidecars)
    carried = json.dumps(to_json(carry_over([metadata])), ensure_ascii=False, allow_nan=False)
    whole = json.dumps(to_json(metadata), ensure_ascii=False, allow_nan=False, sort_keys=True)
    return run, carried.encode(), whole.encode(), "\n".join(doubts).encode()


def _judge_sidecar(found: Any) -> str | None:
    run, *_ = found
    is_possible = run.phase_encoding in {None, "i", "i-", "j", "j-", "k", "k-"} and (
        run.readout_time_s is None or 0 < run.readout_time_s <= 1
    )
    return None if is_possible else f"{run.phase_encoding}, {run.readout_time_s} s"


# Weights


def _make_weights() -> list[Files]:
    found: list[Files] = []
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
            model = MODELS[name][1](config)  # type: ignore[arg-type]
            save_weights(
                path,
                model,
                name=name,
                version="1",
                training={},
                statistics={"mean": torch.ones(3)},
            )
            beside = path.with_suffix(".json")
            found.append({p.name: p.read_bytes() for p in (path, beside)})
    return found


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
        described = _replace_value(rng, head[8:], extremes)
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


def limit_memory(n_bytes: int) -> None:
    """Let this process take at most so much more address space than it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + n_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all targets, print a table, return 1 if there were failures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="in all (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--memory-mb", type=int, default=512, help="limit beside the imports")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    targets = make_targets()
    limit_memory(options.memory_mb * 2**20)
    n_failures = 0
    print("| target | inputs | refused | accepted | failures | seconds | slowest, s |")
    print("|---|---|---|---|---|---|---|")
    for name, target in targets.items():
        n_inputs = round(options.inputs * target.share)
        with tempfile.TemporaryDirectory() as folder:
            tally = run_target(target, n_inputs=n_inputs, seed=options.seed, folder=Path(folder))
        n_failures += len(tally.failures)
        print(
            f"| {name} | {tally.n_inputs} | {tally.n_refused} | {tally.n_accepted} | "
            f"{len(tally.failures)} | {tally.seconds:.1f} | {tally.slowest_s:.2f} |"
        )
        for failure in tally.failures[:10]:
            print(f"  {failure}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"Largest resident memory, imports included: {peak:.0f} MB")
    return 1 if n_failures else 0


if __name__ == "__main__":
    sys.exit(main())
