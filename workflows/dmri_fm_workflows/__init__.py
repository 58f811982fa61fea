"""Workflows and command line of the BIDS App."""
