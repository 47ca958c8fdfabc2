"""ASE databases in SQLite files, read column by column through sqlite3 alone."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
import polars as pl
from ase.db.core import bytes_to_object, parse_selection
from ase.db.sqlite import SQLite3Database
from ase.io.jsonio import decode
from numpy.typing import NDArray

from atomlake.errors import SetAside, SourceError
from atomlake.sources import labels
from atomlake.sources.base import (
    Batch,
    FileIndex,
    Reader,
    ReadResult,
    Record,
    Unreadable,
    cell_volumes,
)
from atomlake.sources.guarded import seconds_for_item, too_slow

#: Seconds to wait for a program that is writing.
LOCK_SECONDS = 20.0
#: Rows fetched by one statement.
BLOCK_ROWS = 500
#: Steps of SQLite's virtual machine between two looks at the clock: less than a millisecond.
STEPS_BETWEEN_LOOKS = 10_000

#: Columns that hold arrays, with the type of the elements and the shape for one atom.
_ARRAYS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "numbers": ("<i4", (-1,)),
    "positions": ("<f8", (-1, 3)),
    "cell": ("<f8", (-1, 3)),
    "forces": ("<f8", (-1, 3)),
    "momenta": ("<f8", (-1, 3)),
    "stress": ("<f8", (-1,)),
    "dipole": ("<f8", (-1,)),
    "charges": ("<f8", (-1,)),
    "magmoms": ("<f8", (-1,)),
    "masses": ("<f8", (-1,)),
    "tags": ("<i4", (-1,)),
    "initial_charges": ("<f8", (-1,)),
    "initial_magmoms": ("<f8", (-1,)),
}
_NUMBERS = ("energy", "free_energy", "magmom", "charge", "mass", "volume", "fmax", "smax")
_GEOMETRY = ("numbers", "positions", "cell", "pbc")

Row = dict[str, Any]


class _TimedConnection(sqlite3.Connection):
    """A connection that interrupts a statement which takes longer than ``seconds``.

    Pages that refer to each other often enough keep a statement busy for ever.
    """

    seconds = LOCK_SECONDS

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        deadline = time.monotonic() + self.seconds
        self.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
        return super().execute(*arguments)

    def explain(self, error: Exception) -> SetAside:
        """Say what is wrong with what a statement did not read."""
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return SetAside("too_slow", too_slow(self.seconds))
        return SetAside("malformed", f"SQLite cannot read it: {error}")


class AseSqlite(Reader):
    """Files of ``ase.db`` with the ending ``.db``, of any schema version.

    Energy, forces and stress come from their columns. A key that the recipe names is looked
    for among the columns, then among the key-value pairs, then in the ``data`` of the row.
    What a row holds beyond that, constraints for instance, is not decoded.
    """

    format: ClassVar[str] = "ase_sqlite"
    title: ClassVar[str] = "ASE database in an SQLite file"
    patterns: ClassVar[tuple[str, ...]] = ("*.db",)
    has_select: ClassVar[bool] = True

    @property
    def files(self) -> list[Path]:
        """The database, and the log of changes that did not reach it yet."""
        log = Path(self.location + "-wal")
        return [Path(self.location), *([log] if log.exists() else [])]

    def index(self) -> FileIndex:
        """List the rows that the source selects; see :class:`atomlake.sources.base.Reader`."""
        hashes: list[bytes] = []
        n_atoms: list[int] = []
        cells: list[NDArray[np.float64]] = []
        problems: dict[int, SetAside] = {}
        with self._connected() as database:
            columns = self._columns(database)
            ids = self._selected(database)
            for position, row in enumerate(_rows(database, ids, columns)):
                content: Row = {}
                if isinstance(row, SetAside):
                    problems[position] = row
                else:
                    content = row
                hashes.append(_digest(content, self.record_salt))
                n_atoms.append(len(content.get("numbers") or b"") // 4)
                cell = content.get("cell")
                if isinstance(cell, bytes) and len(cell) == 72:
                    cells.append(np.frombuffer(cell, "<f8"))
                else:
                    cells.append(np.full(9, np.nan))
        return FileIndex(
            keys=pl.Series(ids, dtype=pl.Int64).cast(pl.String),
            record_hashes=np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, 16),
            n_atoms=np.array(n_atoms, dtype=np.int32),
            volumes=cell_volumes(np.array(cells).reshape(-1, 3, 3)),
            locations=np.array([(row_id, 0) for row_id in ids], dtype=np.int64),
            set_aside=problems,
        )

    def read(self, locations: NDArray[np.int64]) -> ReadResult:
        """Read rows; see :class:`atomlake.sources.base.Reader`."""
        batch = Batch()
        digests: list[bytes] = []
        with self._connected() as database:
            columns = self._columns(database)
            rows = _rows(database, locations[:, 0].tolist(), columns)
            for position, row in enumerate(rows):
                batch.add(position, row if isinstance(row, SetAside) else self._record(row))
                digests.append(_digest({} if isinstance(row, SetAside) else row, self.record_salt))
        return batch.result(lambda rows, structures: [digests[row] for row in rows])

    def _record(self, row: Row) -> Record | SetAside:
        keys, lookup = self.source.labels, _lookup(row, self._named)
        try:
            numbers, positions, cell, pbc = _geometry(row)
            return Record(
                numbers,
                positions,
                cell,
                pbc,
                labels.structure_labels(keys, lookup),
                labels.atom_labels(keys, len(numbers), lookup),
            )
        except Unreadable as error:
            return error.problem

    @contextmanager
    def _connected(self) -> Iterator[_TimedConnection]:
        """Open the database for reading, with nothing in it trusted."""
        if not os.path.isfile(self.location):
            raise SourceError(f"{self.location} is missing")
        path = os.path.abspath(self.location)
        # SQLite wants to write beside a database even to read one that keeps a log.
        is_frozen = len(self.files) == 1 and not os.access(os.path.dirname(path), os.W_OK)
        mode = "immutable=1" if is_frozen else "mode=ro"
        database = sqlite3.connect(
            f"file:{quote(path)}?{mode}", uri=True, timeout=LOCK_SECONDS, factory=_TimedConnection
        )
        try:
            database.seconds = seconds_for_item(self.guard, path)
            # No value is longer than the files, whatever its pages say.
            nbytes = sum(file.stat().st_size for file in self.files)
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, nbytes + 10**6)
            database.text_factory = lambda text: text.decode(errors="replace")
            database.execute("PRAGMA trusted_schema=OFF")
            database.execute("PRAGMA query_only=ON")
            found = database.execute("SELECT type FROM sqlite_master WHERE name='systems'")
            if found.fetchall() != [("table",)]:
                raise SourceError(f"{self.location} is no ASE database: it has no table 'systems'")
            yield database
        # Names in a damaged schema, and so messages about them, may be no text.
        except (OSError, UnicodeDecodeError, sqlite3.Error) as error:
            reason = database.explain(error).reason
            raise SourceError(f"{self.location} cannot be read: {reason}") from error
        finally:
            database.close()

    def _selected(self, database: _TimedConnection) -> list[int]:
        """Ids of the rows that the source selects, ascending."""
        translator = SQLite3Database(self.location, create_indices=False, use_lock_file=False)
        translator.version = _version(database)
        try:
            sql, values = translator.create_select_statement(
                *parse_selection(self.source.select), what="systems.id"
            )
        except Exception as error:
            raise SourceError(
                f"source {self.source.label!r}: select {self.source.select!r} is not understood "
                f"({type(error).__name__}: {error}); expected the like of 'natoms<20,energy<0'"
            ) from error
        rows = database.execute(f"{sql} ORDER BY systems.id", values)
        ids = [row_id for row_id in dict.fromkeys(row[0] for row in rows) if type(row_id) is int]
        if not ids:
            raise SourceError(
                f"{self.location} has no row"
                + (f" that fits {self.source.select!r}" if self.source.select else "")
            )
        return ids

    @property
    def _named(self) -> set[str]:
        keys = self.source.labels
        named = {key for key in (keys.energy, keys.forces, keys.stress) if key is not None}
        return named | {*keys.structure, *keys.atom}

    def _columns(self, database: _TimedConnection) -> list[str]:
        """Columns that hold the geometry and the labels that are wanted."""
        present = [row[1] for row in database.execute("PRAGMA table_info(systems)")]
        wanted = {*_GEOMETRY, "energy", "forces", "stress"}
        if self._named:
            wanted |= {"key_value_pairs", "data"} | (self._named & {*_ARRAYS, *_NUMBERS})
        missing = [name for name in _GEOMETRY if name not in present]
        if missing:
            raise SourceError(f"{self.location} is no ASE database: 'systems' lacks {missing}")
        return [name for name in present if name in wanted]


def _rows(
    database: _TimedConnection, ids: Sequence[int], columns: Sequence[str]
) -> Iterator[Row | SetAside]:
    """Yield the rows with these ids, in that order; none is tried after one that takes too long."""
    late: SetAside | None = None
    for first in range(0, len(ids), BLOCK_ROWS):
        block = ids[first : first + BLOCK_ROWS]
        found: dict[int, Row | SetAside] = {}
        if late is None:
            try:
                found = _fetch(database, block, columns)
            except sqlite3.DatabaseError:
                found, late = _fetch_singly(database, block, columns)
        for row_id in block:
            missing = SetAside("missing", f"there is no row {row_id} any more")
            yield found.get(row_id) or late or missing


def _fetch_singly(
    database: _TimedConnection, ids: Sequence[int], columns: Sequence[str]
) -> tuple[dict[int, Row | SetAside], SetAside | None]:
    """Return the rows up to the first that takes too long, and why that one is set aside."""
    found: dict[int, Row | SetAside] = {}
    for row_id in ids:
        try:
            found |= _fetch(database, [row_id], columns)
        except sqlite3.DatabaseError as error:
            problem = database.explain(error)
            if problem.code == "too_slow":
                return found, problem
            found[row_id] = problem
    return found, None


def _fetch(
    database: _TimedConnection, ids: Sequence[int], columns: Sequence[str]
) -> dict[int, Row | SetAside]:
    marks = ",".join("?" * len(ids))
    cursor = database.execute(
        f"SELECT id, {', '.join(columns)} FROM systems WHERE id IN ({marks})", ids
    )
    return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in cursor}


def _version(database: _TimedConnection) -> int:
    """Version of the schema, as ase tells it."""
    try:
        found = database.execute("SELECT value FROM information WHERE name='version'").fetchone()
        return int(found[0])
    except (sqlite3.Error, TypeError, ValueError):
        return 1


def _digest(row: Row, salt: bytes) -> bytes:
    contents = [
        value if isinstance(value, bytes) else repr(value).encode() for value in row.values()
    ]
    lengths = repr([len(content) for content in contents]).encode()
    return hashlib.blake2b(b"".join([lengths, *contents]), digest_size=16, person=salt).digest()


def _geometry(row: Row) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    numbers, positions, cell = (
        _array(name, row[name]) for name in ("numbers", "positions", "cell")
    )
    pbc = row["pbc"] or 0
    if numbers is None or positions is None or len(numbers) != len(positions):
        raise Unreadable(
            "malformed",
            f"expected as many positions as atomic numbers, found {_length(positions)} and "
            f"{_length(numbers)}",
        )
    if cell is None:
        cell = np.zeros((3, 3))
    if cell.shape != (3, 3) or not isinstance(pbc, int):
        raise Unreadable("malformed", f"expected a 3x3 cell, found one of {cell.size} numbers")
    return numbers, positions, cell, pbc & np.array([1, 2, 4]) != 0


def _length(array: NDArray[Any] | None) -> int:
    return 0 if array is None else len(array)


def _array(name: str, value: Any) -> NDArray[Any] | None:
    """Turn the bytes of a column into an array."""
    if value is None:
        return None
    dtype, shape = _ARRAYS[name]
    try:
        return np.frombuffer(value, dtype).reshape(shape)
    except (TypeError, ValueError) as error:
        raise Unreadable("malformed", f"column {name!r} holds no array: {error}") from None


def _lookup(row: Row, named: set[str]) -> labels.Lookup:
    """Return what finds a label in a row; beyond the columns, only what the recipe names."""

    @cache
    def extras() -> dict[str, Any]:
        try:
            return {**_decoded(row.get("data")), **_decoded(row.get("key_value_pairs"))}
        except Exception as error:
            reason = f"key-value pairs or data cannot be decoded ({type(error).__name__}: {error})"
            raise Unreadable("malformed_label", reason) from error

    def lookup(key: str) -> Any:
        value = row.get(key)
        if value is None:
            return extras().get(key) if key in named else None
        return _array(key, value) if key in _ARRAYS else value

    return lookup


def _decoded(value: bytes | str | None) -> dict[str, Any]:
    """Decode key-value pairs or data; ase writes them as JSON, beside raw arrays if binary."""
    if not value:
        return {}
    decoded = bytes_to_object(value) if isinstance(value, bytes) else decode(value)
    return decoded or {}
