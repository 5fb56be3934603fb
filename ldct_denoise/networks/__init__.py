"""Network building blocks that several methods share; nothing here imports `methods`."""
