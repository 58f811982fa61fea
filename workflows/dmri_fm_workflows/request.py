"""From options to a checked request: files that options name, and folders that a run may use."""

from __future__ import annotations

import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError, InputError, WeightsError
from dmri_fm_workflows.config import IGNORABLE, RunConfig
from dmri_fm_workflows.cwd import absolute
from dmri_fm_workflows.eddy_config import read_eddy_config
from dmri_fm_workflows.links import refuse_links
from dmri_fm_workflows.options import NO_ENTITY

#: Options that are folders.
_FOLDERS = (
    "bids_dir", "output_dir", "work_dir", "bids_database_dir", "brain_masks", "bundles",
    "derivatives",
)  # fmt: skip


def make_config(given: dict[str, Any], folder: Path) -> RunConfig:
    """Turn parsed options into a request; see :func:`dmri_fm_workflows.cli.parse_args`.

    Parameters
    ----------
    given
        Options by destination, of :func:`dmri_fm_workflows.cli.build_parser`; emptied.
    folder
        Folder that relative paths start from.
    """
    values: dict[str, Any] = {}
    for name in ("config_file", "bids_filter_file", "eddy_config", "fix_gradients", "use_plugin"):
        if name in given:
            given[name] = absolute(given[name], folder)
    if path := given.pop("config_file", None):
        values = read_options(_read_text(path), path=path)
        values.pop("run_uuid", None)
    if path := given.pop("bids_filter_file", None):
        from dmri_fm_workflows.bids.filters import read_filter_file

        values["bids_filters"] = read_filter_file(path)
    if path := given.pop("fix_gradients", None):
        from dmri_fm_workflows.bids.gradient_fixes import read_fix_file

        values["gradient_fixes"] = read_fix_file(path)
    if path := given.pop("eddy_config", None):
        values["eddy_config"] = read_eddy_config(path)
    if path := given.pop("use_plugin", None):
        values["plugin"], values["plugin_args"] = read_plugin(path)
    if pairs := given.pop("weights", None):
        values["weights"] = {**values.get("weights", {}), **dict(pairs)}
    if models := given.pop("models", None):
        if "none" in models and len(models) > 1:
            raise ConfigError(f"--models {' '.join(models)}", expected="`none` alone, or names")
        networks = (m for m in models if m not in ("none", "tensor"))
        values["models"] = tuple(dict.fromkeys(networks))
    if spaces := given.pop("output_spaces", None):
        values["output_spaces"] = tuple(spaces)
    if ignored := given.pop("ignore", None):
        values["ignore"] = tuple(word for word in IGNORABLE if word in ignored)
    for name in ("participant_label", "session_label"):
        if labels := given.pop(name, None):
            values[name] = tuple(dict.fromkeys(labels))
    if "qc_exclude" in given:
        values["qc_exclude"] = tuple(given.pop("qc_exclude"))
    if "ratings" in given:
        values["ratings"] = tuple(str(absolute(Path(f), folder)) for f in given.pop("ratings"))
    if "atlas" in given:
        # Of `FILE:TABLE` both start from the folder.
        values["atlas"] = tuple(
            ":".join(str(absolute(Path(part), folder)) for part in text.split(":") if part)
            for text in given.pop("atlas")
        )
    if "nprocs" in given and "omp_nthreads" in values:
        # A file's number of threads may come from a larger machine.
        values["omp_nthreads"] = min(values["omp_nthreads"], given["nprocs"])
    values |= given
    for name in _FOLDERS:
        if name in values:
            values[name] = absolute(values[name], folder)
    values["weights"] = {n: absolute(p, folder) for n, p in values.get("weights", {}).items()}
    config = RunConfig(**values)
    check_paths(config)
    return config


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", path=path, expected="a readable file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("is not text", path=path, expected="UTF-8") from None


def read_options(text: str, *, path: Path | None = None) -> dict[str, Any]:
    """Read fields of :class:`RunConfig` from TOML, as keyword arguments.

    Parameters
    ----------
    text
        TOML, one key per field.
    path
        The file it came from, for error messages.

    Returns
    -------
    dict
        Values of the right types, for the fields that the text names.

    Raises
    ------
    ConfigError
        If the text is no TOML, a key is unknown, or a value has the wrong type.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML ({error})", path=path) from None
    known = {f.name: f for f in fields(RunConfig)}
    if unknown := sorted(set(raw) - set(known)):
        raise ConfigError(
            f"unknown option {', '.join(unknown)}",
            path=path,
            expected=", ".join(known),
            advice="a run's own options are in OUT/logs/*/config.toml: copy from there",
        )
    return {name: _typed(name, value, str(known[name].type), path) for name, value in raw.items()}


def _typed(name: str, value: Any, annotation: str, path: Path | None) -> Any:
    if annotation.startswith("Path") and isinstance(value, str):
        return Path(value)
    is_words = isinstance(value, list) and all(isinstance(v, str) for v in value)
    if annotation.startswith("tuple") and is_words:
        return tuple(value)
    if annotation == "Mapping[str, Path]" and isinstance(value, dict):
        return {model: Path(file) for model, file in value.items()}
    if name == "bids_filters" and isinstance(value, dict):
        return _with_nulls(value)
    if annotation.startswith("Mapping") and isinstance(value, dict):
        return value
    if annotation.startswith("float") and isinstance(value, int | float):
        if not isinstance(value, bool):
            return float(value)
    elif annotation in ("str", "int", "bool") and type(value).__name__ == annotation:
        return value
    raise ConfigError(f"{name} = {value!r}", path=path, expected=f"a value of type {annotation}")


def _with_nulls(filters: Any) -> Any:
    """Undo what `RunConfig.to_toml` does to absent entities."""
    if isinstance(filters, list):
        return [_with_nulls(v) for v in filters]
    if isinstance(filters, dict):
        return {k: _with_nulls(v) for k, v in filters.items()}
    return None if filters == NO_ENTITY else filters


def read_plugin(path: Path) -> tuple[str, dict[str, Any]]:
    """Read nipype's plugin and its arguments from a YAML file.

    Raises
    ------
    ConfigError
        If the file is no YAML mapping with a `plugin`.
    """
    import yaml

    try:
        content = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML ({error})", path=path) from None
    is_mapping = isinstance(content, dict) and isinstance(content.get("plugin"), str)
    arguments = (content.get("plugin_args") or {}) if is_mapping else None
    if not isinstance(arguments, dict):
        raise ConfigError(
            "no plugin is named",
            path=path,
            expected="`plugin: SLURM` (or another of nipype's), and `plugin_args` as a mapping",
        )
    # A job template, as nipype's plugins for batch systems have it, is a text or a file.
    if isinstance(template := arguments.get("template"), str):
        file = absolute(template, path.parent)
        arguments = arguments | ({"template": str(file)} if file.is_file() else {})
    return content["plugin"], arguments


def check_paths(config: RunConfig) -> None:
    """Stop before any work if a folder or file of the request cannot be used.

    Raises
    ------
    InputError
        If the dataset is missing.
    ConfigError
        If folders are inside each other in a way that endangers data, the output folder is
        not writable, or a file is missing.
    OutputError
        If something that will be written to is a link that leads elsewhere.
    """
    out, work, bids = config.output_dir, config.work_dir, config.bids_dir
    if config.analysis_level == "participant" and not config.reports_only:
        _require_folder(
            bids,
            "the dataset",
            expected="a BIDS dataset: dataset_description.json and sub-* folders",
        )
        _check_apart(out, config, "output folder", "OUTPUT_DIR")
        _check_apart(work, config, "work folder", "--work-dir")
        _check_input_safe(config, bids, "dataset")
        if config.derivatives is not None:
            _check_derivatives(config, config.derivatives)
        if work == out or work in out.parents:
            raise ConfigError(
                "the work folder holds the outputs, and is emptied after success",
                path=work,
                expected="a folder of its own",
                advice="give --work-dir another folder, or leave it out",
            )
        for folder in (out, work):
            _check_writable(folder, make=not config.dry_run)
    elif not out.is_dir():
        raise ConfigError(
            "there are no results to collect",
            path=out,
            expected="the OUTPUT_DIR of `participant` runs",
            advice="run the participant level first",
        )
    else:
        _check_writable(out, make=True)
    # Files at the root are replaced, not written through; folders are entered.
    for name in ("logs", "group") if config.analysis_level == "group" else ("logs",):
        refuse_links(out / name, root=out)
    if config.brain_masks is not None:
        _require_folder(
            config.brain_masks,
            "the folder of --brain-masks",
            expected="a folder of brain masks, sub-*/[ses-*/]{dwi,anat}/*_desc-brain_mask.nii.gz",
        )
    for name, path in config.weights.items():
        if not path.is_file():
            raise WeightsError(
                f"the checkpoint for {name} is missing",
                path=path,
                expected="a .safetensors file",
            )


def _require_folder(folder: Path, noun: str, *, expected: str) -> None:
    if not folder.is_dir():
        raise InputError(
            f"{noun} is {'not a folder' if folder.exists() else 'missing'}",
            path=folder,
            expected=expected,
            advice="check the path; in a container, that it is bound (-v or --bind)",
        )


def _is_within(folder: Path, other: Path) -> bool:
    """Tell whether a folder is another or inside it, also where one is mounted a second time."""
    return any(p.exists() and p.samefile(other) for p in (folder, *folder.parents))


def _check_input_safe(config: RunConfig, folder: Path, noun: str) -> None:
    """Refuse an input inside a folder that the run empties, or that holds its outputs."""
    out = config.output_dir
    owned = (config.work_dir, out / "logs", out / "group", *out.glob("sub-*"))
    holder = next((p for p in owned if p.is_dir() and _is_within(folder, p)), None)
    if holder is not None:
        raise ConfigError(
            f"the {noun} is inside {holder}, which the run writes to",
            path=folder,
            expected=f"a {noun} outside of the folders of the outputs",
            advice="set OUTPUT_DIR or --work-dir to another folder",
        )


def _check_derivatives(config: RunConfig, folder: Path) -> None:
    """Refuse derivatives that are missing, or that the run would write to while it reads them."""
    _require_folder(
        folder,
        "the folder of --derivatives",
        expected="derivatives of fmriprep, qsiprep or this app, with sub-* folders",
    )
    if config.output_dir.is_dir() and folder.samefile(config.output_dir):
        raise ConfigError(
            "the derivatives are the output folder",
            path=folder,
            expected="another folder: the run replaces files in it while it reads them",
            advice="set OUTPUT_DIR to a new folder",
        )
    _check_input_safe(config, folder, "folder of the derivatives")


def _check_apart(folder: Path, config: RunConfig, noun: str, option: str) -> None:
    bids_dir = config.bids_dir
    if folder == bids_dir or (folder.is_dir() and folder.samefile(bids_dir)):
        raise ConfigError(
            f"the {noun} is the dataset itself",
            path=folder,
            expected="another folder: the input is never written to",
            advice=f"set {option} to, for example, {bids_dir / 'derivatives' / 'drope'}",
        )
    derivatives = bids_dir / "derivatives"
    is_allowed = derivatives.is_dir() and _is_within(folder.parent, derivatives)
    if _is_within(folder, bids_dir) and not (is_allowed or derivatives in folder.parents):
        raise ConfigError(
            f"the {noun} is inside the {config.input_type} dataset",
            path=folder,
            expected=f"a folder outside of it or below {derivatives}",
            advice=f"set {option} to, for example, {derivatives / 'drope'}",
        )


def _check_writable(folder: Path, *, make: bool) -> None:
    from tempfile import TemporaryFile

    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.exists():
            # A dry run leaves no trace: ask the nearest folder that exists.
            parent = next(p for p in folder.parents if p.exists())
            if not os.access(parent, os.W_OK):
                raise PermissionError(13, "Permission denied")
            return
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot be written ({error.strerror})",
            path=folder,
            expected="a writable folder",
            advice="check its permissions and quota; in a container, that it is bound writable "
            "and that the user (-u) owns it",
        ) from None
