"""ASE databases in JSON files and LMDB files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import quote

import ase.db
import numpy as np
from ase.db.row import AtomsRow
from numpy.typing import NDArray

from atomlake.errors import SetAside, SourceError
from atomlake.sources import labels
from atomlake.sources.base import (
    Batch,
    FileIndex,
    Guard,
    LabelKeys,
    Reader,
    ReadResult,
    Record,
    Unreadable,
    content_hashes,
    parsed_index,
)
from atomlake.sources.guarded import guarded


class AseDatabase(Reader):
    """Files that :func:`ase.db.connect` opens and :class:`AseSqlite` does not read.

    LMDB files need the package ``ase-db-backends``. Labels are found as in SQLite files:
    energy, forces and stress as ase stores them, a key that the recipe names also among the
    key-value pairs and in the ``data`` of the row.
    """

    format: ClassVar[str] = "ase_database"
    title: ClassVar[str] = "ASE database in a JSON or LMDB file"
    patterns: ClassVar[tuple[str, ...]] = ("*.json", "*.aselmdb")
    has_select: ClassVar[bool] = True

    def index(self) -> FileIndex:
        """List the rows that the source selects; see :class:`atomlake.sources.base.Reader`."""
        batch = Batch()
        ids: list[int] = []
        for row_id, record in self._rows(None):
            batch.add(len(ids), record)
            ids.append(row_id)
        if not ids:
            raise SourceError(
                f"{self.location} has no row"
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
            for row_id, record in self._rows(sorted(wanted)):
                for position in wanted.pop(row_id, ()):
                    batch.add(position, record)
        for row_id, positions in wanted.items():
            for position in positions:
                problem = SetAside("missing", f"there is no row {row_id} any more")
                batch.set_aside(position, problem)
        return batch.result(content_hashes(self.record_salt))

    def _rows(self, ids: Sequence[int] | None) -> Iterator[tuple[int, Record | SetAside]]:
        """Yield the rows with these ids, or those that the source selects."""
        guard = self.guard
        if is_lmdb(self.location):
            # All of the file is mapped into memory that need not be there.
            guard = guard._replace(nbytes=guard.nbytes + sum(f.stat().st_size for f in self.files))
        select = self.source.select if ids is None else None
        return self._guarded(guard, read_rows, self.location, self.source.labels, select, ids)

    def _guarded(
        self, guard: Guard, function: Callable[..., Iterator[Any]], *arguments: Any
    ) -> Iterator[Any]:
        try:
            yield from guarded(guard, self.location, function, *arguments)
        except Unreadable as error:
            raise SourceError(
                f"{self.location} cannot be read as an ASE database: {error}"
            ) from error


def is_lmdb(location: str) -> bool:
    """Whether a file is one of LMDB, by its name."""
    return location.lower().endswith(".aselmdb")


def read_rows(
    location: str, keys: LabelKeys, select: str | None, ids: Sequence[int] | None
) -> Iterator[tuple[int, Record | SetAside]]:
    """Yield the id of each row that is wanted, and what it holds.

    Parameters
    ----------
    location : str
        The file.
    keys : LabelKeys
        Labels that are wanted.
    select : str or None
        Selection of ``ase.db``; None for all rows.
    ids : sequence of int or None
        Rows that are wanted, ascending; None for all.

    Raises
    ------
    SourceError
        If the database cannot be read.
    """
    with reported(location):
        # A file that is opened for writing would be locked against whoever writes.
        how = {"type": "aselmdb", "readonly": True} if is_lmdb(location) else {"type": "json"}
        database = ase.db.connect(location, use_lock_file=False, **how)
        if ids is None:
            rows = database.select(select)
        elif is_lmdb(location):
            present = set(database.ids)
            rows = (database.get(row_id) for row_id in ids if row_id in present)
        else:
            rows = database.select([("id", ">=", ids[0]), ("id", "<=", ids[-1])])
        for row in rows:
            yield row.id, record_of_row(row, keys)


@contextmanager
def reported(location: str, password: str | None = None) -> Iterator[None]:
    """Turn whatever ase or a driver raises into a reason that does not hold the password."""
    try:
        yield
    except (SourceError, MemoryError):
        raise
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{location} needs the package ase-db-backends ({error}); "
            "install it: pip install 'atomlake[databases]'"
        ) from error
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        for secret in filter(None, (password, password and quote(password, safe=""))):
            problem = problem.replace(secret, "***")
        raise SourceError(
            f"{location} cannot be read as an ASE database ({problem[:200]})"
        ) from None


def record_of_row(row: AtomsRow, keys: LabelKeys) -> Record | SetAside:
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
