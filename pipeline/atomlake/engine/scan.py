"""What the sources hold: every location with its state, indexed where it changed."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from atomlake import sources
from atomlake.clusters.local import usable_cores
from atomlake.engine.known import Known
from atomlake.errors import SetAside, SourceError
from atomlake.recipe import Recipe
from atomlake.sources.base import FileIndex, Fingerprint, Source
from atomlake.sources.first_look import first_looks
from atomlake.structures import CHEMICAL_SYMBOLS


@dataclass(frozen=True)
class LocationState:
    """One file or database of a source, as it is now.

    Attributes
    ----------
    source, location
        Where it is.
    fingerprint : Fingerprint or None
        Its state; None where it cannot be read.
    index : FileIndex or None
        Its records; None where the catalogue already reflects this very content.
    n_before : int
        Records before those of ``index``, which the catalogue reflects: all that is new was
        appended.
    species : tuple of int or None
        Atomic numbers that occur; None where nobody asked.
    """

    source: Source
    location: str
    fingerprint: Fingerprint | None
    index: FileIndex | None
    species: tuple[int, ...] | None
    n_before: int = 0


def locations(
    source: Source, known: Known, scratch: Path, recipe: Recipe, on_work: Callable[[], None]
) -> Iterator[LocationState]:
    """Look at every location of a source and index those that changed.

    A location that as a whole cannot be read counts as one record, set aside with its
    reason; structures that the lake has of it stay, and the next run tries again.
    ``on_work`` is called as soon as a location is known to need indexing.

    Raises
    ------
    SourceError
        If the source matches nothing.
    """
    wants_species = any(e.scans_species for e in recipe.entries_for(source))
    states = {
        location: known.fingerprint(source.label, location, sources.options_hash(location, source))
        for location in sources.expand(source)
    }
    new = [location for location, before in states.items() if before is None]
    if new:
        on_work()
    looks = first_looks(
        new, source, scratch, recipe.limits.guard, wants_species, n_processes=usable_cores()
    )
    for location, before in states.items():
        if location in looks:
            yield LocationState(source, location, *looks.pop(location))
            continue
        reader = sources.reader(location, source, scratch, recipe.limits.guard)
        species = known.species(source.label, location)
        try:
            now = reader.fingerprint(before)
            is_reflected = (
                before is not None
                and now.digest == before.digest
                and (species is not None or not wants_species)
                and known.is_settled(source.label, location)
            )
            if is_reflected:
                yield LocationState(source, location, now, None, species)
                continue
            on_work()
            n_before = known.n_records(source.label, location)
            is_usable = before is not None and (species is not None or not wants_species)
            index = None
            if before is not None and n_before is not None and is_usable:
                index = reader.appended(before, n_before)
            if index is None or n_before is None:
                index, n_before, species = reader.index(), 0, ()
            if wants_species:
                species = tuple(sorted({*(species or ()), *reader.species(index)}))
            if not reader.has_snapshots:
                reader.require(now)
            yield LocationState(
                source, location, now, index, species if wants_species else None, n_before
            )
        except SourceError as problem:
            yield LocationState(source, location, None, unreadable(problem), species or ())


def unreadable(problem: SourceError) -> FileIndex:
    """Index of a location that as a whole cannot be read: one record, set aside."""
    reason = str(problem)
    digest = hashlib.blake2b(reason.encode(), digest_size=16).digest()
    return FileIndex(
        keys=pl.Series([""]),
        record_hashes=np.frombuffer(digest, dtype=np.uint8).reshape(1, 16),
        n_atoms=np.zeros(1, np.int32),
        volumes=np.full(1, np.nan, np.float32),
        locations=np.zeros((1, 2), np.int64),
        set_aside={0: SetAside("unreadable", reason)},
    )


def records(states: Sequence[LocationState], names: pl.Enum) -> pl.DataFrame:
    """List every record of the indexed locations, as :func:`changes.compare` takes them.

    ``names`` holds all locations.
    """
    indexes = [(state.location, state.index) for state in states if state.index is not None]
    schema = {
        "location": names,
        "key": pl.String(),
        "record_hash": pl.UInt128(),
        "position": pl.UInt32(),
    }
    tables = [
        pl.select(
            location=pl.repeat(location, len(index), dtype=names),
            key=index.keys,
            record_hash=index.hash_numbers(),
            position=pl.int_range(len(index), dtype=pl.UInt32),
        )
        for location, index in indexes
    ]
    return pl.concat([pl.DataFrame(schema=schema), *tables])


def survey(path: str) -> list[dict[str, Any]]:
    """Say what a path holds, location by location, without a lake.

    Raises
    ------
    SourceError
        If the path matches nothing.
    """
    source = Source(path=path)
    found = []
    with tempfile.TemporaryDirectory(prefix="atomlake-") as scratch:
        for location in sources.expand(source):
            try:
                reader = sources.reader(location, source, Path(scratch))
                index = reader.index()
                species = [CHEMICAL_SYMBOLS[z] for z in reader.species(index)]
            except SourceError as problem:
                index, species = unreadable(problem), []
            found.append(
                {
                    "location": location,
                    "n_records": len(index),
                    "n_atoms": int(index.n_atoms.sum()),
                    "species": species,
                    "n_set_aside": len(index.set_aside),
                    "reasons": [problem.reason for problem in index.set_aside.values()],
                }
            )
    return found
