from __future__ import annotations

import pytest

from dmri_fm_workflows.bids.scans import readout_time_s, why_no_signal

ORIGINAL = {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "M"]}


@pytest.mark.parametrize(
    ("entities", "metadata"),
    [
        ({"part": "phase"}, {}),
        ({"part": "real"}, ORIGINAL),
        ({"part": "imag"}, {}),
        ({"desc": "ADC"}, {}),
        ({"acquisition": "ADC"}, {}),
        ({"acquisition": "b1000TRACEW"}, {}),
        ({"reconstruction": "FA"}, {}),
        ({"reconstruction": "colFA"}, {}),
        ({}, {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "NORM"]}),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "ADC"]}),
        ({}, {"ImageType": "DERIVED\\PRIMARY\\DIFFUSION\\FA"}),
        ({}, {"ImageType": ["DERIVED", "SECONDARY"]}),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}),
        ({}, {"SeriesDescription": "ep2d_diff_ColFA"}),
    ],
)
def test_phase_images_and_scanner_maps_are_no_signal(entities, metadata) -> None:
    assert why_no_signal(entities, metadata)


@pytest.mark.parametrize(
    ("entities", "metadata"),
    [
        ({}, {}),
        ({"part": "mag", "acquisition": "FAST"}, ORIGINAL),
        ({"acquisition": "sofa"}, ORIGINAL),
        ({}, {"ImageType": 3}),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "VFRAME", "MAGNITUDE"]}),
        ({}, {"ImageType": ["ORIGINAL", "PRIMARY", "GDC"]}),
        ({}, {"ImageType": ["ORIGINAL"], "SeriesDescription": "protocol_FA"}),
    ],
)
def test_measured_magnitude_is_signal(entities, metadata) -> None:
    assert why_no_signal(entities, metadata) == ""


def test_derived_signal_with_a_full_set_of_directions_is_taken() -> None:
    derived = {"ImageType": ["DERIVED", "PRIMARY", "M", "DIS2D"]}
    assert why_no_signal({}, derived, n_directions=30) == ""
    assert why_no_signal({}, derived, n_directions=3)
    tracew = {"ImageType": ["DERIVED", "PRIMARY", "TRACEW"]}
    assert why_no_signal({}, tracew, n_directions=30)


@pytest.mark.parametrize(
    ("metadata", "n_lines", "readout"),
    [
        ({"TotalReadoutTime": 0.05, "EffectiveEchoSpacing": 1.0, "ReconMatrixPE": 9}, 7, 0.05),
        ({"EffectiveEchoSpacing": 0.001, "ReconMatrixPE": 51}, 7, 0.05),
        ({"EffectiveEchoSpacing": 0.001}, 51, 0.05),
        ({"EffectiveEchoSpacing": 0.001}, None, None),
        ({"ReconMatrixPE": 51}, 51, None),
        ({"TotalReadoutTime": "0.05"}, None, None),
        ({"TotalReadoutTime": 0}, None, None),
        ({"TotalReadoutTime": -0.05}, None, None),
        ({"TotalReadoutTime": 47.5}, None, None),
        ({}, 51, None),
    ],
)
def test_readout_time(metadata, n_lines, readout) -> None:
    assert readout_time_s(metadata, n_lines) == (
        None if readout is None else pytest.approx(readout)
    )
