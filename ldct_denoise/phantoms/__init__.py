"""Synthetic patients and image-quality phantoms with known truth."""
