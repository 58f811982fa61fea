"""Gradient-echo field maps: which can correct a series, and why others cannot."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest

LINK = {"IntendedFor": "bids::sub-01/dwi/sub-01_dir-AP_dwi.nii.gz"}

#: Sidecars of each method that can be used, by suffix.
SOUND: dict[str, dict[str, dict[str, Any]]] = {
    "phasediff": {"phasediff": {"EchoTime1": 0.005, "EchoTime2": 0.0075}, "magnitude1": {}},
    "phase1phase2": {
        "phase1": {"EchoTime": 0.005}, "phase2": {"EchoTime": 0.0075}, "magnitude1": {},
    },
    "fieldmap": {"fieldmap": {"Units": "Hz"}, "magnitude": {}},
}  # fmt: skip


def write(maker, sidecars, **images) -> None:
    """Write a series and a field map that is linked to it; `images` are arguments by suffix."""
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for suffix, said in sidecars.items():
        maker.epi(f"sub-01_{suffix}", {**said, **LINK}, **images.get(suffix, {}))


@pytest.mark.parametrize("method", SOUND)
def test_a_linked_field_map_of_each_method_can_be_used(maker, method) -> None:
    write(maker, SOUND[method])
    series = maker.only_series()
    fieldmap = series.usable_fieldmap
    assert (fieldmap.method, fieldmap.problem) == (method, "")
    names = [path.name.split(".")[0] for path in fieldmap.images]
    assert names == [f"sub-01_{suffix}" for suffix in SOUND[method]]
    assert fieldmap.echo_times_s == (None if method == "fieldmap" else (0.005, 0.0075))
    assert series.unused == ()


def test_echo_times_may_stand_beside_the_magnitude_images(maker) -> None:
    write(
        maker,
        {"phasediff": {}, "magnitude1": {"EchoTime": 0.005}, "magnitude2": {"EchoTime": 0.0075}},
    )
    assert maker.only_series().usable_fieldmap.echo_times_s == (0.005, 0.0075)


@pytest.mark.parametrize(
    ("sidecars", "images", "reason"),
    [
        ({"phasediff": {}, "magnitude1": {}}, {}, "EchoTime1 and EchoTime2 are missing"),
        (
            {"phasediff": {"EchoTime1": 5, "EchoTime2": 7.5}, "magnitude1": {}},
            {},
            "echo times of 5 and 7.5 s; expected a second echo that is 0.0002 to 0.02 s later",
        ),
        (
            {"phasediff": {"EchoTime1": 0.005, "EchoTime2": 0.005}, "magnitude1": {}},
            {},
            "echo times of 0.005 and 0.005 s",
        ),
        ({"phasediff": SOUND["phasediff"]["phasediff"]}, {}, "it has no magnitude image"),
        ({"phase1": {"EchoTime": 0.005}, "magnitude1": {}}, {}, "phase1 and phase2 is missing"),
        ({"fieldmap": {}, "magnitude": {}}, {}, "its Units are missing, not one of Hz, rad/s, T"),
        ({"fieldmap": {"Units": "ppm"}, "magnitude": {}}, {}, "its Units are 'ppm'"),
        (SOUND["phasediff"], {"magnitude1": {"shape": (6, 6, 5)}}, "on another grid than"),
        (
            SOUND["fieldmap"],
            {"magnitude": {"affine": np.diag([-2.0, 2.0, 2.5, 1.0])}},
            "on another grid than",
        ),
        (
            SOUND["fieldmap"],
            {suffix: {"shape": (6, 6, 1)} for suffix in ("fieldmap", "magnitude")},
            "has 1 slices, fewer than 3",
        ),
        (SOUND["phasediff"], {"phasediff": {"shape": (6, 6, 4, 2)}}, "cannot be read"),
    ],
)
def test_a_linked_field_map_that_cannot_be_used_has_its_reason(
    maker, sidecars, images, reason
) -> None:
    write(maker, sidecars, **images)
    series = maker.only_series()
    assert series.usable_fieldmap is None
    (fieldmap,) = series.fieldmaps
    assert reason in fieldmap.problem
    assert all(reason in text for text in maker.reasons(series).values())


@pytest.mark.parametrize(
    ("method", "suffix", "values", "reason"),
    [
        ("phasediff", "phasediff", (-500, 496), "-500 to 496, fit no scale of phase images"),
        ("phasediff", "phasediff", (7, 7), "all equal"),
        ("phase1phase2", "phase2", (0, 900), "fit no scale"),
        ("phasediff", "magnitude1", (0, 0), "sub-01_magnitude1.nii.gz is empty"),
        ("fieldmap", "fieldmap", (3, 3), "sub-01_fieldmap.nii.gz is constant"),
    ],
)
def test_a_field_map_of_unusable_values_has_its_reason(
    maker, method, suffix, values, reason
) -> None:
    write(maker, SOUND[method])
    path = next(maker.root.rglob(f"sub-01_{suffix}.nii.gz"))
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.resize(np.int16(values), image.shape), None, image.header), path)
    series = maker.only_series()
    assert series.usable_fieldmap is None
    assert reason in series.fieldmaps[0].problem


def test_a_field_map_of_another_space_is_not_used(maker) -> None:
    away = np.diag([-2.0, 2.0, 2.0, 1.0])
    away[2, 3] = 100
    write(
        maker, SOUND["phasediff"],
        **{suffix: {"affine": away} for suffix in ("phasediff", "magnitude1")},
    )  # fmt: skip
    (fieldmap,) = maker.only_series().fieldmaps
    assert "covers 0% of the field of view of the series" in fieldmap.problem


@pytest.mark.parametrize("word", ["fieldmaps", "sbref", "t1w"])
def test_ignored_images_are_named(maker, word) -> None:
    phase = {**SOUND["phasediff"]["phasediff"], "ImageType": ["ORIGINAL", "PRIMARY", "P"]}
    write(maker, {**SOUND["phasediff"], "phasediff": phase})
    maker.image("sub-01_T1w.nii.gz")
    maker.epi("sub-01_dir-PA_sbref", maker.PA)
    session = maker.session(ignored=(word,))
    (series,) = session.series
    assert (series.usable_fieldmap is None) == (word == "fieldmaps")
    assert (series.blip_pair is None) == (word == "sbref")
    assert bool(session.t1w) == (word != "t1w")
    named = [name for name, why in maker.reasons(series).items() if f"--ignore {word}" in why]
    expected = {"fieldmaps": ["sub-01_phasediff"], "sbref": ["sub-01_dir-PA_sbref"], "t1w": []}
    assert named == expected[word]


@pytest.mark.parametrize(
    ("suffixes", "named"),
    [
        (("phasediff", "magnitude1"), ["phasediff"]),
        (("phase1", "phase2", "magnitude1"), ["phase1", "phase2"]),
        (("fieldmap", "magnitude"), ["fieldmap"]),
    ],
)
def test_gradient_echo_field_maps_are_named(maker, suffixes, named) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for suffix in suffixes:
        maker.epi(f"sub-01_{suffix}", {})
    found = maker.reasons(maker.only_series())
    assert list(found) == [f"sub-01_{suffix}" for suffix in named]
    assert all("does not say for which scans it is: add IntendedFor" in t for t in found.values())


@pytest.mark.parametrize("is_sound", [True, False])
def test_a_broken_field_map_is_not_replaced_by_that_of_another_session(maker, is_sound) -> None:
    maker.dwi("sub-01_ses-a_dwi", metadata=maker.AP)
    maker.dwi("sub-01_ses-b_dwi", metadata={**maker.AP, "B0FieldSource": "gre"})
    for visit in ("a", "b"):
        echoes = SOUND["phasediff"]["phasediff"] if is_sound or visit == "a" else {}
        maker.epi(f"sub-01_ses-{visit}_phasediff", {**echoes, "B0FieldIdentifier": "gre"})
        maker.epi(f"sub-01_ses-{visit}_magnitude1", {})
    series = maker.only_series()
    (fieldmap,) = series.fieldmaps
    assert fieldmap.sources[0].name == "sub-01_ses-b_phasediff.nii.gz"
    assert (series.usable_fieldmap is not None) == is_sound
    reason = maker.reasons(series)["sub-01_ses-a_phasediff"]
    assert "is of another session, and the series' own session has images with" in reason
