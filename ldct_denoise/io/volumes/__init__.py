"""Formats of volume files: headers, voxels on disk, stored types, and guards against values that are not HU."""
