"""The only interface that writes into the output folder.

niworkflows must find a writable `HOME` or `TEMPLATEFLOW_HOME` when it is imported, and nipype
asks the network for its version unless `NO_ET` is set: the command line sets both first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from nipype.interfaces.base import (
    Bunch,
    Directory,
    File,
    InputMultiObject,
    OutputMultiObject,
    Str,
    TraitedSpec,
    isdefined,
    traits,
)
from niworkflows.interfaces.bids import PrepareDerivative

from dmri_fm.errors import ConfigError, OutputError
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.outputs.naming import (
    ENTITY_KEYS,
    SOURCE_ENTITIES,
    OutputName,
    identify,
    sidecar_path,
)
from dmri_fm_workflows.outputs.publish import conform_image, publish_file, publish_json
from dmri_fm_workflows.outputs.sidecars import image_sidecar, with_references
from dmri_fm_workflows.outputs.transforms import transform_metadata

_MASK_DTYPE = "uint8"

#: Suffix and parameter of outputs that belong to a space but not to its grid.
_WITHOUT_RESOLUTION = {
    (t.suffix, t.entities.get("param"))
    for t in load_catalogue().types.values()
    if not t.has_resolution
}


def _entities() -> list[dict[str, str]]:
    """Return pybids definitions of every entity of our names, `param` included."""
    label = "([a-zA-Z0-9+]+)"
    named = [
        {"name": name, "pattern": rf"[_/\\]+{key}-{label}"} for name, key in ENTITY_KEYS.items()
    ]
    return [
        *named,
        {"name": "suffix", "pattern": r"[._]*([a-zA-Z0-9]*?)\.[^/\\]+$"},
        {"name": "extension", "pattern": r"[._]*[a-zA-Z0-9]*?(\.[^/\\]+)$"},
        {"name": "datatype", "pattern": r"[/\\]+(anat|dwi|figures|fmap)[/\\]+"},
    ]


def _pattern(of: OutputType) -> str:
    """Return the pybids path pattern of an output type."""
    where = "" if of.datatype == "figures" else "[/ses-{session}]"
    words = [
        f"{key}-{{{name}}}" if name == "subject" else f"[_{key}-{{{name}}}]"
        for name, key in ENTITY_KEYS.items()
    ]
    fixed = f"{{datatype<{of.datatype}>}}/"
    endings = "|".join((*of.extensions, *((".json",) if of.has_sidecar else ())))
    name = "".join(words) + f"_{{suffix<{of.suffix}>}}{{extension<{endings}>}}"
    return f"sub-{{subject}}{where}/{fixed}{name}"


def _patterns() -> tuple[str, ...]:
    types = [t for t in load_catalogue().types.values() if not t.is_group and t.suffix]
    return tuple(dict.fromkeys(_pattern(t) for t in types))


class _SinkInputSpec(PrepareDerivative.input_spec):
    in_file = InputMultiObject(File(exists=True), desc="file(s) to write")
    is_optional = traits.Bool(
        False, usedefault=True, desc="without a file nothing is written; else that is an error"
    )
    base_directory = Directory(mandatory=True, desc="output folder")
    source_file = InputMultiObject(
        File(exists=False), desc="raw file(s) whose common entities the name carries"
    )
    source_entities = traits.Dict(
        Str, Str, desc="entities of the scan by long name, in place of source_file"
    )


class _SinkOutputSpec(TraitedSpec):
    out_file = OutputMultiObject(File(exists=True), desc="written files")
    out_meta = File(exists=True, desc="written JSON sidecar")


class DerivativesDataSink(PrepareDerivative):
    """Write a file and its sidecar into the output folder.

    niworkflows' own `DerivativesDataSink` writes in place, compresses again what is compressed,
    knows no `param`, and writes templates' resolutions from TemplateFlow. Its parts are kept
    apart in niworkflows as `PrepareDerivative` (name the file) and `SaveDerivative`
    (copy it): this class is the first with our entities, followed by an atomic copy of our own.

    Every name is checked against `maps.yaml`: a path that niworkflows builds and our catalogue
    does not know is an error, so no entity can be dropped without a word.

    Parameters
    ----------
    output_type
        Key in `maps.yaml`; it sets suffix, datatype and fixed entities. Without it these are
        given as inputs.
    **inputs
        Inputs by name: entities (`space`, `model`, `desc`; `from` and `to` by way of a
        dictionary), `meta_dict`, and any further metadata by its JSON key.

    Examples
    --------
    ::

        ds_fa = DerivativesDataSink("fa", model="tensor", base_directory=out, space="ACPC")
        ds_fa.inputs.source_file = ["/bids/sub-01/dwi/sub-01_dir-AP_dwi.nii.gz"]
        ds_fa.inputs.in_file = "fa.nii.gz"
        ds_fa.inputs.meta_dict = image_sidecar("fa", model="tensor", space="ACPC")
    """

    input_spec = _SinkInputSpec
    output_spec = _SinkOutputSpec
    _always_run = True
    out_path_base = ""
    _config_entities_dict = _entities()
    _config_entities = frozenset(e["name"] for e in _config_entities_dict)
    _file_patterns = _patterns()
    # Our template is no TemplateFlow download, and our types are set below.
    _standard_spaces: ClassVar[frozenset[str]] = frozenset()
    _default_dtypes: ClassVar[Mapping[str, None]] = defaultdict(lambda: None)

    def __init__(self, output_type: str | None = None, **inputs: Any) -> None:
        if output_type is not None:
            found = load_catalogue().output_type(output_type)
            space = {"space": found.spaces[0]} if len(found.spaces) == 1 else {}
            inputs = {
                "suffix": found.suffix,
                "datatype": found.datatype,
                **found.entities,
                **space,
                **inputs,
            }
        inputs.setdefault("check_hdr", False)
        # A source that is itself a derivative does not pass on its space or desc.
        inputs.setdefault("dismiss_entities", sorted(set(ENTITY_KEYS) - set(SOURCE_ENTITIES)))
        super().__init__(**inputs)

    def _run_interface(self, runtime: Bunch) -> Bunch:
        staging = Path(runtime.cwd)
        if not isdefined(self.inputs.in_file):  # as nipype makes of an empty list
            if self.inputs.is_optional:
                return runtime
            raise ConfigError("the sink got no file", expected="a file to write")
        files = [Path(f) for f in self.inputs.in_file]
        self._fill_inputs(files)
        given = dict(self.inputs.meta_dict) if isdefined(self.inputs.meta_dict) else {}
        super()._run_interface(runtime)
        paths = self._results.pop("out_path")
        meta = dict(self._results.pop("out_meta"))
        del self._results["fixed_hdr"]
        # niworkflows calls a resolution that TemplateFlow does not list "Unknown".
        meta.pop("Resolution", None)
        meta |= {"Resolution": given["Resolution"]} if "Resolution" in given else {}
        names = [self._check(path) for path in paths]
        base = Path(self.inputs.base_directory)
        targets = [base / path for path in paths]
        try:
            for file, target, name in zip(files, targets, names, strict=True):
                step = meta.get("RepetitionTime", 0.0) if name.type.suffix == "dwi" else None
                publish_file(_conformed(file, name, staging, time_step_s=step), target)
            # Last: outputs are found by their sidecars.
            self._publish_sidecar(meta, names[0], targets[0], files[0])
        except OutputError:
            # An image without its b-vectors, or without its sidecar, is no output.
            for path in (*targets, Path(sidecar_path(targets[0]))):
                with suppress(OSError):
                    path.unlink()
            raise
        self._results["out_file"] = [str(target) for target in targets]
        return runtime

    def _fill_inputs(self, files: list[Path]) -> None:
        """Derive the extension, resolution and source that niworkflows needs."""
        if isdefined(self.inputs.source_entities):
            scan = {k: v for k, v in self.inputs.source_entities.items() if k in SOURCE_ENTITIES}
            folder = f"sub-{scan['subject']}/dwi"
            self.inputs.source_file = [f"/{folder}/{scan_name(scan)}_dwi.nii.gz"]
        if not isdefined(self.inputs.source_file) or not self.inputs.source_file:
            raise ConfigError(
                "the sink got neither source_file nor source_entities",
                expected="the scan that the output belongs to",
            )
        endings = [_extension(f) for f in files]
        if not isdefined(self.inputs.extension):
            self.inputs.extension = endings if len(set(endings)) > 1 else endings[0]
        if isdefined(self.inputs.space) and not isdefined(self.inputs.resolution):
            space = load_catalogue().find_space(self.inputs.space)
            param = self.inputs.param if isdefined(self.inputs.param) else None
            has_grid = (self.inputs.suffix, param) not in _WITHOUT_RESOLUTION
            if space and space.resolution and has_grid:
                self.inputs.resolution = space.resolution

    def _check(self, path: str) -> OutputName:
        """Return the parsed name of a path; refuse it if it lost an entity."""
        name = identify(PurePosixPath(path))
        asked = {
            key: str(value)
            for key in ENTITY_KEYS
            if isdefined(value := getattr(self.inputs, key)) and value is not None
        }
        lost = {k: v for k, v in asked.items() if name.entities.get(k) != v}
        if lost:
            raise ConfigError(
                f"the name lost {lost}",
                path=path,
                expected="every entity that was asked for",
                advice="add the entity to the output type in maps.yaml",
            )
        return name

    def _publish_sidecar(
        self, meta: Mapping[str, Any], name: OutputName, target: Path, file: Path
    ) -> None:
        if not name.type.has_sidecar:
            return
        space = name.entities.get("space")
        columns = _columns(file) if name.extension == ".tsv" else ()
        ends = (name.entities["from"], name.entities["to"]) if name.type.is_transform else None
        known = image_sidecar(
            name.type.name, model=name.model, space=space, ends=ends, columns=columns
        )
        # The record wins: a table of identities maps points otherwise than its name says. The
        # methods that ran, and their works, are known only now.
        content = known | (transform_metadata(name) if ends else {}) | dict(meta)
        content = with_references(name.type, content, model=name.model)
        target = Path(sidecar_path(target))
        publish_json(content, target)
        self._results["out_meta"] = str(target)


def _columns(path: Path) -> list[str]:
    """Return the column names of a table."""
    with path.open(encoding="utf-8") as stream:
        return stream.readline().rstrip("\n").split("\t")


def _extension(path: Path) -> str:
    """Return a file's extension as written; that of `.nii` is `.nii.gz`."""
    known = {e for t in load_catalogue().types.values() for e in t.extensions} | {".json"}
    fitting = [e for e in known if path.name.endswith(e)]
    if fitting:
        return max(fitting, key=len)
    if path.suffix == ".nii":
        return ".nii.gz"
    raise ConfigError(
        f"no output has the extension {path.suffix!r}",
        path=path,
        expected=" or ".join(sorted(known)),
    )


def _conformed(file: Path, name: OutputName, staging: Path, *, time_step_s: float | None) -> Path:
    """Return the image with the header its space asks for; other files unchanged."""
    if not name.extension.startswith(".nii"):
        return file
    space = load_catalogue().find_space(name.entities.get("space", ""))
    word = re.sub(r"\W+", "_", file.name.removesuffix(".gz").removesuffix(".nii"))
    return conform_image(
        file,
        staging / f"conformed_{word}.nii.gz",
        form_code=1 if space is None else space.form_code,
        dtype=_MASK_DTYPE if name.type.suffix == "mask" else None,
        time_step_s=time_step_s,
    )
