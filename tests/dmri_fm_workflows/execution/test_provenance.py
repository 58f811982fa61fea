"""Fingerprints, complete runs, stale outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dmri_fm.gradient_files import RawGradients
from dmri_fm.gradients import GradientTable
from dmri_fm_workflows.bids.records import DwiRun, DwiSeries, Participant, Session, UnusedImage
from dmri_fm_workflows.execution.provenance import (
    Provenance,
    find_complete,
    find_stale,
    fingerprint,
    measure_outputs,
    write_provenance,
)
from dmri_fm_workflows.outputs.publish import publish_text


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
    written, scans = [files["acq-a"]], ["sub-01_acq-a", "sub-01_acq-b"]
    assert find_stale(tmp_path, "01", written, scans=scans, is_partial=False) == [
        files["acq-b"], files["acq-c"]
    ]  # fmt: skip
    assert find_stale(tmp_path, "01", written, scans=scans, is_partial=True) == [files["acq-b"]]


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
    assert find_stale(out, "01", [], scans=["sub-01_acq-a"], is_partial=False) == []


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
