"""A maker of small BIDS datasets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from dmri_fm_workflows.bids import Dataset, DwiSeries, Problem, Session
from dmri_fm_workflows.bids.filters import Filters
from dmri_fm_workflows.bids.listing import list_images
from dmri_fm_workflows.bids.participants import ParticipantReader
from dmri_fm_workflows.bids.reading import Reading
from tests.dmri_fm_workflows.preprocessed_layouts import Scan, tiny_scan

#: Stored LAS, as dcm2niix writes it.
AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])

#: One b=0 and six directions.
BVALS = (0, *[1000] * 6)


class DatasetMaker:
    """Writes a dataset scan by scan."""

    AP = {"PhaseEncodingDirection": "j-", "TotalReadoutTime": 0.05}  # noqa: RUF012
    PA = {"PhaseEncodingDirection": "j", "TotalReadoutTime": 0.05}  # noqa: RUF012

    @staticmethod
    def turned(degrees: float, *, shift_mm: float = 0.0) -> np.ndarray:
        """Return the affine turned about z, through the origin, and shifted along x."""
        angle = np.deg2rad(degrees)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turn[0, 3] = shift_mm
        return turn @ AFFINE

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.json("dataset_description.json", {"Name": "Test", "BIDSVersion": "1.10.0"})

    def path(self, name: str) -> Path:
        """Return the path of `sub-.../dwi/...` names, made of the name alone; root else."""
        words = dict(word.split("-", 1) for word in name.split("_") if "-" in word)
        folder = self.root
        if "sub" in words:
            suffix = name.split(".")[0].rsplit("_", 1)[1]
            datatypes = {"dwi": "dwi", "sbref": "dwi", "T1w": "anat", "T2w": "anat"}
            folder /= f"sub-{words['sub']}"
            folder = folder / f"ses-{words['ses']}" if "ses" in words else folder
            folder /= datatypes.get(suffix, "fmap")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def json(self, name: str, content: Any) -> Path:
        """Write a JSON file."""
        path = self.path(name)
        path.write_text(json.dumps(content))
        return path

    def image(
        self, name: str, *, shape: Sequence[int] = (6, 6, 4), affine: np.ndarray = AFFINE
    ) -> Path:
        """Write an image of small numbers, radians for a phase image."""
        path = self.path(name)
        image = nib.Nifti1Image((np.indices(shape).sum(0) % 7).astype(np.int16), affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        nib.save(image, path)
        return path

    def gradients(self, stem: str, bvals: Sequence[float] = BVALS) -> None:
        """Write `stem.bval` and `stem.bvec`, with distinct directions on a spiral."""
        z = 1 - (np.arange(len(bvals)) + 0.5) / len(bvals)
        turn = np.pi * (1 + np.sqrt(5)) * np.arange(len(bvals))
        bvecs = np.stack([np.cos(turn), np.sin(turn), z])
        bvecs[:2] *= np.sqrt(1 - z**2)
        bvecs[:, np.array(bvals) < 50] = 0
        np.savetxt(self.path(stem + ".bval"), np.array([bvals]), fmt="%g")
        np.savetxt(self.path(stem + ".bvec"), bvecs)

    def dwi(
        self,
        stem: str,
        *,
        bvals: Sequence[float] = BVALS,
        metadata: dict[str, Any] | None = None,
        grid: Sequence[int] = (6, 6, 4),
        affine: np.ndarray = AFFINE,
    ) -> Path:
        """Write a diffusion run with its gradient files, and a sidecar unless it is None."""
        self.gradients(stem, bvals)
        if metadata is not None:
            self.json(stem + ".json", metadata)
        return self.image(stem + ".nii.gz", shape=(*grid, len(bvals)), affine=affine)

    def epi(self, stem: str, metadata: dict[str, Any], **image: Any) -> None:
        """Write an echo-planar image without gradient files, and its sidecar."""
        self.image(f"{stem}.nii.gz", **image)
        self.json(f"{stem}.json", metadata)

    def with_source(self) -> DatasetMaker:
        """Write one sound participant, `01`, and a series for :meth:`put` outside the dataset."""
        self.dwi("sub-src_dwi", metadata=self.AP)
        shutil.move(self.root / "sub-src" / "dwi", self.root.parent / "source")
        shutil.rmtree(self.root / "sub-src")
        self.put("sub-01/dwi", "sub-01_dwi")
        return self

    def put(self, folder: str, stem: str, *, source: str = "sub-src_dwi") -> Path:
        """Copy the series of `sub-src` into a folder under a name; return the image's path."""
        target = self.root / folder
        target.mkdir(parents=True, exist_ok=True)
        for ending in (".nii.gz", ".json", ".bval", ".bvec"):
            shutil.copy(self.root.parent / "source" / (source + ending), target / (stem + ending))
        return target / (stem + ".nii.gz")

    def session(self, **chosen: Any) -> Session:
        """Read participant 01 without problems; return the last session."""
        visits, problems = self.read(**chosen)
        assert not problems, [str(p.error) for p in problems]
        return visits[-1]

    def only_series(self, **chosen: Any) -> DwiSeries:
        """Read participant 01 without problems; return the one series of the last session."""
        (series,) = self.session(**chosen).series
        return series

    @staticmethod
    def found(dataset: Dataset) -> dict[tuple[str, str | None], list[str]]:
        """Return the names of series, by participant and session."""
        return {
            (p.label, s.label): [series.name for series in s.series]
            for p in dataset.participants
            for s in p.sessions
        }

    @staticmethod
    def names(dataset: Dataset) -> list[str]:
        """Return the names of all series."""
        return [s.name for p in dataset.participants for v in p.sessions for s in v.series]

    @staticmethod
    def reasons(series: DwiSeries) -> dict[str, str]:
        """Return why images are not used, by the stems of their names."""
        return {u.path.name.split(".")[0]: u.reason for u in series.unused}

    def read(
        self,
        *,
        session: str | None = None,
        filters: Filters | None = None,
        ignored: tuple[str, ...] = (),
        merging: str = "all",
    ) -> tuple[tuple[Session, ...], list[Problem]]:
        """Read participant 01; return sessions and problems."""
        sessions = None if session is None else [session]
        reading = Reading(self.root, filters or {}, sessions, ignored=ignored, merging=merging)
        reader = ParticipantReader(reading)
        visits = reader.read("01", list_images(self.root / "sub-01", reading.is_ignored))
        return visits, reader.problems


@pytest.fixture
def maker(tmp_path: Path) -> DatasetMaker:
    """An empty dataset."""
    return DatasetMaker(tmp_path / "raw")


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    """A scan of a few voxels with a T1w image."""
    return tiny_scan(tmp_path / "raw")
