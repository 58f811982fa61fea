"""Experiments that a review of machine learning in diffusion MRI asks for first."""
