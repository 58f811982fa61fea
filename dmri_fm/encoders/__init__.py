"""Encoders: networks that turn a series into features."""
