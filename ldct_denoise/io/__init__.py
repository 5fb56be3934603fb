"""The only place that knows DICOM tags and file formats."""
