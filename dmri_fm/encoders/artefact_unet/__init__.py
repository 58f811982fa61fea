"""Artefact-removal U-Net: from the volumes of one shell with artefacts to those without."""
