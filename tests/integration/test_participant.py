"""A real scan through the whole app: what stands in the output folder, and that it is right."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich import get_console

from dmri_fm.encoders.features import feature_columns
from dmri_fm.identity import DEFAULT_MODELS
from dmri_fm.normalise.template import load_template
from dmri_fm.preprocess.gradient_check import check_gradients
from dmri_fm.series import Dwi, load_image, read_array
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.outputs.manifest import verify_outputs
from dmri_fm_workflows.outputs.methods import describe_methods, find_processed
from dmri_fm_workflows.outputs.naming import identify
from dmri_fm_workflows.outputs.sidecars import missing_metadata
from dmri_fm_workflows.outputs.tsv import read_table
from dmri_fm_workflows.plan import ParticipantPlan
from dmri_fm_workflows.plan.boilerplate import foresee_outputs
from dmri_fm_workflows.plan.decide import plan_participant
from dmri_fm_workflows.plan.engines import choose_engines
from dmri_fm_workflows.run import run_participants

if TYPE_CHECKING:
    from tests.integration.conftest import AppRun

    RunApp = Callable[..., tuple[int, str]]

# The first test waits for the run of all scanners, which has 50 minutes.
pytestmark = [pytest.mark.realdata, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]

#: Every participant of the vendors' dataset, and its series.
VENDORS = {
    "prisma": ("sub-prisma",),
    "trio": ("sub-trio_dir-AP",),
    "galan": ("sub-galan", "sub-galan_acq-tilted_dir-PA"),
    "umr": ("sub-umr", "sub-umr_acq-rot_dir-PA"),
}

#: Medians in white matter by b-value, s/mm^2: FA, and MD in 1e-3 mm^2/s, which falls with b
#: because the signal does not decay like a single exponential.
PLAUSIBLE_FA = (0.28, 0.60)
PLAUSIBLE_MD = {1000: (0.60, 0.95), 1500: (0.52, 0.85), 2500: (0.40, 0.75)}


def digests(folder: Path) -> dict[str, str]:
    """Return the checksums of all files but the run-specific ones."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "log" not in p.parts and "logs" not in p.relative_to(folder).parts
    }


def open_series(out: Path, name: str, space: str) -> Dwi:
    """Open a preprocessed series."""
    folder = out / name.split("_")[0] / "dwi"
    label = "ACPC" if space == "ACPC" else "MNI152NLin2009aSym_res-2"
    stem = folder / f"{name}_space-{label}_desc-"
    return Dwi.from_files(
        f"{stem}preproc_dwi.nii.gz",
        f"{stem}preproc_dwi.bval",
        f"{stem}preproc_dwi.bvec",
        f"{stem}brain_mask.nii.gz",
    )


def read_map(out: Path, name: str, param: str) -> np.ndarray:
    """Read a scalar map of the tensor fit in MNI."""
    folder = out / name.split("_")[0] / "dwi"
    label = f"space-MNI152NLin2009aSym_model-tensor_param-{param}_res-2"
    return read_array(load_image(folder / f"{name}_{label}_dwimap.nii.gz"))


def principal_axis(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the axis that undirected unit vectors (N, 3) share; its largest part is positive."""
    dyadic = np.einsum("k,ki,kj->ij", weights / weights.sum(), vectors, vectors)
    axis = np.linalg.eigh(dyadic)[1][:, 2]
    return axis * np.sign(axis[np.argmax(np.abs(axis))])


def assert_series_is_right(out: Path, name: str) -> None:
    """Check directions and diffusivities of a series by what is known of every brain."""
    for space in ("ACPC", "MNI"):
        dwi = open_series(out, name, space)
        check = check_gradients(dwi)
        assert check.best == "identity", (name, space, check.summary)
        assert check.is_decisive, (name, space, check.summary)
    template = load_template(2)
    fa, md = read_map(out, name, "fa"), read_map(out, name, "md")
    white = (template.wm > 0.9) & (fa > 0.2)
    assert white.sum() > 2000
    bval = max(s.bval for s in dwi.gtab.shells)
    nominal = min(PLAUSIBLE_MD, key=lambda b: abs(b - bval))
    low, high = PLAUSIBLE_MD[nominal]
    print(f"{name}: b {bval:.0f}, FA {np.median(fa[white]):.3f}, "
          f"MD {1e3 * np.median(md[white]):.3f}e-3 mm^2/s")  # fmt: skip
    assert PLAUSIBLE_FA[0] < np.median(fa[white]) < PLAUSIBLE_FA[1], name
    assert low < 1e3 * np.median(md[white]) < high, name


def assert_tracts_have_their_directions(out: Path, name: str) -> None:
    """Find the corpus callosum left-right and the corticospinal tract up-down."""
    from dmri_fm import fit_tensor

    maps = fit_tensor(open_series(out, name, "MNI"))
    points = load_template(2).grid.points().reshape(*maps.fa.shape, 3)
    x, y, z = np.moveaxis(points, -1, 0)
    # MNI boxes, mm: the body of the callosum at the midline, the corona radiata above the
    # posterior limb of the internal capsule.
    boxes = {
        "corpus callosum": (abs(x) < 6) & (abs(y + 8) < 26) & (abs(z - 24) < 8),
        "corticospinal tract": (abs(abs(x) - 24) < 5) & (abs(y + 18) < 8) & (abs(z - 20) < 12),
    }
    for (tract, box), expected in zip(boxes.items(), (0, 2), strict=True):
        inside = box & (maps.fa > 0.35)
        assert inside.sum() > 40, (name, tract)
        axis = principal_axis(maps.v1[inside], maps.fa[inside])
        assert np.abs(axis).argmax() == expected, (name, tract, axis)
        assert abs(axis[expected]) > 0.8, (name, tract, axis)


def test_it_finishes(umr: AppRun) -> None:
    assert umr.code == 0, umr.text[-3000:]
    assert not (umr.out_dir / "work").exists()
    assert "Traceback" not in umr.text


def test_it_asks_no_network(umr: AppRun) -> None:
    assert umr.network is not None
    lines = umr.network.read_text().splitlines()
    assert len([line for line in lines if line.startswith("watching ")]) >= 3
    assert not [line for line in lines if line.startswith("asked ")]


def test_its_files_are_as_written_and_its_record_is_whole(umr: AppRun) -> None:
    assert verify_outputs(umr.out_dir)[1] == []
    (path,) = umr.out_dir.glob("sub-umr/log/*/provenance.json")
    record = json.loads(path.read_text())
    assert record["weights"].keys() == set(DEFAULT_MODELS)
    assert record["settings"]["random_seed"] == 0
    stages = {step["stage"].split(":")[0] for step in record["steps"]}
    assert stages >= {"read", "denoise", "mask", "hmc", "normalise", "tensor", "quality"}
    assert {step["scan"] for step in record["steps"]} >= {"acq-rot_dir-PA"}
    assert all(step["seconds"] >= 0 for step in record["steps"])


@pytest.mark.parametrize("name", VENDORS["umr"])
def test_series_is_right(umr: AppRun, name: str) -> None:
    assert_series_is_right(umr.out_dir, name)
    assert_tracts_have_their_directions(umr.out_dir, name)


def test_every_file_has_a_name_we_know_and_a_complete_sidecar(umr: AppRun) -> None:
    n_files = 0
    for path in sorted((umr.out_dir / "sub-umr").rglob("*")):
        if not path.is_file() or "log" in path.parts:
            continue
        found = identify(path.relative_to(umr.out_dir))
        n_files += 1
        if path.suffix == ".json":
            sidecar = json.loads(path.read_text(encoding="utf-8"))
            assert not missing_metadata(found.type.name, sidecar), path.name
    assert n_files > 100


def test_maps_are_finite_and_in_range(umr: AppRun) -> None:
    for path in (umr.out_dir / "sub-umr" / "dwi").glob("*_dwimap.nii.gz"):
        data = read_array(load_image(path))  # refuses NaN
        if "param-fa" in path.name:
            assert data.min() >= 0.0, path.name
            assert data.max() <= 1.0, path.name


def test_features_and_quality_are_one_row_each(umr: AppRun) -> None:
    folder = umr.out_dir / "sub-umr" / "dwi"
    for name in VENDORS["umr"]:
        (row,) = read_table(
            folder / f"{name}_space-MNI152NLin2009aSym_model-drope_desc-scan_features.tsv"
        )
        columns = feature_columns(row)
        assert {of: len(names) for of, names in columns.items()} == {"cls": 192, "pooled": 384}
        assert np.isfinite([float(row[c]) for names in columns.values() for c in names]).all()
        assert row["participant_id"] == "sub-umr"
        (quality,) = read_table(folder / f"{name}_desc-image_qc.tsv")
        assert 0.5 < float(quality["preproc_neighbor_corr"]) <= 1
        confounds = read_table(folder / f"{name}_desc-confounds_timeseries.tsv")
        dwi = open_series(umr.out_dir, name, "ACPC")
        assert len(confounds) == len(dwi.gtab)


def test_sidecar_says_what_ran(umr: AppRun) -> None:
    folder = umr.out_dir / "sub-umr" / "dwi"
    pair, single = (
        json.loads((folder / f"{n}_space-ACPC_desc-preproc_dwi.json").read_text(encoding="utf-8"))
        for n in VENDORS["umr"]
    )
    assert "none" not in pair["SDCMethod"]
    raw = [uri for uri in pair["Sources"] if uri.startswith("bids:raw:")]
    assert len(raw) == 2
    assert single["SDCMethod"] == "none"
    assert any("NOT corrected" in text for text in single["Warnings"])
    for sidecar in (pair, single):
        assert sidecar["GradientCheck"]["Best"] == "identity"
        assert sidecar["B0NormalizationScale"] > 0
        assert {"HMCMethod", "Denoising", "MaskMethod", "NormalisationMethod"} <= set(sidecar)


def plan_umr(umr: AppRun, data_dir: Path) -> tuple[RunConfig, ParticipantPlan]:
    """Return the request of the run and its plan."""
    config = RunConfig(
        data_dir / "ds-vendors", umr.out_dir, participant_label=("umr",), sloppy=True, dry_run=True
    )
    engines = choose_engines(
        denoise=config.denoise,
        sdc=config.sdc,
        hmc=config.hmc,
        unring=config.unring,
        device=config.device,
    )
    (participant,) = read_dataset(config.bids_dir, participant_labels=["umr"]).participants
    return config, plan_participant(config, participant, engines)


def test_methods_text_by_the_plan_is_that_of_the_run(umr: AppRun, data_dir: Path) -> None:
    _, plan = plan_umr(umr, data_dir)
    ran = find_processed(set((umr.out_dir / "sub-umr").rglob("*")))
    assert describe_methods(foresee_outputs(plan)) == describe_methods(ran)


def test_sidecars_say_what_the_plan_said(umr: AppRun, data_dir: Path) -> None:
    """What `--dry-run` prints is what the run then does."""
    config, whole = plan_umr(umr, data_dir)
    plans = whole.series
    with get_console().capture() as captured:
        assert run_participants(config) == 0
    text = " ".join(captured.get().split())
    assert "sub-umr: complete already" in text
    assert tuple(plan.name for plan in plans) == VENDORS["umr"]
    folder = umr.out_dir / "sub-umr" / "dwi"
    for plan in plans:

        def read(what: str, name: str = plan.name) -> dict[str, Any]:
            return json.loads((folder / f"{name}_{what}.json").read_text(encoding="utf-8"))

        series = read("space-ACPC_desc-preproc_dwi")
        planned = {
            "Denoising": plan.denoising,
            "GibbsCorrection": plan.unringing,
            "SDCMethod": plan.sdc_name,
            "SDCReason": plan.sdc.reason,
            "HMCMethod": plan.hmc_name,
            "MaskMethod": plan.mask_name,
            "CoregistrationMethod": plan.coregistration_name,
            "NormalisationMethod": plan.normalisation_name,
            "B0Threshold": plan.b0_threshold,
        }
        assert {key: series[key] for key in planned} == planned
        # What the voxels tell comes behind what was known.
        n_known = len(plan.warnings)
        assert tuple(series["Warnings"][:n_known]) == plan.warnings
        files = [image.path.name for image in plan.sources]
        raw = [uri for uri in series["Sources"] if uri.startswith("bids:raw:")]
        assert [uri.rsplit("/", 1)[1] for uri in raw] == files
        tensor = read("space-ACPC_model-tensor_param-fa_dwimap")["Model"]["Parameters"]
        shells = plan.gtab.select(plan.tensor_volumes).shells
        assert tuple(tensor["Volumes"]) == plan.tensor_volumes
        assert tensor["BValues"] == [round(s.bval) for s in shells]
        words = [f"{v:g}" if isinstance(v, float) else v for v in planned.values()]
        for said in (*words, *files, *plan.warnings):
            assert " ".join(said.split()) in text, said
        assert plan.six is not None
        (network,) = plan.networks
        maps = folder.glob(f"{plan.name}_space-ACPC_model-*_param-fa_dwimap.json")
        (found,) = (json.loads(p.read_text()) for p in maps if "model-tensor_" not in p.name)
        assert found["Model"]["Parameters"]["BValue"] == round(plan.six.bval)
        assert f"network {network}: six of {plan.n_six_candidates} directions" in text
        (row,) = read_table(
            folder / f"{plan.name}_space-MNI152NLin2009aSym_model-drope_desc-scan_features.tsv"
        )
        assert int(row["n_directions"]) == plan.n_directions_of("drope")


def test_report_shows_its_figures_and_warnings_first(umr: AppRun) -> None:
    page = (umr.out_dir / "sub-umr.html").read_text(encoding="utf-8")
    assert page.index("NOT corrected") < page.index("Brain mask of the anatomical image")
    figures = list((umr.out_dir / "sub-umr" / "figures").glob("*.svg"))
    assert len(figures) >= 20
    for figure in figures:
        assert f"sub-umr/figures/{figure.name}" in page, figure.name


def test_whole_output_is_valid_by_both_schemas(
    umr: AppRun, assert_valid_output: Callable[..., None], draft_schema: Path
) -> None:
    assert_valid_output(umr.out_dir)
    assert_valid_output(umr.out_dir, schema=draft_schema)


def test_sidecars_name_existing_files_and_carry_the_warnings(umr: AppRun) -> None:
    """Sources and references are there, and every file of a scan says what its series says."""
    folder = umr.out_dir / "sub-umr"
    own = [p for p in folder.rglob("*.json") if "log" not in p.parts]
    for path in own:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        uris = [*sidecar["Sources"], sidecar.get("SpatialReference", "")]
        for uri in (u for u in uris if u.startswith("bids::")):
            assert (umr.out_dir / uri.removeprefix("bids::")).is_file(), (path.name, uri)
        assert isinstance(sidecar.get("SpatialReference", ""), str)
        assert isinstance(sidecar["Warnings"], list)
    single = [p for p in own if "acq-rot" in p.name]
    for path in single:
        warnings = json.loads(path.read_text(encoding="utf-8"))["Warnings"]
        assert any("NOT corrected" in text for text in warnings), path.name
    endings = (".nii.gz", ".tsv", ".txt", ".npz")
    data = [p for p in folder.rglob("*") if p.name.endswith(endings) and "log" not in p.parts]
    for path in data:
        assert path.with_name(path.name.split(".")[0] + ".json").is_file(), path.name


def test_series_keep_their_repetition_time(umr: AppRun) -> None:
    for path in (umr.out_dir / "sub-umr" / "dwi").glob("*_dwi.nii.gz"):
        assert float(load_image(path).header["pixdim"][4]) == pytest.approx(5.865)


def test_second_run_is_quick_and_touches_nothing(
    umr: AppRun, run_app: RunApp, data_dir: Path
) -> None:
    before = digests(umr.out_dir)
    times = {p: p.stat().st_mtime_ns for p in (umr.out_dir / "sub-umr" / "dwi").iterdir()}
    start = time.monotonic()
    code, text = run_app(
        data_dir / "ds-vendors",
        umr.out_dir,
        "participant",
        "--participant-label",
        "umr",
        "--sloppy",
    )
    assert code == 0, text[-2000:]
    assert time.monotonic() - start < 60
    assert "complete already" in text
    assert digests(umr.out_dir) == before
    assert {p: p.stat().st_mtime_ns for p in (umr.out_dir / "sub-umr" / "dwi").iterdir()} == times


def test_group_collects_the_participant(umr: AppRun, run_app: RunApp, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(umr.out_dir, out)
    # `group` needs no raw data: an empty folder stands for a dataset that is gone.
    (tmp_path / "nothing").mkdir()
    code, text = run_app(tmp_path / "nothing", out, "group", "--reports-only")
    assert code == 0, text[-2000:]
    page = Path("sub-umr.html")
    assert (out / page).read_bytes() == (umr.out_dir / page).read_bytes()
    features = read_table(out / "group" / "model-drope_desc-scan_features.tsv")
    assert [row["participant_id"] for row in features] == ["sub-umr", "sub-umr"]
    (status,) = read_table(out / "group" / "participants_status.tsv")
    assert status["status"] == "complete"
    scalars = read_table(out / "group" / "desc-scalars_features.tsv")
    assert 0.2 < float(scalars[0]["tensor_fa_median_wm"]) < 0.7
    assert (out / "group" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_all_scanners_finish(vendors: AppRun) -> None:
    assert vendors.code == 0, vendors.text[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for names in VENDORS.values() for n in names])
def test_every_series_of_every_scanner_is_right(vendors: AppRun, name: str) -> None:
    assert_series_is_right(vendors.out_dir, name)
    assert_tracts_have_their_directions(vendors.out_dir, name)
