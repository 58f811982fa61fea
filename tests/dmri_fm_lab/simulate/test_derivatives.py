"""A simulated cohort as derivatives: what the app reads of it, its truth, and that it resumes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.series import Dwi, load_image, read_array
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.scan_tables import join_people, one_scan_each, read_people, read_scan_table
from dmri_fm_lab.simulate.derivatives import Features, simulate_derivatives
from dmri_fm_lab.simulate.mni_cohort import (
    TARGETS,
    CohortRequest,
    draw_member,
    draw_scanners,
)
from dmri_fm_workflows.outputs.naming import identify
from dmri_fm_workflows.outputs.sidecars import missing_metadata
from tests.dmri_fm_lab.conftest import register_coarse, save_coarse


@pytest.fixture
def copy(cohort_of_eight, tmp_path, monkeypatch):
    """A copy of the cohort that may be changed, and of its weights."""
    register_coarse(monkeypatch)
    out = shutil.copytree(cohort_of_eight.folder, tmp_path / "out")
    return out, cohort_of_eight


def test_every_file_has_a_name_of_the_app_and_a_sidecar_that_says_simulated(
    cohort_of_eight,
) -> None:
    out = cohort_of_eight.folder
    files = [p for p in out.glob("sub-*/dwi/*") if p.suffix != ".json"]
    assert len(files) == 8 * 2 * 11
    for path in files:
        name = identify(path.relative_to(out))
        stem = path.name.partition(".")[0]
        sidecar = json.loads(path.with_name(f"{stem}.json").read_text())
        assert missing_metadata(name.type.name, sidecar) == ()
        assert "no person was scanned" in sidecar["GeneratedBy"][0]["Description"]
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["GeneratedBy"][0]["Name"] == "dmri-fm simulate-cohort"


def test_the_output_is_valid(cohort_of_eight, run_validator) -> None:
    issues = run_validator(cohort_of_eight.folder)
    assert not [i for i in issues if i.severity == "error"]


def test_tables_join_with_participants(cohort_of_eight) -> None:
    out = cohort_of_eight.folder
    people = read_people(out / "participants.tsv")
    assert set(people) == {"participant_id", "age", "sex", "site", "group", "score", "family"}
    assert people["family"].value_counts().eq(2).all()
    for name, n_least in (("model-drope_desc-scan_features", 72), ("desc-image_qc", 10)):
        cohort = join_people(read_scan_table(out / "group" / f"{name}.tsv"), people)
        assert len(cohort) == 16
        assert not cohort.left_out
        assert cohort.values.notna().all(axis=0).sum() >= n_least
        assert len(one_scan_each(cohort, how="first")) == 8
    status = pd.read_csv(out / "group" / "participants_status.tsv", sep="\t")
    assert status["status"].eq("complete").all()
    assert status["n_scans"].eq(2).all()


def test_fa_and_md_are_those_of_white_matter_and_csf(cohort_of_eight) -> None:
    table = read_scan_table(cohort_of_eight.folder / "group" / "desc-scalars_features.tsv")
    first = table.values[table.scans["acquisition"] == "b10001"]
    assert first["tensor_fa_mean_wm"].between(0.4, 0.7).all()
    assert first["tensor_md_mean_wm"].between(0.6e-3, 0.95e-3).all()
    assert first["tensor_fa_mean_gm"].between(0.05, 0.35).all()
    # Anatomies are those of individuals.
    masks = [
        read_array(load_image(p)) > 0
        for p in sorted(cohort_of_eight.folder.glob("sub-*/dwi/*acq-b10001*brain_mask.nii.gz"))
    ]
    sizes = np.array([m.sum() for m in masks])
    assert np.ptp(sizes) > 0.003 * sizes.mean()


def test_a_scan_has_the_gradients_of_its_site(cohort_of_eight) -> None:
    out, scanners = cohort_of_eight.folder, draw_scanners(cohort_of_eight.request)
    stem = out / "sub-001" / "dwi" / "sub-001_acq-random2_space-MNI152NLin2009aSym_res-2"
    dwi = Dwi.from_files(
        *(f"{stem}_desc-preproc_dwi{end}" for end in (".nii.gz", ".bval", ".bvec")),
        f"{stem}_desc-brain_mask.nii.gz",
    )
    stated = scanners[0].gtabs[1]
    np.testing.assert_allclose(dwi.gtab.bvals, stated.bvals)
    np.testing.assert_allclose(dwi.gtab.bvecs_ras, stated.bvecs_ras, atol=1e-5)
    # White matter at b=0 over the noise.
    assert dwi.data[dwi.brain].max() < np.iinfo(np.int16).max
    assert 0.9 * scanners[0].gain < np.percentile(dwi.mean_b0()[dwi.brain], 99.9)


def test_the_same_command_finds_everything_and_other_weights_change_features_alone(copy) -> None:
    out, made = copy
    options = {"fibre_voxel_mm": 6.0}
    again = simulate_derivatives(out, made.request, Features(weights=made.weights), **options)
    assert (again.participants, again.n_found, again.n_refreshed) == ((), 8, 0)
    assert "0 participants simulated; 8 found complete" in str(again)
    table = out / "group" / "model-drope_desc-scan_features.tsv"
    before, scalars = table.read_text(), (out / "group" / "desc-scalars_features.tsv").read_text()
    assert before == (made.folder / "group" / table.name).read_text()

    other = save_coarse(out.parent / "other.safetensors", seed=1)
    renewed = simulate_derivatives(out, made.request, Features(weights=other), **options)
    assert renewed.n_refreshed == 8
    assert (out / "group" / "desc-scalars_features.tsv").read_text() == scalars
    features = [read_scan_table(p / "group" / table.name).values for p in (made.folder, out)]
    assert not np.allclose(features[0]["cls000"], features[1]["cls000"])
    assert pd.read_csv(table, sep="\t")["weights_sha256"].nunique() == 1
    status = pd.read_csv(out / "group" / "participants_status.tsv", sep="\t")
    assert status["status"].eq("complete").all()

    back = simulate_derivatives(out, made.request, Features(weights=made.weights), **options)
    assert back.n_refreshed == 8
    # Features are those of the files: from the series on disk they are the same.
    assert table.read_text() == before


def test_a_missing_participant_is_made_as_before(copy) -> None:
    out, made = copy
    shutil.rmtree(out / "sub-003")
    cost = simulate_derivatives(
        out, made.request, Features(weights=made.weights), fibre_voxel_mm=6.0
    )
    assert len(cost.participants) == 1
    name = "group/desc-scalars_features.tsv"
    assert (out / name).read_text() == (made.folder / name).read_text()


def test_another_request_is_refused(copy, tmp_path, capsys) -> None:
    out, made = copy
    command = ["simulate-cohort", str(out), "--participants", "8", "--effect", "none"]
    assert main(command) == 1
    text = capsys.readouterr().err
    assert "effect 'fa-md'" in text
    assert "effect 'none'" in text
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        simulate_derivatives(tmp_path / "full", made.request)


def test_requests_out_of_range_are_refused() -> None:
    for wrong in (
        {"n_participants": 2, "n_sites": 3},
        {"effect": "x"},
        {"protocols": ()},
        {"protocols": ("shells", "x")},
        {"n_directions": 3},
        {"site_age_years": -1.0},
    ):
        with pytest.raises(ConfigError):
            CohortRequest(**wrong)


def people_of(request: CohortRequest) -> pd.DataFrame:
    members = [draw_member(request, n + 1) for n in range(request.n_participants)]
    return pd.DataFrame(
        [
            {"age": m.age, "sex": m.sex, "group": m.group, "score": m.score, "site": m.site}
            | {"family": m.family, "ventricles": m.shape.ventricles_mm}
            | {"stick": m.tissue.stick}
            | {f"effect_{k}": v for k, v in m.effects.items()}
            for m in members
        ]
    )


def test_effects_follow_age_sex_group_and_score() -> None:
    people = people_of(CohortRequest(n_participants=600))
    code = {
        "age": people["age"],
        "sex": (people["sex"] == "F").astype(float),
        "group": (people["group"] == "patient").astype(float),
        "score": people["score"],
    }
    for name, target in TARGETS.items():
        r = np.corrcoef(code[name], people[f"effect_{name}"])[0, 1]
        assert np.sign(r) == np.sign(target.size)
        assert abs(r) > 0.5
        # Each in a part of its own: nothing of the others.
        for other in set(TARGETS) - {name}:
            assert abs(np.corrcoef(code[other], people[f"effect_{name}"])[0, 1]) < 0.13
    # Four standard errors of 600.
    assert people.groupby("site")["group"].value_counts().between(95, 105).all()
    assert np.corrcoef(people["age"], people["ventricles"])[0, 1] > 0.5


@pytest.mark.parametrize("effect", ["compensated", "none"])
def test_anatomy_does_not_follow_age_where_fa_and_md_must_not(effect) -> None:
    people = people_of(CohortRequest(n_participants=600, effect=effect))
    assert abs(np.corrcoef(people["age"], people["ventricles"])[0, 1]) < 0.17
    r = np.corrcoef(people["age"], people["effect_age"])[0, 1]
    assert (abs(r) < 0.17) == (effect == "none")


def test_families_resemble_and_sites_may_differ_in_age() -> None:
    kin = people_of(CohortRequest(n_participants=800, family_size=2, site_age_years=6.0))
    pairs = kin["stick"].to_numpy().reshape(-1, 2)
    # Half of the variance is shared; four standard errors of 400 pairs.
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(0.5, abs=0.16)
    assert (kin.groupby("family")["site"].nunique() == 1).all()
    ages = kin.groupby("site")["age"].mean()
    # Deviation of 17 over the root of 260; ages are cut at 18.
    assert ages[2] - ages[0] == pytest.approx(12, abs=5)


def test_sessions_are_two_years_apart_in_the_same_head() -> None:
    request = CohortRequest(n_participants=3, n_sessions=2)
    first, second = (draw_member(request, 1, session) for session in (1, 2))
    assert second.age == pytest.approx(first.age + 2)
    assert (first.tissue, first.sex, first.fibres) == (second.tissue, second.sex, second.fibres)
    common = min(len(first.shape.lesions), len(second.shape.lesions))
    assert first.shape.lesions[:common] == second.shape.lesions[:common]
