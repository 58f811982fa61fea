import json
from dataclasses import replace

import pytest

from dmri_fm.errors import InputError, WeightsError
from dmri_fm.participants import hash_participant, read_dataset_name, seen_participants
from dmri_fm.registry import load_weights

FIRST = hash_participant("Some study", "01")


def test_a_hash_depends_on_dataset_and_label_alone():
    # Computed apart: printf 'drope-bidsapp participant\0Some study\00001' | sha256sum
    assert FIRST == "473ddd425605623caeed7d14e2dd0a0483dcdd8f41cd7ccd1d4c2389b880073a"
    assert hash_participant(" Some study\n", "sub-01") == FIRST
    others = {hash_participant("Some study", "1"), hash_participant("Some study0", "1")}
    assert len(others | {FIRST}) == 3


@pytest.mark.parametrize(("name", "label"), [("", "01"), (" ", "01"), ("Some study", "sub-")])
def test_a_participant_without_name_or_label_is_refused(name, label):
    with pytest.raises(InputError, match="without a dataset's name or label"):
        hash_participant(name, label)


def test_the_name_of_a_dataset_is_in_its_description(tmp_path):
    path = tmp_path / "dataset_description.json"
    path.write_text(json.dumps({"Name": "Some study ", "BIDSVersion": "1.10.0"}))
    assert read_dataset_name(tmp_path) == "Some study"
    path.write_text(json.dumps({"Name": 3}))
    with pytest.raises(InputError, match="Name is 3"):
        read_dataset_name(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_dataset_name(tmp_path / "none")


def test_weights_list_hashes_of_their_participants():
    weights = load_weights("tensor-refiner")

    def listing(listed):
        return replace(weights, training={"participants": listed})

    assert seen_participants(replace(weights, training={})) == frozenset()
    assert seen_participants(listing([])) == frozenset()
    assert seen_participants(listing([FIRST])) == {FIRST}
    for listed in (FIRST, [FIRST, "sub-01"], [3], {FIRST: 1}):
        with pytest.raises(WeightsError, match="`participants` of the training of packaged"):
            seen_participants(listing(listed))
