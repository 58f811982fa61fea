"""Spaces of `--output-spaces`, and the files of TemplateFlow's templates in its cache.

Nothing is fetched: a template that is not there is an error before any work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dmri_fm.errors import ConfigError

#: Spaces that the app has by itself: the participant's, and that of the packaged template.
OWN_SPACES = ACPC, OWN_TEMPLATE = ("ACPC", "MNI152NLin2009aSym")

#: Label of `res` on the grid of the packaged template.
OWN_RESOLUTION = "2"

#: Label of `res` that is taken, where there is such a file, if the request names none.
USUAL_RESOLUTION = "2"

#: Variable that names TemplateFlow's cache, and its place below the home without that.
CACHE_VARIABLE, CACHE_FOLDER = "TEMPLATEFLOW_HOME", ".cache/templateflow"

_REQUEST = re.compile(r"(?P<name>[A-Za-z0-9]+)(?P<modifiers>(:[a-z]+-[A-Za-z0-9]+)*)")

#: Labels that are no volumetric template: frames of participants, and surfaces.
_NO_TEMPLATES = frozenset({
    "T1w", "T2w", "anat", "dwi", "dwiref", "fsLR", "fsaverage", "fsaverage5", "fsaverage6",
    "fsnative", "func", "individual", "onavg", "orig", "run", "scanner", "session",
})  # fmt: skip


@dataclass(frozen=True)
class TemplateFiles:
    """A template of TemplateFlow on one of its grids.

    Attributes
    ----------
    name
        Label of its space.
    resolution
        Label of `res`, without leading zeros; empty where the template's files have none.
    t1w
        T1-weighted image.
    mask
        Brain mask on its grid; None: nothing but the brain is in the image.
    """

    name: str
    resolution: str
    t1w: Path
    mask: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that a run reads."""
        return (self.t1w, *([] if self.mask is None else [self.mask]))

    @property
    def uri(self) -> str:
        """Address of the image at TemplateFlow."""
        return f"https://templateflow.s3.amazonaws.com/tpl-{self.name}/{self.t1w.name}"


def is_template(label: str) -> bool:
    """Tell whether a label can be that of a template of TemplateFlow.

    Examples
    --------
    >>> is_template("MNI152NLin2009cAsym"), is_template("ACPC"), is_template("T1w")
    (True, False, False)
    """
    is_own = label in OWN_SPACES or label in _NO_TEMPLATES
    return not is_own and bool(re.fullmatch("[A-Za-z0-9]+", label))


def _plain(resolution: str) -> str:
    """Return a label of `res` without leading zeros."""
    return resolution.lstrip("0") or resolution[:1]


def parse_space(text: str) -> tuple[str, str]:
    """Split `NAME[:res-N]` into name and resolution, empty if none is given.

    Raises
    ------
    ConfigError
        If it is no such text, names no volume, or names a grid that the packaged template lacks.

    Examples
    --------
    >>> parse_space("MNI152NLin2009cAsym:res-02"), parse_space("ACPC")
    (('MNI152NLin2009cAsym', '2'), ('ACPC', ''))
    >>> parse_space("MNI152NLin2009cAsym:res-00")
    ('MNI152NLin2009cAsym', '0')
    """
    match = _REQUEST.fullmatch(text)
    words = match["modifiers"].split(":")[1:] if match else []
    if match is None or len(words) > 1 or any(not w.startswith("res-") for w in words):
        raise ConfigError(
            f"--output-spaces {text}",
            expected="NAME or NAME:res-N, such as MNI152NLin2009cAsym:res-2; templates of cohorts "
            "and surfaces are not supported",
        )
    name = match["name"]
    resolution = _plain(words[0].removeprefix("res-")) if words else ""
    if name in _NO_TEMPLATES:
        raise ConfigError(
            f"--output-spaces {text}",
            expected=f"{' or '.join(OWN_SPACES)}, or a volumetric template of TemplateFlow",
        )
    allowed = {ACPC: ("",), OWN_TEMPLATE: ("", OWN_RESOLUTION)}.get(name)
    if allowed is not None and resolution not in allowed:
        raise ConfigError(
            f"--output-spaces {text}",
            expected="--output-resolution for ACPC"
            if name == ACPC
            else f"{name}, which is written at res-{OWN_RESOLUTION} only",
        )
    return name, resolution


def order_spaces(texts: Iterable[str]) -> tuple[str, ...]:
    """Return requested spaces in one form: ACPC first, each once, without leading zeros.

    Raises
    ------
    ConfigError
        If one cannot be read, or a template is asked for on two grids.

    Examples
    --------
    >>> order_spaces(["MNI152NLin2009cAsym:res-02", "MNI152NLin2009aSym:res-2"])
    ('ACPC', 'MNI152NLin2009aSym', 'MNI152NLin2009cAsym:res-2')
    """
    parsed = dict.fromkeys(parse_space(text) for text in texts)
    others = [(name, res) for name, res in parsed if name not in OWN_SPACES]
    for name in (names := [name for name, _ in others]):
        if names.count(name) > 1:
            raise ConfigError(
                f"--output-spaces asks for {name} twice",
                expected="one grid of a template",
                advice="run the other one into an output folder of its own",
            )
    own = [ACPC, *([OWN_TEMPLATE] if any(name == OWN_TEMPLATE for name, _ in parsed) else [])]
    return (*own, *(f"{name}:res-{res}" if res else name for name, res in others))


def find_cache(environ: Mapping[str, str]) -> Path:
    """Return the folder of TemplateFlow's cache."""
    if folder := environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(environ.get("HOME", "/nonexistent")) / CACHE_FOLDER


def find_templates(spaces: Iterable[str], cache: Path) -> tuple[TemplateFiles, ...]:
    """Return the files of the templates among requested spaces.

    Raises
    ------
    ConfigError
        If the files of one are not in the cache.
    """
    wanted = (parse_space(text) for text in spaces)
    return tuple(_find(name, res, cache) for name, res in wanted if name not in OWN_SPACES)


def _find(name: str, resolution: str, cache: Path) -> TemplateFiles:
    folder = cache / f"tpl-{name}"
    images = _list_images(folder, name)
    # The head comes before the brain alone; the usual grid before others, then the lowest label.
    wanted = [resolution] if resolution else sorted({r for r, *_ in images}, key=_preference)
    for res in wanted:
        for desc in ("", "brain"):
            t1w = images.get((res, desc, "T1w"))
            mask = images.get((res, "brain", "mask"))
            if t1w is not None and (mask is not None or desc == "brain"):
                return TemplateFiles(name, res, t1w, mask)
    grid = f" at res-{resolution}" if resolution else ""
    option = f" --res {resolution}" if resolution else ""
    raise ConfigError(
        f"--output-spaces {name}: TemplateFlow's cache holds no T1w image of it with a brain "
        f"mask{grid}",
        path=folder,
        expected=f"tpl-{name}_[res-*_]T1w.nii.gz and tpl-{name}_[res-*_]desc-brain_mask.nii.gz, "
        "fetched (files of 0 bytes stand for what is not)",
        advice="nothing is fetched during a run; on a machine with a network: "
        f"`templateflow get {name}{option} -s T1w` and `templateflow get {name}{option} -d brain "
        f"-s mask`; {CACHE_VARIABLE} names the cache",
    )


def _preference(resolution: str) -> tuple[bool, int]:
    return resolution != USUAL_RESOLUTION, int(resolution) if resolution.isdigit() else 0


def _list_images(folder: Path, name: str) -> dict[tuple[str, str, str], Path]:
    """Return the images of a template's folder that have content, by `res`, `desc` and suffix."""
    pattern = re.compile(
        rf"tpl-{name}(_res-(?P<res>\w+?))?(_desc-(?P<desc>brain))?_(?P<suffix>T1w|mask)\.nii\.gz"
    )
    found = {}
    for path in sorted(folder.glob("*.nii.gz")):
        match = pattern.fullmatch(path.name)
        if match and path.is_file() and path.stat().st_size:
            key = (_plain(match["res"] or ""), match["desc"] or "", match["suffix"])
            found[key] = path
    return found
