"""Read CT series from DICOM files: find, filter, stack, decode."""
