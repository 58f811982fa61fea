"""Tiny runs, and plans and graphs of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from nipype.pipeline.engine import Workflow

from dmri_fm.gradient_files import read_raw_gradients, write_gradients
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.transforms import write_affine
from dmri_fm.series import load_image, save_image
from dmri_fm_workflows.bids import DwiRun, DwiSeries, Fieldmap, Participant, Session
from dmri_fm_workflows.bids.prepared import (
    PreparedT1w,
    Preprocessing,
    TemplateTransforms,
    TissueImages,
)
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.plan import ParticipantPlan
from dmri_fm_workflows.plan.decide import plan_participant
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.stages import base, participant
from dmri_fm_workflows.templates import find_templates

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])


def make_run(folder: Path, direction: str, *, n_directions: int = 8) -> DwiRun:
    """Write a tiny run and return its record."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"sub-01_dir-{direction}_dwi"
    n = n_directions + 1
    save_image(np.ones((4, 4, 3, n)), AFFINE, f"{stem}.nii.gz")
    z = 1 - (np.arange(n_directions) + 0.5) / n_directions
    turn = np.pi * (1 + np.sqrt(5)) * np.arange(n_directions)
    bvecs = np.zeros((3, n))
    bvecs[:, 1:] = np.cos(turn), np.sin(turn), z
    bvecs[:2, 1:] *= np.sqrt(1 - z**2)
    np.savetxt(f"{stem}.bvec", bvecs)
    np.savetxt(f"{stem}.bval", [[0] + [1000] * n_directions], fmt="%d")
    return DwiRun(
        path=Path(f"{stem}.nii.gz"),
        entities={"subject": "01", "direction": direction},
        metadata={},
        shape=(4, 4, 3, n),
        affine=AFFINE,
        phase_encoding="j" if direction == "PA" else "j-",
        readout_time_s=0.05,
        bval=Path(f"{stem}.bval"),
        bvec=Path(f"{stem}.bvec"),
        gradients=read_raw_gradients(f"{stem}.bval", f"{stem}.bvec", affine=AFFINE),
    )


def make_fieldmap(folder: Path) -> Fieldmap:
    """Write a tiny phase difference with its magnitude image, and return its record."""
    paths = {suffix: folder / f"sub-01_{suffix}.nii.gz" for suffix in ("phasediff", "magnitude1")}
    for path in paths.values():
        save_image(np.ones((4, 4, 3)), AFFINE, path)
    return Fieldmap(
        method="phasediff",
        paths=paths,
        entities={"subject": "01"},
        metadata={},
        sources=(paths["phasediff"],),
        magnitude=paths["magnitude1"],
        echo_times_s=(0.005, 0.0075),
    )


def write_series(
    gtab: GradientTable, folder: Path, name: str, shape, affine, brain
) -> dict[str, str]:
    """Write a series of one tensor with noise in a box; return its files by their field."""
    rng = np.random.default_rng(0)
    data = np.zeros((*shape, len(gtab)), dtype=np.float32)
    signal = 800 * np.exp(-gtab.bvals * (0.7e-3 + 0.6e-3 * gtab.bvecs_ras[:, 0] ** 2))
    mask = np.zeros(shape, dtype=np.uint8)
    mask[brain] = 1
    data[brain] = signal * rng.normal(1, 0.02, data[brain].shape)
    path = save_image(data, affine, folder / f"{name}.nii")
    write_gradients(gtab, path.with_suffix(".bval"), path.with_suffix(".bvec"), affine=affine)
    inside = save_image(mask, affine, folder / f"{name}_mask.nii", dtype=np.uint8)
    return {
        f"{name}_dwi_file": str(path),
        f"{name}_bval_file": str(path.with_suffix(".bval")),
        f"{name}_bvec_file": str(path.with_suffix(".bvec")),
        f"{name}_mask_file": str(inside),
    }


def scale_vectors(run: DwiRun) -> DwiRun:
    """Make all b-vectors of a run shorter than 1."""
    np.savetxt(run.bvec, 0.93 * np.loadtxt(run.bvec))
    gradients = read_raw_gradients(
        run.bval, run.bvec, affine=AFFINE, options=GradientOptions("none")
    )
    return replace(run, gradients=gradients)


ENGINES = [
    Engines("mppca", ("pepolar", "none"), "builtin"),
    Engines("none", ("none",), "none"),
    Engines("patch2self", ("topup", "none"), "builtin"),
    Engines("mppca", ("topup", "none"), "eddy", has_eddy_quad=True),
    Engines("mppca", ("fieldmap",), "builtin"),
    Engines("mppca", ("pepolar", "none"), "eddy"),
]


def plan_for(
    *series: DwiSeries,
    root: Path,
    engines: Engines = ENGINES[0],
    t1w: bool = True,
    contrast: str = "T1w",
    lesion: str | None = None,
    session_warnings: tuple[str, ...] = (),
    prepared: PreparedT1w | None = None,
    **options: object,
) -> ParticipantPlan:
    """Plan a participant with these series and options."""
    anatomy = ()
    if prepared is not None:
        anatomy = (prepared.path,)
    elif t1w:
        path = root / "raw" / f"sub-01_{contrast}.nii.gz"
        save_image(np.ones((4, 4, 4)), AFFINE, path)
        anatomy = (path,)
    config = RunConfig(root / "raw", root / "out", **({"sloppy": True} | options))
    mask = None
    if lesion is not None:
        mask = save_image(np.ones((4, 4, 4)), AFFINE, root / "raw" / lesion)
    session = Session(
        None, anatomy, series, session_warnings, prepared_t1w=prepared, lesion_mask=mask
    )
    found = Participant("01", (session,))
    return plan_participant(config, found, engines)


def plan_preprocessed(
    run: DwiRun,
    root: Path,
    *,
    space: str | None = None,
    full: bool = False,
    has_mask: bool = True,
    **options: object,
) -> ParticipantPlan:
    """Plan a run that was corrected before; a full one has a mask, a T1w image and `grad_dev`."""
    save_image(np.ones(run.shape[:3]), AFFINE, mask := root / "raw" / "mask.nii.gz")
    save_image(np.zeros((*run.shape[:3], 9)), AFFINE, coils := root / "raw" / "grad_dev.nii.gz")
    files = {"gradient_deviation": coils} if full else {}
    files |= {"mask": mask} if full and has_mask else {}
    before = Preprocessing(by="QSIPrep 1.0.1", space=space, **files)
    series = DwiSeries((run,), {"subject": "01"}, preprocessing=before)
    prepared = None
    if full:
        save_image(np.ones((4, 4, 4)), AFFINE, head := root / "raw" / "sub-01_T1w.nii.gz")
        prepared = PreparedT1w(
            path=head, mask=head, is_brain=True, is_unbiased=True, is_acpc=space == "ACPC"
        )
    engines = Engines("none", ("none",), "none")
    return plan_for(
        series,
        root=root,
        engines=engines,
        t1w=False,
        prepared=prepared,
        input_type="preprocessed",
        **options,
    )


def plan_with_anatomy(
    *series: DwiSeries, root: Path, space: str | None = None, **options: object
) -> ParticipantPlan:
    """Plan a participant whose anatomy comes from derivatives, with affine transforms."""
    found = root / "fmriprep" / "sub-01" / "anat"
    stem = "sub-01" if space is None else f"sub-01_space-{space}"
    head, mask = (found / f"{stem}_desc-{n}.nii.gz" for n in ("preproc_T1w", "brain_mask"))
    acquired = root / "raw" / "sub-01_T1w.nii.gz"
    for path in (head, mask, acquired):
        save_image(np.ones((4, 4, 4)), AFFINE, path)
    words = ("dseg", *(f"label-{t}_probseg" for t in ("GM", "WM", "CSF")))
    tissue = [found / f"{stem}_{word}.nii.gz" for word in words]
    for path in tissue:
        save_image(np.ones((4, 4, 4)), AFFINE, path)
    transforms = [found / f"{stem}_{way}_xfm.txt" for way in ("to", "from")]
    for path in transforms:
        write_affine(np.eye(4), path)
    prepared = PreparedT1w(
        path=head,
        mask=mask,
        is_unbiased=True,
        is_acpc=space == "ACPC",
        by="fMRIPrep 23.2.1",
        acquired=acquired,
        transforms=TemplateTransforms(*transforms),
        tissue=TissueImages(*tissue),
    )
    return plan_for(*series, root=root, prepared=prepared, **options)


def with_template(root: Path, engines: Engines = ENGINES[0]) -> Engines:
    """Return engines with a template of TemplateFlow, whose tiny files are written."""
    folder = root / "templates" / "tpl-MNI152NLin2009cAsym"
    for name in ("T1w", "desc-brain_mask"):
        path = folder / f"{folder.name}_res-02_{name}.nii.gz"
        save_image(np.ones((4, 4, 4)), AFFINE, path)
    templates = find_templates(("MNI152NLin2009cAsym:res-2",), folder.parent)
    return replace(engines, templates=templates)


def make_resources(root: Path, omp_nthreads: int = 1) -> base.Resources:
    """Return folders below a root."""
    return base.Resources(
        bids_root=root / "raw", output_dir=root / "out", omp_nthreads=omp_nthreads
    )


def build(*series: DwiSeries, root: Path, omp_nthreads: int = 1, **options: object) -> Workflow:
    """Build a participant's graph."""
    plan = plan_for(*series, root=root, **options)
    return participant.init_participant_wf(plan, make_resources(root, omp_nthreads))


def read_record(offered: dict[str, str], entities: dict[str, str]) -> DwiSeries:
    """Return the record of a raw series, from which models take their plan only."""
    image, bval, bvec = (Path(offered[f"acpc_{f}_file"]) for f in ("dwi", "bval", "bvec"))
    affine = load_image(image).affine
    run = DwiRun(
        path=image,
        entities=entities,
        metadata={},
        shape=load_image(image).shape,
        affine=affine,
        phase_encoding="j",
        readout_time_s=0.05,
        bval=bval,
        bvec=bvec,
        gradients=read_raw_gradients(bval, bvec, affine=affine),
    )
    return DwiSeries(runs=(run,), entities=entities)
