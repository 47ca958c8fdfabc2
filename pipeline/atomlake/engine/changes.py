"""What changed between the records of a source and the structures of the lake."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import polars as pl

#: What a record of a source is known by.
RECORD = ["location", "key", "record_hash"]


@dataclass(frozen=True)
class Changes:
    """How the structures of one source have to change to reflect its records.

    Attributes
    ----------
    new : DataFrame
        Records to ingest: ``location``, ``key``, ``record_hash``, ``position`` (row in the
        index of its location), ``structure_id`` and ``replaces`` (the structure_id of the
        predecessor under the same key, or null).
    moved : DataFrame
        Structures whose content is the same under another key or location:
        ``structure_id`` with the new ``location`` and ``key``.
    retired : list of str
        structure_ids whose record is gone and which nothing replaces.
    n_unchanged : int
        Structures that stay as they are.
    """

    new: pl.DataFrame
    moved: pl.DataFrame
    retired: list[str]
    n_unchanged: int


def compare(source: str, records: pl.DataFrame, known: pl.DataFrame) -> Changes:
    """Match the records of a source with the structures that the lake has of it.

    A record keeps its structure where location, key and content agree; else where its
    content is found under another key (an insertion shifts the positions of a whole file)
    or at another location (a renamed file). What is left over on one side is new, on the
    other retired; a new record under the key of a retired one replaces it.

    Parameters
    ----------
    source : str
        Name of the source.
    records : DataFrame
        ``location``, ``key``, ``record_hash``, ``position`` of every record of the locations
        that were indexed.
    known : DataFrame
        ``structure_id``, ``location``, ``key``, ``record_hash`` of every live structure of
        these locations and of those that are gone.
    """
    same = records.join(known, on=RECORD, how="inner")
    records = records.join(same, on=RECORD, how="anti")
    known = known.join(same, on="structure_id", how="anti")
    moved = []
    for content in (["location", "record_hash"], ["record_hash"]):
        match = _numbered(records, content).join(
            _numbered(known, content).select("structure_id", *content, "nth"),
            on=[*content, "nth"],
            how="inner",
        )
        moved.append(match.select("structure_id", "location", "key"))
        records = records.join(match, on=RECORD, how="anti")
        known = known.join(match, on="structure_id", how="anti")
    replaced = known.select("location", "key", replaces="structure_id")
    new = records.join(replaced, on=["location", "key"], how="left").sort("location", "position")
    taken = set(same["structure_id"]) | {i for m in moved for i in m["structure_id"]}
    retired = known.join(new, left_on="structure_id", right_on="replaces", how="anti")
    return Changes(
        new=new.with_columns(structure_id=_structure_ids(source, new, taken)),
        moved=pl.concat(moved),
        retired=retired["structure_id"].to_list(),
        n_unchanged=len(same),
    )


def _numbered(rows: pl.DataFrame, content: list[str]) -> pl.DataFrame:
    return rows.with_columns(nth=pl.int_range(pl.len()).over(content))


def _structure_ids(source: str, new: pl.DataFrame, taken: set[str]) -> pl.Series:
    """Hash of source, location and content, and of a count where that is not unique."""
    ids = []
    for location, record_hash in new.select("location", "record_hash").iter_rows():
        nth = 0
        while True:
            text = f"{source}\0{location}\0{record_hash}\0{nth}"
            candidate = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            if candidate not in taken:
                break
            nth += 1
        taken.add(candidate)
        ids.append(candidate)
    return pl.Series("structure_id", ids, dtype=pl.String)
