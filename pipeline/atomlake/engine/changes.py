"""What changed between the records of a source and the structures of the lake.

Ten million records are compared in numbers of fixed width: a hash is one of 16 bytes, a location
one of a handful of names, and a structure of the lake the ``sequence`` of its row. Whatever is
matched has equal content, and whatever is replaced the key of its successor, so that the comparison
falls into independent ranges of hashes and then of keys, which bounds its memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

#: What a record of a source is known by.
RECORD = ["location", "key", "record_hash"]
#: Records that are matched at once, to bound memory.
MATCHED_RECORDS = 500_000


@dataclass(frozen=True)
class Changes:
    """How the structures of one source have to change to reflect its records.

    Attributes
    ----------
    new : DataFrame
        Records to ingest, in their order: ``location``, ``position`` (row in the index of its
        location), ``record_hash``, ``nth`` (count that tells equal records of a location apart)
        and ``replaces`` (the sequence of the predecessor under the same key, or null).
    moved : DataFrame
        Structures whose content is the same under another key or location:
        ``sequence`` with the new ``location`` and ``key``.
    retired : Series of int
        Sequences of the structures whose record is gone and which nothing replaces.
    n_unchanged : int
        Structures that stay as they are.
    """

    new: pl.DataFrame
    moved: pl.DataFrame
    retired: pl.Series
    n_unchanged: int

    @property
    def leaving(self) -> pl.Series:
        """Sequences of the structures that are retired or replaced."""
        return pl.concat([self.retired, self.new["replaces"].drop_nulls().alias("sequence")])

    def replacements(self, source: str) -> pl.DataFrame:
        """``structure_id`` of each new record that replaces one, and the ``sequence`` of that."""
        rows = self.new.filter(pl.col("replaces").is_not_null())
        ids = [
            structure_id(source, location, record_hash, nth)
            for location, record_hash, nth in zip(
                rows["location"].cast(pl.String),
                hexadecimal(rows["record_hash"]),
                rows["nth"],
                strict=True,
            )
        ]
        return pl.DataFrame(
            {"structure_id": ids, "sequence": rows["replaces"]},
            schema={"structure_id": pl.String, "sequence": pl.Int64},
        )


def compare(records: pl.DataFrame, known: Iterable[pl.DataFrame]) -> Changes:
    """Match the records of a source with the structures that the lake has of it.

    A record keeps its structure where location, key and content agree; else where its
    content is found under another key (an insertion shifts the positions of a whole file)
    or at another location (a renamed file). What is left over on one side is new, on the
    other retired; a new record under the key of a retired one replaces it.

    Parameters
    ----------
    records : DataFrame
        ``location``, ``key``, ``record_hash``, ``position`` of every record of the locations
        that were indexed, in order.
    known : iterable of DataFrame
        ``sequence``, ``location``, ``key``, ``record_hash`` of every live structure of
        these locations and of those that are gone, some at a time; hashes are integers.
    """
    n_ranges = 1 + len(records) // MATCHED_RECORDS
    content = low_bits() % n_ranges
    slices = [records.clear(), *records.iter_slices(MATCHED_RECORDS)]
    ranges = pl.concat([some.select(range=content.cast(pl.UInt16)) for some in slices])
    records = records.with_row_index("row").with_columns(ranges)
    moved, new, left = [], [], []
    n_known = 0
    for i, structures in enumerate(_in_ranges(known, content, n_ranges)):
        n_known += len(structures)
        some = _match(records.filter(range=i).drop("range"), structures)
        moved.append(some[0])
        new.append(some[1])
        left.append(some[2])
    n_unchanged = n_known - sum(map(len, left)) - sum(map(len, moved))

    place = pl.col("key").hash() % n_ranges
    rows, retired = [], []
    for ours, theirs in zip(
        _in_ranges(_taken(new), place, n_ranges),
        _in_ranges(_taken(left), place, n_ranges),
        strict=True,
    ):
        replaced = theirs.rename({"sequence": "replaces"})
        rows.append(ours.join(replaced, on=["location", "key"], how="left").drop("location", "key"))
        kept = theirs.join(rows[-1], left_on="sequence", right_on="replaces", how="anti")
        retired.append(kept["sequence"])
    found = pl.concat(rows).sort("row")
    return Changes(
        new=records.select("location", "position", "record_hash")[found["row"]].with_columns(
            found["nth"], found["replaces"]
        ),
        moved=pl.concat(moved),
        retired=pl.concat(retired),
        n_unchanged=n_unchanged,
    )


def _in_ranges(
    frames: Iterable[pl.DataFrame], number: pl.Expr, n_ranges: int
) -> Iterator[pl.DataFrame]:
    """Yield the rows of each number; of a range that was yielded nothing is kept.

    There is at least one frame.
    """
    ranges: list[list[pl.DataFrame]] = [[] for _ in range(n_ranges)]
    for frame in frames:
        split = frame.with_columns(range=number).partition_by(
            "range", as_dict=True, include_key=False
        )
        for i, rows in enumerate(ranges):
            rows.append(split.get((i,), frame.clear()))
    while ranges:
        yield pl.concat(ranges.pop(0))


def _taken(frames: list[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield frames that nobody else holds then."""
    while frames:
        yield frames.pop()


def _match(
    records: pl.DataFrame, known: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return what moved, which rows are new, and what is left of the lake."""
    if len(known):
        same = records.join(known, on=RECORD, how="inner").select("location", "key", "sequence")
        records = records.join(same, on=["location", "key"], how="anti")
        known = known.join(same, on="sequence", how="anti")
    moved = [known.select("sequence", "location", "key").clear()]
    for content in (["location", "record_hash"], ["record_hash"]):
        if len(known) and len(records):
            match = _numbered(records, content).join(
                _numbered(known, content).select("sequence", *content, "nth"),
                on=[*content, "nth"],
                how="inner",
            )
            moved.append(match.select("sequence", "location", "key"))
            records = records.join(match, on=["location", "key"], how="anti")
            known = known.join(match, on="sequence", how="anti")
    new = _numbered(records, ["location", "record_hash"]).select("row", "nth", "location", "key")
    return pl.concat(moved), new, known.drop("record_hash")


def _numbered(rows: pl.DataFrame, content: list[str]) -> pl.DataFrame:
    """Count equal rows, from 0."""
    if rows.select(content).n_unique() == len(rows):
        return rows.with_columns(nth=pl.lit(0, pl.UInt32))
    return rows.with_columns(nth=pl.int_range(pl.len(), dtype=pl.UInt32).over(content))


def low_bits() -> pl.Expr:
    """The lower half of each record's hash, which is as random as the whole."""
    return pl.col("record_hash").cast(pl.UInt64, wrap_numerical=True)


# ----- Identities


def structure_id(source: str, location: str, record_hash: str, nth: int) -> str:
    """Hash of source, location and content, and of a count where that is not unique."""
    text = f"{source}\0{location}\0{record_hash}\0{nth}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def hexadecimal(hashes: pl.Series) -> list[str]:
    """Write hashes as the catalogue does."""
    return [f"{value:032x}" for value in hashes]


def told_apart(source: str, new: pl.DataFrame, twins: pl.DataFrame) -> pl.DataFrame:
    """Count on where a live structure has the identity that a new record would get.

    Parameters
    ----------
    source : str
        Name of the source.
    new : DataFrame
        As in :class:`Changes`.
    twins : DataFrame
        ``structure_id`` and ``record_hash`` of the live structures of the source whose content
        is that of a new record.
    """
    if twins.is_empty():
        return new
    taken = set(twins["structure_id"])
    rows = new.with_row_index("row").join(twins, on="record_hash", how="semi")
    given: list[int] = []
    counts: dict[tuple[str, str], int] = {}
    for location, text in zip(
        rows["location"].cast(pl.String), hexadecimal(rows["record_hash"]), strict=True
    ):
        nth = counts.get((location, text), -1) + 1
        while structure_id(source, location, text, nth) in taken:
            nth += 1
        counts[location, text] = nth
        given.append(nth)
    told = rows.select("row", told=pl.Series(given, dtype=pl.UInt32))
    return (
        new.with_row_index("row")
        .join(told, on="row", how="left", maintain_order="left")
        .with_columns(nth=pl.coalesce("told", "nth"))
        .select(new.columns)
    )
