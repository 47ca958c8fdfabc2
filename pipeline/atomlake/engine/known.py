"""The catalogue, asked the planner's questions."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from atomlake.descriptors.base import Gradients
from atomlake.engine.units import Speed, Task
from atomlake.lake import Lake
from atomlake.lake.catalogue import TABLES
from atomlake.sources.base import Fingerprint
from atomlake.structures import CHECKS_VERSION


class Known:
    """What a lake already holds; nothing at all where there is no lake yet."""

    def __init__(self, lake: Lake | None) -> None:
        def table(name: str) -> pl.DataFrame:
            if lake is None:
                return pl.DataFrame(schema=TABLES[name])
            rows: pl.LazyFrame = getattr(lake.catalogue, name)()
            return rows.collect()

        self.live = table("structures")
        self.features = table("features")
        self._states = {
            (row["source"], row["location"]): row for row in table("sources").iter_rows(named=True)
        }
        # set aside for a reason that may no longer hold
        self._unsettled = set(
            self.live.filter(
                pl.col("status") == "set_aside",
                (pl.col("check_hash") != CHECKS_VERSION) | (pl.col("code") == "unreadable"),
            )
            .select("source", "location")
            .iter_rows()
        )

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
        return set(self.live.filter(pl.col("source") == source)["location"].unique())

    def structures(self, source: str, readable: set[str], unreadable: set[str]) -> pl.DataFrame:
        """Live rows of some locations; of unreadable ones only the record that says so."""
        columns = ["structure_id", "location", "key", "record_hash", "sequence"]
        location = pl.col("location")
        return self.live.filter(
            pl.col("source") == source,
            location.is_in(sorted(readable))
            | (location.is_in(sorted(unreadable)) & (pl.col("code") == "unreadable")),
        ).select(columns)

    def n_structures(self, source: str) -> int:
        """Live structures of a source, those set aside included."""
        return len(self.live.filter(pl.col("source") == source))

    def is_settled(self, source: str, location: str) -> bool:
        """Whether nothing there was set aside for a reason that may no longer hold."""
        return (source, location) not in self._unsettled

    def parts(self, source: str, leaving: set[str]) -> Iterator[tuple[str, list[int], list[int]]]:
        """Parts of a source: id, rows that are live, atoms of each of these."""
        table = (
            self.live.filter(pl.col("source") == source, pl.col("status") == "ok")
            .filter(~pl.col("structure_id").is_in(list(leaving)))
            .group_by("part_id")
            .agg(pl.col("row").sort(), pl.col("n_atoms").sort_by("row"))
            .sort("part_id")
        )
        yield from table.iter_rows()

    def computed(self, task: Task, max_neighbours: int) -> dict[str, list[int] | None]:
        """Parts that hold a descriptor with these gradients: rows covered, None for all."""
        rows = self.features.filter(
            pl.col("descriptor_id") == task.descriptor.descriptor_id,
            (pl.col("gradients") == task.gradients.positions)
            | pl.lit(task.gradients.positions == "none"),
            pl.col("strain") | pl.lit(not task.gradients.strain),
        )
        result: dict[str, list[int] | None] = {}
        for row in rows.iter_rows(named=True):
            stricter = row["max_neighbours"] < max_neighbours and any(
                entry["code"] == "too_many_neighbours" for entry in row["set_aside"]
            )
            if not stricter:
                set_aside = [entry["row"] for entry in row["set_aside"]]
                covered = row["rows"]
                result[row["part_id"]] = None if covered is None else [*covered, *set_aside]
        return result

    def speed(self) -> Speed:
        """Measured seconds per row of what the lake holds of each descriptor."""
        rates = (
            self.features.filter(pl.col("n_rows") > 0)
            .group_by("descriptor_id", "gradients", "strain")
            .agg(pl.col("seconds").sum() / pl.col("n_rows").sum())
        )
        return {
            (name, Gradients(form, strain)): rate for name, form, strain, rate in rates.iter_rows()
        }
