"""Prediction of what is known about participants from vectors of their scans."""
