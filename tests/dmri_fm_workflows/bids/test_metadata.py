"""One participant's hostile sidecar is that participant's problem, and nobody else's."""

from __future__ import annotations

import gzip
import json

import pytest

from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.bids.metadata import list_ignored
from dmri_fm_workflows.bids.scans import readout_time_s, why_no_signal
from dmri_fm_workflows.execution.provenance import fingerprint
from dmri_fm_workflows.outputs.publish import publish_json
from dmri_fm_workflows.outputs.sidecars import carry_over

#: Sidecars that are refused, and what is said.
REFUSED = {
    "digits": ('{"EchoTime": ' + "9" * 400 + "}", "an integer of 400 digits"),
    "deep": ('{"A": ' + "[" * 100_000 + "]" * 100_000 + "}", "nests deeper"),
    "surrogate": (r'{"SeriesDescription": "\ud800"}', "surrogate"),
    "twice": ('{"PhaseEncodingDirection": "j", "PhaseEncodingDirection": "j-"}', "twice"),
    "list": ("[]", "holds a list"),
    "empty": ("", "it is empty"),
}

#: Sidecars with entries of the wrong type, and what is said.
DOUBTED = {
    "echotime": ({"EchoTime": [0.08]}, "EchoTime is [0.08], not a finite number"),
    "imagetype": ({"ImageType": 3}, "ImageType is 3, not text or a list of texts"),
    "words": ({"ImageType": ["M", None, {}]}, "ImageType is ['M', None, {}], not text or"),
    "direction": ({"PhaseEncodingDirection": ["j"]}, "PhaseEncodingDirection is ['j'], not"),
    "readout": ({"PhaseEncodingDirection": "j", "TotalReadoutTime": [0.05]},
                "TotalReadoutTime is [0.05], which is no time"),
    "nan": ({"PhaseEncodingDirection": "j", "TotalReadoutTime": float("nan")},
            "TotalReadoutTime is nan, which is no time"),
    "infinite": ({"PhaseEncodingDirection": "j", "TotalReadoutTime": float("inf")},
                 "TotalReadoutTime is inf, which is no time"),
    "links": ({"IntendedFor": 3, "B0FieldSource": {"a": 1}}, "IntendedFor is 3, not"),
    "description": ({"SeriesDescription": ["x"]}, "SeriesDescription is ['x'], not text"),
    "long": ({"PhaseEncodingDirection": "x" * 10**6}, "PhaseEncodingDirection is 'xxx"),
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """One participant for each hostile sidecar, and a sound one."""
    from tests.dmri_fm_workflows.bids.conftest import DatasetMaker

    maker = DatasetMaker(tmp_path_factory.mktemp("hostile") / "raw")
    maker.dwi("sub-sound_dwi", metadata={**maker.AP, "EchoTime": 0.08})
    for label, (text, _) in REFUSED.items():
        maker.dwi(f"sub-{label}_dwi")
        maker.path(f"sub-{label}_dwi.json").write_text(text)
    for label, (content, _) in DOUBTED.items():
        maker.dwi(f"sub-{label}_dwi", metadata=content)
    return read_dataset(maker.root)


def test_others_go_on(dataset) -> None:
    assert {p.label for p in dataset.participants} == {"sound", *DOUBTED}
    assert {p.participant for p in dataset.problems} == set(REFUSED)


@pytest.mark.parametrize("label", REFUSED)
def test_refused_sidecar_is_named(dataset, label) -> None:
    (problem,) = [p for p in dataset.problems if p.participant == label]
    assert problem.path.name == f"sub-{label}_dwi.json"
    assert REFUSED[label][1] in str(problem.error)


@pytest.mark.parametrize("label", DOUBTED)
def test_entry_that_cannot_be_used_is_named(dataset, label) -> None:
    (participant,) = [p for p in dataset.participants if p.label == label]
    (series,) = participant.sessions[0].series
    (warning,) = [w for w in series.warnings if DOUBTED[label][1] in w]
    assert warning.startswith(f"sub-{label}_dwi.nii.gz")
    assert len(warning) < 500


@pytest.mark.parametrize("label", ["sound", *DOUBTED])
def test_what_is_accepted_can_be_hashed_and_published(dataset, label, tmp_path) -> None:
    (participant,) = [p for p in dataset.participants if p.label == label]
    assert len(fingerprint(participant, "options", version="1")) == 64
    (run,) = participant.sessions[0].series[0].runs
    path = tmp_path / "x.json"
    publish_json({"carried": carry_over([run.metadata]), "all": run.metadata}, path)
    json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_sound_participant_is_intact(dataset) -> None:
    (participant,) = [p for p in dataset.participants if p.label == "sound"]
    (series,) = participant.sessions[0].series
    assert series.runs[0].phase_encoding == "j-"
    assert series.runs[0].readout_time_s == 0.05
    assert series.warnings == ()


@pytest.mark.parametrize(
    "value", [None, True, "0.05", [0.05], {}, float("nan"), 10**300, -(10**300)]
)
def test_no_value_breaks_a_decision(value) -> None:
    keys = ("TotalReadoutTime", "EffectiveEchoSpacing", "ReconMatrixPE", "ImageType",
            "SeriesDescription", "PhaseEncodingDirection")  # fmt: skip
    metadata = dict.fromkeys(keys, value)
    assert readout_time_s(metadata, 100) is None
    assert why_no_signal({}, metadata) == ""
    assert all(len(what) < 300 for what in list_ignored(metadata))


def test_filters_compare_any_entry(maker) -> None:
    for label, value in (("01", "\u00b2"), ("02", "9" * 6000), ("03", "7"), ("04", [7])):
        maker.dwi(f"sub-{label}_dwi", metadata={**maker.AP, "SeriesNumber": value})
    found = read_dataset(maker.root, filters={"dwi": {"SeriesNumber": "007"}})
    assert [p.label for p in found.participants] == ["03"]


def test_hostile_header_is_its_participant_s_problem(maker) -> None:
    changes = {"size": (42, b"\xff\x7f"), "offset": (108, b"\0\0\xc0\x7f"), "edge": (80, bytes(4))}
    maker.dwi("sub-sound_dwi", metadata=maker.AP)
    for label, (place, value) in changes.items():
        path = maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
        content = bytearray(gzip.decompress(path.read_bytes()))
        content[place : place + len(value)] = value
        path.write_bytes(gzip.compress(content))
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["sound"]
    assert {p.participant: p.path.name for p in dataset.problems} == {
        label: f"sub-{label}_dwi.nii.gz" for label in changes
    }


def test_inherited_sidecar_is_every_participant_s_problem(maker) -> None:
    for label in ("01", "02"):
        maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
        maker.dwi(f"sub-{label}_acq-x_dwi", metadata=maker.AP)
    maker.path("acq-x_dwi.json").write_text("{")
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["01", "02"]
    assert [(p.participant, p.path.name) for p in dataset.problems] == [
        ("01", "acq-x_dwi.json"),
        ("02", "acq-x_dwi.json"),
    ]
