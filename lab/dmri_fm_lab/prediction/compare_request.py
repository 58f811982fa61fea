"""Comparisons of methods as data: the rows of a table, read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.finetune_network import Tuning
from dmri_fm_lab.prediction.finetune_scans import ViewSettings
from dmri_fm_lab.prediction.fold_training import FoldSettings
from dmri_fm_lab.prediction.heads import HEADS
from dmri_fm_lab.prediction.image_networks import NETWORKS
from dmri_fm_lab.prediction.presets import find_preset
from dmri_fm_lab.prediction.published import PUBLISHED
from dmri_fm_lab.prediction.study import EncoderSource, StudyFiles
from dmri_fm_lab.scan_tables import listed

Method = Literal["table", "rish", "network", "finetune"]

#: Settings of a network's training that a row may state; the seed is that of the comparison.
_TRAINING = tuple(f.name for f in fields(FoldSettings) if f.name != "seed")

#: Keys of each type of row, beside its titles; the first names the type.
KEYS: dict[Method, tuple[str, ...]] = {
    "table": ("table", "columns", "head", "is_weighted"),
    "rish": ("rish", "head", "is_weighted"),
    "network": ("network", "size", "maps", "n_directions", "n_views", *_TRAINING),
    "finetune": (
        "finetune",
        *(f.name for f in fields(Tuning)),
        *(f.name for f in fields(ViewSettings) if f.name != "seed"),
        *_TRAINING,
    ),
}

#: Default of each setting, which tells its type.
_DEFAULTS: dict[str, Any] = {
    f.name: f.default for of in (FoldSettings, Tuning, ViewSettings) for f in fields(of)
}

#: Titles of a row, the columns of the published tables.
TITLES = ("method", "features", "head", "supervision")


@dataclass(frozen=True)
class Row:
    """A method of a comparison.

    Attributes
    ----------
    kind
        Key of :data:`KEYS`.
    titles
        By name of :data:`TITLES`.
    options
        What the file states of the method.
    """

    kind: Method
    titles: Mapping[str, str]
    options: Mapping[str, Any]

    @property
    def title(self) -> str:
        """All titles."""
        return ", ".join(self.titles[name] for name in TITLES[:3])


@dataclass(frozen=True)
class CompareRequest:
    """A comparison of methods over one set of splits.

    Attributes
    ----------
    files
        Scans, target and splits.
    rows
        Methods.
    encoder
        Of fine-tuning; its grid is that of image networks.
    published
        Published task whose rows are quoted; empty: none.
    seed
        Of all that is random.
    accelerator
        "cpu" or "cuda".
    """

    files: StudyFiles
    rows: tuple[Row, ...]
    encoder: EncoderSource = field(default_factory=EncoderSource)
    published: str = ""
    seed: int = 0
    accelerator: str = "cpu"


def read_comparison(path: Path) -> CompareRequest:
    """Read a comparison; paths in the file start from its folder.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown or missing, or a row is of no type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", path=path) from None
    except ValueError as error:
        raise ConfigError(f"not TOML ({error})", path=path) from None
    known = {"participants", "target", "splits", "derivatives", "sessions", "classes", "row"}
    known |= {"model", "weights", "pretraining", "published", "seed", "accelerator"}
    needed = {"participants", "target", "splits", "derivatives", "row"}
    if values.keys() - known or needed - values.keys():
        raise ConfigError(
            f"unknown {sorted(values.keys() - known)}, missing {sorted(needed - values.keys())}",
            path=path,
            expected=f"keys among {', '.join(sorted(known))}",
        )
    if values.get("published", "") not in ("", *PUBLISHED):
        raise ConfigError(
            f"published = {values['published']!r}", path=path, expected=" or ".join(PUBLISHED)
        )

    def file(name: str) -> Path | None:
        return path.parent / Path(values[name]).expanduser() if name in values else None

    files = StudyFiles(
        derivatives=path.parent / values["derivatives"],
        participants=path.parent / values["participants"],
        target=values["target"],
        splits=path.parent / values["splits"],
        sessions=file("sessions"),
        classes=tuple(values.get("classes", ())),
    )
    encoder = EncoderSource(values.get("model", "drope"), file("weights"), file("pretraining"))
    return CompareRequest(
        files,
        tuple(read_row(row, path) for row in values["row"]),
        encoder,
        values.get("published", ""),
        values.get("seed", 0),
        values.get("accelerator", "cpu"),
    )


def read_row(values: Mapping[str, Any], path: Path) -> Row:
    """Read a row of a file; ConfigError if its keys are of no type, or of several."""
    kinds = [kind for kind in KEYS if kind in values]
    if len(kinds) != 1:
        raise ConfigError(
            f"a row with {listed(list(values)) or 'nothing'}",
            path=path,
            expected=f"one of the keys {', '.join(KEYS)}",
        )
    kind = kinds[0]
    if unknown := [key for key in values if key not in (*KEYS[kind], *TITLES)]:
        raise ConfigError(
            f"a row {kind} = {values[kind]!r} with {listed(unknown)}",
            path=path,
            expected=f"keys among {', '.join((*KEYS[kind], *TITLES))}",
        )
    options = {key: value for key, value in values.items() if key in KEYS[kind]}
    for key, value in options.items():
        _check_type(key, value, path)
    if kind in ("table", "rish"):
        options.setdefault("head", "tuned")
    if kind == "table":
        options["table"] = str(path.parent / Path(values["table"]).expanduser())
    titles = _default_titles(kind, options) | {k: str(v) for k, v in values.items() if k in TITLES}
    return Row(kind, titles, options)


def _check_type(key: str, value: Any, path: Path) -> None:
    """Refuse a value of another type than that of the setting's default."""
    default = _DEFAULTS.get(key)
    numbers = (int, float) if isinstance(default, float) else (int,)
    types = (type(default),) if isinstance(default, bool | str) else numbers
    if default is not None and (
        not isinstance(value, types) or isinstance(value, bool) != isinstance(default, bool)
    ):
        raise ConfigError(f"{key} = {value!r}", path=path, expected=f"a value like {default!r}")


def _default_titles(kind: Method, options: Mapping[str, Any]) -> dict[str, str]:
    if kind in ("table", "rish"):
        head = options["head"]
        if head not in HEADS:
            raise ConfigError(f"head {head!r}", expected=" or ".join(HEADS))
        name = Path(options["table"]).stem if kind == "table" else "regional RISH"
        method = "table" if kind == "table" else "RISH"
        return dict(zip(TITLES, (method, name, head, "full"), strict=True))
    if kind == "network":
        if options["network"] not in NETWORKS:
            raise ConfigError(f"network {options['network']!r}", expected=" or ".join(NETWORKS))
        return dict(zip(TITLES, (*NETWORKS[options["network"]], "MLP", "full"), strict=True))
    preset = find_preset(options["finetune"])
    tuning = preset.replaced(
        **{k: v for k, v in options.items() if k in {f.name for f in fields(Tuning)}}
    ).tuning
    what = "last layer fine-tuned" if tuning.mode == "last-layer" else "LoRA"
    return dict(zip(TITLES, ("encoder", what, tuning.head, "partial"), strict=True))
