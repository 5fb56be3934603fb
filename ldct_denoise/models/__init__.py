"""Trained models: load, save, list; the models that ship."""
