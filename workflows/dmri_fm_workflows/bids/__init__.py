"""Read a BIDS dataset: participants, sessions, diffusion series and what belongs to them."""

from dmri_fm_workflows.bids.dataset import read_dataset
from dmri_fm_workflows.bids.filters import read_filter_file
from dmri_fm_workflows.bids.records import (
    Dataset,
    DwiRun,
    DwiSeries,
    EpiImage,
    Fieldmap,
    Participant,
    Problem,
    Session,
    UnusedImage,
)

__all__ = [
    "Dataset",
    "DwiRun",
    "DwiSeries",
    "EpiImage",
    "Fieldmap",
    "Participant",
    "Problem",
    "Session",
    "UnusedImage",
    "read_dataset",
    "read_filter_file",
]
