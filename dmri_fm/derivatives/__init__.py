"""Names and sidecars of the output files."""
