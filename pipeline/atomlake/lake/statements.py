"""What a commit states about the rows that it adds, and whether a table still has them.

Parquet as Delta tables have it carries no checksums, and an entry of their log may lose what it
adds without anybody noticing. So each commit says how many rows it adds, from which ``sequence``
to which, and their CRC-32, in its own entry of the log.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

#: Member of an entry of the log, and property of a table that was purged.
KEY = "atomlake.rows"


def state(rows: pl.DataFrame, *, is_all: bool = False) -> str:
    """Describe rows, for :data:`KEY`.

    Parameters
    ----------
    rows : polars.DataFrame
        Rows with their ``sequence``.
    is_all : bool
        Whether there are no others up to the last of them.
    """
    rows = rows.sort("sequence")
    columns = [name for name in rows.columns if rows[name].null_count() < len(rows)]
    return json.dumps(
        {
            "first": 0 if is_all or rows.is_empty() else rows["sequence"][0],
            "last": -1 if rows.is_empty() else rows["sequence"][-1],
            "n_rows": len(rows),
            "columns": columns,
            "crc32": _crc32(rows, columns),
        }
    )


def unlike_stated(rows: pl.DataFrame, stated: Iterable[str]) -> Iterator[str]:
    """Compare a table with statements, the oldest first, and say what differs.

    A statement that begins at sequence 0 replaces those before it, also of rows with a higher
    sequence, which are gone.
    """
    statements: list[dict[str, Any]] = []
    for text in stated:
        statement = json.loads(text)
        statements = [*statements, statement] if statement["first"] else [statement]
    rows = rows.sort("sequence")
    sequence = rows["sequence"].to_numpy()
    for statement in statements:
        begin, end = np.searchsorted(sequence, [statement["first"], statement["last"] + 1])
        found = rows[int(begin) : int(end)]
        where = f"of the rows with a sequence up to {statement['last']}"
        if len(found) != statement["n_rows"]:
            yield f"{where} {statement['n_rows']} were committed and {len(found)} are there"
            continue
        columns = statement["columns"]
        extra = [c for c in rows.columns if c not in columns and found[c].null_count() < len(found)]
        is_known = set(columns) <= set(rows.columns)
        if extra or (is_known and _crc32(found, columns) != statement["crc32"]):
            yield f"{where} not all are as they were committed"


def _crc32(rows: pl.DataFrame, columns: Iterable[str]) -> int:
    checksum = 0
    for name in columns:
        checksum = _column_crc32(rows[name], zlib.crc32(name.encode(), checksum))
    return checksum


def _column_crc32(column: pl.Series, checksum: int) -> int:
    """CRC-32 of which are null, of lengths, and of values in little endian, one below the other."""
    checksum = zlib.crc32(column.is_null().to_numpy().tobytes(), checksum)
    column = column.drop_nulls()
    if isinstance(column.dtype, pl.Struct):
        for field in column.struct.fields:
            checksum = _column_crc32(column.struct.field(field), checksum)
    elif isinstance(column.dtype, pl.List):
        lengths = column.list.len().cast(pl.Int64)
        checksum = zlib.crc32(lengths.to_numpy().astype("<i8").tobytes(), checksum)
        checksum = _column_crc32(column.filter(lengths > 0).explode(), checksum)
    elif column.dtype == pl.String:
        lengths = column.str.len_bytes().cast(pl.Int64)
        checksum = zlib.crc32(lengths.to_numpy().astype("<i8").tobytes(), checksum)
        checksum = zlib.crc32(column.str.join("").cast(pl.Binary).item(), checksum)
    else:
        values = column.to_physical().to_numpy()
        checksum = zlib.crc32(values.astype(values.dtype.newbyteorder("<")).tobytes(), checksum)
    return checksum
