"""Series of a dataset: raw scans, or those that the app corrected."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.distortion import PhaseEncoding
from dmri_fm.errors import InputError, LayoutError
from dmri_fm.gradient_files import stated_b0_threshold
from dmri_fm.json_files import read_object
from dmri_fm.participants import hash_participant, read_dataset_name
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.series import Dwi
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.bids.folders import find_misplacement
from dmri_fm_workflows.bids.names import scan_name, split_name
from dmri_fm_workflows.outputs.root import DERIVATIVES

logger = logging.getLogger(__name__)

#: Endings of the app's outputs: the corrected series, and the mask of the same grid; in the
#: participant's own space, and in the template's, where the app was asked for it.
PREPROC = "_space-ACPC_desc-preproc_dwi.nii.gz"
MASK = "_space-ACPC_desc-brain_mask.nii.gz"
TEMPLATE_PREPROC = "_space-MNI152NLin2009aSym_res-2_desc-preproc_dwi.nii.gz"
TEMPLATE_MASK = "_space-MNI152NLin2009aSym_res-2_desc-brain_mask.nii.gz"


@dataclass(frozen=True, eq=False)
class Scan:
    """A series to train on, or to compare methods on.

    Attributes
    ----------
    name
        Such as `sub-01_dir-AP`.
    participant
        Without `sub-`.
    scanner
        Manufacturer and model; "unknown scanner of sub-<label>" if the sidecar names neither.
    dwi
        The series; it has a mask if one was given with it.
    origin
        `raw`, or `preprocessed`: corrected for motion and resampled, so that noise is correlated.
    encoding
        Phase encoding of a raw series; None where its sidecar does not state it whole.
    is_in_template
        Whether the series lies in the template's space.
    """

    name: str
    participant: str
    scanner: str
    dwi: Dwi
    origin: str
    encoding: PhaseEncoding | None = None
    is_in_template: bool = False

    @property
    def brain_name(self) -> str:
        """Participant and scanner, as weights list the brains that they were trained on."""
        return f"sub-{self.participant}, {self.scanner}"

    def brain(self, b0_volumes: Sequence[int] | NDArray[np.int_]) -> NDArray[np.bool_]:
        """Return the brain mask: the one given, or that of the mean of some b=0 volumes."""
        if self.dwi.mask is not None:
            return self.dwi.mask
        b0 = self.dwi.data[..., list(b0_volumes)].mean(axis=3)
        return brain_mask(b0, self.dwi.affine, contrast="b0").mask


def find_scans(
    root: str | Path,
    *,
    participant_labels: Sequence[str] | None = None,
    prefers_template: bool = False,
) -> Iterator[Scan]:
    """Yield the series of a raw dataset, or the corrected ones of a dataset of this app.

    Raw series are taken run by run, as they were acquired: not corrected for anything.

    Parameters
    ----------
    root
        Folder with `dataset_description.json`.
    participant_labels
        With or without `sub-`; all participants if None.
    prefers_template
        Take corrected series in the template's space, if the dataset has any.

    Raises
    ------
    LayoutError
        If the folder is no such dataset, a participant is unknown, or there is no series.
    InputError
        If a file that was asked for is damaged.
    """
    root = Path(root)
    if _is_derivative(root):
        in_template = prefers_template and bool(_list_corrected(root, TEMPLATE_PREPROC))
        yield from _find_corrected(root, participant_labels, in_template=in_template)
        return
    dataset = read_dataset(root, participant_labels=participant_labels)
    for problem in dataset.problems:
        logger.warning("skipped: %s", problem.error)
    for participant in dataset.participants:
        for session in participant.sessions:
            for run in (run for series in session.series for run in series.runs):
                yield Scan(
                    name=scan_name(run.entities),
                    participant=participant.label,
                    scanner=_scanner(run.metadata, participant.label),
                    dwi=run.load(),
                    origin="raw",
                    encoding=PhaseEncoding(run.phase_encoding, run.readout_time_s)
                    if run.phase_encoding and run.readout_time_s
                    else None,
                )


def hash_participant_of(path: str | Path) -> str:
    """Return the hash of the participant whose scan a file is.

    A participant has the same hash in a raw dataset and in the app's outputs for it.

    Parameters
    ----------
    path
        File below the folder `sub-<label>` of a dataset.

    Raises
    ------
    LayoutError
        If the file is in no such folder.
    InputError
        If the dataset has no name.
    """
    path = Path(path).resolve()
    folder = next((p for p in reversed(path.parents) if p.name.startswith("sub-")), None)
    if folder is None:
        raise LayoutError(
            "a scan in no participant's folder", path=path, expected="a file below sub-<label>"
        )
    return hash_participant(study_name(folder.parent), folder.name)


def study_name(root: str | Path) -> str:
    """Return the name of a dataset, which the app's outputs for it share.

    Raises InputError if the dataset has no name.
    """
    return read_dataset_name(root).removesuffix(DERIVATIVES)


def list_participants(
    root: str | Path, *, participant_labels: Sequence[str] | None = None
) -> list[str]:
    """Return the labels, without `sub-`, of the participants that :func:`find_scans` reads.

    Errors are those of :func:`find_scans`; no image is read.
    """
    root = Path(root)
    if _is_derivative(root):
        return _choose_corrected(root, participant_labels)[1]
    dataset = read_dataset(root, participant_labels=participant_labels)
    return [participant.label for participant in dataset.participants]


def _is_derivative(root: Path) -> bool:
    try:
        description = read_object(root / "dataset_description.json")
        return bool(description.get("DatasetType") == "derivative")
    except InputError:
        # The reader of raw datasets says what is wrong.
        return False


def _list_corrected(root: Path, ending: str) -> list[Path]:
    return sorted([*root.glob(f"sub-*/dwi/*{ending}"), *root.glob(f"sub-*/ses-*/dwi/*{ending}")])


def list_corrected(root: str | Path) -> dict[str, bool]:
    """Return the scans with a corrected series, and whether it lies in the template's space too.

    A raw dataset has none.
    """
    root = Path(root)
    spaces = ((PREPROC, False), (TEMPLATE_PREPROC, True))
    return {
        scan_name(split_name(path)[0]): in_template
        for ending, in_template in spaces
        for path in _list_corrected(root, ending)
    }


def _choose_corrected(
    root: Path, labels: Sequence[str] | None, ending: str = PREPROC
) -> tuple[list[Path], list[str]]:
    """Return the corrected series of a dataset, and the labels of the wanted participants."""
    paths = _list_corrected(root, ending)
    for path in paths:
        if error := find_misplacement(path, root, suffix="dwi"):
            raise error
    known = sorted({split_name(path)[0]["subject"] for path in paths})
    wanted = known if labels is None else [str(a).removeprefix("sub-") for a in labels]
    unknown = [label for label in wanted if label not in known]
    if unknown or not paths:
        raise LayoutError(
            f"no corrected series of {', '.join(unknown) or 'any participant'}",
            path=root,
            expected=f"sub-*/dwi/*{ending}, as drope-bidsapp writes it",
            advice=f"participants that have one: {', '.join(known) or 'none'}",
        )
    return [path for path in paths if split_name(path)[0]["subject"] in wanted], wanted


def _find_corrected(
    root: Path, labels: Sequence[str] | None, *, in_template: bool
) -> Iterator[Scan]:
    ending, mask_ending = (TEMPLATE_PREPROC, TEMPLATE_MASK) if in_template else (PREPROC, MASK)
    for path in _choose_corrected(root, labels, ending)[0]:
        entities = split_name(path)[0]
        stem = path.name.removesuffix(".nii.gz")
        mask = path.with_name(path.name.removesuffix(ending) + mask_ending)
        json_path = path.with_name(f"{stem}.json")
        sidecar = read_object(json_path) if json_path.is_file() else {}
        dwi = Dwi.from_files(
            path,
            path.with_name(f"{stem}.bval"),
            path.with_name(f"{stem}.bvec"),
            mask if mask.is_file() else None,
            b0_threshold=stated_b0_threshold(sidecar),
        )
        yield Scan(
            name=scan_name(entities),
            participant=entities["subject"],
            scanner=_scanner(sidecar, entities["subject"]),
            dwi=dwi,
            origin="preprocessed",
            is_in_template=in_template,
        )


def _scanner(metadata: Any, participant: str) -> str:
    words = [str(metadata[k]) for k in ("Manufacturer", "ManufacturersModelName") if k in metadata]
    return " ".join(words) or f"unknown scanner of sub-{participant}"
