"""Locations that nobody looked at before: many are read in several processes.

A plan reads all that is new, for its fingerprint and its index; from then on what workers do is
shared out among them, and this would be what everybody waits for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from atomlake import sources
from atomlake.errors import SourceError
from atomlake.sources.base import FileIndex, Fingerprint, Guard, Source
from atomlake.sources.guarded import at_once

#: Bytes of files that take longer to read than processes take to start.
LEAST_NBYTES = 2**28
#: Calls for each process, so that all end at nearly the same time.
CALLS_PER_PROCESS = 8


class FirstLook(NamedTuple):
    """State of a location, its records, and the atomic numbers that occur where they are wanted."""

    fingerprint: Fingerprint
    file_index: FileIndex
    species: tuple[int, ...] | None


def first_looks(
    locations: Sequence[str],
    source: Source,
    scratch: Path,
    guard: Guard,
    wants_species: bool,
    n_processes: int,
) -> dict[str, FirstLook]:
    """Look at those of many locations that are files, if it is worth while and can be done.

    Returns
    -------
    dict of str to FirstLook
        Without the locations that cannot be read, which are left to whoever can say why.
    """
    nbytes = {name: os.path.getsize(name) for name in locations if os.path.isfile(name)}
    total = sum(nbytes.values())
    if min(n_processes, len(nbytes)) < 2 or total < LEAST_NBYTES:
        return {}
    share = total / (CALLS_PER_PROCESS * n_processes)
    groups: dict[int, list[str]] = {}
    before = 0
    for name in nbytes:
        groups.setdefault(int(before // share), []).append(name)
        before += nbytes[name]
    calls = ((group, source, scratch, guard, wants_species) for group in groups.values())
    return dict(at_once(look_at_each, calls, n_processes))


def look_at_each(
    locations: Sequence[str], source: Source, scratch: Path, guard: Guard, wants_species: bool
) -> Iterator[tuple[str, FirstLook]]:
    """Look at some locations, and pass over those that cannot be read."""
    for location in locations:
        reader = sources.reader(location, source, scratch, guard)
        try:
            fingerprint, index = reader.fingerprint(), reader.index()
            species = tuple(reader.species(index)) if wants_species else None
            if not reader.has_snapshots:
                reader.require(fingerprint)
        except SourceError:
            continue
        yield location, FirstLook(fingerprint, index, species)
