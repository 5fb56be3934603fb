"""Noise models, dose simulation, and phantoms with known truth."""
