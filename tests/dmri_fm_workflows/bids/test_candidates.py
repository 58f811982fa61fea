"""Which images may correct a series at all: measured signal of this participant."""

from __future__ import annotations

import pytest

from dmri_fm_workflows.bids import read_dataset

LINK = {"IntendedFor": "dwi/sub-01_dwi.nii.gz"}


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
    maker.epi(stem, {**maker.PA, **{"ImageType": image_type, **LINK}})
    series = maker.only_series()
    assert series.blip_pair is None
    assert maker.reasons(series) == {stem: f"it is no measured signal: {why}"}


def test_magnitude_is_used_beside_phase_and_adc(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    for middle in ("acq-ADC_dir-PA", "dir-PA_part-mag", "dir-PA_part-phase"):
        maker.epi(f"sub-01_{middle}_epi", {**maker.PA, **LINK})
    series = maker.only_series()
    assert series.outside_image.path.name == "sub-01_dir-PA_part-mag_epi.nii.gz"
    assert set(maker.reasons(series)) == {
        "sub-01_acq-ADC_dir-PA_epi",
        "sub-01_dir-PA_part-phase_epi",
    }


def test_linked_phase_image_of_another_session_corrects_nothing(maker) -> None:
    link = {"IntendedFor": "ses-2/dwi/sub-01_ses-2_dwi.nii.gz"}
    maker.dwi("sub-01_ses-2_dwi", metadata=maker.AP)
    maker.epi("sub-01_ses-1_dir-PA_part-phase_epi", {**maker.PA, **link})
    series = maker.only_series()
    assert series.blip_pair is None
    assert "part-phase" in maker.reasons(series)["sub-01_ses-1_dir-PA_part-phase_epi"]


# Links to another participant's files


def link(path, target) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("extension", [".nii.gz", ".bval", ".bvec", ".json"])
def test_link_to_another_participants_file_is_refused(maker, extension) -> None:
    for label in ("01", "02"):
        maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
    path = maker.path(f"sub-01_dwi{extension}")
    link(path, f"../../sub-02/dwi/sub-02_dwi{extension}")
    visits, problems = maker.read()
    assert not visits
    assert [p.path for p in problems] == [path]
    assert f"a link to sub-02/dwi/sub-02_dwi{extension}" in str(problems[0].error)


def test_linked_folder_of_another_participant_is_refused(maker) -> None:
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    for file in list((maker.root / "sub-02/dwi").iterdir()):
        file.rename(file.with_name(file.name.replace("sub-02", "sub-01")))
    (maker.root / "sub-01").mkdir()
    (maker.root / "sub-01/dwi").symlink_to("../sub-02/dwi")
    visits, problems = maker.read()
    assert not visits
    assert "data of another participant" in str(problems[0].error)


@pytest.mark.parametrize("store", [".git/annex/objects/a", "../elsewhere", "sub-01/shared"])
def test_links_to_stores_and_own_files_are_followed(maker, store) -> None:
    image = maker.dwi("sub-01_dwi", metadata=maker.AP)
    kept = maker.root / store
    kept.mkdir(parents=True)
    image.rename(kept / "key.nii.gz")
    image.symlink_to(kept / "key.nii.gz")
    assert maker.only_series().runs[0].path == image


# Other sessions, and images outside the sessions


def test_field_of_the_series_own_session_comes_first(maker) -> None:
    field = {"B0FieldIdentifier": "f", "B0FieldSource": "f"}
    maker.dwi("sub-01_ses-1_dir-PA_dwi", metadata={**maker.PA, **field})
    maker.dwi("sub-01_ses-2_dir-AP_dwi", metadata={**maker.AP, **field})
    visits, problems = maker.read()
    assert not problems
    for visit, other in zip(visits, ("ses-2_dir-AP", "ses-1_dir-PA"), strict=True):
        assert visit.series[0].blip_pair is None
        reason = maker.reasons(visit.series[0])[f"sub-01_{other}_dwi"]
        assert reason.startswith("it is of another session, and the series' own session has")


def test_unlinked_image_outside_the_sessions_is_named(maker) -> None:
    maker.dwi("sub-01_ses-2_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-PA_epi", maker.PA)
    series = maker.only_series()
    assert series.blip_pair is None
    assert maker.reasons(series)["sub-01_dir-PA_epi"].startswith(
        "it does not say for which scans it is"
    )


def test_linked_image_outside_the_sessions_is_not_called_one_of_another(maker) -> None:
    maker.dwi("sub-01_ses-2_dwi", metadata=maker.AP)
    maker.epi(
        "sub-01_dir-PA_epi", {**maker.PA, **{"IntendedFor": "ses-2/dwi/sub-01_ses-2_dwi.nii.gz"}}
    )
    series = maker.only_series()
    assert series.outside_image.path.name == "sub-01_dir-PA_epi.nii.gz"
    (warning,) = (w for w in series.warnings if "corrects" in w)
    assert "lies outside the sessions: if it is of another visit" in warning
    assert "of another session" not in warning


# .bidsignore covers gradient files


@pytest.mark.parametrize("extension", [".bval", ".bvec"])
def test_ignored_gradient_file_is_not_read_and_named(maker, extension) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    (maker.root / ".bidsignore").write_text(f"*{extension}\n")
    visits, (problem,) = maker.read()
    assert not visits
    assert problem.path == maker.path(f"sub-01_dwi{extension}")
    assert "left out by .bidsignore" in str(problem.error)


def test_inherited_gradient_file_takes_the_place_of_an_ignored_one(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    inherited = maker.root / "dwi.bvec"
    inherited.write_bytes(maker.path("sub-01_dwi.bvec").read_bytes())
    (maker.root / ".bidsignore").write_text("sub-*.bvec\n")
    assert maker.only_series().runs[0].bvec == inherited


def test_ignored_gradient_files_of_an_epi_are_not_read(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK})
    maker.image("sub-01_dir-PA_epi.nii.gz", shape=(6, 6, 4, 2))
    for extension in ("bval", "bvec"):
        maker.path(f"sub-01_dir-PA_epi.{extension}").write_text("no numbers")
    assert maker.read()[1]
    (maker.root / ".bidsignore").write_text("fmap/*.bv*\n**/fmap/*.bv*\n")
    assert maker.only_series().outside_image.gradients is None


def test_foreign_sbref_is_not_used(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.image("sub-02_sbref.nii.gz")
    link(maker.path("sub-01_sbref.nii.gz"), "../../sub-02/dwi/sub-02_sbref.nii.gz")
    visits, (problem,) = maker.read()
    assert "data of another participant" in str(problem.error)
    assert visits[0].series[0].runs[0].sbref is None


# Entries of the wrong type


@pytest.mark.parametrize("value", [5, {"a": 1}, [["sub-01_dwi.nii.gz"]]])
def test_intended_for_of_another_type_is_quoted(maker, value) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **{"IntendedFor": value}})
    series = maker.only_series()
    reason = maker.reasons(series)["sub-01_dir-PA_epi"]
    assert reason.startswith(f"IntendedFor is {value}, not text or a list of texts")
    warning = f"sub-01_dir-PA_epi.nii.gz: IntendedFor is {value}, not text or a list of texts"
    assert [w for w in series.warnings if w.startswith(warning)]


@pytest.mark.parametrize("stem", ["sub-01_dir-PA_epi", "sub-01_dir-PA_sbref"])
def test_readout_time_as_text_is_named_for_the_image_that_corrects(maker, stem) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.epi(stem, {**maker.PA, **{"TotalReadoutTime": "0.05", **LINK}})
    series = maker.only_series()
    assert series.outside_image.path.name == f"{stem}.nii.gz"
    assert (
        f"{stem}.nii.gz: TotalReadoutTime is '0.05', not a finite number: it is ignored."
        in series.warnings
    )


def test_wrong_entry_of_a_field_map_is_named(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.epi("sub-01_phasediff", {**maker.PA, **{"EchoTime": [0.005], **LINK}})
    warnings = maker.only_series().warnings
    assert "sub-01_phasediff.nii.gz: EchoTime is [0.005], not a finite number: it is ignored." in (
        warnings
    )


def test_direction_of_the_series_that_is_none_is_quoted(maker) -> None:
    maker.dwi("sub-01_dwi", metadata={**maker.AP, "PhaseEncodingDirection": "y"})
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK})
    assert maker.reasons(maker.only_series())["sub-01_dir-PA_epi"] == (
        "the series has PhaseEncodingDirection 'y', not one of i, i-, j, j-, k, k-"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.05"])
def test_readout_time_of_a_run_that_is_none_is_named_once(maker, value) -> None:
    maker.dwi("sub-01_dwi", metadata={**maker.AP, "TotalReadoutTime": value})
    found = [w for w in maker.only_series().warnings if "TotalReadoutTime" in w]
    assert len(found) == 1
    assert repr(value) in found[0]


# b=0 images beside a series that is refused for want of b=0


@pytest.mark.parametrize("encoding", ["AP", "PA"])
def test_b0_image_that_fits_a_run_without_b0_is_not_blamed(maker, encoding) -> None:
    maker.dwi("sub-01_acq-main_dwi", bvals=[1000] * 6, metadata=maker.AP)
    maker.image("sub-01_acq-b0_dwi.nii.gz", shape=(6, 6, 4, 1))
    maker.json("sub-01_acq-b0_dwi.json", getattr(maker, encoding))
    visits, (problem,) = maker.read()
    assert not visits
    assert "no b=0 volume" in str(problem.error)


def test_b0_image_of_another_grid_is_named_beside_a_run_without_b0(maker) -> None:
    maker.dwi("sub-01_acq-main_dwi", bvals=[1000] * 6, metadata=maker.AP)
    maker.image("sub-01_acq-b0_dwi.nii.gz", shape=(8, 8, 4, 1))
    maker.json("sub-01_acq-b0_dwi.json", maker.PA)
    assert len(maker.read()[1]) == 2


# Files above the participants whose names are none


def test_misnamed_file_above_the_participants_is_one_problem_of_the_dataset(maker) -> None:
    for label in ("01", "02", "03"):
        maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
    path = maker.root / "phantom_dwi.json"
    path.write_text("{}")
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["01", "02", "03"]
    assert [(p.participant, p.path) for p in dataset.problems] == [(None, path)]
    assert "expected: dwi.json" not in str(dataset.problems[0].error)


def test_misnamed_file_above_the_participants_is_a_problem_of_who_lacks_one(maker) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.dwi("sub-02_dwi")
    (maker.root / "phantom_dwi.json").write_text("{}")
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["01"]
    assert {p.participant for p in dataset.problems} == {None, "02"}


@pytest.mark.parametrize("n_volumes", [3, 12])
def test_b0_run_without_gradient_files_is_told_to_write_a_bval_of_zeros(maker, n_volumes) -> None:
    maker.dwi("sub-01_acq-main_dwi", metadata=maker.AP)
    maker.image("sub-01_acq-b0_dwi.nii.gz", shape=(6, 6, 4, n_volumes))
    maker.json("sub-01_acq-b0_dwi.json", maker.PA)
    _, (problem,) = maker.read()
    assert "write a .bval with a 0 for each" in problem.error.advice
    # The advice is enough.
    maker.path("sub-01_acq-b0_dwi.bval").write_text(" ".join("0" * n_volumes))
    assert maker.only_series().outside_image.path.name == "sub-01_acq-b0_dwi.nii.gz"
