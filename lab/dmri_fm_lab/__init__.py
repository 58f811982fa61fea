"""Simulation, training and evaluation of the networks, and the command `dmri-fm`."""

import sys

# `python -m` puts the current folder first among those that modules come from. Its `random.py`
# is not to be imported in place of Python's; while this package is looked up, argv says so.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    del sys.path[0]
