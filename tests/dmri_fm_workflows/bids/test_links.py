"""What IntendedFor and the names of B0 fields lead to, form by form."""

from __future__ import annotations

import pytest

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.bids.links import resolve_link

TARGET = "sub-01/ses-a/dwi/sub-01_ses-a_dir-AP_dwi.nii.gz"
IN_SESSION = TARGET.removeprefix("sub-01/")


@pytest.fixture
def visit(maker):
    """A run and an image of the opposite direction, in a session; no links yet."""
    maker.dwi("sub-01_ses-a_dir-AP_dwi", metadata=maker.AP)
    maker.image("sub-01_ses-a_dir-PA_epi.nii.gz")
    return maker


def link(maker, **said) -> DwiSeries:
    """Give the image its metadata; return the series that is read."""
    maker.json("sub-01_ses-a_dir-PA_epi.json", {**maker.PA, **said})
    return maker.only_series()


def source(maker, **said) -> None:
    """Give the run its metadata."""
    maker.json("sub-01_ses-a_dir-AP_dwi.json", {**maker.AP, **said})


def reason(series: DwiSeries) -> str:
    """Return why the only other image is not used."""
    assert series.blip_pair is None
    (unused,) = series.unused
    assert unused.path.name == "sub-01_ses-a_dir-PA_epi.nii.gz"
    return unused.reason


@pytest.mark.parametrize("text", [IN_SESSION, f"bids::{TARGET}"])
def test_forms_of_bids_are_followed_without_a_word(visit, text) -> None:
    series = link(visit, IntendedFor=text)
    assert series.pair_reason == "linked by IntendedFor"
    assert series.outside_image.path.name == "sub-01_ses-a_dir-PA_epi.nii.gz"
    assert series.warnings == series.unused == ()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TARGET, id="with sub-"),
        pytest.param("dwi/sub-01_ses-a_dir-AP_dwi.nii.gz", id="no ses- folder"),
        pytest.param("dwi/sub-01_dir-AP_dwi.nii.gz", id="no ses- at all"),
        pytest.param("sub-01_ses-a_dir-AP_dwi.nii.gz", id="file name alone"),
        pytest.param(IN_SESSION.removesuffix(".gz"), id=".nii"),
        pytest.param(f"./{IN_SESSION}", id="./"),
        pytest.param(f"/{IN_SESSION}", id="/"),
        pytest.param(f"/data/bids/{TARGET}", id="absolute, of another machine"),
        pytest.param("../dwi/sub-01_ses-a_dir-AP_dwi.nii.gz", id="from the image's folder"),
        pytest.param(IN_SESSION.replace("/", "\\"), id="backslashes"),
        pytest.param(f"bids::{IN_SESSION}", id="bids:: without sub-"),
        pytest.param(f"bids::/{TARGET}", id="bids::/"),
        pytest.param(f"bids:{TARGET}", id="one colon"),
        pytest.param([f"bids::{TARGET}".removesuffix(".gz")], id="bids:: .nii, listed"),
    ],
)
def test_other_forms_that_mean_one_file_are_followed_and_the_right_form_is_named(
    visit, text
) -> None:
    series = link(visit, IntendedFor=text)
    assert series.pair_reason == "linked by IntendedFor"
    (warning,) = series.warnings
    written = text[0] if isinstance(text, list) else text
    for word in ("sub-01_ses-a_dir-PA_epi.nii.gz", repr(written), f"'bids::{TARGET}'"):
        assert word in warning


def test_link_to_the_compressed_name_of_a_plain_file_is_followed(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP).unlink()
    maker.image("sub-01_dwi.nii", shape=(6, 6, 4, 7))
    maker.image("sub-01_epi.nii.gz")
    maker.json("sub-01_epi.json", {**maker.PA, "IntendedFor": "dwi/sub-01_dwi.nii.gz"})
    series = maker.only_series()
    assert series.pair_reason == "linked by IntendedFor"
    assert "'bids::sub-01/dwi/sub-01_dwi.nii'" in series.warnings[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["IntendedFor is empty"]),
        ([], ["IntendedFor is empty"]),
        ([""], ["IntendedFor is empty"]),
        (
            "ses-a/dwi/sub-01_ses-a_dir-AP_run-01_dwi.nii.gz",
            [
                "names 'ses-a/dwi/sub-01_ses-a_dir-AP_run-01_dwi.nii.gz', which does not exist",
                "nearest name is sub-01_ses-a_dir-AP_dwi.nii.gz",
            ],
        ),
        ("bids::sub-01/func/x_bold.nii.gz", ["'bids::sub-01/func/x_bold.nii.gz', which does not"]),
        ("bids::sub-02/dwi/sub-02_dwi.nii.gz", ["of another participant"]),
        ("sub-02/dwi/sub-02_dwi.nii.gz", ["of another participant"]),
        (f"bids:other:{TARGET}", ["in another dataset"]),
        ("ses-a/fmap/sub-01_ses-a_dir-PA_epi.nii.gz", ["names other scans: sub-01_ses-a_dir-PA"]),
        ("x" * 5000, ["which does not exist"]),
        ("a\x00b", ["which does not exist"]),
    ],
)
def test_links_that_lead_nowhere_are_the_reason(visit, text, said) -> None:
    found = reason(link(visit, IntendedFor=text))
    for word in said:
        assert word in found


def test_of_many_dead_links_the_first_are_named(visit) -> None:
    found = reason(link(visit, IntendedFor=[f"func/{n}_bold.nii.gz" for n in range(9)]))
    assert "'func/1_bold.nii.gz', which does not exist; and 7 more of its links" in found
    assert len(reason(link(visit, IntendedFor="x" * 5000))) < 300


def test_image_that_says_nothing_is_named_with_what_to_add(visit) -> None:
    found = reason(link(visit))
    assert found.startswith("it does not say for which scans it is")
    assert "add IntendedFor or B0FieldIdentifier" in found


def test_link_never_leaves_the_participant(visit) -> None:
    visit.dwi("sub-02_dwi", metadata=visit.AP)
    image = visit.path("sub-01_ses-a_dir-PA_epi.nii.gz")
    for text in ("../../../sub-02/dwi/sub-02_dwi.nii.gz", "../sub-02/dwi/sub-02_dwi.nii.gz"):
        assert resolve_link(text, image=image, root=visit.root).target is None


# B0FieldIdentifier and B0FieldSource


@pytest.mark.parametrize(
    ("sources", "identifiers"),
    [("f", "f"), (["f", "g"], ["g", "f"]), ("f", ["g", "f"]), (["f"], ["f"])],
)
def test_field_that_both_name_ties_them(visit, sources, identifiers) -> None:
    source(visit, B0FieldSource=sources)
    series = link(visit, B0FieldIdentifier=identifiers)
    assert series.pair_reason.startswith("linked by B0FieldSource")
    assert series.warnings == series.unused == ()


def test_source_that_no_image_has_is_named_with_the_nearest(visit) -> None:
    source(visit, B0FieldSource="pepolar0")
    series = link(visit, B0FieldIdentifier="pepolar_0")
    assert "'pepolar_0', is not the B0FieldSource of the series, 'pepolar0'" in reason(series)
    (warning,) = series.warnings
    assert "'pepolar0' is the B0FieldIdentifier of no image" in warning
    assert "nearest is 'pepolar_0', of sub-01_ses-a_dir-PA_epi.nii.gz" in warning


def test_identifier_that_no_series_names_is_told_what_to_add(visit) -> None:
    found = reason(link(visit, B0FieldIdentifier="f"))
    assert "its B0FieldIdentifier, 'f', is the B0FieldSource of no run of this session" in found
    assert 'add "B0FieldSource": "f"' in found


def test_source_decides_over_a_link(visit) -> None:
    source(visit, B0FieldSource="f")
    series = link(visit, IntendedFor=IN_SESSION)
    assert "whose B0FieldSource, 'f', decides, and it has no B0FieldIdentifier" in reason(series)
    assert "'f' is the B0FieldIdentifier of no image" in series.warnings[0]


def test_identifier_that_run_and_image_share_ties_them_with_a_warning(visit) -> None:
    source(visit, B0FieldIdentifier="f")
    series = link(visit, B0FieldIdentifier="f")
    assert series.pair_reason == "linked by B0FieldIdentifier 'f' of both"
    assert 'Add "B0FieldSource": "f"' in series.warnings[0]


def test_image_of_another_series_says_so(maker) -> None:
    for acq in "ab":
        said = {**maker.AP, "B0FieldSource": f"field-{acq}"}
        maker.dwi(f"sub-01_acq-{acq}_dir-AP_dwi", metadata=said)
        maker.image(f"sub-01_acq-{acq}_dir-PA_epi.nii.gz")
        said = {**maker.PA, "B0FieldIdentifier": f"field-{acq}"}
        maker.json(f"sub-01_acq-{acq}_dir-PA_epi.json", said)
    ((a, b),) = [visit.series for visit in maker.read()[0]]
    for series, acq, other in ((a, "a", "b"), (b, "b", "a")):
        assert series.outside_image.path.name == f"sub-01_acq-{acq}_dir-PA_epi.nii.gz"
        reasons = {u.path.name: u.reason for u in series.unused}
        assert (
            f"'field-{other}', is for sub-01_acq-{other}_dir-AP_dwi.nii.gz"
            in reasons[f"sub-01_acq-{other}_dir-PA_epi.nii.gz"]
        )


def test_field_map_whose_magnitude_alone_has_the_link_is_meant_for_the_series(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    for suffix in ("phasediff", "magnitude1"):
        maker.image(f"sub-01_{suffix}.nii.gz")
    maker.json("sub-01_magnitude1.json", {"IntendedFor": "dwi/sub-01_dwi.nii.gz"})
    series = maker.only_series()
    assert len(series.fieldmaps) == 1
    (unused,) = series.unused
    assert unused.path.name == "sub-01_phasediff.nii.gz"
    assert "EchoTime1 and EchoTime2 are missing" in unused.reason
