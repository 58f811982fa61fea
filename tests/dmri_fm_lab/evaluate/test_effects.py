from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from dmri_fm_lab.evaluate.effects import design, main, read_table, true_means

PEOPLE = [
    {"participant_id": f"sub-{k:02d}", "age": str(30 + 5 * k), "site": f"site{k % 2}",
     "group": "patient" if k % 3 == 0 else "control"}
    for k in range(1, 13)
]  # fmt: skip


def write_table(path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def white_matter(person, rng) -> tuple[float, float]:
    """FA falls and MD rises with age and disease."""
    ill = person["group"] == "patient"
    fa = 0.5 - 0.001 * float(person["age"]) - 0.02 * ill + 1e-4 * rng.normal()
    md = 0.7e-3 + 1e-6 * float(person["age"]) + 2e-5 * ill + 1e-7 * rng.normal()
    return fa, md


@pytest.fixture
def cohort(tmp_path):
    """A dataset with its truth, and the app's group table of it."""
    rng = np.random.default_rng(0)
    bids, out, rows = tmp_path / "bids", tmp_path / "out", []
    write_table(bids / "participants.tsv", PEOPLE)
    for person in PEOPLE:
        name = person["participant_id"]
        fa, md = white_matter(person, rng)
        folder = bids / "derivatives" / "truth" / name / "dwi"
        folder.mkdir(parents=True)
        for ending, value in (
            ("model-tensor_param-fa_desc-truth_dwimap", fa),
            ("model-tensor_param-md_desc-truth_dwimap", md),
            ("label-WM_desc-truth_probseg", 1.0),
        ):
            image = nib.Nifti1Image(np.full((2, 2, 2), value), np.eye(4))
            nib.save(image, folder / f"{name}_{ending}.nii.gz")
        rows.append({"participant_id": name, "tensor_fa_mean_wm": fa, "tensor_md_mean_wm": md})
    write_table(out / "group" / "desc-scalars_features.tsv", rows)
    return bids, out, rows


def test_known_effects_are_found(cohort, capsys) -> None:
    bids, out, _ = cohort
    assert true_means(bids, "sub-01")[0] == pytest.approx(0.465, abs=1e-3)
    assert main([str(bids), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "12 of 12 participants" in printed
    assert printed.count("over participants: 1.00") == 2
    assert "WRONG SIGN" not in printed


def test_effects_of_the_wrong_sign_are_told(cohort, capsys) -> None:
    bids, out, rows = cohort
    turned = [{**row, "tensor_fa_mean_wm": 1 - row["tensor_fa_mean_wm"]} for row in rows]
    write_table(out / "group" / "desc-scalars_features.tsv", turned)
    assert main([str(bids), str(out)]) == 1
    assert capsys.readouterr().out.count("WRONG SIGN") == 2


def test_sites_have_columns_of_their_own(tmp_path, capsys) -> None:
    columns = design(PEOPLE)
    assert columns.shape == (12, 4)
    np.testing.assert_array_equal(columns[:, 3], [p["site"] == "site1" for p in PEOPLE])
    assert main([str(tmp_path), str(tmp_path)]) == 1
    assert "a table of participants" in capsys.readouterr().out


def test_tables_are_read_by_participant(cohort) -> None:
    assert read_table(cohort[0] / "participants.tsv")["sub-03"]["age"] == "45"
