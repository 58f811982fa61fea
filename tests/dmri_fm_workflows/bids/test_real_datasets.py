"""Datasets as scanners and labs left them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dmri_fm_workflows.bids import DwiSeries, Participant, read_dataset

pytestmark = pytest.mark.realdata


def by_label(root: Path, **chosen) -> dict[str, Participant]:
    dataset = read_dataset(root, **chosen)
    assert not dataset.problems, [str(p.error) for p in dataset.problems]
    return {p.label: p for p in dataset.participants}


@pytest.fixture(scope="module")
def vendors(data_dir) -> dict[str, Participant]:
    return by_label(data_dir / "ds-vendors")


def reasons(series: DwiSeries) -> dict[str, str]:
    """Return why images are not used, by name without the participant."""
    return {u.path.name.split(".")[0].split("_", 1)[1]: u.reason for u in series.unused}


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("prisma", {"sub-prisma": ["dir-AP", "dir-PA"]}),
        ("trio", {"sub-trio_dir-AP": ["dir-AP"]}),
        (
            "galan",
            {
                "sub-galan": ["dir-AP", "dir-PA"],
                "sub-galan_acq-tilted_dir-PA": ["acq-tilted_dir-PA"],
            },
        ),
        (
            "umr",
            {"sub-umr": ["dir-AP", "dir-PA"], "sub-umr_acq-rot_dir-PA": ["acq-rot_dir-PA"]},
        ),
    ],
)
def test_series_of_four_scanners(vendors, label, expected) -> None:
    (session,) = vendors[label].sessions
    assert session.label is None
    assert {s.name: [run.path.name for run in s.runs] for s in session.series} == {
        name: [f"sub-{label}_{run}_dwi.nii.gz" for run in runs] for name, runs in expected.items()
    }
    for series in session.series:
        # Where both directions were scanned in one pose they are the pair; nowhere else.
        assert (series.blip_pair is not None) == (len(series.runs) == 2)
        for run in series.runs:
            stem = run.path.name.removesuffix(".nii.gz")
            assert (run.bval.name, run.bvec.name) == (f"{stem}.bval", f"{stem}.bvec")


def test_what_the_four_scanners_say(vendors) -> None:
    prisma, trio, galan, umr = (
        vendors[label].sessions[0] for label in ("prisma", "trio", "galan", "umr")
    )
    assert [path.name for path in prisma.t1w] == ["sub-prisma_T1w.nii.gz"]
    assert [path.name for path in umr.t1w] == ["sub-umr_T1w.nii.gz"]
    assert trio.t1w == galan.t1w == ()
    (fieldmap,) = prisma.series[0].fieldmaps
    assert (fieldmap.method, fieldmap.problem) == ("phasediff", "")
    assert fieldmap.echo_times_s == (0.01, 0.01246)
    assert reasons(prisma.series[0]) == {}
    for visit, degrees, acquisition in ((galan, 28.5, "tilted"), (umr, 14.1, "rot")):
        turned = f"it belongs to another series; it shows another head pose, turned by {degrees}"
        together, alone = visit.series
        found = reasons(together)[f"acq-{acquisition}_dir-PA_dwi"]
        assert found == f"{turned} degrees"
        assert reasons(alone)["dir-AP_dwi"] == f"{turned} degrees"
        assert "its phase encoding, j, is that of the series" in reasons(alone)["dir-PA_dwi"]
    assert reasons(trio.series[0]) == {}
    assert not any(visit.warnings for visit in (prisma, trio, galan, umr))
    assert prisma.series[0].runs[0].readout_time_s == 0.0475693
    assert [run.phase_encoding for run in prisma.series[0].runs] == ["j-", "j"]
    assert all(run.readout_time_s is None for s in galan.series for run in s.runs)
    assert all("TotalReadoutTime is missing" in w for s in galan.series for w in s.warnings)
    # The lower shells of this scan hold too few directions for a tensor.
    (widened,) = prisma.series[0].warnings
    assert "the tensor is fitted to b-values up to 2500 s/mm^2" in widened
    assert not any(s.warnings for visit in (trio, umr) for s in visit.series)


def test_simulated_scan_has_a_b0_only_reverse_run(data_dir) -> None:
    (session,) = by_label(data_dir / "ds-sim")["sim01"].sessions
    (series,) = session.series
    assert series.name == "sub-sim01"
    assert [run.shape[3] for run in series.runs] == [62, 2]
    assert series.blip_pair is not None


def copy_filled(source: Path, target: Path, labels: tuple[str, ...]) -> None:
    """Copy some participants of a skeleton and fill the images that will be opened."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, target / path.name)
    for label in labels:
        shutil.copytree(source / f"sub-{label}", target / f"sub-{label}")
    for path in target.rglob("*.nii*"):
        shape: tuple[int, ...] = (4, 4, 4)
        if path.name.split(".")[0].endswith("_dwi"):
            bval = path.with_name(path.name.split(".")[0] + ".bval")
            bval = bval if bval.exists() else target / "dwi.bval"
            shape = (4, 4, 4, len(bval.read_text().split()))
        nib.save(nib.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), path)


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        (
            "ds114",
            ("01", "02"),
            {
                ("01", "retest"): ["sub-01_ses-retest"],
                ("01", "test"): ["sub-01_ses-test"],
                ("02", "retest"): ["sub-02_ses-retest"],
                ("02", "test"): ["sub-02_ses-test"],
            },
        ),
        ("ds000117", ("01",), {("01", "mri"): ["sub-01_ses-mri"]}),
        ("genetics_ukbb", ("01", "14"), {("01", None): ["sub-01"], ("14", None): ["sub-14"]}),
        ("dwi_deriv", ("01",), {("01", None): ["sub-01"]}),
    ],
)
def test_public_layouts(data_dir, tmp_path, name, labels, expected) -> None:
    root = tmp_path / name
    copy_filled(data_dir / "bids-skeletons" / name, root, labels)
    participants = by_label(root)
    assert {
        (p.label, s.label): [series.name for series in s.series]
        for p in participants.values()
        for s in p.sessions
    } == expected
    for participant in participants.values():
        for session in participant.sessions:
            assert bool(session.t1w) == (name != "dwi_deriv")
            assert all(run.load().gtab.is_b0.any() for s in session.series for run in s.runs)


def test_inherited_gradients_of_public_layouts(data_dir, tmp_path) -> None:
    root = tmp_path / "ds114"
    copy_filled(data_dir / "bids-skeletons" / "ds114", root, ("03",))
    for session in by_label(root)["03"].sessions:
        assert session.series[0].runs[0].bvec == root / "dwi.bvec"
    root = tmp_path / "genetics_ukbb"
    copy_filled(data_dir / "bids-skeletons" / "genetics_ukbb", root, ("03",))
    run = by_label(root)["03"].sessions[0].series[0].runs[0]
    assert (run.bval, run.phase_encoding) == (root / "dwi.bval", "j-")


@pytest.mark.parametrize("name", ["ds114", "ds000117", "genetics_ukbb", "dwi_deriv"])
def test_empty_images_are_problems_not_crashes(data_dir, name) -> None:
    dataset = read_dataset(data_dir / "bids-skeletons" / name)
    assert dataset.participants == ()
    assert all("zero bytes" in str(p.error) for p in dataset.problems)
