"""Checkpoints: a safetensors file of weights and a JSON file that says what they are.

Nothing is unpickled. The JSON holds the model's name and configuration, how its input is
normalised, how it was trained, and the sha256 of the weights, which is verified at every load.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.identity import IDENTITIES, RESEARCH_ONLY
from dmri_fm.json_files import read_object
from dmri_fm.network_config import NetworkConfig, read_config
from dmri_fm.tensor_networks.gate import Gate

#: Version of the JSON's layout.
FORMAT = 1

#: Tensors whose names start so describe training data; the rest belong to the network.
STATISTICS_PREFIX = "statistics."

#: Tensors whose names start so belong to what pretrained the network, beside it.
PRETRAINING_PREFIX = "pretraining."

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
LATER_ENTRIES: dict[str, type] = {"license": str, "use": str, "gate": dict, "pretraining": dict}

#: Types of tensors in a file.
TENSOR_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)

#: Fields of configurations that count blocks, of which each has some tensors.
BLOCK_COUNTS = ("depth", "encoder_blocks", "decoder_blocks")

#: Formats that can run code when they are read.
PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".bin")

#: Names that weights may have: those of the registry.
_NAMES = tuple(name for name, model in IDENTITIES.items() if model.family != "tensor fit")


class Architecture(Protocol):
    """Default configuration of a network, and its class, as the registry has them."""

    @property
    def config(self) -> Any: ...

    @property
    def network(self) -> type[nn.Module]: ...


class Pretraining(NamedTuple):
    """The decoder that pretrained an encoder: its tensors, and its configuration as JSON."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained network, ready to run.

    Attributes
    ----------
    name
        Name in the registry.
    version
        Version of the weights.
    sha256
        Checksum of the safetensors file.
    config
        Configuration of `model`.
    model
        The network in evaluation mode, float32.
    statistics
        Tensors that describe the training data: the reference of the out-of-distribution score,
        calibration factors.
    normalisation
        Description of the input of the network.
    training
        Data and settings of the training.
    gate
        Scans for which an evaluation found the weights better than the baselines; None: none.
    pretraining
        The decoder that pretrained the network; None if it did not come with it. See
        :func:`dmri_fm.encoders.drope.mae.restore_autoencoder`.
    license, use
        Licence and use of the weights, as in the JSON beside them; empty where it has none.
    source
        `packaged`, or the name of the file.
    """

    name: str
    version: str
    sha256: str
    config: NetworkConfig
    model: nn.Module
    statistics: dict[str, Tensor]
    normalisation: dict[str, Any]
    training: dict[str, Any]
    gate: Gate | None = None
    pretraining: Pretraining | None = None
    license: str = ""
    use: str = ""
    source: str = "packaged"

    def describe(self) -> dict[str, str]:
        """Return the entries of `Model` in metadata that describe the weights."""
        found = {"Version": self.version, "Weights": self.source, "SHA256": self.sha256}
        found |= {"License": self.license, "Use": self.use}
        return {key: value for key, value in found.items() if value}


def save_weights(
    path: str | Path,
    network: nn.Module,
    *,
    name: str,
    version: str,
    training: dict[str, Any],
    statistics: Mapping[str, Tensor] | None = None,
    pretraining: Pretraining | None = None,
    license: str = "Apache-2.0",
) -> Path:
    """Write `path` (.safetensors, half precision) and the JSON beside it.

    Parameters
    ----------
    path
        Ends in `.safetensors`.
    network
        Has its configuration as `config`, and the description of its input as `normalisation`.
    name
        Name of the model in the registry.
    version, training, pretraining, license
        See :class:`Weights`; JSON-serialisable but for the tensors.
    statistics
        Extra tensors; kept in their own precision.

    Raises
    ------
    WeightsError
        If a weight is not finite in half precision, or the name is not registered.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or name not in _NAMES:
        raise WeightsError(
            f"weights of {name!r} cannot be saved here",
            path=path,
            expected=f"a .safetensors path and one of {', '.join(_NAMES)}",
        )
    networks = network.state_dict()
    if pretraining is not None:
        networks |= {PRETRAINING_PREFIX + k: v for k, v in pretraining.tensors.items()}
    tensors = _to_half(networks, path)
    for key, value in (statistics or {}).items():
        tensors[STATISTICS_PREFIX + key] = value.detach().cpu().contiguous()
    content = save(tensors)
    description = {
        "format": FORMAT,
        "model": name,
        "version": version,
        "license": license or None,
        "use": RESEARCH_ONLY,
        "sha256": sha256(content).hexdigest(),
        "config": asdict(network.config),  # type: ignore[call-overload]
        "normalisation": network.normalisation,
        "training": training,
        "pretraining": None if pretraining is None else pretraining.config,
    }
    entries = {key: value for key, value in description.items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return path


def _to_half(networks: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    tensors = {k: v.detach().cpu().to(torch.float16).contiguous() for k, v in networks.items()}
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            raise WeightsError(f"{key} is not finite in half precision", path=path)
    return tensors


def read_weights(
    name_or_path: str | Path,
    architectures: Mapping[str, Architecture],
    *,
    model: str | None = None,
    device: str = "cpu",
) -> Weights:
    """Load weights of models by their architectures, see :func:`dmri_fm.registry.load_weights`."""
    path = find_weights(name_or_path)
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
    architecture = architectures[name]
    config = read_config(architecture.config, description["config"], path.with_suffix(".json"))
    tensors = _read_tensors(content, path)
    statistics = _take(tensors, STATISTICS_PREFIX)
    decoder = {k: v.float() for k, v in _take(tensors, PRETRAINING_PREFIX).items()}
    network = _build(architecture.network, config, tensors, path=path)
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
        pretraining=Pretraining(decoder, description.get("pretraining", {})) if decoder else None,
        license=description.get("license", ""),
        use=description.get("use", ""),
        source="packaged" if str(name_or_path) in _NAMES else path.name,
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


def _build(
    network_class: type[nn.Module],
    config: NetworkConfig,
    tensors: dict[str, Tensor],
    *,
    path: Path,
) -> nn.Module:
    """Build a network with the tensors of the file."""
    expected = f"the weights of a {network_class.__name__} with the configuration in the JSON"
    counts = [getattr(config, field, 0) for field in BLOCK_COUNTS]
    n_blocks = sum(sum(c) if isinstance(c, tuple) else c for c in counts)
    if n_blocks > len(tensors):
        raise WeightsError(
            f"{len(tensors)} tensors for a configuration of {n_blocks} blocks", path=path
        )
    # Shapes are compared before memory is taken for the network.
    with torch.device("meta"), warnings.catch_warnings():
        # torch warns of layers without weights; no file has tensors that fit them.
        warnings.simplefilter("ignore")
        state = _construct(network_class, config, path).state_dict()
    wanted = {k: v.shape for k, v in state.items()}
    found = {k: v.shape for k, v in tensors.items()}
    if wrong := sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)):
        raise WeightsError(
            f"{len(wrong)} tensors do not fit the configuration, the first is {wrong[0]!r}",
            path=path,
            expected=expected,
        )
    network = _construct(network_class, config, path)
    try:
        # Copied into the network's float32, without a second copy of a large network.
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the tensors do not fit the configuration ({error})", path=path, expected=expected
        ) from None
    return network


def _construct(network_class: type[nn.Module], config: NetworkConfig, path: Path) -> nn.Module:
    try:
        return network_class(config)
    except (TypeError, ValueError, RuntimeError, IndexError, ArithmeticError) as error:
        raise WeightsError(
            f"impossible configuration ({error})", path=path.with_suffix(".json")
        ) from None


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


def find_weights(name_or_path: str | Path) -> Path:
    """Return the file of weights that ship with the package, or that a path names."""
    if str(name_or_path) in _NAMES:
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
            expected=f"a .safetensors file, or one of {', '.join(_NAMES)}",
        )
    return path


def _read_description(path: Path) -> dict[str, Any]:
    beside, expected = path.with_suffix(".json"), "the JSON object written with the weights"
    description = read_object(beside, error_class=WeightsError, expected=expected)
    if missing := sorted(ENTRIES.keys() - description.keys()):
        raise WeightsError(
            f"no entry {missing[0]!r}", path=beside, expected=f"the keys {', '.join(ENTRIES)}"
        )
    for key, entry_type in (ENTRIES | LATER_ENTRIES).items():
        if key in description and type(description[key]) is not entry_type:
            raise WeightsError(
                f"{key} is a {type(description[key]).__name__}",
                path=beside,
                expected=f"a {entry_type.__name__}",
            )
    if description["format"] != FORMAT or description["model"] not in _NAMES:
        raise WeightsError(
            f"format {description['format']!r}, model {description['model']!r}",
            path=beside,
            expected=f"format {FORMAT} and one of {', '.join(_NAMES)}",
        )
    return description
