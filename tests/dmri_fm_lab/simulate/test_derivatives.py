"""A simulated cohort as derivatives: what the app reads of it, its truth, and that it resumes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.normalise.grid import mni_box
from dmri_fm.series import Dwi, load_image, read_array
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.grid_scans import place_scan
from dmri_fm_lab.scan_tables import join_people, one_scan_each, read_people, read_scan_table
from dmri_fm_lab.scans import find_scans
from dmri_fm_lab.simulate.derivatives import Features, simulate_derivatives
from dmri_fm_lab.simulate.mni_cohort import (
    TARGETS,
    CohortRequest,
    draw_member,
    draw_scanners,
)
from dmri_fm_workflows.outputs.manifest import verify_outputs
from dmri_fm_workflows.outputs.naming import identify
from dmri_fm_workflows.outputs.sidecars import missing_metadata
from tests.dmri_fm_lab.conftest import COARSE, register_coarse, save_coarse


@pytest.fixture
def copy(small_cohort, tmp_path, monkeypatch):
    """A copy of the cohort that may be changed, and of its weights."""
    register_coarse(monkeypatch)
    out = shutil.copytree(small_cohort.folder, tmp_path / "out")
    return out, small_cohort


def read_series(out, scan) -> Dwi:
    stem = out / scan.split("_")[0] / "dwi" / f"{scan}_space-MNI152NLin2009aSym_res-2"
    return Dwi.from_files(
        *(f"{stem}_desc-preproc_dwi{end}" for end in (".nii.gz", ".bval", ".bvec")),
        f"{stem}_desc-brain_mask.nii.gz",
    )


def test_every_file_has_a_name_of_the_app_and_a_sidecar_that_says_simulated(
    small_cohort,
) -> None:
    out = small_cohort.folder
    files = [p for p in out.glob("sub-*/dwi/*") if p.suffix != ".json"]
    assert len(files) == 12 * 2 * 11
    for path in files:
        name = identify(path.relative_to(out))
        stem = path.name.partition(".")[0]
        sidecar = json.loads(path.with_name(f"{stem}.json").read_text())
        assert missing_metadata(name.type.name, sidecar) == ()
        assert "no person was scanned" in sidecar["GeneratedBy"][0]["Description"]
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["GeneratedBy"][0]["Name"] == "dmri-fm simulate-cohort"


def test_the_output_is_valid(small_cohort, run_validator) -> None:
    issues = run_validator(small_cohort.folder)
    assert not [i for i in issues if i.severity == "error"]


def test_tables_join_with_participants(small_cohort) -> None:
    out = small_cohort.folder
    people = read_people(out / "participants.tsv")
    assert set(people) == {"participant_id", "age", "sex", "site", "group", "score", "family"}
    assert people["family"].value_counts().eq(2).all()
    for name, n_least in (("model-drope_desc-scan_features", 48), ("desc-image_qc", 10)):
        cohort = join_people(read_scan_table(out / "group" / f"{name}.tsv"), people)
        assert len(cohort) == 24
        assert not cohort.left_out
        assert cohort.values.notna().all(axis=0).sum() >= n_least
        assert len(one_scan_each(cohort, how="first")) == 12
    status = pd.read_csv(out / "group" / "participants_status.tsv", sep="\t")
    assert status["status"].eq("complete").all()
    assert status["n_scans"].eq(2).all()


def test_fa_and_md_are_those_of_white_matter_and_csf(small_cohort) -> None:
    table = read_scan_table(small_cohort.folder / "group" / "desc-scalars_features.tsv")
    first = table.values[table.scans["acquisition"] == "b10001"]
    assert first["tensor_fa_mean_wm"].between(0.4, 0.7).all()
    assert first["tensor_md_mean_wm"].between(0.6e-3, 0.95e-3).all()
    assert first["tensor_fa_mean_gm"].between(0.05, 0.35).all()
    # Anatomies are those of individuals.
    masks = [
        read_array(load_image(p)) > 0
        for p in sorted(small_cohort.folder.glob("sub-*/dwi/*acq-b10001*brain_mask.nii.gz"))
    ]
    sizes = np.array([m.sum() for m in masks])
    assert np.ptp(sizes) > 0.003 * sizes.mean()


def test_a_scan_has_the_gradients_of_its_site(small_cohort) -> None:
    out, scanners = small_cohort.folder, draw_scanners(small_cohort.request)
    dwi = read_series(out, "sub-001_acq-random2")
    stated = scanners[0].gtabs[1]
    np.testing.assert_allclose(dwi.gtab.bvals, stated.bvals)
    np.testing.assert_allclose(dwi.gtab.bvecs_ras, stated.bvecs_ras, atol=1e-5)
    # White matter at b=0 over the noise.
    assert dwi.data[dwi.brain].max() < np.iinfo(np.int16).max
    assert 0.9 * scanners[0].gain < np.percentile(dwi.mean_b0()[dwi.brain], 99.9)


def test_the_same_command_makes_what_is_missing_as_before(copy) -> None:
    out, made = copy
    shutil.rmtree(out / "sub-003")
    cost = simulate_derivatives(
        out, made.request, Features(weights=made.weights), fibre_voxel_mm=6.0
    )
    assert (len(cost.participants), cost.n_found, cost.n_refreshed) == (1, 11, 0)
    assert "1 participants simulated" in str(cost)
    for name in ("model-drope_desc-scan_features.tsv", "desc-scalars_features.tsv"):
        before = made.folder / "group" / name
        assert (out / "group" / name).read_text() == before.read_text()


def test_other_weights_change_features_alone(copy) -> None:
    out, made = copy
    other = save_coarse(out.parent / "other.safetensors", seed=1)
    cost = simulate_derivatives(out, made.request, Features(weights=other), fibre_voxel_mm=6.0)
    assert (cost.participants, cost.n_refreshed) == ((), 12)
    scalars, name = "desc-scalars_features.tsv", "model-drope_desc-scan_features.tsv"
    groups = [folder / "group" for folder in (made.folder, out)]
    assert (groups[1] / scalars).read_text() == (groups[0] / scalars).read_text()
    before, after = (read_scan_table(group / name).values for group in groups)
    assert not np.allclose(before["cls000"], after["cls000"])
    assert pd.read_csv(groups[1] / name, sep="\t")["weights_sha256"].nunique() == 1
    status = pd.read_csv(groups[1] / "participants_status.tsv", sep="\t")
    assert status["status"].eq("complete").all()
    assert verify_outputs(out)[1] == []
    # Features are those of the files.
    found = Features(weights=made.weights).of(read_series(out, "sub-002_acq-random2"))
    own = before.loc["sub-002_acq-random2"]
    np.testing.assert_allclose(found.vectors["cls"], own.filter(like="cls"), rtol=1e-6)


def test_another_request_is_refused(copy, tmp_path, capsys) -> None:
    out, made = copy
    command = ["simulate-cohort", str(out), "--participants", "12", "--effect", "none"]
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


def test_the_lab_reads_the_series_on_the_encoders_grid(small_cohort) -> None:
    out = small_cohort.folder
    scan, *_ = find_scans(out, participant_labels=["001"], prefers_template=True)
    assert (scan.name, scan.is_in_template) == ("sub-001_acq-b10001", True)
    placed = place_scan(scan, COARSE.grid)
    # On its own grid a spline gives back what it goes through.
    b0 = scan.dwi.data[..., scan.dwi.gtab.is_b0].mean(axis=3)
    inside = placed.mask & (b0 > 0)
    ratio = scan.dwi.data[inside][:, ~scan.dwi.gtab.is_b0] / b0[inside][:, None]
    usual = ratio.max(axis=1) < 1
    np.testing.assert_allclose(placed.signal[inside][usual], ratio[usual], atol=2e-3)
    finer = place_scan(scan, mni_box((16, 16, 16), 2.0))
    assert finer.signal.shape == (16, 16, 16, 6)
