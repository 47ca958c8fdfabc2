"""Sources: one file per input format, one line each in the registry below."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from atomlake.buckets import is_url
from atomlake.errors import SourceError
from atomlake.registry import Registry

if TYPE_CHECKING:
    from atomlake.sources.base import Guard, Reader, Source

_REGISTRY: Registry[Reader] = Registry(
    "format",
    "atomlake.sources",
    {
        "extxyz": "atomlake.sources.extxyz:ExtendedXyz",
        "ase_sqlite": "atomlake.sources.ase_sqlite:AseSqlite",
        "ase_database": "atomlake.sources.ase_database:AseDatabase",
        "ase_server": "atomlake.sources.ase_server:AseServer",
        "ase_collection": "atomlake.sources.collections:AseCollection",
        "ase": "atomlake.sources.ase_formats:AseFormat",
    },
)

#: Reads what no pattern of another format claims, by ase's own guess.
_FALLBACK = "ase"
#: Ends of file names that accompany a database and hold no structures themselves.
_COMPANIONS = ("-wal", "-shm", "-journal", ".lock", "-lock")


names = _REGISTRY.names


def get(name: str) -> type[Reader]:
    """Return the reader of a registered format, or the one that hands it to ase.

    Parameters
    ----------
    name : str
        A registered format, or one of :data:`atomlake.sources.ase_formats.READABLE`.

    Raises
    ------
    KeyError
        If no format has that name.
    """
    if name in names():
        return _REGISTRY.get(name)
    from atomlake.sources.ase_formats import READABLE, REFUSED

    if name in READABLE:
        return get(_FALLBACK)
    raise KeyError(
        f"no format is called {name!r}; there are {names()} and the formats of ase"
        + (f" ({name} is refused: {REFUSED[name]})" if name in REFUSED else "")
    )


def options_hash(location: str, source: Source) -> str:
    """Hash of what decides, beside the content of a location, what the location gives."""
    reader_class = _reader_class(location, source)
    read_as = f"{reader_class.format} {reader_class.version}"
    labels = source.labels.model_dump_json()
    options = f"{read_as} {source.format} {source.select} {labels}"
    return hashlib.blake2b(options.encode(), digest_size=16).hexdigest()


def expand(source: Source) -> list[str]:
    """List the locations of a source: files, objects, database URLs, collections; sorted.

    A folder stands for every file in it and below, except hidden ones and what
    accompanies a database. Pipes, sockets and devices are no files.

    Raises
    ------
    SourceError
        If nothing is there.
    """
    path = source.path
    if is_url(path):
        from atomlake.sources import objects

        return objects.expand(path)
    if path.startswith("ase:") or "://" in path:
        return [path]
    expanded = os.path.expanduser(path)
    matches = [expanded] if os.path.exists(expanded) else glob.glob(expanded, recursive=True)
    locations = sorted({file for match in matches for file in _files(match)})
    if not locations:
        raise SourceError(
            f"source {path!r} matches no file"
            + (": the folder is empty" if matches else "")
            + f"; expected a file, a glob or a folder, seen from {os.getcwd()}"
        )
    return locations


def _files(match: str) -> Iterator[str]:
    if not os.path.isdir(match):
        if not _is_special(match):
            yield match
        return
    for folder, folders, files in os.walk(match):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = os.path.join(folder, name)
            if not (name.startswith(".") or name.endswith(_COMPANIONS) or _is_special(path)):
                yield path


def _is_special(path: str) -> bool:
    return os.path.exists(path) and not os.path.isfile(path)


def reader(location: str, source: Source, scratch: Path, guard: Guard | None = None) -> Reader:
    """Return the reader of one location, by the recipe's format or the location's name.

    Raises
    ------
    SourceError
        If the recipe names a format that does not exist, or asks it for what it has not.
    """
    reader_class = _reader_class(location, source)
    if source.select is not None and not reader_class.has_select:
        raise SourceError(
            f"source {source.label!r}: select has a meaning for databases only, but {location} "
            f"is read as {reader_class.format}; remove it"
        )
    if is_url(location):
        from atomlake.sources import objects

        return objects.ObjectReader(reader_class, location, source, scratch, guard)
    return reader_class(location, source, scratch, guard)


def _reader_class(location: str, source: Source) -> type[Reader]:
    if source.format != "auto":
        try:
            return get(source.format)
        except KeyError as error:
            raise SourceError(f"source {source.label!r}: {error.args[0]}") from None
    file = location.partition("?")[0] if is_url(location) else location
    for name in dict.fromkeys([*_REGISTRY.listed, *names()]):
        if any(fnmatchcase(file.lower(), pattern) for pattern in get(name).patterns):
            return get(name)
    return get(_FALLBACK)
