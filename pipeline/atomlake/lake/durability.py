"""Files that must survive a power cut.

A file that was written is in the memory of the machine first, and its name in that of its folder.
A process that dies loses neither. A machine that loses its power may, in any order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from atomlake.errors import LakeError
from atomlake.lake import layout


class Disk:
    """Waits until files of a lake are on the disk, each once, for files do not change.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake. An object of a bucket is on disks as soon as it is written.
    """

    def __init__(self, lake: layout.Place | str) -> None:
        self.lake = layout.place(lake)
        self.n_files = 0
        self._done: set[str] = set()

    def wait_for(self, paths: Iterable[str]) -> None:
        """Return when everything below some paths of the lake is on the disk, names included.

        Raises
        ------
        LakeError
            If the disk refuses.
        """
        if not isinstance(self.lake, Path):
            return
        folders: set[Path] = set()
        try:
            for path in paths:
                for name, _ in layout.files(self.lake, path):
                    if name not in self._done:
                        _wait(self.lake / name)
                        self._done.add(name)
                        folders |= set(Path(name).parents)
                        self.n_files += 1
            for folder in sorted(folders, reverse=True):
                _wait(self.lake / folder)
        except OSError as error:
            raise LakeError(
                f"{self.lake} cannot be written to the disk ({error}); nothing that is not there "
                "was published"
            ) from error


def _wait(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
