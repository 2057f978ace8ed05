"""Figures, reports and notebooks: reads the files of a sweep, never trains."""
