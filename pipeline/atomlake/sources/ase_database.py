"""ASE databases other than SQLite files: JSON files, LMDB files and database servers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import ase.db
import numpy as np
from ase.db.row import AtomsRow
from numpy.typing import NDArray

from atomlake.errors import SetAside, SourceError
from atomlake.sources import labels
from atomlake.sources.base import (
    Batch,
    FileIndex,
    Fingerprint,
    LabelKeys,
    Reader,
    ReadResult,
    Record,
    Unreadable,
    content_hashes,
    parsed_index,
)
from atomlake.sources.guarded import guarded

_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")


class AseDatabase(Reader):
    """What :func:`ase.db.connect` opens and :class:`AseSqlite` does not read.

    Servers and LMDB files need the package ``ase-db-backends``. Labels are found as in
    SQLite files: energy, forces and stress as ase stores them, a key that the recipe names
    also among the key-value pairs and in the ``data`` of the row.
    """

    format: ClassVar[str] = "ase_database"
    title: ClassVar[str] = "ASE database in a JSON or LMDB file or on a server"
    patterns: ClassVar[tuple[str, ...]] = (
        "*.json",
        "*.aselmdb",
        "postgresql://*",
        "postgres://*",
        "mysql://*",
        "mariadb://*",
    )
    has_select: ClassVar[bool] = True

    def fingerprint(self, known: Fingerprint | None = None) -> Fingerprint:
        """Return the state; that of a server is the number, last id and last change of rows."""
        if "://" not in self.location:
            return super().fingerprint(known)
        (state,) = self._guarded(read_state)
        return Fingerprint(0, 0, hashlib.blake2b(state.encode(), digest_size=16).hexdigest())

    def index(self) -> FileIndex:
        """List the rows that the source selects; see :class:`atomlake.sources.base.Reader`."""
        batch = Batch()
        ids: list[int] = []
        for row_id, record in self._guarded(read_rows, self.source.labels, self.source.select):
            batch.add(len(ids), record)
            ids.append(row_id)
        if not ids:
            raise SourceError(
                f"{_without_password(self.location)} has no row"
                + (f" that fits {self.source.select!r}" if self.source.select else "")
            )
        locations = np.array([(row_id, 0) for row_id in ids], dtype=np.int64)
        keys = [str(row_id) for row_id in ids]
        return parsed_index(
            batch.result(content_hashes(self.record_salt)), keys, locations, self.record_salt
        )

    def read(self, locations: NDArray[np.int64]) -> ReadResult:
        """Read rows; see :class:`atomlake.sources.base.Reader`."""
        batch = Batch()
        wanted: dict[int, list[int]] = {}
        for position, row_id in enumerate(locations[:, 0].tolist()):
            wanted.setdefault(row_id, []).append(position)
        if wanted:
            span = [("id", ">=", min(wanted)), ("id", "<=", max(wanted))]
            for row_id, record in self._guarded(read_rows, self.source.labels, span):
                for position in wanted.pop(row_id, ()):
                    batch.add(position, record)
        for row_id, positions in wanted.items():
            for position in positions:
                problem = SetAside("missing", f"there is no row {row_id} any more")
                batch.set_aside(position, problem)
        return batch.result(content_hashes(self.record_salt))

    def _guarded(self, function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
        try:
            yield from guarded(self.guard, self.location, function, self.location, *arguments)
        except Unreadable as error:
            raise SourceError(
                f"{_without_password(self.location)} cannot be read as an ASE database: {error}"
            ) from error


def read_rows(
    location: str, keys: LabelKeys, select: str | list[tuple[str, str, int]] | None
) -> Iterator[tuple[int, Record | SetAside]]:
    """Yield the id of each row that ``select`` takes, and what it holds.

    Raises
    ------
    SourceError
        If the database cannot be read.
    """
    with _connected(location) as database:
        for row in database.select(select):
            yield row.id, _record(row, keys)


def read_state(location: str) -> Iterator[str]:
    """Yield a text that differs if the rows of a server do.

    Raises
    ------
    SourceError
        If the database cannot be read.
    """
    with _connected(location) as database, database.managed_connection() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT COUNT(*), MAX(id), MAX(mtime) FROM systems")
        yield repr(tuple(cursor.fetchone()))


def _without_password(text: str) -> str:
    return _PASSWORD.sub(r"\1:***@", text)


@contextmanager
def _connected(location: str) -> Iterator[Any]:
    """Open the database; whatever ase or a driver raises becomes a reason."""
    name = _without_password(location)
    try:
        with ase.db.connect(location, use_lock_file=False) as database:
            yield database
    except (SourceError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{name} needs the package ase-db-backends ({error}); install it"
        ) from error
    except Exception as error:
        problem = _without_password(f"{type(error).__name__}: {error}")[:200]
        raise SourceError(f"{name} cannot be read as an ASE database ({problem})") from None


def _record(row: AtomsRow, keys: LabelKeys) -> Record | SetAside:
    """Take what is wanted from a row, of which ase hands on whatever a file holds."""
    named = {keys.energy, keys.forces, keys.stress, *keys.structure, *keys.atom}

    def lookup(key: str) -> Any:
        value = vars(row).get(key)
        return row.data.get(key) if value is None and key in named else value

    try:
        numbers = np.asarray(row.numbers, dtype=np.int32).reshape(-1)
        return Record(
            numbers,
            np.asarray(row.positions, dtype=np.float64).reshape(len(numbers), 3),
            np.asarray(row.cell, dtype=np.float64).reshape(3, 3),
            np.asarray(row.pbc, dtype=bool).reshape(3),
            labels.structure_labels(keys, lookup),
            labels.atom_labels(keys, len(numbers), lookup),
        )
    except Unreadable as error:
        return error.problem
    except Exception as error:
        problem = f"the row holds no structure ({type(error).__name__}: {error})"
        return SetAside("malformed", problem[:200])
