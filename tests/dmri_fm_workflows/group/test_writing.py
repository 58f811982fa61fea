"""Group tables on disk: every column is described, Parquet says what the text says."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.scan_tables import read_scan_table
from dmri_fm_workflows.group import RegionSet, collect_tables, write_tables
from dmri_fm_workflows.group.exclusion import parse_rule
from dmri_fm_workflows.group.regional import Bundles
from dmri_fm_workflows.group.scalars import LONG_COLUMNS
from dmri_fm_workflows.group.writing import ENTITY_COLUMNS
from dmri_fm_workflows.outputs.naming import SOURCE_ENTITIES
from tests.dmri_fm_workflows.group.conftest import AFFINE, SHAPE

RULES = ["mean_fd > 1", "status != complete"]


@pytest.fixture(scope="module")
def out(make_outputs, regions, tmp_path_factory):
    """Tables of four scans: one moved, one of a participant whose run failed."""
    outputs = make_outputs(tmp_path_factory.mktemp("written"))
    outputs.add_participant("01", fa=0.4)
    outputs.add_participant("02", fa=0.5, fd=2.0)
    outputs.add_scan({"subject": "03", "session": "a", "acquisition": "x", "run": "01"})
    outputs.add_scan({"subject": "03", "session": "b", "direction": "PA", "echo": "1"}, bmax=0)
    outputs.add_record("sub-03", status="failed", errors=[{"message": "no b=0"}])
    labels = np.zeros(SHAPE, np.int16)
    labels[2:8, 2:10, 1:4] = 1
    atlas = RegionSet(labels, AFFINE, {"my_core": (1,)}, source="atlas my.nii")
    weights = np.zeros(SHAPE, np.float32)
    weights[3:7, :, :5] = 0.5
    bundles = Bundles({"bundle_cst": (weights, AFFINE)}, {"bundle_cst": "cst.nii"})
    tables = collect_tables(
        outputs.root, [regions, atlas, bundles], rules=[parse_rule(r) for r in RULES]
    )
    write_tables(outputs.root, tables)
    return outputs.root / "group"


def read(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def every_table(out):
    names = sorted(p.stem for p in out.glob("*.tsv"))
    assert names == ["desc-image_qc", "desc-scalars_features", "desc-scalarslong_features",
                     "model-drope_desc-scan_features", "participants_status"]  # fmt: skip
    return names


def test_no_column_of_any_table_lacks_a_description(out) -> None:
    for name in every_table(out):
        sidecar = json.loads((out / f"{name}.json").read_text())
        entries = sidecar | sidecar.get(ENTITY_COLUMNS, {})
        for column in read(out / f"{name}.tsv").columns:
            found = [key for key in entries if fnmatchcase(column, key)]
            assert found, f"{name}: {column}"
            assert all(entries[key]["Description"] for key in found), f"{name}: {column}"
        # pybids takes such a key at the top for the entity itself.
        assert not {*SOURCE_ENTITIES, "model"} & set(sidecar), name
    assert (
        "does not know"
        in json.loads((out / "desc-image_qc.json").read_text())["note"]["Description"]
    )


def test_units_and_regions_stand_in_the_sidecar(out) -> None:
    sidecar = json.loads((out / "desc-scalars_features.json").read_text())
    assert sidecar["tensor_md_median_*"]["Units"] == "mm^2/s"
    assert sidecar["Regions"]["my_core"] == "label 1 of atlas my.nii"
    assert sidecar["Regions"]["bundle_cst"].startswith("bundle cst.nii")
    columns = set(read(out / "desc-scalars_features.tsv").columns)
    assert {f"coverage_{region}" for region in sidecar["Regions"]} <= columns


def test_parquet_says_what_the_text_says(out) -> None:
    for name in every_table(out):
        text, stored = read(out / f"{name}.tsv"), pd.read_parquet(out / f"{name}.parquet")
        assert list(text.columns) == list(stored.columns)
        for column in text:
            cells, values = text[column], stored[column]
            assert ((cells == "n/a") == values.isna()).all(), f"{name}: {column}"
            known = cells[cells != "n/a"]
            if pd.api.types.is_numeric_dtype(values):
                numbers = values[known.index].astype(float)
                np.testing.assert_array_equal(known.astype(float), numbers, f"{name}: {column}")
            else:
                assert known.tolist() == values[known.index].tolist(), f"{name}: {column}"


def test_parquet_has_types(out) -> None:
    features = pq.read_schema(out / "model-drope_desc-scan_features.parquet")
    types = {name: str(features.field(name).type) for name in features.names}
    assert types["cls000"] == types["pooled002"] == "double"
    # A run is a name: 01 is not 1.
    assert types["run"] == types["scan_id"] == types["weights_sha256"] == "string"
    assert pd.read_parquet(out / "desc-image_qc.parquet")["run"].tolist()[2] == "01"
    status = pq.read_schema(out / "participants_status.parquet")
    assert str(status.field("n_scans").type) == "int64"
    assert str(status.field("version").type) == "string"


def test_long_table_holds_the_numbers_of_the_wide_one(out) -> None:
    wide = read(out / "desc-scalars_features.tsv").set_index("scan_id")
    long = read(out / "desc-scalarslong_features.tsv")
    assert [c for c in long.columns if c != "qc_exclude"] == list(LONG_COLUMNS)
    names = long["model"] + "_" + long["map"] + "_" + long["statistic"] + "_" + long["region"]
    keys = list(zip(long["scan_id"], names, strict=True))
    assert len(set(keys)) == len(keys) == 4 * 3 * 3 * 7  # scans, maps, statistics, regions
    values = long["value"].tolist()
    assert values == [wide.loc[scan, name] for scan, name in keys]
    md = long[long["map"] == "md"]
    assert set(md["units"]) == {"mm^2/s"}
    core = long[long["region"] == "my_core"]
    assert set(core["n_voxels"]) == {str(6 * 8 * 3)}
    assert set(core["coverage"]) == {"1"}


def test_all_tables_of_scans_join_and_say_who_is_excluded(out) -> None:
    scans = ["sub-01_dir-AP", "sub-02_dir-AP", "sub-03_ses-a_acq-x_run-01",
             "sub-03_ses-b_dir-PA_echo-1"]  # fmt: skip
    expected = dict(zip(scans, ["n/a", RULES[0], RULES[1], RULES[1]], strict=True))
    for name in every_table(out)[:4]:
        table = read(out / f"{name}.tsv")
        assert table.columns[0] == "scan_id"
        assert dict(zip(table["scan_id"], table["qc_exclude"], strict=True)) == expected
        sidecar = json.loads((out / f"{name}.json").read_text())
        assert [r["Rule"] for r in sidecar["QCExcludeRules"]] == RULES
        assert (sidecar["ScansExcluded"], sidecar["Scans"]) == (3, 4)
    status = read(out / "participants_status.tsv")
    assert status["n_qc_excluded"].tolist() == ["0", "1", "2"]


@pytest.mark.parametrize(
    "name", ["desc-image_qc", "desc-scalars_features", "model-drope_desc-scan_features"]
)
def test_the_lab_reads_both_forms_alike(out, name: str) -> None:
    text, stored = (read_scan_table(out / f"{name}{end}") for end in (".tsv", ".parquet"))
    assert list(text.scans.index) == ["sub-01_dir-AP"]
    pd.testing.assert_frame_equal(text.values, stored.values)
    pd.testing.assert_frame_equal(text.scans, stored.scans)
    excluded = [("sub-02_dir-AP", f"excluded by QC: {RULES[0]}")]
    assert text.left_out == stored.left_out
    assert text.left_out[:1] == tuple(excluded)
    assert len(text.left_out) == 3


def test_an_unknown_column_is_told_before_a_map_is_read(outputs, regions) -> None:
    outputs.add_participant("01")
    for path in outputs.root.rglob("*.nii.gz"):
        path.unlink()
        path.mkdir()  # reading it would end the run
    with pytest.raises(ConfigError, match="no column motion"):
        collect_tables(outputs.root, [regions], rules=[parse_rule("motion > 1")])
