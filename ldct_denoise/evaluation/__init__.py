"""Measure images: which series against which, where, and the tables of results."""
