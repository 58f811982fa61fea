"""Publishing: atomic, deterministic, quiet on repetition."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.errors import ImageError, OutputError
from dmri_fm_workflows.outputs import publish
from dmri_fm_workflows.outputs.publish import (
    clear_partial,
    conform_image,
    publish_file,
    publish_json,
    publish_text,
    to_json,
)


def _names(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_same_bytes_are_left_untouched(tmp_path):
    target = tmp_path / "a" / "b.txt"
    assert publish_text("one\n", target)
    os.utime(target, (1, 1))
    assert not publish_text("one\n", target)
    assert target.stat().st_mtime == 1
    assert publish_text("two\n", target)
    assert target.read_text() == "two\n"
    assert _names(tmp_path) == ["b.txt"]


def test_json_is_sorted_and_strict(tmp_path):
    publish_json(
        {"b": np.float32(np.nan), "a": [np.int16(3), None], "c": np.arange(2)}, tmp_path / "x.json"
    )
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"a": [3, "n/a"], "b": "n/a", "c": [0, 1]}
    assert text.index('"a"') < text.index('"b"')
    assert to_json({1: {2.5, 1.5}}) == {"1": [1.5, 2.5]}


def test_gzip_header_holds_no_time_and_no_name(tmp_path):
    payload = np.random.default_rng(0).bytes(10_000)
    targets = []
    for time, name in ((1, "first.nii"), (2_000_000_000, "another.nii")):
        source = tmp_path / f"{time}.nii.gz"
        with source.open("wb") as stream, gzip.GzipFile(name, "wb", 6, stream, mtime=time) as f:
            f.write(payload)
        targets.append(tmp_path / "out" / f"{time}.nii.gz")
        publish_file(source, targets[-1])
    assert targets[0].read_bytes() == targets[1].read_bytes()
    assert gzip.decompress(targets[0].read_bytes()) == payload


def test_every_optional_gzip_field_is_skipped(tmp_path):
    body = gzip.compress(b"payload", mtime=0)[10:]
    head = b"\x1f\x8b\x08" + bytes([2 | 4 | 8 | 16]) + b"\x01\x02\x03\x04\x00\x03"
    source = tmp_path / "odd.gz"
    source.write_bytes(head + b"\x03\x00abc" + b"name\0" + b"comment\0" + b"\x00\x00" + body)
    publish_file(source, tmp_path / "out.gz")
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == b"payload"


def test_plain_file_is_compressed_for_a_gz_name(tmp_path):
    source = tmp_path / "a.nii"
    source.write_bytes(b"voxels")
    assert publish_file(source, tmp_path / "b.nii.gz")
    assert not publish_file(source, tmp_path / "b.nii.gz")
    assert gzip.decompress((tmp_path / "b.nii.gz").read_bytes()) == b"voxels"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_failure_names_the_file_and_leaves_nothing(tmp_path, monkeypatch, code):
    target = tmp_path / "sub-01" / "big.txt"
    publish_text("old", target)

    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(publish.os, "fsync", full)
    with pytest.raises(OutputError, match=r"big\.txt") as caught:
        publish_text("new", target)
    assert os.strerror(code) in str(caught.value)
    assert "what to do" in str(caught.value)
    assert target.read_text() == "old"
    assert _names(tmp_path) == ["big.txt"]


def test_real_write_failure(tmp_path):
    # A limit on file size makes write(2) itself fail half-way, as a full disk does.
    resource = pytest.importorskip("resource")
    source = tmp_path / "source.nii.gz"
    source.write_bytes(b"x" * 200_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            publish_file(source, tmp_path / "out" / "target.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _names(tmp_path) == ["source.nii.gz"]


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "sub-01").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        publish_text("x", tmp_path / "sub-01" / "dwi" / "x.json")


def test_link_is_replaced_and_not_written_through(tmp_path):
    precious, target = tmp_path / "precious.json", tmp_path / "out" / "x.json"
    precious.write_text("years of work")
    target.parent.mkdir()
    target.symlink_to(precious)
    assert publish_json({"a": 1}, target)
    assert not target.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}
    assert precious.read_text() == "years of work"


def test_leftovers_are_cleared_and_not_what_links_lead_to(tmp_path):
    out, precious = tmp_path / "out", tmp_path / "precious"
    for folder in (out, precious):
        folder.mkdir()
        (folder / ".x.json.abc.part").write_text("{")
    (out / "linked").symlink_to(precious)
    (out / ".y.json.abc.part").symlink_to(precious / ".x.json.abc.part")
    assert clear_partial(out) == 2
    assert _names(precious) == [".x.json.abc.part"]
    for name in (".sub-1.html.abc.part", ".sub-12.html.abc.part"):
        (out / name).write_text("<")
    assert clear_partial(out, name="sub-1.html") == 1
    assert (out / ".sub-12.html.abc.part").exists()


def test_interruption_leaves_nothing(tmp_path):
    def interrupted(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish._publish(interrupted, tmp_path / "x.txt")
    assert _names(tmp_path) == []


def test_unfinished_file_lies_beside_its_target(tmp_path):
    seen = []

    def write(stream):
        seen.extend(_names(tmp_path))
        stream.write(b"x")

    publish._publish(write, tmp_path / "x.txt")
    (name,) = seen
    assert name.startswith(".x.txt.")
    assert name.endswith(publish.PARTIAL_SUFFIX)
    assert (tmp_path / "x.txt").read_bytes() == b"x"


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        publish_text("x", tmp_path / "x.txt")
    finally:
        os.umask(old)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640


def test_leftovers_of_killed_runs_are_cleared(tmp_path):
    (tmp_path / "sub-01" / "dwi").mkdir(parents=True)
    (tmp_path / "sub-01" / "dwi" / ".x.nii.gz.abc.part").write_text("half")
    (tmp_path / "sub-01" / "dwi" / "x.nii.gz").write_text("whole")
    assert clear_partial(tmp_path) == 1
    assert _names(tmp_path) == ["x.nii.gz"]


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("cls", [nib.Nifti1Image, nib.Nifti2Image])
def test_conform_sets_the_forms_and_keeps_the_voxels(tmp_path, name, cls):
    affine = np.array([[-2.0, 0.1, 0, 90], [0.1, 2, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
    data = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    image = cls(data.astype(np.float32), affine)
    # Scaled integers: the stored bytes and the factors have to survive.
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / name)
    out = conform_image(tmp_path / name, tmp_path / "out.nii.gz", form_code=4)
    before, after = nib.load(tmp_path / name), nib.load(out)
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    assert after.get_data_dtype() == np.int16
    assert int(after.header["qform_code"]) == int(after.header["sform_code"]) == 4
    np.testing.assert_allclose(after.header.get_sform(), affine, atol=1e-5)
    assert after.header.get_xyzt_units() == ("mm", "sec")
    # A second pass has nothing to do.
    assert conform_image(out, tmp_path / "again.nii.gz", form_code=4) == out


def test_a_series_gets_its_repetition_time(tmp_path):
    affine = np.diag([-2.0, 2, 3, 1])
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6, 3), np.float32), affine), tmp_path / "d.nii.gz")
    out = conform_image(
        tmp_path / "d.nii.gz", tmp_path / "o.nii.gz", form_code=2, time_step_s=5.865
    )
    header = nib.load(out).header
    np.testing.assert_allclose(header.get_zooms(), (2, 2, 3, 5.865), rtol=1e-6)
    assert header.get_xyzt_units() == ("mm", "sec")
    # Not known: no program shall read one second. No time: one step an element.
    for step, expected in ((0.0, 0.0), (None, 1.0)):
        again = conform_image(out, tmp_path / f"{step}.nii.gz", form_code=2, time_step_s=step)
        assert float(nib.load(again).header["pixdim"][4]) == expected


def test_conform_converts_masks(tmp_path):
    data = np.array([[[0.0, 1.0], [1.0, 0.0]]], dtype=np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "m.nii.gz")
    out = conform_image(tmp_path / "m.nii.gz", tmp_path / "o.nii.gz", form_code=2, dtype=np.uint8)
    image = nib.load(out)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj), data)


def test_conform_refuses_what_is_no_image(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"no image")
    with pytest.raises(ImageError, match="cannot be opened"):
        conform_image(tmp_path / "x.nii.gz", tmp_path / "y.nii.gz", form_code=2)


#: Starts a process that writes one file over and over, kills it at a random moment, looks at what
#: is there, and starts the next one; prints how many kills found an unfinished file beside.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from dmri_fm_workflows.outputs.publish import clear_partial, publish_bytes

folder, rng, n_partial = Path(sys.argv[1]), random.Random(0), 0
for _ in range(20):
    child = os.fork()
    if child == 0:
        while True:
            publish_bytes([bytes([rng.randrange(256)]) * 1_000_000], folder / "file.bin")
    time.sleep(rng.uniform(0.0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rng.random()
    n_partial += clear_partial(folder)
    names = [p.name for p in folder.iterdir()]
    assert names in ([], ["file.bin"]), names
    if names:
        content = (folder / "file.bin").read_bytes()
        assert len(content) == 1_000_000 and len(set(content)) == 1, "half a file"
assert names == ["file.bin"]
print(n_partial)
"""


def test_file_is_whole_whenever_its_writer_is_killed(tmp_path):
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, tmp_path],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'workflows'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3, "kills hit the writing itself"
