"""The catalogue: Delta tables that say what the lake holds.

Rows are only ever added, so that a commit costs what its rows cost, however much the lake
holds. What is true is what the rows say together:

- a row of ``structures`` holds until another row *retires* it by naming its ``sequence``;
- of several rows about the same thing in ``parts``, ``features``, ``runs`` and ``sources`` the
  one with the highest ``sequence`` holds.

``sequence`` is the commit's time in nanoseconds since 1970, counted up over its rows, and
raised where the clock went backwards: a row that was committed later has the higher one.
A commit is accepted only on top of the version that its writer has looked at. Of two
writers that work on the same source the first to commit structures goes on, and the second is
refused: what it knows of the source is no longer true.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from atomlake.errors import BusyError, LakeError
from atomlake.lake import layout, statements
from atomlake.lake.parts import FeaturesRecord, PartRecord

_FILES = pl.List(pl.Struct({"name": pl.String, "nbytes": pl.Int64, "crc32": pl.Int64}))
_LABELS = pl.List(pl.Struct({"name": pl.String, "per": pl.String, "shape": pl.List(pl.Int64)}))
_SET_ASIDE = pl.List(pl.Struct({"row": pl.Int64, "code": pl.String, "reason": pl.String}))


def _schema(columns: dict[str, Any]) -> pl.Schema:
    return pl.Schema(columns)


#: Every table and its columns. Structures come first: what features, sources and runs say later
#: about structures that a reader does not see is ignored.
TABLES: Mapping[str, pl.Schema] = {
    "structures": _schema(
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
    "parts": _schema(
        {
            "part_id": pl.String,
            "path": pl.String,
            "n_structures": pl.Int64,
            "n_atoms": pl.Int64,
            "labels": _LABELS,
            "nbytes": pl.Int64,
            "files": _FILES,
            "run_id": pl.String,
            "sequence": pl.Int64,
        }
    ),
    "features": _schema(
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
            "set_aside": _SET_ASIDE,
            "max_neighbours": pl.Int64,
            "nbytes": pl.Int64,
            "files": _FILES,
            "seconds": pl.Float64,
            "versions": pl.String,  # JSON
            "run_id": pl.String,
            "sequence": pl.Int64,
        }
    ),
    "runs": _schema(
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
    "sources": _schema(
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


#: What one row of a table is about; structures are told apart by ``sequence``.
_SUBJECT: Mapping[str, Sequence[str]] = {
    "parts": ["part_id"],
    "features": ["descriptor_id", "part_id", "gradients", "strain"],
    "runs": ["run_id"],
    "sources": ["source", "location"],
}
#: Property of a table: the first version that was not purged.
_OLDEST = "atomlake.oldestVersion"
#: Property of a table: the last version whose entry, and those before it, a purge may remove.
_PURGED = "atomlake.purgedVersion"
#: Member of an entry of the log of runs: versions that the other tables had.
_VERSIONS = "atomlake.versions"
#: Commits by others that one commit gives way to before it gives up.
_ATTEMPTS = 1000


def create_tables(lake: layout.Place | str) -> None:
    """Make the tables that are missing."""
    for name, schema in TABLES.items():
        # The commit fails if another process makes the table in this moment.
        with reporting(lake), suppress(CommitFailedError):
            where = layout.resolve(lake, layout.table_path(name))
            write_deltalake(
                _uri(where),
                pl.DataFrame(schema=schema),
                storage_options=_options(where),
                mode="ignore",
                name=name,
                # Every version stays readable.
                configuration={"delta.enableExpiredLogCleanup": "false"},
                commit_properties=CommitProperties(max_commit_retries=0),
            )


class Catalogue:
    """The tables of one lake, read at fixed versions; commits go on top of the newest.

    Parameters
    ----------
    lake : Path, ObjectPath or str
        The lake.
    versions : mapping of str to int
        The version of each table to read.
    """

    def __init__(self, lake: layout.Place | str, versions: Mapping[str, int]) -> None:
        self.lake = layout.place(lake)
        self.versions = dict(versions)
        self._tables: dict[str, DeltaTable] = {}
        self._appenders: dict[str, _Appender] = {}
        self._retired: pl.DataFrame | None = None

    @classmethod
    def open(cls, lake: layout.Place | str, as_of: str | datetime | None = None) -> Catalogue:
        """Open the newest version, or the one that was the newest at ``as_of``.

        Parameters
        ----------
        lake : Path, ObjectPath or str
            The lake.
        as_of : str or datetime, optional
            A :attr:`version`, or a time as ISO text or datetime; UTC if it has no zone.

        Raises
        ------
        LakeError
            If a table is missing or damaged, or there is no such version.
        """
        versions = None if as_of is None else _versions_at(lake, as_of)
        tables = {}
        for name in TABLES:
            with reporting(lake):
                table = _open(lake, name)
                if versions is not None:
                    oldest = int(table.metadata().configuration.get(_OLDEST, 0))
                    if versions[name] < oldest:
                        raise LakeError(
                            f"{lake} has no state {as_of} any more: what is that old was purged"
                        )
                    table = _open(lake, name, versions[name])
                tables[name] = table
                if tables[name].protocol().min_reader_version > 1:
                    raise LakeError(
                        f"the table {name} of {lake} was rewritten by other software with features "
                        "that atomlake does not read: restore it from a copy"
                    )
        catalogue = cls(lake, {name: table.version() for name, table in tables.items()})
        catalogue._tables = tables
        return catalogue

    @property
    def version(self) -> str:
        """The version of each table, such as ``7.3.9.4.2``."""
        return ".".join(str(self.versions[name]) for name in TABLES)

    def __reduce__(self) -> tuple[Any, ...]:
        return Catalogue, (self.lake, self.versions)

    # ----- Reading

    def structures(
        self, columns: Sequence[str] | None = None, *, source: str | None = None
    ) -> pl.LazyFrame:
        """Structures that hold, those that were set aside included, in no particular order.

        Ascending ``sequence`` is the order in which they were published.
        """
        table = self.log("structures")
        if source is not None:
            table = table.filter(pl.col("source") == source)
        if self._retired is None:
            with reporting(self.lake):
                self._retired = _retired(self.log("structures"))
        return _pick(_live(table, self._retired), columns)

    def parts(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """One row per part, in the order in which they were published."""
        return self._newest("parts", columns)

    def features(self, columns: Sequence[str] | None = None) -> pl.LazyFrame:
        """One row per descriptor, part and form of gradients, the newest last."""
        return self._newest("features", columns)

    def runs(self) -> pl.LazyFrame:
        """One row per run, the newest last."""
        return self._newest("runs", None)

    def sources(self, *, source: str | None = None) -> pl.LazyFrame:
        """One row per source and location, the newest last."""
        table = self._newest("sources", None)
        return table if source is None else table.filter(pl.col("source") == source)

    def log(self, name: str) -> pl.LazyFrame:
        """Every row that was ever committed to a table."""
        return _scan(self.lake, name, self._table(name))

    def _newest(self, name: str, columns: Sequence[str] | None) -> pl.LazyFrame:
        table = self.log(name).sort("sequence")
        return _pick(table.unique(subset=_SUBJECT[name], keep="last", maintain_order=True), columns)

    def _table(self, name: str) -> DeltaTable:
        if name not in self._tables:
            with reporting(self.lake):
                self._tables[name] = _open(self.lake, name, self.versions[name])
        return self._tables[name]

    # ----- Publishing; every commit is tried until it is in, whoever else commits

    def publish_parts(self, parts: Sequence[PartRecord], *, run_id: str) -> None:
        """Publish parts, which means nothing to readers before structures lie in them."""
        rows = [
            {
                "part_id": part.part_id,
                "path": part.path,
                "n_structures": part.n_structures,
                "n_atoms": part.n_atoms,
                "labels": [label._asdict() for label in part.labels],
                "nbytes": part.nbytes,
                "files": [file._asdict() for file in part.files],
                "run_id": run_id,
            }
            for part in parts
        ]
        self._append("parts", pl.DataFrame(rows, schema=TABLES["parts"]))

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
            Rows to add, in the order in which readers will see them; ``sequence`` and
            ``run_id`` are filled in, columns that are missing are null.
        retire : polars.DataFrame, optional
            Rows that :meth:`structures` returned; ``structure_id`` and ``sequence`` matter.
        parts : sequence of PartRecord
            New parts that ``structures`` lie in. They are committed before, on their own.
        run_id : str
            The run.

        Raises
        ------
        BusyError
            If another run published or retired structures of one of these sources since this
            catalogue was opened.
        """
        self.publish_parts(parts, run_id=run_id)
        added = _conform("structures", structures.drop("sequence", "retires", strict=False))
        frames = [added.with_columns(run_id=pl.lit(run_id))]
        if retire is not None:
            ended = retire.select("structure_id", retires="sequence", run_id=pl.lit(run_id))
            frames.append(_conform("structures", ended))
        self._append("structures", pl.concat(frames), _require_undisturbed)

    def require_undisturbed(self, sources: Sequence[str], *, run_id: str) -> None:
        """Refuse to go on if structures of some sources were changed by another run.

        Raises
        ------
        BusyError
            As :meth:`publish_structures`.
        """
        rows = pl.DataFrame({"source": sources}).with_columns(run_id=pl.lit(run_id))
        with reporting(self.lake):
            self._appender("structures").check(_conform("structures", rows), _require_undisturbed)

    def publish_features(self, records: Sequence[FeaturesRecord], *, run_id: str) -> None:
        """Publish features of parts, many in one commit."""
        rows = [
            {
                "descriptor_id": record.descriptor_id,
                "kind": record.kind,
                "part_id": record.part_id,
                "path": record.path,
                "gradients": record.gradients,
                "strain": record.strain,
                "n_structures": record.n_structures,
                "n_rows": record.n_rows,
                "n_pairs": record.n_pairs,
                "rows": record.rows,
                "structure_n_atoms": record.structure_n_atoms,
                "structure_n_pairs": record.structure_n_pairs,
                "set_aside": [
                    {"row": row, "code": problem.code, "reason": problem.reason}
                    for row, problem in sorted(record.set_aside.items())
                ],
                "max_neighbours": record.max_neighbours,
                "nbytes": record.nbytes,
                "files": [file._asdict() for file in record.files],
                "seconds": record.seconds,
                "versions": json.dumps(dict(record.versions), sort_keys=True),
                "run_id": run_id,
            }
            for record in records
        ]
        self._append("features", pl.DataFrame(rows, schema=TABLES["features"]))

    def publish_run(self, run: Mapping[str, Any]) -> None:
        """Record the start or the end of a run; keys are columns of the table."""
        with reporting(self.lake):
            versions = {name: _open(self.lake, name).version() for name in TABLES if name != "runs"}
        rows = _conform("runs", pl.DataFrame([dict(run)]))
        self._append("runs", rows, metadata={_VERSIONS: json.dumps(versions)})

    def publish_sources(self, sources: pl.DataFrame) -> None:
        """Record that these states of files are completely reflected by ``structures``."""
        self._append("sources", _conform("sources", sources))

    def compact(self) -> None:
        """Join the small files of every table; nothing changes for any reader."""
        for name in TABLES:
            with reporting(self.lake):
                _open(self.lake, name).optimize.compact()

    def forget(self, older_than: timedelta) -> None:
        """Drop what no version since ``older_than`` ago shows, and the versions before.

        Raises
        ------
        LakeError
            If the tables cannot be written.
        """
        horizon = int(1e9 * (time.time() - older_than.total_seconds()))
        parts_shown: pl.Series | None = None
        with reporting(self.lake):
            # Features go before the parts that they belong to.
            for name in ("structures", "features", "parts", "runs", "sources"):
                shown = _rewrite(self.lake, name, horizon, parts_shown)
                if name == "structures":
                    parts_shown = shown["part_id"].unique()
                _forget_versions(self.lake, name, older_than, shown)

    def damage(self) -> Iterator[tuple[str, str]]:
        """Compare the tables with what their commits state; yield the table and what is wrong."""
        entries: dict[str, str] = {}
        for name in TABLES:
            try:
                commits = [c for c in self._commits(name) if c["version"] <= self.versions[name]]
            except (ValueError, TypeError, AttributeError) as error:
                yield name, f"an entry of its log cannot be read ({error})"
                continue
            with reporting(self.lake):
                table = self._table(name)
                properties = table.metadata().configuration
                newest = {other: _open(self.lake, other).version() for other in TABLES}
                rows = self.log(name).collect()
            try:
                # What a purge forgets it forgets in any order, and may be killed over it.
                first = int(properties.get(_PURGED, -1)) + 1
                commits = [commit for commit in commits if commit["version"] >= first]
                for commit in commits:
                    entry = f"entry {commit['version']} of the log of {name}"
                    said = json.dumps(commit | {"version": None}, sort_keys=True)
                    if len(commit) == 1:
                        yield name, f"{entry} does not say what was committed"
                    elif entries.setdefault(said, entry) != entry:
                        yield name, f"{entry} is the same as {entries[said]}"
                found = [commit["version"] for commit in commits]
                if found != list(range(first, self.versions[name] + 1)):
                    yield name, "an entry of its log is gone"
                # What a purge stated last holds of the rows whose commits the log has forgotten.
                stated = [properties[statements.KEY]] if statements.KEY in properties else []
                stated += [c[statements.KEY] for c in commits if statements.KEY in c]
                for problem in statements.unlike_stated(rows, stated):
                    yield name, problem
                for commit in commits:
                    for other, version in json.loads(commit.get(_VERSIONS, "{}")).items():
                        if newest.get(other, version) < version:
                            yield other, f"it had version {version} and has {newest[other]}"
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                yield name, f"what its log states cannot be read ({error!r})"

    def _commits(self, name: str) -> list[dict[str, Any]]:
        """What the entries of a table's log say of themselves, with their versions; sorted.

        Read from their files: ``DeltaTable.history`` keeps Python's lock while it waits for a
        bucket.
        """
        commits = []
        for path, _ in layout.files(self.lake, f"{layout.table_path(name)}/_delta_log"):
            version, _, kind = path.rpartition("/")[2].partition(".")
            if kind == "json" and version.isdecimal():
                lines = layout.resolve(self.lake, path).read_bytes().splitlines()
                entries = [json.loads(line) for line in lines if line]
                said: dict[str, Any] = next(
                    (e["commitInfo"] for e in entries if "commitInfo" in e), {}
                )
                commits.append(said | {"version": int(version)})
        return sorted(commits, key=lambda commit: int(commit["version"]))

    def _append(
        self,
        name: str,
        rows: pl.DataFrame,
        check: _Check | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        with reporting(self.lake):
            self._appender(name).append(rows, check, metadata)

    def _appender(self, name: str) -> _Appender:
        if name not in self._appenders:
            self._appenders[name] = _Appender(self.lake, name, self._table(name))
        return self._appenders[name]


def _versions_at(lake: layout.Place | str, as_of: str | datetime) -> dict[str, int]:
    """Return the version of each table that a version of the lake, or a time, stands for."""
    if isinstance(as_of, str) and re.fullmatch(r"\d+(\.\d+)*", as_of):
        numbers = [int(number) for number in as_of.split(".")]
        if len(numbers) != len(TABLES):
            raise LakeError(
                f"{as_of!r} is no version of a lake: it has {len(TABLES)} numbers, as in "
                f"{'.'.join('0' * len(TABLES))}"
            )
        return dict(zip(TABLES, numbers, strict=True))
    if isinstance(as_of, str):
        try:
            as_of = datetime.fromisoformat(as_of)
        except ValueError:
            raise LakeError(
                f"as_of={as_of!r} is neither a version such as 7.3.9.4.2 nor a time such as "
                "2026-01-31T12:00"
            ) from None
    as_of = as_of if as_of.tzinfo else as_of.replace(tzinfo=UTC)
    versions = {}
    for name in TABLES:
        with reporting(lake):
            table = _open(lake, name)
            versions[name] = _version_at(table, as_of)
    return versions


def _version_at(table: DeltaTable, time: datetime) -> int:
    """The version that was the newest at a time; the first of all if there was none."""
    # Times that commits carry inside: those of the files change when a lake is copied.
    time_ms = 1000 * time.timestamp()
    return max((c["version"] for c in table.history() if c["timestamp"] <= time_ms), default=0)


# ----- Appending

_Check = Callable[[pl.DataFrame, pl.LazyFrame, pl.LazyFrame], None]


class _Appender:
    """Appends to a table, each time on top of a version of which it knows every row.

    Parameters
    ----------
    lake : Path or ObjectPath
        The lake.
    name : str
        The table.
    base : DeltaTable
        The version that the caller's rows are based on.
    """

    def __init__(self, lake: layout.Place, name: str, base: DeltaTable) -> None:
        self._lake = lake
        self._name = name
        self._table = _open(lake, name)
        self._known = set(base.file_uris())
        self._base = self._sequence = _newest_sequence(_scan(lake, name, base))
        self._others: set[str] = set()

    def append(
        self,
        rows: pl.DataFrame,
        check: _Check | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Commit ``rows``, unless ``check`` refuses them, with more members of the log's entry."""
        if rows.is_empty():
            return
        for _ in range(_ATTEMPTS):
            self.check(rows, check)
            first = max(time.time_ns(), self._sequence + 1)
            numbered = rows.with_columns(sequence=first + pl.int_range(len(rows)))
            try:
                write_deltalake(
                    self._table,
                    numbered,
                    mode="append",
                    commit_properties=CommitProperties(
                        {statements.KEY: statements.state(numbered), **(metadata or {})},
                        # Not retried on top of a version that nobody has looked at.
                        max_commit_retries=0,
                    ),
                )
            except CommitFailedError:
                if not self._arrived(rows["run_id"][0], first):
                    continue
            self._known = set(self._table.file_uris())
            self._others &= self._known
            self._sequence = first + len(rows) - 1
            return
        raise LakeError(
            f"{_ATTEMPTS} times another process committed to {self._table.table_uri} first; "
            "run fewer at once"
        )

    def _arrived(self, run_id: str | None, sequence: int) -> bool:
        """Whether a refused commit is there: its answer was lost, and it was sent again."""
        self._table.update_incremental()
        unknown = set(self._table.file_uris()) - self._known
        if not unknown:
            return False
        found = _scan(self._lake, self._name, self._table, unknown).select("run_id", "sequence")
        return (run_id, sequence) in set(found.collect().iter_rows())

    def check(self, rows: pl.DataFrame, check: _Check | None) -> None:
        """Look at the newest version, and let ``check`` compare ``rows`` with what others added."""
        self._table.update_incremental()
        unknown = set(self._table.file_uris()) - self._known
        if unknown:
            newest = _newest_sequence(_scan(self._lake, self._name, self._table, unknown))
            self._sequence = max(self._sequence, newest)
            self._known |= unknown
            self._others |= unknown
        if self._others and check is not None:
            others = _scan(
                self._lake, self._name, self._table, self._others & set(self._table.file_uris())
            )
            since = others.filter(pl.col("sequence") > self._base)
            check(rows, since, _scan(self._lake, self._name, self._table))


def _newest_sequence(rows: pl.LazyFrame) -> int:
    return rows.select(pl.col("sequence").max()).collect().item() or 0


def _require_undisturbed(rows: pl.DataFrame, since: pl.LazyFrame, log: pl.LazyFrame) -> None:
    """Refuse rows about sources that rows of other runs are about."""
    others = since.filter(~pl.col("run_id").is_in(rows["run_id"].unique().drop_nulls().implode()))
    both = _sources(rows.lazy(), log).join(_sources(others, log), on="source").collect()
    if len(both):
        runs = sorted(others.select("run_id").unique().collect()["run_id"].drop_nulls())
        raise BusyError(
            f"{' and '.join(runs)} changed structures of {sorted(both['source'])} after this run "
            "had compared them with their sources; run it again: what it published stays"
        )


def _sources(rows: pl.LazyFrame, log: pl.LazyFrame) -> pl.LazyFrame:
    """Sources of the structures that rows publish or retire."""
    retired = rows.select(sequence="retires").drop_nulls()
    ended = log.join(retired, on="sequence", how="semi")
    return pl.concat([rows.select("source"), ended.select("source")]).drop_nulls().unique()


# ----- Forgetting


def _rewrite(
    lake: layout.Place, name: str, horizon: int, parts_shown: pl.Series | None
) -> pl.DataFrame:
    """Commit a table without what no version since ``horizon`` shows; return what is left."""
    for _ in range(_ATTEMPTS):
        table = _open(lake, name)
        log = _scan(lake, name, table).collect()
        shown = _shown_since(name, log, horizon, parts_shown)
        if len(shown) == len(log):
            return shown
        with suppress(CommitFailedError):
            write_deltalake(
                table,
                shown,
                mode="overwrite",
                commit_properties=CommitProperties(
                    {statements.KEY: statements.state(shown, is_all=True)}, max_commit_retries=0
                ),
            )
            return shown
    raise LakeError(f"{_ATTEMPTS} times another process committed to {table.table_uri} first")


def _shown_since(
    name: str, log: pl.DataFrame, horizon: int, parts_shown: pl.Series | None
) -> pl.DataFrame:
    """Rows that some version since ``horizon`` shows."""
    if name == "structures":
        ended = log.filter(pl.col("sequence") < horizon)["retires"].drop_nulls().implode()
        return log.filter(
            ~pl.col("sequence").is_in(ended), ~pl.col("retires").is_in(ended).fill_null(False)
        )
    follower = pl.col("sequence").sort().shift(-1).over(_SUBJECT[name])
    log = log.sort("sequence").filter((follower >= horizon) | follower.is_null())
    if parts_shown is None or "part_id" not in log.columns:
        return log
    return log.filter(
        pl.col("part_id").is_in(parts_shown.implode()) | (pl.col("sequence") >= horizon)
    )


def _forget_versions(
    lake: layout.Place, name: str, older_than: timedelta, shown: pl.DataFrame
) -> None:
    """Remove files and versions of a table that were replaced longer ago than ``older_than``.

    The table keeps what the entries of its log stated about its rows.
    """
    table = _open(lake, name)
    oldest = _version_at(table, datetime.now(UTC) - older_than)
    table.vacuum(
        retention_hours=math.ceil(older_than / timedelta(hours=1)),
        dry_run=False,
        enforce_retention_duration=False,
    )
    table = _open(lake, name)
    duration = f"interval {math.ceil(older_than.total_seconds())} seconds"
    table.alter.set_table_properties(
        {
            "delta.logRetentionDuration": duration,
            _OLDEST: str(oldest),
            _PURGED: str(table.version() + 1),
            statements.KEY: statements.state(shown, is_all=True),
        },
        raise_if_not_exists=False,
    )
    table = _open(lake, name)
    table.create_checkpoint()
    table.cleanup_metadata()


# ----- What rows say


def _open(lake: layout.Place | str, name: str, version: int | None = None) -> DeltaTable:
    where = layout.resolve(lake, layout.table_path(name))
    return DeltaTable(_uri(where), version=version, storage_options=_options(where))


def _uri(where: layout.Place) -> Path | str:
    return where if isinstance(where, Path) else where.uri


def _options(where: layout.Place) -> dict[str, str] | None:
    return None if isinstance(where, Path) else where.storage_options


def _scan(
    lake: layout.Place, name: str, table: DeltaTable, uris: Iterable[str] | None = None
) -> pl.LazyFrame:
    """Return the rows of a version of a table, or those of some of its files."""
    where = layout.resolve(lake, layout.table_path(name))
    files = [
        str(_uri(where / unquote(uri.rpartition("/")[2])))
        for uri in sorted(table.file_uris() if uris is None else uris)
    ]
    if not files:
        return pl.LazyFrame(schema=TABLES[name])
    return pl.scan_parquet(
        files,
        schema=TABLES[name],
        missing_columns="insert",
        extra_columns="ignore",
        glob=False,
        storage_options=_options(where),
        hive_partitioning=False,
    )


def _live(log: pl.LazyFrame, retired: pl.DataFrame) -> pl.LazyFrame:
    live = log.filter(pl.col("retires").is_null()).drop("retires")
    if retired.is_empty():
        return live
    return live.join(retired.lazy(), left_on="sequence", right_on="retires", how="anti")


def _retired(log: pl.LazyFrame) -> pl.DataFrame:
    return log.select(pl.col("retires").drop_nulls()).collect()


def _pick(table: pl.LazyFrame, columns: Sequence[str] | None) -> pl.LazyFrame:
    return table if columns is None else table.select(columns)


def _conform(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Bring rows into the schema of a table; what is missing is null."""
    schema = TABLES[name]
    unknown = sorted(set(rows.columns) - set(schema))
    if unknown:
        raise ValueError(f"the table {name} has no columns {unknown}; it has {list(schema)}")
    return rows.select(
        (pl.col(column) if column in rows.columns else pl.lit(None, dtype))
        .cast(dtype)
        .alias(column)
        for column, dtype in schema.items()
    )


@contextmanager
def reporting(lake: layout.Place | str) -> Iterator[None]:
    """Turn whatever goes wrong with the tables into a LakeError."""
    try:
        yield
    except TableNotFoundError as error:
        raise LakeError(
            f"{lake} lacks a table ({error}): its creation was interrupted, or the table was "
            "deleted; run a recipe on the lake, or restore it from a copy"
        ) from error
    # Polars panics where the bytes of a parquet file make no sense.
    except (DeltaError, OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise LakeError(
            f"the catalogue of {lake} cannot be used ({type(error).__name__}: {error})"
        ) from error
