"""The catalogue: Delta tables that say what the lake holds.

Rows are only ever added. What is true is what the rows say together:

- a row of ``structures`` holds until another row *retires* it by naming its
  ``sequence``. Publishing and retiring are one commit, its cost is that of the rows it
  brings, and the outcome does not depend on the order in which two writers commit;
- of several rows about the same thing in ``parts``, ``features``, ``runs`` and
  ``sources`` the one with the highest ``sequence`` holds.

``sequence`` is the commit's time in nanoseconds since 1970, raised where needed to stay above
every row that the committer could see.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from atomlake.errors import LakeError, SetAside
from atomlake.lake.parts import FeaturesRecord, PartRecord

_FILES = pl.List(pl.Struct({"name": pl.String, "nbytes": pl.Int64, "crc32c": pl.Int64}))

#: Every table and its columns.
TABLES: Mapping[str, pl.Schema] = {
    "structures": pl.Schema(
        {
            "structure_id": pl.String,
            "source": pl.String,
            "location": pl.String,
            "key": pl.String,
            "record_hash": pl.String,
            "content_hash": pl.String,
            "part_id": pl.String,  # null if set aside
            "row": pl.Int64,  # of the part
            "first_atom": pl.Int64,  # of the part
            "n_atoms": pl.Int64,
            "formula": pl.String,
            "pbc": pl.String,  # such as "TTF"
            "labels": pl.List(pl.String),  # that are present
            "status": pl.String,  # "ok" or "set_aside"
            "code": pl.String,
            "reason": pl.String,
            "check_hash": pl.String,
            "run_id": pl.String,
            "sequence": pl.Int64,
            "retires": pl.Int64,  # sequence of the row that this one ends
        }
    ),
    "parts": pl.Schema(
        {
            "part_id": pl.String,
            "path": pl.String,
            "n_structures": pl.Int64,
            "n_atoms": pl.Int64,
            "nbytes": pl.Int64,
            "files": _FILES,
            "run_id": pl.String,
            "sequence": pl.Int64,
        }
    ),
    "features": pl.Schema(
        {
            "descriptor_id": pl.String,
            "kind": pl.String,
            "part_id": pl.String,
            "path": pl.String,
            "gradients": pl.String,  # "none", "summed" or "pairs"
            "strain": pl.Boolean,
            "n_structures": pl.Int64,  # that have features
            "n_rows": pl.Int64,
            "n_pairs": pl.Int64,
            "rows": pl.List(pl.Int64),  # of the part that have features; null for all
            "structure_n_atoms": pl.List(pl.Int64),
            "structure_n_pairs": pl.List(pl.Int64),
            "set_aside": pl.List(
                pl.Struct({"row": pl.Int64, "code": pl.String, "reason": pl.String})
            ),
            "nbytes": pl.Int64,
            "files": _FILES,
            "seconds": pl.Float64,
            "versions": pl.String,  # JSON
            "run_id": pl.String,
            "sequence": pl.Int64,
        }
    ),
    "runs": pl.Schema(
        {
            "run_id": pl.String,
            "recipe": pl.String,
            "recipe_hash": pl.String,
            "started": pl.Datetime("us", "UTC"),
            "finished": pl.Datetime("us", "UTC"),
            "status": pl.String,
            "host": pl.String,
            "versions": pl.String,  # JSON
            "counts": pl.String,  # JSON
            "reason": pl.String,
            "sequence": pl.Int64,
        }
    ),
    "sources": pl.Schema(
        {
            "source": pl.String,
            "location": pl.String,
            "nbytes": pl.Int64,
            "mtime_ns": pl.Int64,
            "digest": pl.String,
            "options_hash": pl.String,
            "n_structures": pl.Int64,
            "species": pl.List(pl.Int32),
            "run_id": pl.String,
            "sequence": pl.Int64,
        }
    ),
}


class Catalogue:
    """The tables of one lake, read at fixed versions; commits go on top of the newest.

    Parameters
    ----------
    lake : Path or str
        The lake.
    versions : mapping of str to int
        The version of each table to read.
    """

    def __init__(self, lake: Path | str, versions: Mapping[str, int]) -> None:
        raise NotImplementedError

    # ----- Reading

    def structures(
        self, columns: Sequence[str] | None = None, *, source: str | None = None
    ) -> pl.LazyFrame:
        """Structures that hold: published and not retired, set-aside ones included."""
        raise NotImplementedError

    def parts(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """One row per part."""
        raise NotImplementedError

    def features(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """One row per descriptor, part and form of gradients: the newest."""
        raise NotImplementedError

    def runs(self) -> pl.LazyFrame:
        """One row per run: the newest."""
        raise NotImplementedError

    def sources(self, *, source: str | None = None) -> pl.LazyFrame:
        """One row per source and location: the newest."""
        raise NotImplementedError

    # ----- Publishing; every commit is retried until it is in, whoever else commits

    def publish_structures(
        self,
        structures: pl.DataFrame,
        *,
        retire: pl.DataFrame | None = None,
        parts: Sequence[PartRecord] = (),
        run_id: str,
    ) -> None:
        """Publish and retire structures in one commit.

        Parameters
        ----------
        structures : polars.DataFrame
            Rows to add, in the order in which readers will see them; ``sequence``,
            ``retires`` and ``run_id`` are filled in.
        retire : polars.DataFrame, optional
            Rows that :meth:`structures` returned; ``structure_id`` and ``sequence`` matter.
        parts : sequence of PartRecord
            New parts that ``structures`` lie in. They are committed first, on their own.
        run_id : str
            The run.
        """
        raise NotImplementedError

    def publish_features(self, records: Sequence[FeaturesRecord], *, run_id: str) -> None:
        """Publish features of parts, many in one commit."""
        raise NotImplementedError

    def publish_run(self, run: Mapping[str, Any]) -> None:
        """Record the start or the end of a run; keys are columns of the table."""
        raise NotImplementedError

    def publish_sources(self, sources: pl.DataFrame) -> None:
        """Record that these states of files are completely reflected by ``structures``."""
        raise NotImplementedError
