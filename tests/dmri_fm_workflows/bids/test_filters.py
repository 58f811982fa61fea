"""Filter files: which images of a request they choose."""

from __future__ import annotations

import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.bids import read_dataset, read_filter_file


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"acquisition": "a"}, ["sub-01_acq-a_run-01"]),
        ({"acquisition": ["a", "b"], "run": 1}, ["sub-01_acq-a_run-01"]),
        ({"acquisition": None}, ["sub-01"]),
        ({"acquisition": "Query.NONE"}, ["sub-01"]),
        ({"acquisition": "*"}, ["sub-01_acq-a_run-01", "sub-01_acq-b_run-02"]),
        ({"run": "02"}, ["sub-01_acq-b_run-02"]),
        ({"datatype": "dwi", "suffix": "dwi", "run": None}, ["sub-01"]),
        ({"MultibandAccelerationFactor": 3}, ["sub-01_acq-b_run-02"]),
    ],
)
def test_filters_choose_diffusion_scans(maker, query, names) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-a_run-01_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-b_run-02_dwi", metadata={**maker.AP, "MultibandAccelerationFactor": 3})
    assert maker.found(read_dataset(maker.root, filters={"dwi": query}))["01", None] == names


def test_filters_choose_t1w_and_fmap(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for acq in "ab":
        maker.image(f"sub-01_acq-{acq}_T1w.nii.gz")
        maker.image(f"sub-01_acq-{acq}_dir-PA_epi.nii.gz")
        metadata = {**maker.PA, "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}
        maker.json(f"sub-01_acq-{acq}_dir-PA_epi.json", metadata)
    query = {"acquisition": "b"}
    dataset = read_dataset(maker.root, filters={"t1w": query, "fmap": query, "bold": {}})
    (visit,) = dataset.participants[0].sessions
    assert [path.name for path in visit.t1w] == ["sub-01_acq-b_T1w.nii.gz"]
    (series,) = visit.series
    assert [image.entities["acquisition"] for image in series.reverse] == ["b"]


def test_filter_file(tmp_path) -> None:
    path = tmp_path / "filter.json"
    path.write_text('{"dwi": {"acquisition": "x"}, "bold": {"task": "rest"}}')
    assert read_filter_file(path)["dwi"] == {"acquisition": "x"}


@pytest.mark.parametrize("text", ["", "[1]", '{"dwi": 3}', '{"DWI": {}}', '{"dwi": ["x"]}'])
def test_bad_filter_file_is_named(tmp_path, text) -> None:
    path = tmp_path / "filter.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_filter_file(path)
    assert caught.value.path == path
    assert caught.value.expected


def test_missing_filter_file_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_filter_file(tmp_path / "none.json")
