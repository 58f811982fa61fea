"""The outputs as pybids sees them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def pybids_config() -> Path:
    """Return the configuration with which pybids knows every entity of the outputs' names.

    pybids' own configurations `bids` and `derivatives` know all but `param`. They may not be left
    out, and an entity may be in one configuration only: the file holds the missing ones.

    Returns
    -------
    Path
        JSON file of this package.

    Examples
    --------
    Outputs are found by what their names say. `validate=False` is needed: pybids 0.22 holds the
    names of a derivative dataset against those of raw data, and finds nothing::

        layout = BIDSLayout(out, validate=False, config=["bids", "derivatives", pybids_config()])
        layout.get(model="tensor", param="fa", space="ACPC", extension=".nii.gz")

    >>> pybids_config().name
    'pybids_config.json'
    """
    return Path(str(files("dmri_fm_workflows.outputs").joinpath("pybids_config.json")))
