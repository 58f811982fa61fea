"""Measures of scans in the forms that other programs read: PLINK 2, REGENIE, R; norms by age."""

from dmri_fm_lab.exports.flat import write_csv
from dmri_fm_lab.exports.genetics import GeneticsRequest, export_genetics
from dmri_fm_lab.exports.norms import NormsRequest, export_norms
from dmri_fm_lab.exports.sources import Source, read_source

__all__ = [
    "GeneticsRequest",
    "NormsRequest",
    "Source",
    "export_genetics",
    "export_norms",
    "read_source",
    "write_csv",
]
