"""Numbers for image quality: pure functions on HU, one topic a file. Definitions: ``docs/measurements.md``."""
