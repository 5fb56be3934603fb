"""Denoise slices, series and trees of series with a trained model."""
