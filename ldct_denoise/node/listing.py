"""Names of the folders in a folder, kept in memory."""

from __future__ import annotations

import os
from pathlib import Path


class FolderListing:
    """Names of the folders in a folder, the oldest batch first; listed anew only after a change.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed_ns = -1
        self._forgotten = 0
        self._names: list[str] = []

    def names(self) -> list[str]:
        """The names; do not change the list."""
        forgotten, changed_ns = self._forgotten, self._folder.stat().st_mtime_ns
        if changed_ns == self._changed_ns:
            return self._names
        with os.scandir(self._folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
        names.sort(key=lambda name: (name.partition(".")[2], name))
        self._names = names
        if forgotten == self._forgotten:
            self._changed_ns = changed_ns
        return names

    def forget(self) -> None:
        """List anew next time: two changes may have one modification time."""
        self._forgotten += 1
        self._changed_ns = -1
