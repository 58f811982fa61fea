"""Single scans: measured signal or not, readout time, and faults of their files."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.distortion import ASSUMED_READOUT_S
from dmri_fm.errors import InputError
from dmri_fm_workflows.bids import read_dataset
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


# One bad scan, and others that go on


def spoil_image(change):
    def spoil(maker):
        path = maker.path("sub-02_dwi.nii.gz")
        change(path)
        return path

    return spoil


def spoil_text(name, text):
    def spoil(maker):
        path = maker.path(name)
        path.write_text(text)
        return path

    return spoil


def remove(name):
    def spoil(maker):
        path = maker.path(name)
        path.unlink()
        return path

    return spoil


def replace_image(shape):
    return lambda maker: maker.image("sub-02_dwi.nii.gz", shape=shape)


def disagreeing_forms(path):
    image = nib.load(path)
    image.set_sform(np.diag([2.0, 2, 2, 1]), code=1)
    nib.save(image, path)


def dangling_link(path):
    path.unlink()
    path.symlink_to("../../.git/annex/objects/none")


SEVEN = " ".join(["0"] + ["1000"] * 6)
UNIT = ["0 1 1 1 1 1 1", "0 0 0 0 0 0 0", "0 0 0 0 0 0 0"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(remove("sub-02_dwi.bval"), ["missing", "b-values"], id="no bval"),
        pytest.param(remove("sub-02_dwi.bvec"), ["missing", "b-vectors"], id="no bvec"),
        pytest.param(spoil_text("sub-02_dwi.bval", ""), ["empty"], id="empty bval"),
        pytest.param(spoil_text("sub-02_dwi.bvec", " \n"), ["empty"], id="empty bvec"),
        pytest.param(
            spoil_text("sub-02_dwi.bval", "0 1000 1000"),
            ["3 b-values", "7 volumes"],
            id="bval count",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bvec", "1 0\n0 1\n0 0"),
            ["3 rows of 2", "7 volumes"],
            id="bvec count",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bvec", "1 0 0\n" * 7), ["transposed"], id="transposed bvec"
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bvec", "\n".join(UNIT).replace("1", "30")),
            ["length 30"],
            id="unnormalised bvec",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bvec", "\n".join(UNIT).replace("1", "nan")),
            ["6 volumes", "direction"],
            id="NaN bvec",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bval", "0 1 1 1 1 1 1"), ["s/mm^2", "1000"], id="ms/um^2"
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bval", SEVEN.replace("1000", "1e9")),
            ["s/mm^2", "1e6"],
            id="s/m^2",
        ),
        pytest.param(
            spoil_text("sub-02_dwi.bval", "0 x 1 1 1 1 1"), ["not a number"], id="bval words"
        ),
        pytest.param(spoil_text("sub-02_dwi.json", "{"), ["JSON"], id="broken sidecar"),
        pytest.param(replace_image((6, 6, 4)), ["3 dimensions", "4 dimensions"], id="3-D"),
        pytest.param(replace_image((6, 6, 4, 7, 2)), ["5 dimensions"], id="5-D"),
        pytest.param(spoil_image(lambda p: p.write_bytes(b"")), ["zero bytes"], id="zero bytes"),
        pytest.param(
            spoil_image(lambda p: p.write_bytes(p.read_bytes()[:40])),
            ["cannot be opened"],
            id="truncated header",
        ),
        pytest.param(
            spoil_image(lambda p: p.write_bytes(b"no image" * 99)),
            ["cannot be opened"],
            id="no image",
        ),
        pytest.param(spoil_image(disagreeing_forms), ["qform and sform disagree"], id="forms"),
        pytest.param(spoil_image(dangling_link), ["datalad get"], id="dangling link"),
    ],
)
def test_bad_scan_is_named_and_the_others_go_on(maker, spoil, words) -> None:
    for label in ("01", "02", "03"):
        maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
    path = spoil(maker)
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["01", "03"]
    (problem,) = dataset.problems
    assert (problem.participant, problem.path) == ("02", path)
    assert isinstance(problem.error, InputError)
    assert problem.error.expected
    assert problem.error.advice
    for word in [str(path), *words]:
        assert word in str(problem.error)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, ["no JSON sidecar"]),
        ({"TotalReadoutTime": 0.05}, ["PhaseEncodingDirection is missing"]),
        ({"PhaseEncodingDirection": "AP"}, ["'AP'", "i, i-, j"]),
        (
            {"PhaseEncodingDirection": "j"},
            [
                "TotalReadoutTime is missing, so a readout time is assumed",
                f"or {ASSUMED_READOUT_S} s",
                "not on the number; the field in Hz scales with it",
            ],
        ),
        ({"PhaseEncodingDirection": "j", "TotalReadoutTime": 50}, ["50", "no time in seconds"]),
    ],
)
def test_missing_metadata_is_accepted_and_said_so(maker, metadata, words) -> None:
    maker.dwi("sub-01_dwi", metadata=metadata)
    dataset = read_dataset(maker.root)
    assert dataset.problems == ()
    (series,) = dataset.participants[0].sessions[0].series
    (warning,) = series.warnings
    for word in ["sub-01_dwi.nii.gz", *words]:
        assert word in warning
    assert series.blip_pair is None


@pytest.mark.parametrize("vector", ["nan", "0", "0.3"])
def test_vector_of_a_b0_volume_does_not_matter(maker, vector) -> None:
    maker.dwi("sub-01_dwi", bvals=[8, *[1000] * 6], metadata=maker.AP)
    path = maker.path("sub-01_dwi.bvec")
    bvecs = np.loadtxt(path)
    bvecs[:, 0] = float(vector)
    np.savetxt(path, bvecs)
    run = read_dataset(maker.root).participants[0].sessions[0].series[0].runs[0]
    assert run.has_b0
    assert run.load().gtab.bvecs_ras[0].tolist() == [0, 0, 0]


def test_missing_orientation_is_said_so(maker) -> None:
    path = maker.dwi("sub-01_dwi", metadata=maker.AP)
    image = nib.load(path)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, path)
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert "qform_code and sform_code are 0" in series.warnings[0]
