"""How units become records: on the workers of a cluster, or in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

from atomlake.clusters.base import LOG_TOPIC
from atomlake.engine.events import Listener, WorkerMessage
from atomlake.engine.tasks import UnitRecord, run_unit
from atomlake.engine.units import Unit
from atomlake.recipe import Limits

if TYPE_CHECKING:
    from distributed import Client

#: Units in flight per worker: enough that no worker waits for the driver, few enough that
#: the scheduler stays small and a lost worker repeats little.
WINDOW_PER_WORKER = 3

#: A unit with what became of it.
Result = tuple[Unit, UnitRecord | BaseException]


def in_this_process(units: Sequence[Unit], lake: str, limits: Limits) -> Iterator[Result]:
    """Do one unit after the other here, for debugging; errors keep their traceback."""
    for unit in units:
        yield unit, run_unit(lake, unit, limits)


def on_cluster(
    client: Client,
    units: Sequence[Unit],
    lake: str,
    limits: Limits,
    n_workers: int,
    tell: Listener,
) -> Iterator[Result]:
    """Do units on the workers of a cluster, the longest first, in a bounded window.

    The results are small records, taken and dropped one by one, so that neither the
    scheduler nor a worker holds more than the window. What workers log arrives between them.
    """
    from distributed import as_completed

    waiting = iter(sorted(units, key=lambda unit: -unit.estimate.seconds))
    submitted = {}

    def submit() -> None:
        unit = next(waiting, None)
        if unit is not None:
            future = client.submit(run_unit, lake, unit, limits, pure=False)
            submitted[future.key] = unit
            completed.add(future)

    completed = as_completed(with_results=True, raise_errors=False)
    for _ in range(WINDOW_PER_WORKER * n_workers):
        submit()
    messages: SimpleQueue[WorkerMessage] = SimpleQueue()
    client.subscribe_topic(LOG_TOPIC, lambda event: messages.put(WorkerMessage(**event[1])))
    for future, result in completed:
        while not messages.empty():
            tell(messages.get())
        if not isinstance(result, UnitRecord):
            if future.status in ("lost", "pending"):
                # Its worker died with the record, and the scheduler repeats the task.
                completed.add(future)
                continue
            has_failed = future.status == "error"
            result = future.exception() if has_failed else RuntimeError(f"it was {future.status}")
        unit = submitted.pop(future.key)
        future.release()
        submit()
        yield unit, result
