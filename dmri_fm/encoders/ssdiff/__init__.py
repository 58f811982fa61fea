"""SSDiff: a transformer with one token per diffusion volume."""
