"""Checks and corrections of raw series, on arrays."""
