"""The catalogue, asked the planner's questions.

Of the structures only columns are read, and only sums over them kept, until a question is about
particular locations or parts: what a plan needs in memory grows with what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
import polars as pl

from atomlake.descriptors.base import Gradients
from atomlake.engine.changes import low_bits
from atomlake.engine.units import Speed, Task, memory_of_worker
from atomlake.lake import Lake
from atomlake.lake.catalogue import TABLES, reporting
from atomlake.sources.base import Fingerprint
from atomlake.structures import CHECKS_VERSION

#: A hash as the catalogue writes it, as a number.
_HASH = pl.col("record_hash").str.to_integer(base=16, dtype=pl.UInt128)
#: The hash of no record, by all odds.
_NO_HASH = pl.lit(0, pl.UInt128)

#: Structures that are read from the catalogue at once.
BATCH_STRUCTURES = 100_000

#: Why a location is looked at again by every run: what was wrong may have passed.
PASSING = ("unreadable", "too_slow", "too_large", "crashed_reader")
#: What may do for workers of another memory.
FOR_MEMORY = ("killed_worker", "too_large_for_worker")


class Known:
    """What a lake already holds; nothing at all where there is no lake yet.

    What was set aside by checks that are no longer made, or for workers of another memory than
    ``memory_nbytes``, is to be tried again, and so is what lies in ``damaged_parts``.
    """

    def __init__(
        self, lake: Lake | None, memory_nbytes: int, damaged_parts: Collection[str] = ()
    ) -> None:
        self._lake = lake
        memory = memory_of_worker(memory_nbytes)
        is_set_aside_in_vain = (pl.col("status") == "set_aside") & (
            (pl.col("check_hash") != CHECKS_VERSION) | _is_of_others(memory, pl.col)
        )
        is_damaged = pl.col("part_id").is_in(list(damaged_parts)).fill_null(False)
        self._is_obsolete = is_set_aside_in_vain | is_damaged
        self._states = {
            (row["source"], row["location"]): row
            for row in self._collect(self._table("sources")).iter_rows(named=True)
        }
        entry = pl.element().struct
        codes = pl.col("set_aside").list.eval(entry.field("code"))
        is_of_others = _is_of_others(memory, entry.field)
        self._features = self._collect(
            self._table("features").select(
                "descriptor_id",
                "part_id",
                "gradients",
                "strain",
                "n_rows",
                "seconds",
                "max_neighbours",
                has_too_many=codes.list.contains("too_many_neighbours"),
                has_obsolete=pl.col("set_aside").list.eval(is_of_others).list.any(),
                n_covered=pl.col("rows").list.len() + pl.col("set_aside").list.len(),
            )
        )
        unsettled = self._is_obsolete | pl.col("code").is_in(PASSING)
        places = self._collect(
            self._table("structures")
            .group_by("source", "location")
            .agg(
                n=pl.len(),
                n_unsettled=unsettled.sum(),
                n_damaged=pl.col("code").is_in(["malformed", "truncated"]).sum(),
            )
        )
        self._unsettled = set(
            places.filter(pl.col("n_unsettled") > 0).select("source", "location").iter_rows()
        )
        self._damaged = set(
            places.filter(pl.col("n_damaged") > 0).select("source", "location").iter_rows()
        )
        self._locations: dict[str, set[str]] = {}
        for source, location in places.select("source", "location").iter_rows():
            self._locations.setdefault(source, set()).add(location)
        self._counts: dict[str, int] = dict(
            places.group_by("source").agg(pl.col("n").sum()).iter_rows()
        )

    def _table(self, name: str) -> pl.LazyFrame:
        if self._lake is None:
            return pl.LazyFrame(schema=TABLES[name])
        table: pl.LazyFrame = getattr(self._lake.catalogue, name)()
        return table

    def _structures(self, source: str) -> pl.LazyFrame:
        return self._table("structures").filter(pl.col("source") == source)

    def _collect(self, table: pl.LazyFrame) -> pl.DataFrame:
        """Evaluate a query piece by piece, so that only its result is ever whole in memory."""
        with reporting(self._lake.path if self._lake else "no lake"):
            return table.collect(engine="streaming")

    def _batches(self, table: pl.LazyFrame) -> Iterator[pl.DataFrame]:
        """Evaluate a query whose result need not be whole in memory either."""
        with reporting(self._lake.path if self._lake else "no lake"):
            yield from table.collect_batches(
                chunk_size=BATCH_STRUCTURES, maintain_order=False, engine="streaming"
            )

    # ----- Locations

    def fingerprint(self, source: str, location: str, options: str) -> Fingerprint | None:
        """State of a location that the structures table reflects, if it reflects any."""
        row = self._states.get((source, location))
        if row is None or row["options_hash"] != options:
            return None
        return Fingerprint(row["nbytes"], row["mtime_ns"], row["digest"])

    def species(self, source: str, location: str) -> tuple[int, ...] | None:
        """Species of a location, if they were ever looked at."""
        row = self._states.get((source, location))
        return None if row is None or row["species"] is None else tuple(row["species"])

    def locations(self, source: str) -> set[str]:
        """Locations of a source that have live structures, set-aside ones included."""
        return self._locations.get(source, set())

    def n_structures(self, source: str) -> int:
        """Live structures of a source, those set aside included."""
        return self._counts.get(source, 0)

    def is_settled(self, source: str, location: str) -> bool:
        """Whether nothing there is to be tried again."""
        return (source, location) not in self._unsettled

    def n_records(self, source: str, location: str) -> int | None:
        """Records of a location in the state that is known, if all of them were whole.

        None also where some are to be tried again.
        """
        row = self._states.get((source, location))
        is_whole = (source, location) not in self._damaged
        if row is None or not is_whole or not self.is_settled(source, location):
            return None
        return int(row["n_structures"])

    # ----- Structures

    def structures(
        self, source: str, readable: Iterable[str], unreadable: Iterable[str], names: pl.Enum
    ) -> Iterator[pl.DataFrame]:
        """Yield live rows of some locations, for :func:`atomlake.engine.changes.compare`.

        The first frame has no rows. Of unreadable locations only the record that says so is
        there. ``names`` holds all locations. What is to be tried again has a content that no
        record has.
        """
        wanted = {**dict.fromkeys(unreadable, False), **dict.fromkeys(readable, True)}
        schema = {"sequence": pl.Int64(), "location": names, "key": pl.String()}
        yield pl.DataFrame(schema={**schema, "record_hash": pl.UInt128()})
        if not wanted.keys() & self.locations(source):
            return
        locations = pl.LazyFrame(
            {"location": list(wanted), "is_readable": list(wanted.values())},
            schema={"location": pl.String, "is_readable": pl.Boolean},
        )
        rows = (
            self._structures(source)
            .join(locations, on="location")
            .filter(pl.col("is_readable") | (pl.col("code") == "unreadable"))
            .select(
                "sequence",
                pl.col("location").cast(names),
                "key",
                pl.when(self._is_obsolete).then(_NO_HASH).otherwise(_HASH).alias("record_hash"),
            )
        )
        yield from self._batches(rows)

    def twins(self, source: str, hashes: pl.Series) -> pl.DataFrame:
        """Live structures of a source with one of these contents, as far as 64 bits tell.

        Those that are to be tried again leave their identity to their successor.
        """
        found = [pl.DataFrame(schema={"structure_id": pl.String, "record_hash": pl.UInt128})]
        if len(hashes) and self.n_structures(source):
            # a sorted array, since a join would hold all that the lake has of the source
            wanted = np.sort(hashes.to_frame().select(low_bits()).to_series().to_numpy())
            kept = self._structures(source).filter(~self._is_obsolete)
            rows = kept.select("structure_id", _HASH)
            for some in self._batches(rows.with_columns(low=low_bits())):
                ordered = some.sort("low")
                low = ordered["low"].to_numpy()
                place = np.searchsorted(wanted, low).clip(max=len(wanted) - 1)
                found.append(ordered.drop("low").filter(wanted[place] == low))
        return pl.concat(found)

    # ----- Parts

    def parts(self, source: str) -> pl.DataFrame:
        """Parts with live structures of a source: ``part_id`` and ``n_live``, sorted."""
        table = self._structures(source).filter(pl.col("status") == "ok")
        return self._collect(table.group_by("part_id").agg(n_live=pl.len())).sort("part_id")

    def content(self, parts: pl.Series, leaving: pl.Series) -> pl.DataFrame:
        """Live rows of some parts, less those that are ``leaving`` (sequences), sorted by part.

        Columns ``part_id``, ``rows`` and ``n_atoms``, both lists, and ``n_structures``, which
        counts all rows of the part.
        """
        return self._collect(
            self._table("structures")
            .filter(pl.col("status") == "ok")
            .select("sequence", "part_id", "row", "n_atoms")
            .join(parts.to_frame().lazy(), on="part_id", how="semi")
            .join(leaving.to_frame("sequence").lazy(), on="sequence", how="anti")
            .group_by("part_id")
            .agg(
                rows=pl.col("row").cast(pl.Int32).sort(),
                n_atoms=pl.col("n_atoms").cast(pl.Int32).sort_by("row"),
            )
            .join(self._table("parts").select("part_id", "n_structures"), on="part_id")
        ).sort("part_id")

    def computed(self, task: Task, max_neighbours: int) -> pl.DataFrame:
        """Parts that hold a descriptor with these gradients.

        Columns ``part_id`` and ``n_covered``: how many rows of the part were computed or set
        aside; null for all.
        """
        is_stricter = (pl.col("max_neighbours") < max_neighbours) & pl.col("has_too_many")
        return self._features.filter(
            pl.col("descriptor_id") == task.descriptor.descriptor_id,
            (pl.col("gradients") == task.gradients.positions)
            | pl.lit(task.gradients.positions == "none"),
            pl.col("strain") | pl.lit(not task.gradients.strain),
            ~is_stricter & ~pl.col("has_obsolete"),
        ).select("part_id", "n_covered")

    def speed(self) -> Speed:
        """Measured seconds per row of what the lake holds of each descriptor."""
        rates = (
            self._features.filter(pl.col("n_rows") > 0)
            .group_by("descriptor_id", "gradients", "strain")
            .agg(pl.col("seconds").sum() / pl.col("n_rows").sum())
        )
        return {
            (name, Gradients(form, strain)): rate for name, form, strain, rate in rates.iter_rows()
        }


def _is_of_others(memory: str, field: Callable[[str], pl.Expr]) -> pl.Expr:
    """Whether something was set aside for workers of another memory than is told here."""
    is_for_memory = field("code").is_in(FOR_MEMORY)
    return is_for_memory & ~field("reason").str.ends_with(memory)
