"""Direction words of file names against the metadata."""

from __future__ import annotations

import numpy as np
import pytest

LINK = {"IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}


@pytest.mark.parametrize(
    ("stems", "encodings", "words"),
    [
        (["dir-AP_dwi", "dir-PA_dwi"], ["j", "j"], ["one direction", "dir-AP and dir-PA"]),
        (["dir-AP_run-1_dwi", "dir-AP_run-2_dwi"], ["j", "j-"], ["opposite directions", "dir-AP"]),
        (["dir-LR_dwi", "dir-rl_dwi"], ["i-", "i-"], ["one direction", "dir-LR and dir-rl"]),
        (["acq-AP_dwi", "acq-PA_dwi"], ["j", "j"], ["one direction", "acq-AP and acq-PA"]),
        (["acq-b1AP_dwi", "acq-b2PA_dwi"], ["j", "j"], ["one direction", "acq-b1AP and acq-b2PA"]),
    ],
)
def test_labels_that_contradict_the_metadata_are_warned_of(maker, stems, encodings, words) -> None:
    for stem, encoding in zip(stems, encodings, strict=True):
        said = {"PhaseEncodingDirection": encoding, "TotalReadoutTime": 0.05}
        maker.dwi(f"sub-01_{stem}", metadata=said)
    (warning,) = maker.session().warnings
    for word in (*words, *(f"sub-01_{stem}.nii.gz" for stem in stems)):
        assert word in warning


def test_contradiction_of_an_image_in_fmap_is_warned_of(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-PA_epi", {**maker.AP, **LINK})
    (warning,) = maker.session().warnings
    assert "sub-01_dir-AP_dwi.nii.gz and sub-01_dir-PA_epi.nii.gz" in warning


def test_labels_are_compared_in_the_scanner_s_frame(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    # Stored with the second axis reversed, `j-` runs the other way.
    flipped = np.diag([-2.0, -2.0, 2.0, 1.0])
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.AP, affine=flipped)
    assert maker.session().warnings == ()


@pytest.mark.parametrize(
    ("stems", "encodings", "named"),
    [
        (["dir-AP", "dir-PA"], ["j", "i"], ["dir-PA"]),
        (["dir-LR", "dir-RL"], ["j", "j-"], ["dir-LR", "dir-RL"]),
        (["acq-HF"], ["j"], ["acq-HF"]),
        (["acq-SNAP", "acq-map"], ["i", "i-"], []),  # no direction words
        (["dir-1", "dir-2"], ["i", "i"], []),
        (["acq-AP_dir-1", "acq-AP_dir-2"], ["j", "j-"], []),
    ],
)
def test_axis_that_the_label_does_not_name_is_warned_of(maker, stems, encodings, named) -> None:
    for stem, encoding in zip(stems, encodings, strict=True):
        said = {"PhaseEncodingDirection": encoding, "TotalReadoutTime": 0.05}
        maker.dwi(f"sub-01_{stem}_dwi", metadata=said)
    warnings = maker.session().warnings
    assert len(warnings) == len(named)
    for label, warning in zip(named, warnings, strict=True):
        assert f"under the label {label}." in warning


def test_opposite_words_of_directions_that_are_not_opposed(maker) -> None:
    # The first is turned by 50 degrees: each is near its axis, and they do not oppose each other.
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP, affine=maker.turned(-50))
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA, affine=maker.turned(0))
    (warning,) = maker.session().warnings
    assert "directions not opposed, under the opposite labels dir-AP and dir-PA" in warning
