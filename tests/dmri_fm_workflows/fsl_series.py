"""Tiny series on disk that go through the FSL route, whose programs are stand-ins."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from nipype.pipeline.engine import Workflow

from dmri_fm.gradient_files import read_raw_gradients
from dmri_fm.series import save_image
from dmri_fm_workflows.bids import DwiRun, DwiSeries, EpiImage
from dmri_fm_workflows.engines import HMC, SDC
from dmri_fm_workflows.interfaces.preprocess import MergeRuns
from dmri_fm_workflows.plan import ParticipantPlan, SeriesPlan
from dmri_fm_workflows.plan.engines import choose_engines
from tests.dmri_fm_workflows import fsl_stand_in
from tests.dmri_fm_workflows.tiny_series import make_resources, plan_for

LAS = np.diag([-2.0, 2.0, 2.0, 1.0])
RAS = np.diag([2.0, 2.0, 2.0, 1.0])
N_VOLUMES = 8


def brain(shape: tuple[int, ...], seed: int) -> np.ndarray:
    data = np.random.default_rng(seed).uniform(0, 10, shape)
    data[1:-1, 1:-1, 1:-1] += 1000
    return data.astype(np.float32)


def make_run(
    folder: Path, name: str, encoding: str, readout_s: float, shape, affine, **metadata: Any
) -> DwiRun:
    """Write a run of two b=0 volumes, the first and the fifth, and six others."""
    folder.mkdir(exist_ok=True, parents=True)
    stem = folder / f"sub-01_{name}_dwi"
    volumes = np.stack([brain(shape, seed) for seed in range(N_VOLUMES)], axis=3)
    save_image(volumes, affine, f"{stem}.nii.gz")
    bvecs = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]).T
    bvecs = np.insert(bvecs / np.linalg.norm(bvecs, axis=0), [0, 3], 0, axis=1)
    np.savetxt(f"{stem}.bvec", bvecs)
    np.savetxt(f"{stem}.bval", [[0, 1000, 1000, 1000, 0, 1000, 1000, 1000]], fmt="%d")
    return DwiRun(
        path=Path(f"{stem}.nii.gz"),
        entities={"subject": "01"},
        metadata=metadata,
        shape=(*shape, N_VOLUMES),
        affine=affine,
        phase_encoding=encoding,
        readout_time_s=readout_s,
        bval=Path(f"{stem}.bval"),
        bvec=Path(f"{stem}.bvec"),
        gradients=read_raw_gradients(f"{stem}.bval", f"{stem}.bvec", affine=affine),
    )


def make_series(
    folder: Path,
    encodings: list[tuple[str, float]],
    *,
    reverse: tuple[str, float] | None = None,
    shape: tuple[int, int, int] = (6, 6, 4),
    affine: np.ndarray = LAS,
    **metadata: Any,
) -> DwiSeries:
    raw = folder / "raw"
    runs = tuple(
        make_run(raw, f"run-{n}", *encoding, shape, affine, **metadata)
        for n, encoding in enumerate(encodings, 1)
    )
    outside = ()
    if reverse is not None:
        path = save_image(brain(shape, 9), affine, raw / "sub-01_epi.nii.gz")
        outside = (
            EpiImage(
                path=path, entities={"subject": "01"}, metadata={}, shape=shape, affine=affine,
                phase_encoding=reverse[0], readout_time_s=reverse[1],
            ),
        )  # fmt: skip
    return DwiSeries(runs=runs, entities={"subject": "01"}, reverse=outside)


def add_program(folder: Path, name: str) -> None:
    program = folder / name
    script = f'exec "{sys.executable}" "{fsl_stand_in.__file__}" {name} "$@"'
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def plan_all(
    *series: DwiSeries, root: Path, sdc: str = "topup", hmc: str = "eddy", **config: Any
) -> ParticipantPlan:
    engines = choose_engines(
        denoise="none", sdc=sdc, hmc=hmc, unring=False, device="cpu", eddy_config=config
    )
    return plan_for(*series, root=root, engines=engines, t1w=False, eddy_config=config, models=())


def make_plan(series: DwiSeries, folder: Path, **options: Any) -> SeriesPlan:
    found = plan_all(series, root=folder, **options)
    for problem in found.problems:
        raise problem.error
    (plan,) = found.series
    return plan


def run(workflow: Workflow, folder: Path, files: dict[str, str]) -> dict[str, Any]:
    """Run a stage; return what its nodes gave."""
    workflow.base_dir = str(folder / "work")
    # Programs read files of each other that no node names, as in a run.
    workflow.config["execution"] = {
        "crashdump_dir": str(folder),
        "remove_unnecessary_outputs": "False",
    }
    inputnode = workflow.get_node("inputnode")
    for field in inputnode.inputs.copyable_trait_names():
        setattr(inputnode.inputs, field, files[field])
    return {node.name: node.result.outputs for node in workflow.run().nodes()}


def encoding_of(run: DwiRun) -> list[float]:
    """Return a run's phase encoding as FSL has it, along axes of an image stored LAS."""
    is_turned = np.linalg.det(run.affine) > 0 and run.phase_encoding[0] == "i"
    sign = -1 if run.phase_encoding.endswith("-") != is_turned else 1
    return [sign * (run.phase_encoding[0] == axis) for axis in "ijk"] + [run.readout_time_s]


def correct(plan: SeriesPlan, folder: Path) -> dict[str, Any]:
    """Run the stages of distortion and motion; return what their nodes gave."""
    runs = plan.series.runs
    np.savetxt(folder / "encodings.txt", [encoding_of(r) for r in runs for _ in range(N_VOLUMES)])
    paths = {key: [str(getattr(r, key)) for r in runs] for key in ("path", "bval", "bvec")}
    (folder / "merge").mkdir()
    merged = MergeRuns(
        dwi_files=paths["path"], raw_files=paths["path"], bval_files=paths["bval"],
        bvec_files=paths["bvec"], phase_encodings=[r.phase_encoding for r in runs],
        readouts_s=list(plan.readouts_s[: len(runs)]),
    ).run(cwd=str(folder / "merge")).outputs  # fmt: skip
    mask = save_image(
        np.ones(runs[0].shape[:3]), runs[0].affine, folder / "mask.nii.gz", dtype=np.uint8
    )
    files = {
        "denoised_file": merged.dwi_file, "bval_file": merged.bval_file,
        "raw_bvec_file": merged.bvec_file, "volumes_file": merged.volumes_file,
        "dwi_mask_file": str(mask),
    }  # fmt: skip
    resources = make_resources(folder, 2)
    found: dict[str, Any] = {}
    if plan.sdc.method == "topup":
        found = run(SDC.load("topup").builder(plan, resources), folder, files)
        files |= {
            "field_file": found["collect_topup"].field_file,
            "fieldcoef_file": found["topup"].out_fieldcoef,
            "movpar_file": found["topup"].out_movpar,
            "topup_acqp_file": find_topup_rows(found),
        }
    elif plan.sdc.has_field:
        hz = save_image(np.ones(runs[0].shape[:3]), runs[0].affine, folder / "hz.nii.gz")
        files["field_file"] = str(hz)
    return found | run(HMC.load("eddy").builder(plan, resources), folder, files)


def find_topup_rows(found: dict[str, Any]) -> str:
    """Return the file of phase encodings that topup was given."""
    return str(Path(found["topup"].out_field).parents[1] / "write_fsl_files" / "b0_acqp.txt")


def calls(folder: Path) -> list[str]:
    """Return the command lines that the stand-ins noted, without folders and options' order."""
    lines = []
    for text in (folder / "calls.jsonl").read_text().splitlines():
        name, _, *arguments = json.loads(text)
        short = []
        for argument in arguments:
            key, equals, value = argument.partition("=")
            value = Path(value).name if "/" in value else value
            short.append(f"{key}={value}" if equals else argument.rpartition("/")[2])
        lines.append(" ".join([name, *(short if name == "eddy_quad" else sorted(short))]))
    return lines


def text_of(path: Any) -> list[list[float]]:
    return np.loadtxt(path, ndmin=2).tolist()
