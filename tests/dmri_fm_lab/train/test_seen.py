"""Evaluations refuse participants that the network was trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError, LayoutError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.participants import hash_participant
from dmri_fm.series import Dwi
from dmri_fm.weights import save_weights
from dmri_fm_lab import grid_scans
from dmri_fm_lab.__main__ import build_parser, main
from dmri_fm_lab.commands.options import read_sources
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.scans import Scan, list_participants
from dmri_fm_lab.train.drope import build_autoencoder
from dmri_fm_lab.train.seen import Seen, find_seen, find_seen_of_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of this app with two participants; their images are never read."""
    root = tmp_path_factory.mktemp("derivative")
    description = {"Name": "Study", "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for label in ("01", "02"):
        name = f"sub-{label}_space-ACPC_desc-preproc_dwi.nii.gz"
        (root / f"sub-{label}" / "dwi").mkdir(parents=True)
        (root / f"sub-{label}" / "dwi" / name).touch()
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights that list one participant, ones that list nobody, ones without a list."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = Drope(replace(SMALL, grid_shape=(16, 16, 16), dim=24, depth=1, heads=2))
    lists = {
        "seen": {"participants": [hash_participant("Study", "01")]},
        "nobody": {"participants": []},
        "unknown": {},
    }
    for name, training in lists.items():
        path = folder / f"{name}.safetensors"
        save_weights(path, network, name="drope", version="0", training=training)
    return {name: folder / f"{name}.safetensors" for name in lists}


def test_the_participants_of_a_dataset_are_listed_without_their_images(dataset) -> None:
    assert list_participants(dataset) == ["01", "02"]
    assert list_participants(dataset, participant_labels=["sub-02"]) == ["02"]
    with pytest.raises(LayoutError, match="03"):
        list_participants(dataset, participant_labels=["03"])


def test_hashes_tell_who_was_seen(dataset, weights) -> None:
    def seen(source, labels=None):
        return find_seen_of_dataset(dataset, source, model="drope", participant_labels=labels)

    assert seen(weights["seen"]) == Seen(frozenset({"01"}))
    assert seen(weights["seen"], ["02"]) == Seen()
    assert seen(weights["nobody"]) == Seen()
    assert "list no participants" in seen(weights["unknown"]).unknown
    with pytest.raises(WeightsError, match="some/run"):
        seen("some/run")


def test_a_dataset_without_a_name_is_not_compared(tmp_path) -> None:
    hashes = frozenset({hash_participant("Study", "01")})
    paths = {"sub-01": tmp_path / "sub-01" / "dwi"}
    assert "no dataset whose name" in find_seen(hashes, paths).unknown
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "Study"}))
    assert find_seen(hashes, paths) == Seen(frozenset({"sub-01"}))
    assert "no participant's folder" in find_seen(hashes, {"sub-01": tmp_path / "x"}).unknown


def test_a_participant_is_known_below_a_folder_that_is_called_like_one(tmp_path) -> None:
    root = tmp_path / "sub-study"
    root.mkdir()
    (root / "dataset_description.json").write_text(json.dumps({"Name": "Study"}))
    hashes = frozenset({hash_participant("Study", "01")})
    assert find_seen(hashes, {"01": root / "sub-01" / "dwi"}).participants == {"01"}


def test_a_run_is_refused_like_its_weights(dataset, tmp_path, tiny_drope) -> None:
    """The checkpoint of a run lists hashes."""
    average = {f"module.{k}": v for k, v in build_autoencoder("drope").state_dict().items()}
    hashed = [hash_participant("Study", "02")]
    settings = {"recipe": {"model": "drope"}, "participants": hashed, "start": None}
    state = {"settings": settings, "average": average, "step": 1}
    torch.save(state, tmp_path / "last.ckpt")
    assert find_seen_of_dataset(dataset, tmp_path, model="drope").participants == {"02"}
    options = build_parser().parse_args(["evaluate", "rotation", str(tmp_path), str(dataset)])
    with pytest.raises(ConfigError, match="trained on sub-02"):
        read_sources(options)


@pytest.mark.parametrize(
    "command",
    [
        ["protocols", "BIDS", "--gallery", "0", "--weights", "WEIGHTS"],
        ["out-of-distribution", "BIDS", "--weights", "WEIGHTS"],
        ["reconstruction", "WEIGHTS", "BIDS"],
    ],
)
def test_an_evaluation_refuses_them_unless_they_are_marked(dataset, weights, command) -> None:
    names = {"BIDS": str(dataset), "WEIGHTS": str(weights["seen"])}
    arguments = ["evaluate", *(names.get(word, word) for word in command)]
    with pytest.raises(ConfigError, match=r"trained on sub-01"):
        read_sources(build_parser().parse_args(arguments))
    others = build_parser().parse_args([*arguments, "--participant-label", "02"])
    assert read_sources(others).seen == frozenset()
    allowed = build_parser().parse_args([*arguments, "--allow-seen"])
    assert read_sources(allowed).seen == {"01"}


def test_a_command_warns_where_nobody_can_tell(dataset, weights, caplog) -> None:
    command = ["evaluate", "reconstruction", str(weights["unknown"]), str(dataset)]
    assert not read_sources(build_parser().parse_args(command)).seen
    assert "list no participants" in caplog.text


def test_the_command_says_whom_and_what_to_do(dataset, weights, capsys) -> None:
    options = ["--gallery", "0", "--weights", str(weights["seen"])]
    assert main(["evaluate", "protocols", str(dataset), *options]) == 1
    message = capsys.readouterr().err
    assert "the network was trained on sub-01" in message
    assert "--allow-seen" in message


def test_scans_of_seen_participants_are_marked(monkeypatch) -> None:
    gtab = GradientTable([0, 1000, 1000], [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    dwi = Dwi.from_arrays(np.ones((4, 4, 4, 3), np.float32), np.eye(4), gtab)
    found = [Scan(f"sub-{label}", label, "scanner", dwi, "raw") for label in ("01", "02")]
    monkeypatch.setattr(grid_scans, "find_scans", lambda *_, **__: iter(found))
    # The images lie on the grid already: no registration.
    monkeypatch.setattr(
        grid_scans, "place_scan", lambda s, _: GridScan.of(s.dwi, name=s.name, origin=s.origin)
    )
    scans = grid_scans.dataset_scans("study", SMALL.grid, seen=frozenset({"01"}))
    assert [scan.name for scan in scans] == ["sub-01 (seen in training)", "sub-02"]
