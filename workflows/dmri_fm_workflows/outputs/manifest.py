"""Checksums of a participant's files, and what has become of the files since.

`sub-<label>/log/sha256sums.txt` has the format of `sha256sum`, with paths relative to the output
folder: `sha256sum --check` understands it. It lists the files that runs of the app have written
and left there, never what lies there besides.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dmri_fm.errors import InputError, LayoutError, OutputError
from dmri_fm_workflows.outputs.pages import page_path
from dmri_fm_workflows.outputs.publish import publish_text

#: Path of a participant's manifest inside the participant's folder.
MANIFEST = "log/sha256sums.txt"

#: Name of a run's record, the one file of the folder `log` that the manifest lists.
RECORD = "provenance.json"

_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<path>[^\0\n]+)")

_CHUNK_BYTES = 4 * 2**20

#: Larger files are no manifests: a participant has some hundred files.
_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Finding:
    """A file that is not as the manifest says.

    Attributes
    ----------
    path
        Relative to the output folder.
    state
        `missing`, `changed`, `additional` or `unreadable`; `no manifest` of a participant.
    """

    path: str
    state: str


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's content, hexadecimal.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(
    output_dir: Path,
    participant: str,
    names: Iterable[str],
    *,
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write a participant's manifest, by rename; return its path.

    Parameters
    ----------
    output_dir
        Output folder.
    participant
        With the prefix.
    names
        Files that the app wrote, relative to the output folder. Those that are not there, or not
        the participant's, are left out.
    texts
        Content of further files, which are written after the manifest.

    Raises
    ------
    OutputError
        If a file cannot be read, or the manifest cannot be written.
    """
    digests, own = {}, f"{participant}/{MANIFEST}"
    for name in names:
        path = output_dir / name
        try:
            if _is_of(participant, name) and name != own and path.is_file():
                digests[name] = digest_file(path)
        except OSError as error:
            raise OutputError(
                f"cannot be read again for its checksum ({error.strerror})",
                path=path,
                expected="the file as this run wrote it",
                advice="check the disk, then run the same command again",
            ) from None
    for name, text in (texts or {}).items():
        digests[name] = hashlib.sha256(text.encode("utf-8")).hexdigest()
    _publish(digests, output_dir / own)
    return output_dir / own


def _publish(digests: Mapping[str, str], target: Path) -> None:
    publish_text("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)), target)


def replace_pages(output_dir: Path, participant: str, pages: Iterable[str]) -> None:
    """Put other pages into a participant's manifest, if there is one.

    Parameters
    ----------
    output_dir
        Output folder.
    participant
        With the prefix.
    pages
        Paths relative to the output folder; other pages of the participant leave the manifest.

    Raises
    ------
    InputError
        If the manifest is damaged.
    OutputError
        If it cannot be written.
    """
    target = output_dir / participant / MANIFEST
    if target.is_file():
        kept = {k: v for k, v in read_manifest(target).items() if not k.endswith(".html")}
        _publish(kept | {page: digest_file(output_dir / page) for page in pages}, target)


def read_manifest(path: Path) -> dict[str, str]:
    """Return the checksums of a manifest by path relative to the output folder.

    Raises
    ------
    InputError
        If a line is none of a manifest, or a path leads out of the participant's files.
    """
    participant = path.parents[1].name
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read ({error})", path=path, expected="a manifest that the app wrote"
        ) from None
    digests = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or not _is_of(participant, match["path"]):
            raise InputError(
                f"line {number} is no checksum of a file of {participant}",
                path=path,
                expected="lines of `sha256sum`, with paths below the participant's folder",
                advice="run the app again with the same command: it writes a new one",
            )
        digests[match["path"]] = match["digest"]
    return digests


def _is_of(participant: str, name: str) -> bool:
    """Tell whether a relative path is the participant's page or lies in their folder."""
    parts = PurePosixPath(name).parts
    is_below = len(parts) > 1 and parts[0] == participant and ".." not in parts
    return name == str(page_path(participant, "root")) or is_below


def _list_participants(output_dir: Path) -> list[str]:
    """Return the participants, with the prefix, that have a folder or a page."""
    found = {p.name for p in output_dir.glob("sub-*") if p.is_dir()}
    found |= {p.stem for p in output_dir.glob("sub-*.html")}
    return sorted(found)


def verify_outputs(
    output_dir: str | Path, participants: Sequence[str] = ()
) -> tuple[int, list[Finding]]:
    """Compare the files of participants with their manifests.

    Parameters
    ----------
    output_dir
        Output folder.
    participants
        With or without the prefix; all by default.

    Returns
    -------
    int
        Number of files that were read.
    list
        Files that are missing, changed or additional; empty if all is as it was written.

    Raises
    ------
    LayoutError
        If the folder has no participant, or not those asked for.
    """
    root = Path(output_dir)
    known = _list_participants(root)
    wanted = [f"sub-{label.removeprefix('sub-')}" for label in participants] or known
    if unknown := sorted(set(wanted) - set(known)) or (["any participant"] if not known else []):
        raise LayoutError(
            f"no outputs of {', '.join(unknown)}",
            path=root,
            expected=f"some of {', '.join(known)}" if known else "an output folder of the app",
        )
    n_files, findings = 0, []
    for participant in wanted:
        path = root / participant / MANIFEST
        if not path.is_file():
            findings.append(Finding(participant, "no manifest"))
            continue
        digests = read_manifest(path)
        n_files += len(digests)
        findings += [*_check_listed(root, digests), *_find_additional(root, participant, digests)]
    return n_files, findings


def _check_listed(root: Path, digests: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the files of a manifest that are not as it says."""
    for name, digest in digests.items():
        path = root / name
        try:
            if not path.is_file():
                yield Finding(name, "missing")
            elif digest_file(path) != digest:
                yield Finding(name, "changed")
        except OSError:
            yield Finding(name, "unreadable")


def _find_additional(
    root: Path, participant: str, digests: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield files of a participant that the manifest lacks; logs but the records do not count."""
    page = root / page_path(participant, "root")
    paths = [page] if page.is_file() else []
    for folder, subfolders, names in os.walk(root / participant):
        subfolders.sort()
        # A folder that is a link is not entered.
        links = [n for n in subfolders if Path(folder, n).is_symlink()]
        paths += [Path(folder, name) for name in sorted([*names, *links])]
    for path in paths:
        name = path.relative_to(root)
        is_log = name.parts[1:2] == ("log",) and name.name != RECORD
        if not is_log and name.as_posix() not in digests:
            yield Finding(name.as_posix(), "additional")
