"""Voxel-wise tests on small maps in the space of the template."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.series import save_image
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.statistics.analysis import analyse
from dmri_fm_lab.statistics.maps import find_maps
from dmri_fm_lab.statistics.methods import write_methods
from dmri_fm_lab.statistics.request import request_from
from dmri_fm_workflows.outputs.naming import output_path

N = 24
SHAPE = (16, 19, 16)
AFFINE = np.diag([10.0, 10, 10, 1])
AFFINE[:3, 3] = [-75, -110, -70]
BLOB = (slice(5, 8), slice(8, 11), slice(7, 10))


def map_path(home: Path, label: str) -> Path:
    space = {"space": "MNI152NLin2009aSym", "resolution": "2"}
    return home / output_path({"subject": label}, "fa", **space, model="tensor")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FA maps that are lower in a blob of patients; a family has one, a household two or none."""
    home = tmp_path_factory.mktemp("derivatives")
    rng = np.random.default_rng(0)
    group = np.tile(["control", "patient"], N // 2)
    labels = [f"{i:02d}" for i in range(N)]
    for label, of in zip(labels, group, strict=True):
        data = 0.5 + 0.03 * rng.normal(size=SHAPE)
        data[BLOB] -= 0.12 * (of == "patient")
        save_image(data, AFFINE, map_path(home, label))
    people = pd.DataFrame({"participant_id": [f"sub-{label}" for label in labels]})
    people["age"] = rng.normal(50, 10, N)
    people["group"], people["family_id"] = group, np.arange(N) // 2
    people["family_id"] = "f" + people["family_id"].astype(str)
    people["household"] = [f"h{i // 4}{i % 2}" for i in range(N)]
    people.to_csv(home / "participants.tsv", sep="\t", index=False)
    (home / "design.toml").write_text(
        'participants = "participants.tsv"\nformula = "value ~ age + C(group)"\n'
        'terms = ["C(group)"]\n[maps]\nderivatives = "."\nparams = ["fa"]\npermutations = 25\n'
    )
    return home


def request(home: Path, maps: dict[str, object] | None = None, **values: object):
    known = {
        "participants": "participants.tsv",
        "formula": "value ~ age + C(group)",
        "terms": ["C(group)"],
        "maps": {"derivatives": ".", "params": ["fa"], "permutations": 60, **(maps or {})},
    }
    return request_from({**known, **values}, path=home / "design.toml")


def inside() -> np.ndarray:
    blob = np.zeros(SHAPE, dtype=bool)
    blob[BLOB] = True
    return blob


def test_page_and_maps_find_the_blob_by_tfce(home: Path, tmp_path: Path) -> None:
    assert main(["stats", str(home / "design.toml"), "--out", str(tmp_path)]) == 0
    stem = tmp_path / "space-MNI152NLin2009aSym_param-fa_effect-CgroupTpatient"
    log_p = nib.load(f"{stem}_stat-logpfwe_statmap.nii.gz").get_fdata()
    t = nib.load(f"{stem}_stat-t_statmap.nii.gz").get_fdata()
    found, tested = log_p > -np.log10(0.05), t != 0
    assert found[inside() & tested].mean() > 0.9
    assert (t[inside() & tested] < 0).all()
    # Cluster enhancement reaches over the border of the blob.
    assert found[~inside() & tested].mean() < 0.05
    sidecar = json.loads(Path(f"{stem}_stat-t_statmap.json").read_text())
    assert sidecar["Use"].startswith(RESEARCH_ONLY)
    assert sidecar["Description"] == "t of C(group)[T.patient] in FA"
    page = (tmp_path / "statistics.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert "threshold-free cluster enhancement" in page
    assert "the residual variance that all scans share" in page
    assert "heteroscedasticity" not in page
    assert "robust" not in page


@pytest.mark.parametrize(
    ("exchange", "families"),
    [("whole", "household"), ("within", "family_id"), ("flip", "family_id")],
)
def test_families_are_permuted_as_blocks(home: Path, exchange: str, families: str) -> None:
    found = analyse(request(home, families=families, exchange=exchange))
    (scores,) = found.maps
    assert "families and signs forbid that" in scores.method
    methods = write_methods(found)
    assert f"cluster-robust standard errors (CR2) over blocks of one {families}" in methods
    assert "CR3" not in methods
    assert "generalised least squares" not in methods
    significant = scores.log_p > -np.log10(0.05)
    assert significant[inside() & scores.mask].mean() > 0.5
    assert significant[~inside() & scores.mask].mean() < 0.01


def test_whole_families_cannot_show_what_is_alike_in_all(home: Path) -> None:
    found = analyse(request(home, {"permutations": 19}, families="family_id"))
    assert any("C(group)[T.patient] cannot be small" in w.text for w in found.warnings)
    of_households = analyse(request(home, {"permutations": 19}, families="household"))
    assert not of_households.warnings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"harmonise": "combat", "site": ["group"], "preserve": []}, "ComBat of maps"),
        ({"repeats": "mean"}, "the mean of a participant's maps"),
    ],
)
def test_what_is_not_done_to_maps_is_refused(home, values, message):
    with pytest.raises(ConfigError, match=message):
        request(home, **values)


def test_maps_that_cannot_be_used_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no map of md"):
        analyse(request(home, {"params": ["md"]}))
    empty = tmp_path / "empty.nii.gz"
    save_image(np.zeros(SHAPE), AFFINE, empty)
    with pytest.raises(ConfigError, match="no voxel of the mask"):
        analyse(request(home, {"mask": str(empty)}))
    table = tmp_path / "t.tsv"
    ids = [f"sub-{i:02d}" for i in range(N)]
    pd.DataFrame({"participant_id": [*ids, "sub-24"], "fa": np.arange(N + 1.0)}).to_csv(
        table, sep="\t", index=False
    )
    people = pd.read_csv(home / "participants.tsv", sep="\t")
    more = pd.concat([people, people.tail(1).assign(participant_id="sub-24")])
    more.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="no map of sub-24"):
        analyse(
            request(
                home, tables=[str(table)], participants=str(tmp_path / "p.tsv"), permutations=0
            )
        )


def test_maps_of_excluded_scans_are_not_used(home: Path, tmp_path: Path) -> None:
    for label in ("00", "01", "02"):
        save_image(np.full(SHAPE, 0.5), AFFINE, map_path(tmp_path, label))
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "desc-image_qc.tsv").write_text(
        "scan_id\tparticipant_id\tqc_exclude\tmean_fd\n"
        "sub-00\tsub-00\tn/a\t0.1\nsub-01\tsub-01\tmean_fd > 1\t2\n"
    )
    asked = request(home, {"derivatives": str(tmp_path)}).maps
    table = find_maps(asked)
    assert list(table.scans.index) == ["sub-00", "sub-02"]
    assert table.left_out == (("sub-01", "excluded by QC: mean_fd > 1"),)
