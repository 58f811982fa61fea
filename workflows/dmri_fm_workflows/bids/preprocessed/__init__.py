"""Read a preprocessed dataset: BIDS derivatives, or folders of the HCP or UK Biobank."""

from dmri_fm_workflows.bids.preprocessed.dataset import read_preprocessed

__all__ = ["read_preprocessed"]
