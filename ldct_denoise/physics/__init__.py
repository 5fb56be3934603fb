"""Noise models, dose simulation and projections."""
