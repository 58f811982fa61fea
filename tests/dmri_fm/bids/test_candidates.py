"""Which images may correct a series at all: measured signal, of this participant, well described."""

from __future__ import annotations

import pytest

LINK = {"IntendedFor": "dwi/sub-01_dwi.nii.gz"}


def only_series(maker):
    (visit,), problems = maker.read()
    assert not problems, [str(p.error) for p in problems]
    return visit.series[0]


def reasons(series) -> dict[str, str]:
    return {u.path.name.split(".")[0]: u.reason for u in series.unused}


def epi(maker, stem: str, said: dict) -> None:
    maker.image(f"{stem}.nii.gz")
    maker.json(f"{stem}.json", {**maker.PA, **said})


# Phase images and maps


@pytest.mark.parametrize(
    ("stem", "image_type", "why"),
    [
        ("sub-01_dir-PA_part-phase_epi", ["ORIGINAL", "P"], "its name has part-phase"),
        ("sub-01_acq-ADC_dir-PA_epi", ["ORIGINAL", "M"], "its name has acq-ADC"),
        ("sub-01_dir-PA_epi", ["ORIGINAL", "PRIMARY", "P"], "its ImageType has P"),
        ("sub-01_dir-PA_epi", ["DERIVED", "DIFFUSION", "ADC"], "its ImageType has ADC"),
    ],
)
def test_fmap_image_that_is_no_signal_corrects_nothing(maker, stem, image_type, why) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    epi(maker, stem, {"ImageType": image_type, **LINK})
    series = only_series(maker)
    assert series.blip_pair is None
    assert reasons(series) == {stem: f"it is no measured signal: {why}"}


def test_magnitude_is_used_beside_phase_and_adc(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    for middle in ("acq-ADC_dir-PA", "dir-PA_part-mag", "dir-PA_part-phase"):
        epi(maker, f"sub-01_{middle}_epi", LINK)
    series = only_series(maker)
    assert series.outside_image.path.name == "sub-01_dir-PA_part-mag_epi.nii.gz"
    assert set(reasons(series)) == {"sub-01_acq-ADC_dir-PA_epi", "sub-01_dir-PA_part-phase_epi"}


def test_linked_phase_image_of_another_session_corrects_nothing(maker) -> None:
    link = {"IntendedFor": "ses-2/dwi/sub-01_ses-2_dwi.nii.gz"}
    maker.dwi("sub-01_ses-2_dwi", metadata=maker.AP)
    epi(maker, "sub-01_ses-1_dir-PA_part-phase_epi", link)
    series = only_series(maker)
    assert series.blip_pair is None
    assert "part-phase" in reasons(series)["sub-01_ses-1_dir-PA_part-phase_epi"]
