"""One execution of a recipe: plan, compute, publish; nothing twice, nothing half."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import polars as pl

from atomlake import sources
from atomlake.clusters.base import Cluster
from atomlake.engine import execute, shares
from atomlake.engine.events import (
    ClusterStarted,
    Ended,
    Event,
    Listener,
    LogFile,
    Note,
    Planned,
    Published,
    Totals,
    UnitFailed,
    WorkerMessage,
)
from atomlake.engine.plan import Plan, make_plan
from atomlake.engine.tasks import UnitRecord
from atomlake.engine.units import Unit
from atomlake.engine.versions import versions
from atomlake.errors import LakeError, RefusedError
from atomlake.lake import Lake, layout, parts
from atomlake.lake.durability import Disk
from atomlake.lake.lock import LOCK, alone
from atomlake.recipe import Recipe

if TYPE_CHECKING:
    from distributed import Client

#: Seconds between two commits of finished parts.
PUBLISH_INTERVAL = 2.0

#: What a row that retires another needs of it.
_ENDED = ("structure_id", "sequence")


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    run_id : str
        Its row in the catalogue.
    plan : Plan
        What it set out to do.
    totals : Totals
        What it did.
    seconds : dict of str to float
        Wall time of its phases.
    """

    run_id: str
    plan: Plan
    totals: Totals
    seconds: dict[str, float]

    @property
    def is_complete(self) -> bool:
        """Whether every structure is in the lake or set aside with a reason."""
        return self.totals.n_failed == 0


def run(
    recipe: Recipe,
    *,
    executor: Literal["cluster", "synchronous", "shares"] = "cluster",
    listeners: Sequence[Listener] = (),
    damaged_parts: Collection[str] = (),
) -> Outcome:
    """Bring the lake up to date with the recipe.

    Parameters
    ----------
    recipe : Recipe
        What to compute.
    executor : {"cluster", "synchronous", "shares"}
        On the recipe's cluster, in this process (for debugging), or by the jobs of an array that
        have left their records (:mod:`atomlake.engine.shares`).
    listeners : sequence of callable
        Called with every event.
    damaged_parts : collection of str
        Parts whose structures are read again, even if their sources have not changed; each
        commit replaces some of them.

    Raises
    ------
    LakeError
        If the lake cannot be written, or another run is at work in it.
    RefusedError
        If the plan is refused; the message says why and what would help.
    SourceError, RecipeError
        As :func:`atomlake.engine.plan.make_plan`.
    """
    totals = Totals()
    listening: list[Listener] = [totals, *listeners]

    def tell(event: Event) -> None:
        for listener in listening:
            listener(event)

    if executor == "cluster":
        recipe.cluster.join()
    started = time.monotonic()
    lake = Lake.create(recipe.lake)
    with alone(lake.path), _Opening(recipe.cluster) as opening:
        run_id = _new_run_id()
        _mark_killed(lake)
        on_work = opening.begin if executor == "cluster" else lambda: None
        scratch = layout.scratch_path(lake.path)
        plan = make_plan(recipe, lake, scratch, on_work, damaged_parts)
        for note in plan.notes:
            tell(Note(note))
        if plan.refusals:
            raise RefusedError("\n".join(plan.refusals))
        log = LogFile(layout.log_path(lake.path, run_id)) if plan.units else None
        if log is not None:
            listening.append(log)
        tell(Planned(len(plan.units), plan.estimate))
        planned = time.monotonic()
        disk = Disk(lake.path) if recipe.durable else None
        publisher = _Publisher(lake, plan, run_id, tell, disk)
        with _kept(lake, run_id, log), _recorded(lake, recipe, run_id, totals, tell):
            for _, descriptor in plan.descriptors:
                parts.write_descriptor(lake.path, descriptor)
            publisher.wait_for_disk([layout.DESCRIPTORS])
            publisher.publish_flux()
            publisher.publish_at_once()
            for unit, result in _execute(recipe, plan, lake, executor, tell, opening):
                publisher.take(unit, result)
            publisher.flush()
            computed = time.monotonic()
            if not plan.is_empty:
                labels = [source.label for source in recipe.sources]
                lake.catalogue.require_undisturbed(labels, run_id=run_id)
            publisher.publish_sources()
            publisher.wait_for_disk([layout.CATALOGUE])
        shares.forget(lake)
        _clear(scratch)
    return Outcome(
        run_id,
        plan,
        totals,
        {
            "plan": planned - started,
            "compute": computed - planned,
            "finish": time.monotonic() - computed,
            "total": time.monotonic() - started,
        },
    )


def preview(recipe: Recipe) -> Plan:
    """Plan a run and change nothing; decompressed copies go to a folder that is removed.

    Raises
    ------
    LakeError, SourceError, RecipeError
        As :func:`run`.
    """
    exists = layout.is_lake(recipe.lake)
    with tempfile.TemporaryDirectory(prefix="atomlake-") as scratch:
        return make_plan(recipe, Lake.open(recipe.lake) if exists else None, Path(scratch))


def _execute(
    recipe: Recipe,
    plan: Plan,
    lake: Lake,
    executor: str,
    tell: Listener,
    opening: _Opening,
) -> Iterator[execute.Result]:
    where, limits = str(lake.path.absolute()), recipe.limits
    if not plan.units:
        return iter(())
    if executor == "synchronous":
        return execute.in_this_process(plan.units, where, limits)
    if executor == "shares":
        return shares.records(plan.units, lake)
    client = opening.client()
    cluster = recipe.cluster
    workers = f"{cluster.n_workers} workers ({cluster.kind})"
    tell(ClusterStarted(workers, client.dashboard_link if cluster.has_dashboard else None))
    return execute.on_cluster(client, plan.units, where, limits, cluster, tell)


class _Opening:
    """A cluster that is opened by a thread while the work is planned, if its kind allows that.

    Leaving it closes the cluster, in the thread that opened it.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._thread = ThreadPoolExecutor(1, "atomlake-cluster")
        self._stack = ExitStack()
        self._client: Future[Client] | None = None

    def begin(self) -> None:
        """Begin to open the cluster, unless that was done or is too early."""
        if self._client is None and self._cluster.opens_early:
            self._client = self._thread.submit(self._open)

    def client(self) -> Client:
        """Wait until the cluster is open."""
        return self._open() if self._client is None else self._client.result()

    def _open(self) -> Client:
        return self._stack.enter_context(self._cluster.open())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is None:
            self._stack.close()
        else:
            self._thread.submit(self._stack.close).result()
            self._thread.shutdown()


# ----- Publishing


@dataclass
class _Publisher:
    """Takes records from tasks and makes them visible, many parts per commit."""

    lake: Lake
    plan: Plan
    run_id: str
    tell: Listener
    disk: Disk | None = None
    waiting: list[UnitRecord] = field(default_factory=list)
    failed_locations: set[tuple[str, str]] = field(default_factory=set)
    published_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.replacements = pl.concat(
            [pl.DataFrame(schema={"structure_id": pl.String, "sequence": pl.Int64})]
            + [change.replacements(label) for label, change in self.plan.changes.items()]
        )
        self.predecessors = self._live(self.replacements["sequence"], _ENDED)

    def take(self, unit: Unit, result: UnitRecord | BaseException) -> None:
        """Take what became of a unit; publish if the last commit is long enough ago."""
        if isinstance(result, LakeError | KeyboardInterrupt):
            raise result
        if isinstance(result, BaseException):
            self.failed_locations |= {(unit.source, piece.location) for piece in unit.pieces}
            self.tell(
                UnitFailed(
                    unit.estimate.n_structures,
                    f"a unit of {unit.estimate.n_structures} structures of source "
                    f"{unit.source!r} was given up: {type(result).__name__}: {result}",
                )
            )
            return
        self._accept(result)
        if time.monotonic() - self.published_at >= PUBLISH_INTERVAL:
            self.flush()

    def _accept(self, record: UnitRecord) -> None:
        self.waiting.append(record)
        for source, location, n_structures, reason in record.undone:
            self.failed_locations.add((source, location))
            self.tell(UnitFailed(n_structures, f"{n_structures} structures stay undone: {reason}"))
        self.tell(record.event)
        if 0 < record.projected_nbytes < record.peak_nbytes:
            self.tell(
                WorkerMessage(
                    record.worker,
                    "WARNING",
                    f"a unit of {record.n_structures} structures took {record.peak_nbytes:,} bytes "
                    f"of memory and was projected to take {record.projected_nbytes:,}",
                )
            )

    def flush(self) -> None:
        """Publish all that waits: features, which nobody sees yet, then their structures."""
        records, self.waiting = self.waiting, []
        catalogue = self.lake.catalogue
        self.wait_for_disk(path for record in records for path in record.paths)
        parts = [record.part for record in records if record.part is not None]
        catalogue.publish_parts(parts, run_id=self.run_id)
        features = [features for record in records for features in record.features]
        catalogue.publish_features(features, run_id=self.run_id)
        rows = (
            pl.concat([record.structures for record in records], how="diagonal")
            if records
            else pl.DataFrame()
        )
        if len(rows):
            replaced = self.replacements.join(rows, on="structure_id", how="semi")
            catalogue.publish_structures(
                rows,
                retire=self.predecessors.join(replaced, on="sequence", how="semi"),
                run_id=self.run_id,
            )
        if records:
            self.wait_for_disk([layout.CATALOGUE])
            self.tell(Published(len(parts), sum(record.n_structures for record in records)))
        self.published_at = time.monotonic()

    def wait_for_disk(self, paths: Iterable[str]) -> None:
        """Return when files are on the disk, if the recipe asks for that."""
        if self.disk is not None:
            self.disk.wait_for(paths)

    def publish_flux(self) -> None:
        """Record that no state of these locations is reflected until the run is through.

        Should it be killed, a location that is put back into its former state is still compared.
        """
        indexed = [(s.source.label, s.location) for s in self.plan.states]
        places = pl.LazyFrame(
            [*indexed, *self.plan.vanished],
            schema={"source": pl.String, "location": pl.String},
            orient="row",
        )
        reflected = self.lake.catalogue.sources().filter(pl.col("digest") != "")
        in_flux = reflected.join(places, on=["source", "location"], how="semi").select(
            "source",
            "location",
            digest=pl.lit(""),
            n_structures=pl.lit(0),
            run_id=pl.lit(self.run_id),
        )
        self.lake.catalogue.publish_sources(in_flux.collect())

    def publish_at_once(self) -> None:
        """Publish what needs no computing: what is gone, what has a new key, what is unreadable."""
        changes = self.plan.changes.values()
        moves = pl.concat(
            [pl.DataFrame(schema={"sequence": pl.Int64, "location": pl.String, "key": pl.String})]
            + [change.moved.cast({"location": pl.String}) for change in changes]
        )
        ended = [moves["sequence"], *(change.retired for change in changes)]
        ending = self._live(pl.concat(ended), _ENDED)
        if len(ending):
            moved = self._live(moves["sequence"]).drop("location", "key")
            self.lake.catalogue.publish_structures(
                moved.join(moves, on="sequence"), retire=ending, run_id=self.run_id
            )
        rows = self.plan.set_aside
        if len(rows):
            reasons = Counter(rows["code"])
            self._accept(UnitRecord(rows, set_aside=reasons, n_structures=len(rows)))
            self.flush()

    def publish_sources(self) -> None:
        """Record the locations that the structures table completely reflects."""
        rows = [
            {
                "source": state.source.label,
                "location": state.location,
                **state.fingerprint._asdict(),
                "options_hash": sources.options_hash(state.location, state.source),
                "n_structures": state.n_before + len(state.index),
                "species": state.species,
            }
            for state in self.plan.states
            if state.fingerprint is not None
            and state.index is not None
            and (state.source.label, state.location) not in self.failed_locations
        ]
        if rows:
            frame = pl.DataFrame(rows, infer_schema_length=None).with_columns(
                run_id=pl.lit(self.run_id)
            )
            self.lake.catalogue.publish_sources(frame)

    def _live(self, sequences: pl.Series, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Rows of structures that the plan was made against."""
        table = self.lake.catalogue.structures(columns)
        if sequences.is_empty():
            return table.collect_schema().to_frame()
        wanted = sequences.to_frame("sequence").lazy()
        return table.join(wanted, on="sequence", how="semi").collect(engine="streaming")


# ----- The run's own record


@contextmanager
def _recorded(
    lake: Lake, recipe: Recipe, run_id: str, totals: Totals, tell: Listener
) -> Iterator[None]:
    """Write the run's row at its start, and again at its end, however it ends."""
    row: dict[str, Any] = {
        "run_id": run_id,
        "recipe": recipe.model_dump_json(exclude_defaults=True),
        "recipe_hash": recipe.recipe_hash,
        "started": datetime.now(UTC),
        "finished": None,
        "status": "running",
        "host": socket.gethostname(),
        "versions": json.dumps(versions()),
        "counts": None,
        "reason": None,
    }
    lake.catalogue.publish_run(row)
    reason: str | None = None
    status = "failed"
    try:
        yield
        status = "finished" if totals.n_failed == 0 else "incomplete"
    except KeyboardInterrupt:
        status, reason = "interrupted", "interrupted from the keyboard or by a signal"
        raise
    except BaseException as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise
    finally:
        end = {
            "finished": datetime.now(UTC),
            "status": status,
            "reason": reason,
            "counts": json.dumps(totals.as_dict()),
        }
        lake.catalogue.publish_run(row | end)
        tell(Ended(status, reason))


@contextmanager
def _kept(lake: Lake, run_id: str, log: LogFile | None) -> Iterator[None]:
    """Close the log at the end, and put it where it stays."""
    try:
        yield
    finally:
        if log is not None:
            log.close()
            layout.keep_log(lake.path, run_id)


def _mark_killed(lake: Lake) -> None:
    """Say of runs that never wrote their end that they were killed; only one runs at a time."""
    for row in lake.runs().iter_rows(named=True):
        if row["status"] == "running":
            end = {"status": "killed", "reason": "its process ended without a word"}
            lake.catalogue.publish_run(row | end)


def _new_run_id() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"


def _clear(scratch: Path) -> None:
    """Remove decompressed copies; a run that is killed leaves them for the next."""
    for path in scratch.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
