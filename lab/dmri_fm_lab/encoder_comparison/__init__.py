"""Encoders and regional measures on one cohort: what do they know, and what do they cost?"""
