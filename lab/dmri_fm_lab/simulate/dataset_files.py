"""Files of a simulated dataset as a whole: descriptions, participants, effects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm_lab.simulate.cohort import EFFECTS, MIDDLE_AGE, Participant, Site

_COLUMNS = {
    "stick_fraction": "Share of restricted sticks in white matter",
    "stick": "Diffusivity along the sticks, mm^2/s",
    "parallel": "Diffusivity along fibres outside the sticks, mm^2/s",
    "radial": "Diffusivity across fibres outside the sticks, mm^2/s",
    "grey": "Diffusivity of grey matter, mm^2/s",
    "ventricles_mm": "Distance by which the ventricles' walls lie outside the average's, mm",
    "cortex_mm": "Thickness of the cortex beyond the average's, mm",
    "callosum": "Share of the callosum's fibres that is left between the hemispheres",
    "n_lesions": "Number of lesions in white matter",
    "lesions_ml": "Their volume, ml; the sum of the lesions' fractions",
}

_PERSON_COLUMNS = {
    "age": {"Description": "Age, drawn at random", "Units": "year"},
    "sex": {
        "Description": "Sex, drawn at random, without effect on the images",
        "Levels": {"F": "female", "M": "male"},
    },
}

_GROUP_COLUMN = {
    "Description": "Made-up group; what it does is in derivatives/truth/effects.json",
    "Levels": {"control": "healthy", "patient": "diseased"},
}

_EFFECTS_TEXT = (
    "Relative change of tissue properties (stick_fraction, parallel, radial, grey), "
    f"and change of the others: per year beyond the age of {MIDDLE_AGE}, and of "
    "patients against controls. `lesions` is their expected number."
)

_README = """# {name}

Made by `dmri-fm simulate`: no person was scanned. Heads are deformed from the average surfaces \
and tissue maps that nilearn packages, their fibres follow the courses of the brain's major \
bundles, and trxscan acquired them with noise, {artefacts}.

Age and group have effects, listed in `derivatives/truth/effects.json`; sex and site have none \
but the protocol's.

`derivatives/truth` holds the tensor of the noise-free signal of 16 directions (mm^2/s, RAS+, \
order xx, xy, xz, yy, yz, zz), its FA, MD, AD, RD and main direction (v1, RAS+), the number of \
crossing fibres, the field in Hz, tissue fractions and the brain mask, on the undistorted grid \
of the first `dir-AP` volume,{motion} and the tissue of each participant.
"""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object as JSON, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as tab-separated values; the columns are the keys of the first."""
    lines = ["\t".join(rows[0])]
    lines += [
        "\t".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values())
        for row in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_root(
    root: Path,
    people: Sequence[Participant],
    sites: Sequence[Site],
    tissue: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    is_at_rest: bool,
) -> None:
    """Write descriptions, read-me and participants of the dataset and of its truth.

    `tissue` is the true tissue of each participant, `seed` that of the dataset; `is_at_rest` says
    that there are neither head motion nor eddy currents.
    """
    from dmri_fm import __version__

    truth = root / "derivatives" / "truth"
    described = {
        "BIDSVersion": "1.10.0",
        "License": "CC0-1.0",
        "Authors": ["dmri-fm simulate"],
        "GeneratedBy": [{"Name": "dmri-fm simulate", "Version": __version__}],
    }
    name = f"Simulated diffusion scans, seed {seed}"
    write_json(
        root / "dataset_description.json", {"Name": name, "DatasetType": "raw", **described}
    )
    write_json(
        truth / "dataset_description.json",
        {"Name": f"{name}: truth", "DatasetType": "derivative", **described},
    )
    (truth / ".bidsignore").write_text(
        "*_dwimap.*\n*_fieldmap.*\n*_npeaks.*\n*_xfm.*\neffects.json\n", encoding="utf-8"
    )
    moving = "head motion, eddy currents and susceptibility distortion"
    still = "and susceptibility distortion, without head motion and eddy currents"
    text = _README.format(
        name=name,
        artefacts=still if is_at_rest else moving,
        motion="" if is_at_rest else " the motion of each volume,",
    )
    (root / "README.md").write_text(text, encoding="utf-8")
    _write_people(root, people, sites, tissue)
    write_json(truth / "effects.json", {"Description": _EFFECTS_TEXT, **EFFECTS})


def _write_people(
    root: Path,
    people: Sequence[Participant],
    sites: Sequence[Site],
    tissue: Sequence[Mapping[str, Any]],
) -> None:
    """Write the tables of participants, the raw dataset's, and the truth's with their tissue."""
    truth = root / "derivatives" / "truth"
    who = [
        {
            "participant_id": f"sub-{p.label}",
            "age": p.age,
            "sex": p.sex,
            "site": sites[p.site].name,
            "group": p.group,
        }
        for p in people
    ]
    write_table(root / "participants.tsv", who)
    write_json(
        root / "participants.json",
        {
            **_PERSON_COLUMNS,
            "site": {
                "Description": "Made-up site, with a protocol of its own",
                "Levels": {site.name: _describe(site) for site in sites},
            },
            "group": _GROUP_COLUMN,
        },
    )
    write_table(
        truth / "participants.tsv",
        [{**row, **drawn} for row, drawn in zip(who, tissue, strict=True)],
    )
    write_json(
        truth / "participants.json", {n: {"Description": text} for n, text in _COLUMNS.items()}
    )


def _describe(site: Site) -> str:
    mm = " x ".join(f"{size:g}" for size in site.voxel_size_mm)
    shells = ", ".join(f"{shell.bval:.0f}" for shell in site.gtab.shells)
    extra = {
        "pair": "b=0 of reversed phase encoding",
        "fieldmap": "gradient-echo fieldmap",
        "none": "nothing to correct distortion with",
    }[site.distortion_data]
    return f"{mm} mm, b = {shells} s/mm^2, echo time {site.echo_ms:g} ms; {extra}"
