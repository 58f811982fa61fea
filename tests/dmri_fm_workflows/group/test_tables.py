"""Tables over participants: contents, order, joins, and damaged input."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import LayoutError
from dmri_fm_workflows.group import collect_tables, render_group_page, write_tables
from dmri_fm_workflows.group.collect import list_outputs, list_participants
from dmri_fm_workflows.group.writing import describe_scalars
from dmri_fm_workflows.outputs import publish_text

MNI = "MNI152NLin2009aSym"


def _row(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def _features(tables):
    """Return the features of the one encoder that ran."""
    (found,) = tables.features
    assert (found.model, found.type) == ("drope", "features_scan")
    return found.table


def test_every_encoder_has_a_table_of_its_own(outputs, regions):
    outputs.add_participant("01")
    path = outputs.path({"subject": "01", "direction": "AP"}, "features_scan", model="drope-paper")
    path.write_text("cls000\tood_score\tweights_sha256\n0.5\tn/a\tbb\n")
    tables = collect_tables(outputs.root, [regions])
    assert [(f.model, f.type) for f in tables.features] == [
        ("drope", "features_scan"), ("dropepaper", "features_scan"),
    ]  # fmt: skip
    written = [p.name for p in write_tables(outputs.root, tables)]
    assert written[:2] == [
        "model-drope_desc-scan_features.tsv",
        "model-dropepaper_desc-scan_features.tsv",
    ]
    sidecar = json.loads((outputs.root / "group" / f"{written[1][:-4]}.json").read_text())
    assert sidecar["Model"]["Label"] == "dropepaper"
    assert sidecar["Model"]["Use"] == "Research only: not for diagnosis or treatment."
    page = render_group_page(tables, dataset="x")
    assert all(name in page for name in written)
    assert "Scans with features, D-RoPE encoder as published" in page


def test_rows_know_their_scan_from_the_file_s_name(outputs, regions):
    outputs.add_participant("02", fa=0.3)
    outputs.add_scan({"subject": "01", "session": "b", "acquisition": "x", "run": "2"}, fa=0.5)
    outputs.add_scan({"subject": "01", "session": "a"}, fa=0.4)
    tables = collect_tables(outputs.root, [regions])
    for table in (_features(tables), tables.quality, tables.scalars):
        assert list(table.columns[:7]) == [
            "scan_id", "participant_id", "session_id", "acquisition", "direction", "run",
            "qc_exclude",
        ]  # fmt: skip
        assert table["scan_id"].tolist() == ["sub-01_ses-a", "sub-01_ses-b_acq-x_run-2",
                                             "sub-02_dir-AP"]  # fmt: skip
        assert table["participant_id"].tolist() == ["sub-01", "sub-01", "sub-02"]
        assert table["session_id"].tolist() == ["ses-a", "ses-b", "n/a"]
    assert tables.status["n_scans"].tolist() == ["2", "1"]


def test_regional_numbers(outputs, regions):
    outputs.add_participant("01", fa=0.4, bmax=2500)
    row = _row(collect_tables(outputs.root, [regions]).scalars)
    # 250 voxels of noise with 1% spread: the mean is known to about 0.001.
    assert float(row["tensor_fa_mean_wm_left"]) == pytest.approx(0.4, abs=1e-3)
    assert float(row["tensor_fa_median_wm"]) == pytest.approx(0.4, abs=1e-3)
    assert float(row["tensor_fa_std_wm"]) == pytest.approx(0.004, rel=0.15)
    assert float(row["tensor_md_mean_wm_right"]) == pytest.approx(7e-4, rel=2e-3)
    assert float(row["tensorrefiner_fa_mean_wm"]) == pytest.approx(0.5, abs=1e-3)
    # The scan covers the lower half only.
    assert row["coverage_wm_left"] == "1"
    assert row["coverage_gm_top"] == "0"
    assert row["tensor_fa_mean_gm_top"] == "n/a"
    assert (row["max_bval"], row["n_volumes"]) == ("2500", "3")


def test_the_protocol_is_that_of_the_series_in_whichever_space_it_is(outputs, regions):
    outputs.add_participant("01", bmax=2500)
    scan = {"subject": "01", "direction": "AP"}
    acpc, mni = (
        outputs.path(scan, "preproc_dwi", space=space, extension=".bval")
        for space in ("ACPC", "MNI152NLin2009aSym")
    )
    acpc.rename(mni)
    row = _row(collect_tables(outputs.root, [regions]).scalars)
    assert (row["max_bval"], row["n_volumes"]) == ("2500", "3")
    mni.unlink()
    row = _row(collect_tables(outputs.root, [regions]).scalars)
    assert (row["max_bval"], row["n_volumes"]) == ("n/a", "n/a")


def test_without_a_mask_the_map_s_own_voxels_count(outputs, regions):
    outputs.add_participant("01")
    for path in (outputs.root / "sub-01").rglob("*_mask.nii.gz"):
        path.unlink()
    row = _row(collect_tables(outputs.root, [regions]).scalars)
    assert row["coverage_wm"] == "1"
    assert row["coverage_gm"] == "0"


def test_features_are_passed_on_digit_by_digit(outputs, regions):
    cls = np.random.default_rng(0).normal(size=5).astype(np.float32)
    outputs.add_participant("01", cls=cls, n_unknown=2)
    outputs.add_participant("02", cls=cls)
    tables = collect_tables(outputs.root, [regions])
    row = _row(_features(tables), participant_id="sub-01")
    found = np.array([row[f"cls{i:03d}"] for i in range(5)], dtype=np.float32)
    np.testing.assert_array_equal(found, cls)
    assert [row[f"pooled{i:03d}"] for i in (3, 4)] == ["n/a", "n/a"]
    other = _row(_features(tables), participant_id="sub-02")
    assert "n/a" not in other.filter(like="pooled").tolist()
    write_tables(outputs.root, tables)
    path = outputs.root / "group" / "model-drope_desc-scan_features.tsv"
    assert "nan" not in path.read_text()
    read = pd.read_csv(path, sep="\t", na_values="n/a").set_index("participant_id")
    pooled = read[[f"pooled{i:03d}" for i in range(5)]]
    np.testing.assert_array_equal(np.isnan(pooled.loc["sub-01"]), [False] * 3 + [True] * 2)
    np.testing.assert_array_equal(pooled.loc["sub-02"].astype(np.float32), 2 * cls)


def test_tables_join_with_participants(outputs, regions, tmp_path):
    for label, fa in (("01", 0.4), ("02", 0.45)):
        outputs.add_participant(label, fa=fa)
    write_tables(outputs.root, collect_tables(outputs.root, [regions]))
    people = pd.DataFrame({"participant_id": ["sub-02", "sub-01"], "age": [30, 40]})
    for name in ("model-drope_desc-scan_features", "desc-scalars_features", "desc-image_qc",
                 "participants_status"):  # fmt: skip
        table = pd.read_csv(outputs.root / "group" / f"{name}.tsv", sep="\t", na_values="n/a")
        assert table.columns[0] == ("participant_id" if "status" in name else "scan_id")
        joined = people.merge(table, on="participant_id", how="inner")
        assert joined["age"].tolist() == [30, 40]
        sidecar = json.loads((outputs.root / "group" / f"{name}.json").read_text())
        assert sum(k.startswith("pooled") for k in sidecar) <= 1, "one entry for all features"
    assert sidecar["status"]["Levels"]["complete"]


def test_columns_of_experimental_maps_say_so():
    found = describe_scalars(["tensor_fa_mean_wm", "tensorrefiner_fa_mean_wm"])
    assert found["tensor_fa_mean_*"] == {
        "Description": "Mean of fractional anisotropy (tensor) in the region that the rest of the "
        "name names",
        "Units": "unitless",
    }
    assert found["tensorrefiner_fa_mean_*"]["Description"] == (
        "Mean of fractional anisotropy (tensorrefiner, experimental unless the sidecar of the map "
        "says primary) in the region that the rest of the name names"
    )


def test_outputs_with_names_of_earlier_versions_are_told(outputs, regions):
    outputs.add_participant("01")
    outputs.add_participant("02")
    folder = outputs.root / "sub-01" / "dwi"
    for name in ("model-drope_desc-pooled_features.tsv", "model-qcgdti_param-fa_dwimap.nii.gz",
                 "note.txt"):  # fmt: skip
        (folder / f"sub-01_space-MNI152NLin2009aSym_{name}").write_text("x")
    tables = collect_tables(outputs.root, [regions])
    (problem,) = tables.problems
    assert problem.participant == "sub-01"
    assert "MNI152NLin2009aSym_model-drope_desc-pooled_features.tsv and 1 more" in problem.message
    reasons = dict(zip(tables.status["participant_id"], tables.status["reason"], strict=True))
    assert "no output of this version has such a name" in reasons["sub-01"]
    assert "no output of this version" not in reasons["sub-02"]


def test_order_and_bytes_are_stable(outputs, regions, tmp_path):
    for label in ("10", "9", "A"):
        outputs.add_participant(label)
    write_tables(outputs.root, collect_tables(outputs.root, [regions]))
    group = outputs.root / "group"
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in group.iterdir()}
    write_tables(outputs.root, collect_tables(outputs.root, [regions]))
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in group.iterdir()} == before


@pytest.mark.parametrize(
    ("of", "content", "reason"),
    [
        ("features_scan", "", "table is empty"),
        ("features_scan", "pooled000\tpooled001\n1\n", "line 2 has 1 cells"),
        ("features_scan", "pooled000\n1\n2\n", "2 rows, not one"),
        ("image_qc", "mean_fd\n", "0 rows, not one"),
        ("fa", "not an image", "cannot be opened as an image"),
    ],
)
def test_damaged_file_becomes_a_reason(outputs, regions, of, content, reason):
    outputs.add_participant("01")
    outputs.add_participant("02")
    named = {
        "fa": {"model": "tensor", "space": MNI},
        "features_scan": {"model": "drope"},
        "image_qc": {},
    }
    path = outputs.path({"subject": "01", "direction": "AP"}, of, **named[of])
    path.write_text(content)
    tables = collect_tables(outputs.root, [regions])
    row = _row(tables.status, participant_id="sub-01")
    assert reason in row["reason"]
    assert path.name in row["reason"]
    assert row["status"] == "complete"
    assert _row(tables.status, participant_id="sub-02")["reason"] == "n/a"
    table = {"features_scan": _features(tables), "image_qc": tables.quality}.get(of)
    if table is not None:
        assert table["participant_id"].tolist() == ["sub-02"]
    else:
        row = _row(tables.scalars, participant_id="sub-01")
        assert row["tensor_fa_mean_wm"] == "n/a"
        assert row["tensor_md_mean_wm"] != "n/a"


def test_truncated_map_becomes_a_reason(outputs, regions):
    outputs.add_participant("01")
    path = outputs.path({"subject": "01", "direction": "AP"}, "md", model="tensor", space=MNI)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    tables = collect_tables(outputs.root, [regions])
    assert "the voxels cannot be read" in tables.status["reason"].iloc[0]


def test_nothing_but_a_folder(outputs, regions):
    (outputs.root / "sub-01").mkdir()
    tables = collect_tables(outputs.root, [regions])
    row = _row(tables.status)
    assert (row["status"], row["n_scans"]) == ("unknown", "0")
    assert tables.features == ()
    assert len(tables.quality) == 0
    assert list(tables.quality.columns[:2]) == ["scan_id", "participant_id"]
    assert not any("model-" in path.name for path in write_tables(outputs.root, tables))


def test_an_encoder_that_never_ran_has_no_table(outputs, regions):
    path = outputs.path({"subject": "01"}, "features_scan", model="drope-paper")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("cls000\tood_score\tweights_sha256\n0.5\tn/a\tbb\n")
    tables = collect_tables(outputs.root, [regions])
    written = {path.name for path in write_tables(outputs.root, tables)}
    assert {name for name in written if "model-" in name} == {
        "model-dropepaper_desc-scan_features.tsv"
    }
    assert "Scans with features" in render_group_page(tables, dataset="x")


def test_no_participant_is_an_error(tmp_path):
    with pytest.raises(LayoutError, match="no participant here"):
        list_participants(tmp_path)
    with pytest.raises(LayoutError, match="folder is missing"):
        list_participants(tmp_path / "nowhere")


def test_files_that_are_not_ours_are_passed_over(outputs):
    outputs.add_participant("01")
    folder = outputs.root / "sub-01" / "dwi"
    publish_text("x", folder / "sub-01_desc-other_qc.tsv")
    publish_text("x", folder / ".sub-01_desc-image_qc.tsv")
    publish_text("x", folder / "sub-02_desc-image_qc.tsv")
    found, (problem,) = list_outputs(outputs.root, "sub-01")
    assert [f.scan for f in found if f.name.type.name == "image_qc"] == ["sub-01_dir-AP"]
    assert "sub-01_desc-other_qc.tsv and 1 more" in problem.message


@pytest.mark.parametrize(("stated", "largest"), [(None, "0"), (150, "0"), (50, "60")])
def test_b0_counts_as_the_series_says(outputs, regions, stated, largest):
    outputs.add_participant("01", bmax=60)
    path = outputs.path({"subject": "01", "direction": "AP"}, "preproc_dwi", space="ACPC",
                        extension=".bval")  # fmt: skip
    # The automatic rule reads 60 and 62 without any 0 as b=0, HCP 7T's way.
    path.write_text("60 60 62\n")
    if stated is not None:
        path.with_suffix(".json").write_text(json.dumps({"B0Threshold": stated}))
    assert _row(collect_tables(outputs.root, [regions]).scalars)["max_bval"] == largest
