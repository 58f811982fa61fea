"""Files of a cohort that is simulated as derivatives: sidecars, records, participants, truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dmri_fm import __version__
from dmri_fm.normalise.grid import Grid
from dmri_fm.series import save_image
from dmri_fm_lab.simulate.dataset_files import write_json, write_table
from dmri_fm_lab.simulate.mni_cohort import TARGETS, CohortMember, CohortRequest, Scanner
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.execution.provenance import (
    Provenance,
    measure_outputs,
    write_provenance,
)
from dmri_fm_workflows.group.status import read_records
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import identify, sidecar_path
from dmri_fm_workflows.outputs.publish import publish_json, publish_text
from dmri_fm_workflows.outputs.root import BIDS_VERSION, write_root_files
from dmri_fm_workflows.outputs.sidecars import image_sidecar
from dmri_fm_workflows.outputs.tsv import format_table, scan_columns

#: Space of all images.
SPACE = "MNI152NLin2009aSym"

COMMAND = "dmri-fm simulate-cohort"

#: Run of a participant's record, which has one.
_RUN = "simulated"

_GENERATED_BY = {
    "Name": COMMAND,
    "Version": __version__,
    "Description": "Simulated: no person was scanned. Series are computed in the template's space "
    "without a scanner or preprocessing; maps, features and tables are the app's.",
}

_README = """# {name}

Made by `{command}` {version}: no person was scanned, and no image was preprocessed. Each \
participant has an anatomy of their own in MNI space (deformed surfaces, ventricles, cortex, \
lesions); {n_fibres} courses of fibres are shared in turn, column `fibres` of \
`truth/participants.tsv`. Signals are computed voxel by voxel, with Rician noise.

Effect: {effect}. `truth/effects.json` says how much age, sex, group and score change white \
matter, `truth/effect-*_weight.nii.gz` where. `truth/scanners.json` describes the sites.

Tables are in `group/`; they join with `participants.tsv` on `participant_id`, and with \
`phenotype/sessions.tsv` where there are sessions.
"""

_COLUMNS = {
    "age": {"Description": "Age in the first session, drawn at random", "Units": "year"},
    "sex": {"Description": "Made-up sex", "Levels": {"F": "female", "M": "male"}},
    "site": {"Description": "Made-up site, see truth/scanners.json"},
    "group": {"Description": "Made-up group", "Levels": {"control": "healthy", "patient": "ill"}},
    "score": {"Description": "Made-up cognitive score of the first session"},
    "family": {"Description": "Made-up family"},
}


def add_sidecar(
    root: Path, path: PurePosixPath, *, extra: Mapping[str, Any] | None = None
) -> None:
    """Write the sidecar of an output, which says that it is simulated.

    `extra` are further entries; `Columns` names those of a table.
    """
    name, entries = identify(path), dict(extra or {})
    columns = entries.pop("Columns", ())
    content = image_sidecar(
        name.type.name,
        model=name.model,
        space=name.entities.get("space"),
        sources=["bids::truth/request.json"],
        columns=columns,
        extra={**entries, "GeneratedBy": [_GENERATED_BY]},
    )
    publish_json(content, root / sidecar_path(path))


def write_row(
    path: Path, entities: Mapping[str, str], row: Mapping[str, Any], *, digits: int = 6
) -> None:
    """Write a table of one row, which starts with the entities of the scan."""
    cells = scan_columns(entities) | dict(row)
    publish_text(format_table([cells], list(cells), digits=digits), path)


def add_record(root: Path, label: str) -> None:
    """Write the record of a participant, from which the group level takes the status."""
    folder = root / f"sub-{label}"
    files = (p for p in folder.rglob("*") if p.is_file())
    written = [p for p in files if p.relative_to(folder).parts[0] != "log"]
    scans = {scan_name(identify(p.relative_to(root)).source_entities) for p in written}
    record = Provenance(
        participant=label,
        status="complete",
        run_uuid=_RUN,
        version=__version__,
        command=COMMAND,
        started="",
        finished="",
        fingerprint="",
        scans=tuple(sorted(scans)),
        outputs=measure_outputs(root, written),
    )
    write_provenance(root, record)
    assert read_records(folder)[0], "the group level reads the record"


def write_root(
    out: Path,
    request: CohortRequest,
    scanners: Sequence[Scanner],
    members: Mapping[str, Sequence[CohortMember]],
    grid: Grid,
) -> None:
    """Write descriptions, participants, sessions and truth.

    `members` are the sessions of each participant, by label.
    """
    name = f"Simulated cohort, effect {request.effect}, seed {request.seed}"
    write_root_files(out, source=out, source_name=name)
    publish_json(
        {
            "Name": f"{name} (no person was scanned)",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "CC0-1.0",
            "GeneratedBy": [_GENERATED_BY],
        },
        out / "dataset_description.json",
    )
    text = _README.format(
        name=name,
        command=COMMAND,
        version=__version__,
        n_fibres=request.n_fibres,
        effect=request.effect,
    )
    publish_text(text, out / "README.md")
    ignored = [*load_catalogue().bidsignore, "truth"]
    publish_text("\n".join(ignored) + "\n", out / ".bidsignore")
    _write_people(out, request, scanners, members)
    _write_truth(out, scanners, members, grid)


def _write_people(
    out: Path,
    request: CohortRequest,
    scanners: Sequence[Scanner],
    members: Mapping[str, Sequence[CohortMember]],
) -> None:
    kin = request.family_size > 1
    people = [
        {
            "participant_id": f"sub-{label}",
            "age": visits[0].age,
            "sex": visits[0].sex,
            "site": scanners[visits[0].site].name,
            "group": visits[0].group,
            "score": visits[0].score,
            **({"family": f"family{visits[0].family + 1}"} if kin else {}),
        }
        for label, visits in members.items()
    ]
    write_table(out / "participants.tsv", people)
    write_json(out / "participants.json", {c: _COLUMNS[c] for c in people[0] if c in _COLUMNS})
    if request.n_sessions == 1:
        return
    sessions = [
        {
            "participant_id": f"sub-{label}",
            "session_id": f"ses-{visit.session}",
            "age": visit.age,
            "score": visit.score,
        }
        for label, visits in members.items()
        for visit in visits
    ]
    (out / "phenotype").mkdir(exist_ok=True)
    write_table(out / "phenotype" / "sessions.tsv", sessions)
    write_json(
        out / "phenotype" / "sessions.json",
        {"age": {"Description": "Age in the session", "Units": "year"},
         "score": {"Description": "Made-up cognitive score of the session"}},
    )  # fmt: skip


def _write_truth(
    out: Path,
    scanners: Sequence[Scanner],
    members: Mapping[str, Sequence[CohortMember]],
    grid: Grid,
) -> None:
    """Write what was drawn, and where each effect acts on the template."""
    truth = out / "truth"
    rows = [
        {
            "participant_id": f"sub-{label}",
            "session_id": f"ses-{visit.session}",
            "fibres": visit.fibres,
            **{f"effect_{k}": v for k, v in visit.effects.items()},
            **{k: v for k, v in asdict(visit.tissue).items() if isinstance(v, float)},
            "ventricles_mm": visit.shape.ventricles_mm,
            "cortex_mm": visit.shape.cortex_mm,
            "callosum": visit.shape.callosum,
            "n_lesions": len(visit.shape.lesions),
        }
        for label, visits in members.items()
        for visit in visits
    ]
    write_table(truth / "participants.tsv", rows)
    about = {name: {"size": t.size, "deviation": t.deviation} for name, t in TARGETS.items()}
    write_json(
        truth / "effects.json",
        {
            "Description": "Change of white matter, in units of one deviation of age or score, or "
            "of one sex or group against the other (female, patient): `size`; `deviation` is that "
            "of individuals. Maps `effect-<name>_weight.nii.gz` say where in the template.",
            **about,
        },
    )
    write_json(
        truth / "scanners.json",
        {
            s.name: {
                "Manufacturer": s.vendor,
                "SNR": s.snr,
                "Gain": s.gain,
                "BScale": s.b_scale,
                "Shells": [[round(shell.bval) for shell in gtab.shells] for gtab in s.gtabs],
            }
            for s in scanners
        },
    )
    points = np.ascontiguousarray(grid.points().T, dtype=np.float32)
    for name, target in TARGETS.items():
        weight = target.where(points).reshape(grid.shape)
        save_image(weight, grid.affine, truth / f"effect-{name}_weight.nii.gz")
