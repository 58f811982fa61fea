"""Names and sidecars of the output files."""

from dmri_fm_workflows.outputs.layout import pybids_config
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import identify, output_path, sidecar_path
from dmri_fm_workflows.outputs.publish import publish_file, publish_json, publish_text
from dmri_fm_workflows.outputs.root import write_root_files

__all__ = [
    "identify",
    "load_catalogue",
    "output_path",
    "publish_file",
    "publish_json",
    "publish_text",
    "pybids_config",
    "sidecar_path",
    "write_root_files",
]
