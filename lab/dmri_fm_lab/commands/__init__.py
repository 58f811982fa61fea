"""Subcommands of `dmri-fm`, one module each.

A module has `add_parser`, which adds its parser and sets the function that runs. A command reads
its options, loads scans and networks, calls one function and prints its result. It imports
libraries that take seconds when it runs, not before.
"""
