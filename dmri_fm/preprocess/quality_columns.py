"""Columns of the table of image quality: what they hold, in which unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["QUALITY_COLUMNS", "describe_quality"]

#: Description and unit of each column of the table of image quality; `cnr_b*` has the shell's
#: b-value in place of the asterisk.
QUALITY_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "raw_neighbor_corr": {
        "Description": "Mean correlation of each volume with the one nearest in q-space, raw"
    },
    "preproc_neighbor_corr": {
        "Description": "Mean correlation of each volume with the one nearest in q-space, "
        "preprocessed"
    },
    "raw_num_bad_slices": {
        "Description": "Raw slices that lost signal against the same slice of their shell"
    },
    "preproc_num_bad_slices": {
        "Description": "Preprocessed slices that lost signal against the same slice of their shell"
    },
    "raw_num_cut_volumes": {
        "Description": "Raw volumes that were cut short: a quarter of the slices that hold signal "
        "in the others, or more, is zero"
    },
    "num_outlier_slices": {"Description": "Slices that motion correction flagged as outliers"},
    "mean_fd": {"Description": "Mean framewise displacement", "Units": "mm"},
    "max_fd": {"Description": "Largest framewise displacement", "Units": "mm"},
    "snr_b0": {"Description": "Median of b=0 signal over noise in the brain mask"},
    "snr_b0_is_temporal": {
        "Description": "1: noise of snr_b0 from repeated b=0 volumes; 0: from a noise map or the "
        "background"
    },
    "cnr_b*": {
        "Description": "Contrast-to-noise ratio of a shell: median over the brain of the spread "
        "of the signal over directions, over the residual of a model of second order"
    },
    "fa_nan_fraction": {"Description": "Share of brain voxels where FA is not a number, 0 to 1"},
    "fa_out_of_range_fraction": {
        "Description": "Share of brain voxels whose FA, before clipping, is above 1, 0 to 1"
    },
    "negative_diffusivity_fraction": {
        "Description": "Share of brain voxels whose tensor has a negative eigenvalue, 0 to 1"
    },
    "mask_volume_ml": {"Description": "Volume of the brain mask", "Units": "ml"},
    "registration_dice": {
        "Description": "Overlap of the registered brain mask and that of the template, 0 to 1"
    },
    "ood_score": {
        "Description": "Largest of five out-of-distribution indicators of the scan, against the "
        "encoder's training data"
    },
    "ood_percentile": {
        "Description": "Share of undamaged training scans with a lower score",
        "Units": "percent",
    },
}


def describe_quality(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return description and unit of columns of the quality table.

    Examples
    --------
    >>> describe_quality(["mean_fd"])
    {'mean_fd': {'Description': 'Mean framewise displacement', 'Units': 'mm'}}
    """
    return {
        name: dict(QUALITY_COLUMNS["cnr_b*" if name.startswith("cnr_b") else name])
        for name in columns
    }
