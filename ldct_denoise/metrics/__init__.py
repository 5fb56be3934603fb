"""Image-quality metrics: pure functions on HU, one topic per module. Definitions: ``docs/reference/measurements.md``."""
