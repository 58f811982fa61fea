"""Maps that have not changed are not read again, and what has changed is."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from dmri_fm_workflows.group import RegionSet, collect_tables, write_tables

MNI = "MNI152NLin2009aSym"


@pytest.fixture
def done(outputs, regions):
    """Two participants whose tables are written."""
    outputs.add_participant("01", fa=0.4)
    outputs.add_participant("02", fa=0.5)
    write_tables(outputs.root, collect_tables(outputs.root, [regions]))
    return outputs


def the_map(outputs) -> Path:
    return outputs.path({"subject": "01", "direction": "AP"}, "fa", model="tensor", space=MNI)


def spoil(path: Path) -> None:
    """Replace the content of a file by zeros, under its size and time."""
    state = path.stat()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_unchanged_maps_are_not_read_and_the_tables_are_the_same(done, regions, caplog) -> None:
    group = done.root / "group"
    before = {p.name: p.read_bytes() for p in group.iterdir()}
    for path in done.root.rglob("*.nii.gz"):
        spoil(path)
    with caplog.at_level(logging.INFO):
        tables = collect_tables(done.root, [regions])
    assert tables.problems == ()
    assert "6 maps have not changed since the last run and were not read again; 0" in caplog.text
    write_tables(done.root, tables)
    assert {p.name: p.read_bytes() for p in group.iterdir()} == before


def test_a_map_or_mask_that_changed_is_read(done, regions) -> None:
    path = the_map(done)
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + np.float32(0.1), image.affine), path)
    tables = collect_tables(done.root, [regions])
    values = pd.to_numeric(tables.scalars["tensor_fa_mean_wm"])
    np.testing.assert_allclose(values, [0.5, 0.5], atol=2e-3)
    mask = done.path({"subject": "02", "direction": "AP"}, "dwi_mask", space=MNI)
    empty = nib.load(mask)
    nib.save(nib.Nifti1Image(np.zeros(empty.shape, np.float32), empty.affine), mask)
    assert collect_tables(done.root, [regions]).scalars["coverage_wm"].tolist() == ["1", "0"]


def test_other_regions_read_all_maps(done, regions) -> None:
    spoil(the_map(done))
    assert collect_tables(done.root, [regions]).problems == ()
    moved = RegionSet(regions.labels[::-1].copy(), regions.affine, regions.members)
    (problem,) = collect_tables(done.root, [moved]).problems
    assert the_map(done).name in problem.message


@pytest.mark.parametrize("content", [b"", b"no parquet", None])
def test_a_damaged_record_is_told_and_not_used(done, regions, content, caplog) -> None:
    path = done.root / "group" / "desc-scalarslong_features.parquet"
    before = collect_tables(done.root, [regions]).scalars
    if content is None:  # a table of somebody else
        pd.DataFrame({"value": [1.0], "n_voxels": [1], "coverage": [1.0]}).to_parquet(path)
    else:
        path.write_bytes(content)
    found = collect_tables(done.root, [regions]).scalars
    assert "is not used, all maps are read" in caplog.text
    pd.testing.assert_frame_equal(found, before)
