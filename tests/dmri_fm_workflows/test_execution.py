"""Locks, fingerprints, provenance, crash files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import BusyError, ImageError, OutputError
from dmri_fm.gradient_files import RawGradients
from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.bids.records import DwiRun, DwiSeries, Participant, Session, UnusedImage
from dmri_fm_workflows.execution import (
    LOCK_NAME,
    Provenance,
    find_complete,
    find_stale,
    fingerprint,
    locked,
    measure_outputs,
    read_crash,
    remove_work,
    write_provenance,
)
from dmri_fm_workflows.outputs.publish import publish_text

ROOT = Path(__file__).parents[2]

HOLD = """
import sys
from pathlib import Path
from dmri_fm_workflows.execution import locked
with locked("01", [Path(sys.argv[1])]):
    print("held", flush=True)
    input()
"""


def hold(folder: Path, *, inside: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Return a process that holds the lock until it is killed or told to end."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"}
    process = subprocess.Popen(
        [*inside, sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_run_of_a_participant_is_refused(tmp_path: Path) -> None:
    other = hold(tmp_path / "work")
    with pytest.raises(BusyError, match=str(other.pid)), locked("01", [tmp_path / "work"]):
        pass
    other.communicate("\n")
    assert not (tmp_path / "work" / LOCK_NAME).exists()
    with locked("01", [tmp_path / "work"]):
        assert json.loads((tmp_path / "work" / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "work" / LOCK_NAME).exists()


def test_lock_of_a_killed_run_holds_nobody_up(tmp_path: Path) -> None:
    other = hold(tmp_path)
    other.kill()
    other.communicate()
    assert (tmp_path / LOCK_NAME).exists()
    with locked("01", [tmp_path]):
        pass


def test_lock_is_seen_from_another_container(tmp_path: Path) -> None:
    inside = ("unshare", "--pid", "--fork", "--kill-child")
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not make process namespaces")
    other = hold(tmp_path, inside=inside)
    with pytest.raises(BusyError, match="another run"), locked("01", [tmp_path]):
        pass
    other.communicate("\n")


def test_lock_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), locked("01", [tmp_path]):
        raise ValueError("boom")
    assert not (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize("kind", ["link", "hard link", "other file", "long file", "pipe"])
def test_only_a_lock_file_of_ours_is_emptied(tmp_path: Path, kind: str) -> None:
    lock, precious = tmp_path / "sub-01" / LOCK_NAME, tmp_path / "thesis.txt"
    lock.parent.mkdir()
    precious.write_text("years of work")
    if kind == "link":
        lock.symlink_to(precious)
    elif kind == "hard link":
        precious.write_text('{"host": "a", "pid": 1}')
        lock.hardlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text("mine" * (1000 if kind == "long file" else 1))
    before = precious.read_text(), lock.lstat()
    with pytest.raises(OutputError) as caught, locked("01", [lock.parent]):
        pass
    assert caught.value.path == lock
    assert str(precious) in caught.value.found or kind != "link"
    after = precious.read_text(), lock.lstat()
    assert after[0] == before[0]
    assert (after[1].st_ino, after[1].st_size) == (before[1].st_ino, before[1].st_size)


def test_lock_of_a_run_killed_at_its_first_word_is_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).touch()
    with locked("01", [tmp_path]):
        pass
    assert not (tmp_path / LOCK_NAME).exists()


def test_work_is_removed_and_not_what_its_links_lead_to(tmp_path: Path) -> None:
    work, precious = tmp_path / "work" / "sub-01", tmp_path / "precious"
    for folder in (work / "node", precious):
        folder.mkdir(parents=True)
        (folder / "scan.nii").write_text("voxels")
    (work / "node" / "input").symlink_to(precious)
    remove_work(work)
    assert not work.parent.exists()
    assert (precious / "scan.nii").read_text() == "voxels"


def _record(fingerprint_: str, outputs: dict[str, int], status: str = "complete") -> Provenance:
    return Provenance(
        participant="01",
        status=status,
        run_uuid="20260101-000000_a",
        version="0",
        command="drope-bidsapp",
        started="",
        finished="",
        fingerprint=fingerprint_,
        outputs=outputs,
    )


def test_complete_run_is_found_only_with_its_outputs(tmp_path: Path) -> None:
    image = tmp_path / "sub-01" / "dwi" / "a.nii.gz"
    publish_text("voxels", image)
    outputs = measure_outputs(tmp_path, [image])
    assert outputs == {"sub-01/dwi/a.nii.gz": 6}
    write_provenance(tmp_path, _record("abc", outputs))
    assert find_complete(tmp_path, "01", "abc") is None
    publish_text("page", tmp_path / "sub-01.html")
    assert find_complete(tmp_path, "01", "abc") is not None
    assert find_complete(tmp_path, "01", "other options") is None
    image.write_text("vox")
    assert find_complete(tmp_path, "01", "abc") is None


def test_failed_run_is_never_complete(tmp_path: Path) -> None:
    image = tmp_path / "sub-01" / "a.txt"
    publish_text("x", image)
    publish_text("page", tmp_path / "sub-01.html")
    write_provenance(tmp_path, _record("abc", {"sub-01/a.txt": 1}, status="failed"))
    assert find_complete(tmp_path, "01", "abc") is None


def test_outputs_that_a_later_run_does_not_write_are_stale(tmp_path: Path) -> None:
    dwi = tmp_path / "sub-01" / "dwi"
    files = {
        name: dwi / f"sub-01_{name}_space-ACPC_model-{model}_param-fa_dwimap.nii.gz"
        for name, model in (("acq-a", "tensor"), ("acq-b", "tensor"), ("acq-c", "tensorrefiner"))
    }
    for path in (*files.values(), dwi / "notes.txt"):
        publish_text("x", path)
    write_provenance(tmp_path, _record("abc", measure_outputs(tmp_path, files.values())))
    now = make_participant("a", "b")
    written = [files["acq-a"]]
    assert find_stale(tmp_path, now, written, is_partial=False) == [
        files["acq-b"], files["acq-c"]
    ]  # fmt: skip
    assert find_stale(tmp_path, now, written, is_partial=True) == [files["acq-b"]]


@pytest.mark.parametrize(
    "name",
    [
        "{root}/kept.txt",
        "../kept.txt",
        "sub-01/../kept.txt",
        "sub-01/../../kept.txt",
        "sub-02/kept.txt",
    ],
)
def test_record_cannot_make_files_elsewhere_stale(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for path in (tmp_path / "kept.txt", out / "kept.txt", out / "sub-02" / "kept.txt"):
        publish_text("x", path)
    write_provenance(out, _record("abc", {name.format(root=tmp_path): 1}))
    assert find_stale(out, make_participant("a"), [], is_partial=False) == []


def make_participant(*acquisitions: str, **metadata: str) -> Participant:
    series = tuple(
        DwiSeries((make_run(acq, metadata),), {"subject": "01", "acquisition": acq})
        for acq in acquisitions
    )
    return Participant(label="01", sessions=(Session(None, (), series),))


def make_run(acquisition: str, metadata: dict[str, str]) -> DwiRun:
    path = Path(f"sub-01_acq-{acquisition}_dwi.nii.gz")
    return DwiRun(
        path=path, bval=path, bvec=path, entities={}, metadata=metadata, shape=(2, 2, 2, 2),
        affine=np.eye(4), phase_encoding=None, readout_time_s=None,
        gradients=RawGradients(GradientTable([0], [[0, 0, 0]]), (0,), {}, None, ()),
    )  # fmt: skip


def test_fingerprint_follows_the_sidecars() -> None:
    before, after = make_participant("a"), make_participant("a", PhaseEncodingDirection="j")
    assert fingerprint(before, "", version="1") == fingerprint(before, "", version="1")
    assert fingerprint(before, "", version="1") != fingerprint(after, "", version="1")


def test_fingerprint_follows_why_images_are_not_used() -> None:
    (visit,) = make_participant("a").sessions
    (series,) = visit.series

    def digest(*unused: UnusedImage, pair_reason: str = "") -> str:
        changed = replace(series, unused=unused, pair_reason=pair_reason)
        participant = Participant("01", (replace(visit, series=(changed,)),))
        return fingerprint(participant, "", version="1")

    image = UnusedImage(Path("sub-01_epi.nii.gz"), "IntendedFor is empty")
    said = [digest(), digest(image), digest(replace(image, reason="x")), digest(pair_reason="y")]
    assert len(set(said)) == 4


def test_fingerprint_follows_options_version_and_files(tmp_path: Path) -> None:
    extra = tmp_path / "weights.safetensors"
    extra.write_bytes(b"1")
    participant = Participant(label="01", sessions=())
    first = fingerprint(participant, "a", version="1", extra=[extra])
    assert first == fingerprint(participant, "a", version="1", extra=[extra])
    assert first != fingerprint(participant, "b", version="1", extra=[extra])
    assert first != fingerprint(participant, "a", version="2", extra=[extra])
    extra.write_bytes(b"12")
    assert first != fingerprint(participant, "a", version="1", extra=[extra])


def test_crash_file_yields_node_and_whole_message(tmp_path: Path) -> None:
    error = ImageError("file has zero bytes", path="a.nii", expected="an image", advice="copy it")
    crash = tmp_path / "crash.txt"
    crash.write_text(
        "Node: sub_01_wf.anat_wf.mask_t1w\nWorking directory: /x\n\n"
        "Traceback (most recent call last):\n"
        '  File "a.py", line 3, in f\n    raise error\n'
        f"dmri_fm.errors.ImageError: {error}\n"
    )
    node, message = read_crash(crash)
    assert node == "sub_01_wf.anat_wf.mask_t1w"
    assert message == f"ImageError: {error}"


def test_worker_that_was_killed_is_explained(tmp_path: Path) -> None:
    crash = tmp_path / "crash.txt"
    crash.write_text(
        "Node: sub_01_wf.x\n\nTraceback (most recent call last):\n"
        "concurrent.futures.process.BrokenProcessPool: A process in the process pool was "
        "terminated abruptly while the future was running or pending.\n"
    )
    _, message = read_crash(crash)
    assert message.startswith("BrokenProcessPool: A process")
    assert "memory" in message
