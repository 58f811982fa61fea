"""The tensor fit and the networks."""
