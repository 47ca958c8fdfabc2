"""What no reader of a lake sees.

It was never published: left by tasks that died, or still being written. Or nothing shows it
any more: parts whose structures were retired or moved, which readers of older states still use.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from atomlake.buckets import Stored
from atomlake.lake import layout
from atomlake.lake.catalogue import Catalogue, reporting
from atomlake.lake.lock import alone


class Unpublished(NamedTuple):
    """A zarr group that the catalogue does not name.

    ``modified`` is when anything in it was last written, in seconds since 1970.
    """

    path: str
    n_files: int
    nbytes: int
    modified: float


def unpublished(
    lake: layout.Place | str, older_than: timedelta = timedelta(0)
) -> list[Unpublished]:
    """List what was last written longer ago than ``older_than`` and is in no version of the lake.

    Raises
    ------
    LakeError
        If the catalogue cannot be read.
    """
    # Listed before the catalogue is read: what is published in between is not missed.
    found = list(_groups(layout.place(lake)))
    with reporting(lake):
        catalogue = Catalogue.open(lake)
        known = {
            path
            for table in ("parts", "features")
            for path in catalogue.log(table).select("path").collect()["path"]
        }
    limit = time.time() - older_than.total_seconds()
    return [group for group in found if group.path not in known and group.modified <= limit]


def collect(lake: layout.Place | str, older_than: timedelta) -> list[Unpublished]:
    """Remove what :func:`unpublished` lists.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake.
    older_than : timedelta
        Must exceed the time from a task's first file to the commit of its record, on whatever
        machine it runs.

    Raises
    ------
    LakeError
        If the catalogue cannot be read, or a run is at work in the lake.
    """
    with alone(lake, "collection"):
        return _remove(lake, unpublished(lake, older_than))


def purge(lake: layout.Place | str, older_than: timedelta) -> list[Unpublished]:
    """Remove what no state of the lake since ``older_than`` ago shows, and all older states.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake.
    older_than : timedelta
        Readers that opened the lake, or open it ``as_of`` a time, less long ago are not
        disturbed.

    Raises
    ------
    LakeError
        If the catalogue cannot be read or written, or a run is at work in the lake.
    """
    with alone(lake, "purge"):
        Catalogue.open(lake).forget(older_than)
        return _remove(lake, unpublished(lake, older_than))


def _remove(lake: layout.Place | str, garbage: list[Unpublished]) -> list[Unpublished]:
    for group in garbage:
        root = layout.resolve(lake, group.path)
        layout.remove(root)
        if isinstance(root, Path) and root.parent.parent.name == layout.PARTS:
            with suppress(OSError):  # it holds other groups
                root.parent.rmdir()
    return garbage


def _groups(lake: layout.Place) -> Iterator[Unpublished]:
    """Measure all groups of parts, and those of descriptors that were not finished."""
    if not isinstance(lake, Path):
        yield from _groups_in_bucket(lake)
        return
    for part in _folders(lake / layout.PARTS):
        for group in _folders(part):
            yield from _measure(lake, group.relative_to(lake).as_posix())
    for descriptor in _folders(lake / layout.DESCRIPTORS):
        if descriptor.name.startswith("."):
            yield from _measure(lake, descriptor.relative_to(lake).as_posix())


def _groups_in_bucket(lake: layout.Place) -> Iterator[Unpublished]:
    """The same from one listing; in a bucket descriptors are written where they stay."""
    groups: dict[str, list[Stored]] = {}
    for name, stored in layout.files(lake, layout.PARTS):
        groups.setdefault("/".join(name.split("/")[:3]), []).append(stored)
    for path, files in groups.items():
        nbytes, modified = sum(file.nbytes for file in files), max(f.modified for f in files)
        yield Unpublished(path, len(files), nbytes, modified)


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _measure(lake: Path, path: str) -> Iterator[Unpublished]:
    """Measure a group; nothing if it was renamed meanwhile."""
    try:
        created = (lake / path).stat().st_mtime
    except FileNotFoundError:
        return
    files = [stored for _, stored in layout.files(lake, path)]
    modified = max([created, *(file.modified for file in files)])
    yield Unpublished(path, len(files), sum(file.nbytes for file in files), modified)
