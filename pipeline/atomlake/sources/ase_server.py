"""ASE databases on servers, PostgreSQL and MySQL: read by their rows, in one state, without a lock.

The rows of the table ``systems`` are what the structures are. The other tables are indexes that
ase fills beside it, in PostgreSQL with the id of whatever row anybody wrote last: two writers at
once leave the keys of one row with another. They are not read here; which rows a recipe selects
is found out from the rows themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import batched
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlsplit

import ase.db
import numpy as np
from ase.db.core import ops, parse_selection
from ase.db.row import AtomsRow
from numpy.typing import NDArray

from atomlake.errors import SetAside, SourceError
from atomlake.sources.ase_database import AseDatabase, record_of_row, reported
from atomlake.sources.base import Fingerprint, LabelKeys, Record

#: Rows fetched by one statement; with 30,000 atoms each they take hundreds of megabytes.
PAGE_ROWS = 100

#: Begins a transaction that can write nothing and sees one state of the database to its end.
_BEGIN: Mapping[str, str] = {
    "postgresql": "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "mysql": "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
}

#: The sums are exact, so that the order in which a server adds does not matter. Any one change
#: moves them, also one by a writer whose clock is behind.
_STATE = "SELECT COUNT(*), SUM(id), MAX(id), SUM(CAST(mtime AS DECIMAL(40, 20))) FROM systems"

#: Columns that hold arrays, with the type of the elements and the shape.
_ARRAYS: Mapping[str, tuple[type, tuple[int, ...]]] = {
    "numbers": (np.int32, (-1,)),
    "positions": (float, (-1, 3)),
    "cell": (float, (3, 3)),
    "initial_magmoms": (float, (-1,)),
    "initial_charges": (float, (-1,)),
    "masses": (float, (-1,)),
    "tags": (np.int32, (-1,)),
    "momenta": (float, (-1, 3)),
    "forces": (float, (-1, 3)),
    "stress": (float, (-1,)),
    "dipole": (float, (-1,)),
    "magmoms": (float, (-1,)),
    "charges": (float, (-1,)),
}
_DOCUMENTS = ("key_value_pairs", "data")
_COLUMNS = (
    *("id", "unique_id", "ctime", "mtime", "username", "pbc", "calculator"),
    *("energy", "free_energy", "magmom", *_ARRAYS, *_DOCUMENTS),
)


class AseServer(AseDatabase):
    """What ``ase.db`` keeps on a PostgreSQL, MySQL or MariaDB server; keys are the row ids.

    Needs the package ``ase-db-backends`` and a role that may read the table ``systems``.
    """

    format: ClassVar[str] = "ase_server"
    title: ClassVar[str] = "ASE database on a PostgreSQL or MySQL server"
    patterns: ClassVar[tuple[str, ...]] = (
        "postgresql://*",
        "postgres://*",
        "mysql://*",
        "mariadb://*",
    )
    has_snapshots: ClassVar[bool] = True

    def fingerprint(self, known: Fingerprint | None = None) -> Fingerprint:
        """Return the state: how many rows there are, and the sums of their ids and times."""
        (state,) = self._guarded(self.guard, read_state, self.location, self.source.password)
        return Fingerprint(0, 0, hashlib.blake2b(state.encode(), digest_size=16).hexdigest())

    def _rows(self, ids: Sequence[int] | None) -> Iterator[tuple[int, Record | SetAside]]:
        source = self.source
        return self._guarded(
            self.guard,
            read_rows,
            self.location,
            source.password,
            source.labels,
            source.select if ids is None else None,
            ids,
        )


def read_state(location: str, password: str | None) -> Iterator[str]:
    """Yield a text that differs if the rows of a server do.

    Raises
    ------
    SourceError
        If the database cannot be read.
    """
    with _transaction(location, password) as (_, cursor):
        cursor.execute(_STATE)
        yield repr([str(number) for number in cursor.fetchone()])


def read_rows(
    location: str,
    password: str | None,
    keys: LabelKeys,
    select: str | None,
    ids: Sequence[int] | None,
) -> Iterator[tuple[int, Record | SetAside]]:
    """Yield the id of each row that is selected, ascending, and what it holds.

    Parameters
    ----------
    location : str
        URL without a password.
    password : str or None
        Password, if the server wants one and the environment does not hold it.
    keys : LabelKeys
        Labels that are wanted.
    select : str or None
        Selection of ``ase.db``; None for all rows.
    ids : sequence of int or None
        Rows that are wanted; None for all.

    Raises
    ------
    SourceError
        If the database cannot be read.
    """
    with _transaction(location, password) as (database, cursor):
        wanted_keys, comparisons = parse_selection(select)
        pages = _all_pages(cursor) if ids is None else _pages(cursor, ids)
        for row_id, *values in (row for page in pages for row in page):
            try:
                row = _row(database, dict(zip(_COLUMNS[1:], values, strict=True)))
            except Exception as error:
                problem = f"the row cannot be decoded ({type(error).__name__}: {error})"
                yield row_id, SetAside("malformed", problem[:200])
                continue
            row.id = row_id
            if _fits(row, wanted_keys, comparisons):
                yield row_id, record_of_row(row, keys)


@contextmanager
def _transaction(location: str, password: str | None) -> Iterator[tuple[Any, Any]]:
    """Open a database and begin to read one state of it; whatever fails becomes a reason."""
    with reported(location, password):
        database = _database(location, password)
        # Closed without leaving the database, which would commit, or call what psycopg has not.
        with closing(database.__enter__().connection) as connection:
            cursor = connection.cursor()
            cursor.execute(_BEGIN[database.type])
            yield database, cursor


def _database(location: str, password: str | None) -> Any:
    """Return the database of ase, which connects when it is entered."""
    url = urlsplit(location)
    if url.scheme.startswith("postgres"):
        if password is not None:
            user, _, place = url.netloc.rpartition("@")
            credentials = f"{user}:{quote(password, safe='')}@{place}"
            location = location.replace(f"://{url.netloc}", f"://{credentials}", 1)
        return ase.db.connect(location)
    if not (url.username and url.hostname and url.path.strip("/")):
        raise SourceError(f"{location}: expected mysql://user:password@host:port/database")
    # What ase itself makes of an address knows neither defaults nor escapes.
    database = ase.db.connect("mysql://:@:0/")
    database.host, database.port = url.hostname, url.port or 3306
    database.username, database.passwd = unquote(url.username), password or ""
    database.db_name = unquote(url.path.strip("/"))
    return database


def _all_pages(cursor: Any) -> Iterator[Sequence[Any]]:
    last = -(2**31)
    statement = f"SELECT {', '.join(_COLUMNS)} FROM systems WHERE id > ? ORDER BY id LIMIT ?"
    while True:
        cursor.execute(statement, (last, PAGE_ROWS))
        page = cursor.fetchall()
        if not page:
            return
        yield page
        last = page[-1][0]


def _pages(cursor: Any, ids: Sequence[int]) -> Iterator[Sequence[Any]]:
    for block in batched(ids, PAGE_ROWS):
        marks = ", ".join("?" * len(block))
        cursor.execute(
            f"SELECT {', '.join(_COLUMNS)} FROM systems WHERE id IN ({marks}) ORDER BY id", block
        )
        yield cursor.fetchall()


def _row(database: Any, columns: dict[str, Any]) -> AtomsRow:
    """Decode a row, as ase does."""
    content = {"user": columns.pop("username"), "pbc": columns.pop("pbc") & np.array([1, 2, 4]) > 0}
    for name, value in columns.items():
        if value is None:
            continue
        if name in _ARRAYS:
            content[name] = _array(database, value, *_ARRAYS[name])
        elif name in _DOCUMENTS:
            content[name] = database.decode(value) or {}
        else:
            content[name] = value
    return AtomsRow(content)


def _array(database: Any, value: Any, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    array: NDArray[Any] = database.deblob(value, dtype)
    return array.reshape(shape)


def _fits(row: AtomsRow, keys: Sequence[str], comparisons: Sequence[tuple[Any, str, Any]]) -> bool:
    """Whether a row is one that a selection takes, as ase decides it for JSON files."""

    def value_of(key: str | int) -> Any:
        if isinstance(key, int):
            return np.count_nonzero(row.numbers == key)
        if key == "pbc":
            return "".join("FT"[int(is_periodic)] for is_periodic in row.pbc)
        return row.get(key)

    return all(key in row for key in keys) and all(
        (value := value_of(key)) is not None and ops[operator](value, expected)
        for key, operator, expected in comparisons
    )
