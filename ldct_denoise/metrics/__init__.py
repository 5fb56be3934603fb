"""Image-quality metrics: pure functions on HU. Definitions: ``docs/reference/measurements.md``."""
