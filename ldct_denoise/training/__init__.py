"""Train a method: loop, step, validation, run folder."""
