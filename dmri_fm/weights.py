"""Checkpoints: a safetensors file of weights and a JSON file that says what they are.

Nothing is unpickled. The JSON holds the model's name and configuration, how its input is
normalised, how it was trained, and the sha256 of the weights, which is verified at every load.
"""

from __future__ import annotations

import json
import reprlib
import warnings
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.identity import RETIRED_NAMES, explain_retired
from dmri_fm.json_files import read_object
from dmri_fm.registry import MODELS, Config
from dmri_fm.tensor_networks.gate import Gate

__all__ = ["Weights", "load_weights", "save_weights"]

#: Version of the JSON's layout.
FORMAT = 1

#: Tensors whose names start so describe training data; the rest belong to the network.
STATISTICS_PREFIX = "statistics."

#: Tensors whose names start so belong to what pretrained the network, beside it.
PRETRAINING_PREFIX = "pretraining."

#: Fields of configurations that are younger than the format; files without them mean the default.
LATER_FIELDS = {"rotary", "features"}

#: Entries of the JSON and their types.
ENTRIES: dict[str, type] = {
    "format": int,
    "model": str,
    "version": str,
    "sha256": str,
    "config": dict,
    "normalisation": dict,
    "training": dict,
}

#: Entries that files may have.
LATER_ENTRIES: dict[str, type] = {"license": str, "gate": dict, "pretraining": dict}

#: Types of tensors in a file.
TENSOR_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)

#: Largest number and longest list in a configuration.
LARGEST, LONGEST = 100_000, 16

#: Fields of configurations that count blocks, of which each has some tensors.
BLOCK_COUNTS = ("depth", "encoder_blocks", "decoder_blocks")

#: Formats that can run code when they are read.
PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained network, ready to run.

    Attributes
    ----------
    name
        Name in the registry.
    version
        Of the weights.
    sha256
        Of the safetensors file.
    config
        Configuration of `model`.
    model
        The network in evaluation mode, float32.
    statistics
        Tensors about the training data, such as those that score unusual scans.
    normalisation
        What the network expects as input, in words and numbers.
    training
        How the weights came about.
    gate
        Scans for which they were found better than their rivals; None: none.
    pretraining
        Tensors of the rest of the autoencoder that pretrained the network; empty if they did not
        come with it. See :func:`dmri_fm.encoders.drope.guided_mae.restore_autoencoder`.
    pretraining_config
        Its configuration, but for the network's.
    license
        Licence of the weights, as the JSON beside them has it; empty where it has none.
    source
        `packaged`, or the name of the file.
    """

    name: str
    version: str
    sha256: str
    config: Config
    model: nn.Module
    statistics: dict[str, Tensor]
    normalisation: dict[str, Any]
    training: dict[str, Any]
    gate: Gate | None = None
    pretraining: dict[str, Tensor] = field(default_factory=dict)
    pretraining_config: dict[str, Any] = field(default_factory=dict)
    license: str = ""
    source: str = "packaged"

    def describe(self) -> dict[str, str]:
        """Return what metadata say of the weights, in the entries of `Model`."""
        found = {"Version": self.version, "Weights": self.source, "SHA256": self.sha256}
        return found | ({"License": self.license} if self.license else {})


def save_weights(
    path: str | Path,
    model: nn.Module,
    *,
    name: str,
    config: Config,
    version: str,
    normalisation: dict[str, Any],
    training: dict[str, Any],
    statistics: dict[str, Tensor] | None = None,
    pretraining: dict[str, Tensor] | None = None,
    pretraining_config: dict[str, Any] | None = None,
) -> Path:
    """Write `path` (.safetensors, half precision) and the JSON beside it.

    Parameters
    ----------
    path
        Ends in `.safetensors`.
    model, name, config
        The network, its name in the registry, its configuration.
    version, normalisation, training
        See :class:`Weights`; JSON-serialisable.
    statistics
        Extra tensors; kept in their own precision.
    pretraining, pretraining_config
        See :class:`Weights`; half precision, too.

    Raises
    ------
    WeightsError
        If a weight is not finite in half precision, or the name is not registered.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or name not in MODELS:
        raise WeightsError(
            f"weights of {name!r} cannot be saved here",
            path=path,
            expected=f"a .safetensors path and one of {', '.join(MODELS)}",
        )
    networks = model.state_dict() | {
        PRETRAINING_PREFIX + key: value for key, value in (pretraining or {}).items()
    }
    tensors = {
        key: value.detach().cpu().to(torch.float16).contiguous() for key, value in networks.items()
    }
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise WeightsError(f"{key} is not finite in half precision", path=path)
    for key, value in (statistics or {}).items():
        tensors[STATISTICS_PREFIX + key] = value.detach().cpu().contiguous()
    content = save(tensors)
    description = {
        "format": FORMAT,
        "model": name,
        "version": version,
        "license": "Apache-2.0",
        "sha256": sha256(content).hexdigest(),
        "config": asdict(config),
        "normalisation": normalisation,
        "training": training,
    }
    if pretraining_config is not None:
        description["pretraining"] = pretraining_config
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return path


def load_weights(
    name_or_path: str | Path, *, model: str | None = None, device: str = "cpu"
) -> Weights:
    """Load a network and its weights, strictly.

    Parameters
    ----------
    name_or_path
        A registered name whose weights ship with the package, or the path of a `.safetensors`
        file with its `.json` beside it.
    model
        Refuse weights of any other model.
    device
        A torch device.

    Returns
    -------
    Weights
        In evaluation mode, float32.

    Raises
    ------
    ConfigError
        If the name stands for no model any more.
    WeightsError
        If there are no such weights, the format could run code, the checksum, configuration or
        a tensor's name or shape is wrong, or a weight is not finite.
    """
    path = _find(name_or_path)
    description = _read_description(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot be read ({error.strerror})", path=path) from None
    digest = sha256(content).hexdigest()
    if digest != description["sha256"]:
        raise WeightsError(
            f"sha256 is {digest}",
            path=path,
            expected=description["sha256"],
            advice="the file is damaged or was changed: copy it again",
        )
    name = description["model"]
    if model is not None and name != model:
        raise WeightsError(f"weights of model {name!r}", path=path, expected=f"model {model!r}")
    config = _build_config(name, description["config"], path)
    tensors = _read_tensors(content, path)
    statistics = _take(tensors, STATISTICS_PREFIX)
    pretraining = {k: v.float() for k, v in _take(tensors, PRETRAINING_PREFIX).items()}
    _check_shapes(name, config, tensors, path=path)
    network = _build_network(name, config, path)
    try:
        network.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the tensors do not fit the configuration ({error})",
            path=path,
            expected=f"the weights of {name!r} with the configuration in the JSON beside them",
        ) from None
    return Weights(
        name=name,
        version=description["version"],
        sha256=digest,
        config=config,
        model=network.eval().requires_grad_(False).to(device),
        statistics=statistics,
        normalisation=description["normalisation"],
        training=description["training"],
        gate=_read_gate(description, path),
        pretraining=pretraining,
        pretraining_config=description.get("pretraining", {}),
        license=description.get("license", ""),
        source="packaged" if str(name_or_path) in MODELS else path.name,
    )


def _read_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        tensors = load(content)
    # A type that safetensors knows and torch does not is a KeyError.
    except (SafetensorError, ValueError, RuntimeError, KeyError, OverflowError) as error:
        raise WeightsError(f"not a safetensors file ({error})", path=path) from None
    for key, value in tensors.items():
        if value.dtype not in TENSOR_TYPES:
            raise WeightsError(
                f"{key!r} holds {value.dtype}",
                path=path,
                expected="one of " + ", ".join(map(str, TENSOR_TYPES)),
            )
        if not value.numel():
            raise WeightsError(f"{key!r} holds no numbers", path=path)
        if not torch.isfinite(value).all():
            raise WeightsError("a weight is not finite", path=path)
    return tensors


def _check_shapes(name: str, config: Config, tensors: dict[str, Tensor], *, path: Path) -> None:
    """Compare the file with the network's shapes before memory is taken for the network."""
    counts = [getattr(config, field, 0) for field in BLOCK_COUNTS]
    n_blocks = sum(sum(c) if isinstance(c, tuple) else c for c in counts)
    if n_blocks > len(tensors):
        raise WeightsError(
            f"{len(tensors)} tensors for a configuration of {n_blocks} blocks", path=path
        )
    with torch.device("meta"), warnings.catch_warnings():
        # torch warns of layers without weights; no file has tensors that fit them.
        warnings.simplefilter("ignore")
        wanted = {k: v.shape for k, v in _build_network(name, config, path).state_dict().items()}
    found = {k: v.shape for k, v in tensors.items()}
    if wrong := sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)):
        raise WeightsError(
            f"{len(wrong)} tensors do not fit the configuration, the first is {wrong[0]!r}",
            path=path,
            expected=f"the weights of {name!r} with the configuration in the JSON beside them",
        )


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors of a group out; their names lose its prefix."""
    names = [name for name in sorted(tensors) if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _read_gate(description: dict[str, Any], path: Path) -> Gate | None:
    values = description.get("gate")
    try:
        return None if values is None else Gate.from_json(values)
    except ConfigError as error:
        raise WeightsError(str(error), path=path.with_suffix(".json")) from None


def _find(name_or_path: str | Path) -> Path:
    if retired := explain_retired(str(name_or_path)):
        raise retired
    if str(name_or_path) in MODELS:
        path = Path(str(files("dmri_fm") / "data" / "weights" / f"{name_or_path}.safetensors"))
        if not path.exists():
            raise WeightsError(
                f"no weights of {name_or_path!r} ship with this package",
                path=path,
                expected="a model with shipped weights",
                advice="train it, or name your own .safetensors file",
            )
        return path
    path = Path(name_or_path)
    if path.suffix in PICKLED:
        raise WeightsError(
            "a pickled checkpoint can run code when it is read",
            path=path,
            expected="a .safetensors file with a .json beside it",
            advice="convert it where you trust its source",
        )
    if path.suffix != ".safetensors" or not path.exists():
        raise WeightsError(
            "no such weights",
            path=path,
            expected=f"a .safetensors file, or one of {', '.join(MODELS)}",
        )
    return path


def _read_description(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    description = read_object(
        beside, error_class=WeightsError, expected="the JSON object written with the weights"
    )
    if missing := sorted(ENTRIES.keys() - description.keys()):
        raise WeightsError(
            f"no entry {missing[0]!r}", path=beside, expected=f"the keys {', '.join(ENTRIES)}"
        )
    for key, kind in (ENTRIES | LATER_ENTRIES).items():
        if key in description and type(description[key]) is not kind:
            raise WeightsError(
                f"{key} is a {type(description[key]).__name__}",
                path=beside,
                expected=f"a {kind.__name__}",
            )
    if description["model"] in RETIRED_NAMES:
        raise WeightsError(
            f"weights of {description['model']!r}, a name that no model has any more",
            path=beside,
            expected=f"one of {', '.join(MODELS)}",
            advice=f"{RETIRED_NAMES[description['model']]}. Weights that `dmri-fm train qcg-dti` "
            'wrote are the tensor refiner\'s: if these are, set "model" to "tensor-refiner" '
            "in this file; leave the .safetensors file unchanged",
        )
    if description["format"] != FORMAT or description["model"] not in MODELS:
        raise WeightsError(
            f"format {description['format']!r}, model {description['model']!r}",
            path=beside,
            expected=f"format {FORMAT} and one of {', '.join(MODELS)}",
        )
    return description


def _build_config(name: str, values: dict[str, Any], path: Path) -> Config:
    kind: Any = type(MODELS[name][0])
    known = {f.name for f in fields(kind)}
    if (set(values) ^ known) - (LATER_FIELDS & known):
        raise WeightsError(
            f"configuration with {sorted(values)}",
            path=path.with_suffix(".json"),
            expected=f"the fields {sorted(known)}",
        )
    for key, value in values.items():
        if not _is_like(value, getattr(MODELS[name][0], key)):
            raise WeightsError(
                f"impossible configuration ({key} is {reprlib.repr(value)})",
                path=path.with_suffix(".json"),
                expected=f"a value like {getattr(MODELS[name][0], key)!r}, "
                f"no number beyond {LARGEST}",
            )
    tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        config: Config = kind(**tuples)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(
            f"impossible configuration ({error})", path=path.with_suffix(".json")
        ) from None
    return config


def _is_like(value: object, default: object) -> bool:
    """Tell whether a configuration's value has the type of another, and a usable size."""
    if isinstance(default, tuple):
        return (
            isinstance(value, list)
            and len(value) <= LONGEST
            and all(_is_like(v, default[0]) for v in value)
        )
    if isinstance(default, float):
        return type(value) in (int, float) and abs(value) <= LARGEST  # type: ignore[arg-type]
    if type(default) is int:
        return type(value) is int and abs(value) <= LARGEST
    return type(value) is type(default)


def _build_network(name: str, config: Config, path: Path) -> nn.Module:
    try:
        return MODELS[name][1](config)
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:
        raise WeightsError(
            f"impossible configuration ({error})", path=path.with_suffix(".json")
        ) from None
