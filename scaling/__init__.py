"""Scaling laws and compute-optimal planning that run the training they plan."""

__version__ = "0.1.0"
