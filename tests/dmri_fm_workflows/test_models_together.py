"""The default models and the published ones, side by side on a tiny series."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import nipype.pipeline.engine as pe
import numpy as np
import pytest
import torch
from nipype.interfaces import utility as niu

from dmri_fm.encoders.features import feature_columns
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import (
    DEFAULT_MODELS,
    RESEARCH_ONLY,
    about_model,
    identity,
    label_of,
)
from dmri_fm.normalise.template import load_template
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.out_of_distribution import fit_reference
from dmri_fm.preprocess.motion import no_motion
from dmri_fm.preprocess.motion_table import write_motion_tsv
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.registry import MODELS, feature_grid
from dmri_fm.series import save_image
from dmri_fm.shell_resampling import fixed_directions
from dmri_fm.tensor_maps import SCALARS
from dmri_fm.tensor_networks.refiner import RefinerConfig, TensorRefiner
from dmri_fm.tensor_networks.volumes import choose_volumes
from dmri_fm.weights import save_weights
from dmri_fm_workflows.bids import Session
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.plan_text import stage_lines
from dmri_fm_workflows.group import RegionSet, collect_tables, render_group_page, write_tables
from dmri_fm_workflows.group.collect import list_outputs
from dmri_fm_workflows.group.tables import gather_features
from dmri_fm_workflows.interfaces.quality import AssessQuality
from dmri_fm_workflows.outputs import load_catalogue
from dmri_fm_workflows.outputs.docs import outputs_page
from dmri_fm_workflows.outputs.tsv import read_table
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.plan.decide import plan_series
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.stages.base import Resources, connect_stages, field_names
from dmri_fm_workflows.stages.derivatives import Origin, init_derivatives_wf
from dmri_fm_workflows.stages.outputs import feature_outputs
from dmri_fm_workflows.stages.table import list_stages
from tests.dmri_fm.encoders.artefact_unet.narrow import NARROW as NARROW_UNET
from tests.dmri_fm.encoders.ssdiff.narrow import NARROW
from tests.dmri_fm_workflows.tiny_models import COARSE, write_tiny_weights
from tests.dmri_fm_workflows.tiny_series import read_record, write_series

TENSOR_NETWORKS = ("tensor-refiner", "qcg-dti-paper")
ENCODERS = ("drope", "drope-paper", "ssdiff")
SCAN = {"subject": "01", "direction": "AP"}
MNI = "MNI152NLin2009aSym"
GTAB = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", autouse=True)
def _coarse_grids():
    with pytest.MonkeyPatch.context() as patch:
        coarse = {"drope-paper": COARSE, "ssdiff": NARROW, "artefact-unet": NARROW_UNET}
        for name, config in coarse.items():
            patch.setitem(MODELS, name, MODELS[name]._replace(config=config))
        yield


@pytest.fixture(scope="module")
def weights(folder) -> dict[str, Path]:
    return write_tiny_weights(folder)


@pytest.fixture(scope="module")
def offered(folder) -> dict[str, str]:
    """Return what the normalise stage hands on, by its field."""
    box = np.s_[4:16, 4:16, 3:11]
    files = write_series(GTAB, folder, "acpc", (20, 20, 14), np.diag([-2.0, 2.0, 2.0, 1.0]), box)
    for encoder in ENCODERS:
        grid = feature_grid(encoder)
        middle = tuple(slice(n // 2, n // 2 + 16) for n in grid.shape)
        # SSDiff refuses a scan that misses half of the brain.
        where = np.s_[1:-1, 1:-1, 1:-1] if encoder == "ssdiff" else middle
        name = f"{label_of(encoder)}_grid"
        files |= write_series(GTAB, folder, name, grid.shape, grid.affine, where)
    template = load_template(2)
    brain = save_image(
        np.ones(template.grid.shape), template.grid.affine, folder / "mni.nii", dtype=np.uint8
    )
    write_affine(np.eye(4), folder / "to_mni.txt")
    noise = save_image(np.full((20, 20, 14), 16.0), np.diag([-2.0, 2, 2, 1]), folder / "noise.nii")
    choice = folder / "choice.json"
    choice.write_text(json.dumps(choose_volumes(GTAB).as_json()))
    return files | {
        "mni_mask_file": str(brain),
        "to_mni_file": str(folder / "to_mni.txt"),
        "chosen_file": files["acpc_dwi_file"],
        "chosen_noise_file": str(noise),
        "noise_record": {"NoiseMap": "known"},
        "choice_file": str(choice),
    }


@pytest.fixture(scope="module")
def out(folder, weights, offered) -> Path:
    """Run every model and the sinks; return the output folder."""
    plan = _plan(folder, offered, models=(*TENSOR_NETWORKS, *ENCODERS), weights=weights)
    assert plan.warnings == (
        "qcg-dti-paper gives no standard deviations of FA and MD (desc-std).",
        "qcg-dti-paper gives no out-of-distribution map (param-ood).",
    )
    return _run_models(plan, folder, offered)


def _plan(folder: Path, offered: dict[str, str], **request) -> SeriesPlan:
    return plan_series(
        RunConfig(folder / "raw", folder / "out", device="cpu", **request),
        read_record(offered, SCAN),
        Session(None, (), ()),
        Engines("none", ("none",), "none"),
    )


def _run_models(plan: SeriesPlan, folder: Path, offered: dict[str, str]) -> Path:
    """Run the models of a plan and the sinks; return the output folder."""
    resources = Resources(bids_root=folder, output_dir=folder / "out", omp_nthreads=1)
    of_models = {"tensor", *map(label_of, plan.models)}
    stages = [stage for stage in list_stages(plan) if stage.name in of_models]
    workflow = pe.Workflow(name="models_wf", base_dir=str(folder / "work"))
    workflow.config["execution"] = {"crashdump_dir": str(folder), "check_version": False}
    inputs = pe.Node(niu.IdentityInterface([*offered, "record"]), name="offered")
    for name, value in {**offered, "record": {"Warnings": ["tiny"]}}.items():
        setattr(inputs.inputs, name, value)
    sources = {name: (inputs, name) for name in (*offered, "record")}
    sources = connect_stages(workflow, stages, plan, resources, sources)
    derivatives = init_derivatives_wf(
        outputs=[output for stage in stages for output in stage.outputs],
        output_dir=resources.output_dir,
        origin=Origin(
            entities=SCAN,
            sources=["bids:raw:sub-01/dwi/sub-01_dir-AP_dwi.nii.gz"],
            normalisation="affine",
        ),
    )
    workflow.add_nodes([derivatives])
    for name in field_names(derivatives, "inputnode"):
        node, field = sources[name]
        workflow.connect(node, field, derivatives, f"inputnode.{name}")
    workflow.run()
    return folder / "out"


def _names(out: Path, part: str) -> set[str]:
    return {p.name.removeprefix("sub-01_dir-AP_") for p in out.rglob(f"*{part}*")}


def test_each_model_writes_under_its_own_label(out) -> None:
    catalogue = load_catalogue()
    for model, own in (("tensor", {"s0"}), ("tensorrefiner", {"ood"}), ("qcgdtipaper", set())):
        params = {of.entities["param"] for of in catalogue.maps_of(model)}
        assert params == {"diffusivity", *SCALARS, *own}
        maps = _names(out, f"space-ACPC_model-{model}_param-*[a-z0-9]_dwimap.nii.gz")
        assert {m.split("param-")[1].split("_")[0] for m in maps} == params
        assert len(_names(out, f"space-{MNI}_model-{model}_param-*dwimap.nii.gz")) == len(SCALARS)
    assert _names(out, "desc-std_dwimap.nii.gz") == {
        f"space-ACPC_model-tensorrefiner_param-{p}_desc-std_dwimap.nii.gz" for p in ("fa", "md")
    }
    assert {n for n in _names(out, "_features.") if not n.endswith(".json")} == {
        f"space-{MNI}_model-drope_desc-scan_features.tsv",
        f"space-{MNI}_model-drope_desc-patch_features.npz",
        f"space-{MNI}_model-dropepaper_desc-scan_features.tsv",
        f"space-{MNI}_model-dropepaper_desc-patch_features.npz",
        f"space-{MNI}_model-ssdiff_desc-scan_features.tsv",
    }
    assert _names(out, "param-sensitivity_dwimap.nii.gz") == {
        f"space-{MNI}_model-ssdiff_param-sensitivity_dwimap.nii.gz"
    }
    assert _names(out, ".svg") == {
        "desc-features_dwi.svg",
        "model-dropepaper_desc-features_dwi.svg",
        "model-qcgdtipaper_desc-tensorvsnetwork_dwi.svg",
        "model-ssdiff_desc-features_dwi.svg",
        "model-tensorrefiner_desc-tensorvsnetwork_dwi.svg",
    }


def test_sidecars_name_the_model_that_made_the_file(out, weights) -> None:
    sidecars = {p.name: json.loads(p.read_text()) for p in (out / "sub-01").rglob("*.json")}
    assert len(sidecars) > 30
    for name, sidecar in sidecars.items():
        label = name.partition("_model-")[2].partition("_")[0]
        about = about_model(label)
        assert {k: sidecar["Model"][k] for k in ("Name", "Label", "Description")} == {
            k: about[k] for k in ("Name", "Label", "Description")
        }
        assert sidecar["Warnings"] == ["tiny"]
    features = {n: s for n, s in sidecars.items() if n.endswith("_features.json")}
    assert len(features) == 5
    for sidecar in features.values():
        assert sidecar["Model"]["Features"] == ["cls", "pooled"]
        assert sidecar["Model"]["Use"] == RESEARCH_ONLY
        own = identity(sidecar["Model"]["Label"]).extraction
        assert (sidecar["Region"], sidecar["DirectionChoice"]) == own[:2]
    theirs = features[f"sub-01_dir-AP_space-{MNI}_model-dropepaper_desc-scan_features.json"]
    assert theirs["Model"]["Weights"] == weights["drope-paper"].name
    fa = sidecars["sub-01_dir-AP_space-ACPC_model-qcgdtipaper_param-fa_dwimap.json"]
    assert fa["Model"]["Weights"] == weights["qcg-dti-paper"].name
    ran = fa["Model"]["Parameters"]
    assert ran["Input"] == "not denoised, interpolated once into ACPC"
    assert ran["NoiseSource"] == "known"
    assert (ran["Volumes"], ran["ExcludedVolumes"]) == ([1, 2, 3, 4, 5, 6], [])
    assert "tumours" in ran["NeverPrimaryIn"]
    assert ran["ParticipantAge"] == "unknown"
    assert fa["Sources"] == [
        "bids::sub-01/dwi/sub-01_dir-AP_space-ACPC_model-qcgdtipaper_param-diffusivity"
        "_dwimap.nii.gz"
    ]
    zheng = "https://doi.org/10.1631/FITEE.2400766"
    assert {n for n, s in sidecars.items() if zheng in s.get("References", [])} == {
        n for n in sidecars if "model-qcgdtipaper" in n
    }


def test_the_unet_reads_a_shell_of_enough_directions(offered, weights, tmp_path) -> None:
    axes = fixed_directions(20)
    gtab = GradientTable([0] + [1000] * 20, np.vstack([np.zeros(3), axes]))
    grid, label = feature_grid("artefact-unet"), "artefactunet_grid"
    box, inside = np.s_[4:16, 4:16, 3:11], np.s_[4:-4, 4:-4, 4:-4]
    spread = offered | write_series(
        gtab, tmp_path, "acpc", (20, 20, 14), np.diag([-2.0, 2.0, 2.0, 1.0]), box
    )
    spread |= write_series(gtab, tmp_path, label, grid.shape, grid.affine, inside)
    plan = _plan(tmp_path, spread, models=("artefact-unet",), weights=weights)
    assert plan.encoders == ("artefact-unet",)
    assert "20 of 20 directions, one shell" in dict(stage_lines(plan))["features"]
    out = _run_models(plan, tmp_path, spread)
    (scan,) = out.rglob("*_model-artefactunet_desc-scan_features.tsv")
    (row,) = read_table(scan)
    assert feature_columns(row) == {"pooled": [f"pooled{i:03d}" for i in range(5)]}
    sidecar = json.loads(scan.with_suffix(".json").read_text())
    assert sidecar["Model"]["Features"] == ["pooled"]
    assert (sidecar["ShellBValue"], sidecar["SphericalHarmonicOrder"]) == (1000, 4)
    assert "https://doi.org/10.1007/978-3-658-36932-3_32" in sidecar["References"]
    assert _names(out, ".svg") == {"model-artefactunet_desc-features_dwi.svg"}


def test_the_quality_table_has_columns_for_each_model(out, offered, tmp_path) -> None:
    dwi = out / "sub-01" / "dwi"
    motion = tmp_path / "motion.tsv"
    np.save(tmp_path / "outliers.npy", np.zeros((len(GTAB), 14), dtype=bool))
    write_motion_tsv(no_motion(len(GTAB), 14), motion)
    files = {
        f"{label}_{end}": str(
            dwi / f"sub-01_dir-AP_space-ACPC_model-{label}_param-{param}_dwimap.nii.gz"
        )
        for label, end, param in (
            ("tensor", "diffusivity_file", "diffusivity"),
            ("tensorrefiner", "diffusivity_file", "diffusivity"),
            ("tensorrefiner", "ood_file", "ood"),
            ("qcgdtipaper", "diffusivity_file", "diffusivity"),
        )
    }
    series = {f.removeprefix("acpc_"): p for f, p in offered.items() if f.startswith("acpc_")}
    quality = AssessQuality(
        TENSOR_NETWORKS,
        ENCODERS,
        entities=SCAN,
        **series,
        **{f"raw_{f.replace('dwi_', '')}": p for f, p in series.items()},
        motion_file=str(motion),
        outliers_file=str(tmp_path / "outliers.npy"),
        to_acpc_file=str(write_affine(np.eye(4), tmp_path / "to_acpc.mat")),
    )
    for name, path in files.items():
        setattr(quality.inputs, name, path)
    quality.inputs.drope_ood = {"ood_score": 1.5, "ood_percentile": 80.0}
    quality.inputs.dropepaper_ood = {"ood_score": float("nan"), "ood_percentile": float("nan")}
    done = quality.run(cwd=str(tmp_path)).outputs
    (row,) = read_table(done.qc_file)
    names = list(row)
    assert names[names.index("negative_diffusivity_fraction") + 1 :] == [
        *(f"{label}_{measure}" for label in ("tensorrefiner", "qcgdtipaper") for measure in (
            "fa_out_of_range_fraction", "negative_diffusivity_fraction", "md_bias",
            "ood_fraction")),
        "raw_kspace_extent", "mask_volume_ml", "mask_agreement_dice", "registration_dice",
        "sdc_method", "ood_score",
        "ood_percentile", "dropepaper_ood_score", "dropepaper_ood_percentile",
    ]  # fmt: skip
    assert row["tensorrefiner_ood_fraction"] != "n/a"
    assert row["qcgdtipaper_ood_fraction"] == "n/a", "this network gives no such map"
    assert (row["ood_score"], row["dropepaper_ood_score"]) == ("1.5", "n/a")
    assert {n for n in names if n not in done.record} == {"acquisition", "direction", "run"}
    again = pickle.loads(pickle.dumps(quality))
    assert again.inputs.tensorrefiner_ood_file == files["tensorrefiner_ood_file"]


def test_the_group_has_a_table_for_each_encoder(out) -> None:
    template = load_template(2)
    labels = np.zeros(template.grid.shape, dtype=np.int16)
    labels[:50], labels[50:] = 1, 2
    regions = RegionSet.from_table(
        labels, template.grid.affine, names={1: "wm_left", 2: "wm_right"},
        tissues={1: "wm", 2: "wm"},
    )  # fmt: skip
    tables = collect_tables(out, [regions])
    assert tables.problems == ()
    written = {p.name for p in write_tables(out, tables)}
    assert {
        "model-drope_desc-scan_features.tsv",
        "model-dropepaper_desc-scan_features.tsv",
    } <= written
    for of in tables.features:
        columns = feature_columns(of.table.columns)
        assert list(columns) == ["cls", "pooled"]
        (row,) = of.table.to_dict("records")
        n = len(columns["cls"])
        deviations = {row[c] for c in columns["pooled"][n:]}
        assert deviations <= {"n/a"}, "six directions are too few"
        assert bool(deviations) == identity(of.model).has_patches
        assert "n/a" not in {row[c] for c in (*columns["cls"], *columns["pooled"][:n])}
        assert not {"", "nan"} & set(row.values())
    assert {"tensorrefiner_fa_mean_wm", "qcgdtipaper_fa_mean_wm"} <= set(tables.scalars)
    page = render_group_page(tables, dataset="x")
    assert "model-dropepaper_desc-scan_features.tsv" in page


@pytest.mark.parametrize("part", ["intervals", "ood"])
def test_a_network_gives_the_maps_that_its_weights_hold_statistics_for(
    offered, tmp_path, part
) -> None:
    rng = np.random.default_rng(0)
    reference = fit_reference(rng.normal(size=(50, 4)), rng.normal(size=(30, 4)))
    config = RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))
    own = save_weights(
        tmp_path / "own.safetensors",
        TensorRefiner(config),
        name="tensor-refiner",
        version="0",
        training={},
        statistics={"width_factor": torch.ones(2)} if part == "intervals" else reference,
    )
    plan = _plan(tmp_path, offered, models=("tensor-refiner",), weights={"tensor-refiner": own})
    (warning,) = plan.warnings
    assert ("param-ood" if part == "intervals" else "desc-std") in warning
    out = _run_models(plan, tmp_path, offered)
    assert bool(_names(out, "desc-std_dwimap.nii.gz")) == (part == "intervals")
    assert bool(_names(out, "param-ood_dwimap.nii.gz")) == (part == "ood")
    assert len(_names(out, f"space-{MNI}_model-tensorrefiner_param-*dwimap.nii.gz")) == 4
    assert _names(out, ".svg") == {"model-tensorrefiner_desc-tensorvsnetwork_dwi.svg"}


@pytest.fixture
def two_default_encoders(monkeypatch) -> None:
    """Let a second encoder run by default, wherever the names of these models are read."""
    more = (*DEFAULT_MODELS, "drope-paper")
    readers = [
        m
        for n, m in sys.modules.items()
        if n.startswith("dmri_fm") and "DEFAULT_MODELS" in vars(m)
    ]
    assert len(readers) >= 2
    for module in readers:
        monkeypatch.setattr(module, "DEFAULT_MODELS", more)


@pytest.mark.usefixtures("two_default_encoders")
def test_two_encoders_that_run_by_default_share_no_name(out, offered) -> None:
    figures = [
        output.path(SCAN, normalisation="affine")
        for name in ENCODERS
        for output in feature_outputs(name)
    ]
    assert len(set(figures)) == len(figures) == 9
    assert [p.name for p in figures if "_model-" not in p.name] == [
        "sub-01_dir-AP_desc-features_dwi.svg"
    ]
    quality = AssessQuality((), ENCODERS)
    for number, name in enumerate(ENCODERS):
        scores = {"ood_score": float(number), "ood_percentile": 50.0}
        setattr(quality.inputs, f"{label_of(name)}_ood", scores)
    columns = quality._scan_columns()
    assert (columns["ood_score"], columns["dropepaper_ood_score"]) == (0.0, 1.0)
    listed, _ = list_outputs(out, "sub-01")
    features, problems = gather_features(f for f in listed if f.name.type.name == "features_scan")
    assert [table.model for table in features] == ["drope", "dropepaper", "ssdiff"]
    assert problems == ()
    rows = {r.split("`")[1]: r for r in outputs_page().splitlines() if r.startswith("| `model-")}
    assert "| default |" in rows["model-dropepaper"]
