"""Nipype interfaces: load files, one call into dmri_fm, save files."""
