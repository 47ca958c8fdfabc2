"""How units become records: on the workers of a cluster, or in this process."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING

from atomlake.clusters.base import LOG_TOPIC, REVIVAL_SECONDS, Cluster
from atomlake.engine.events import Listener, WorkerMessage
from atomlake.engine.tasks import UnitRecord, run_packed, run_unit
from atomlake.engine.units import Unit, killed_worker
from atomlake.errors import ClusterError, SetAside
from atomlake.recipe import Limits

if TYPE_CHECKING:
    from distributed import Client, KilledWorker

#: Units in flight per worker: enough that no worker waits for the driver, few enough that
#: the scheduler stays small and a lost worker repeats little.
WINDOW_PER_WORKER = 3

#: Tries that may end their workers in one run's search for the structures that do.
MAX_DEATHS = 200
#: Times that a unit is given to workers which are lost together with their nannies.
MAX_LOSSES = 3

#: A unit with what became of it.
Result = tuple[Unit, UnitRecord | BaseException]
#: Does a unit, and returns what became of it.
Attempt = Callable[[Unit], UnitRecord | BaseException]


def in_this_process(units: Sequence[Unit], lake: str, limits: Limits) -> Iterator[Result]:
    """Do one unit after the other here, for debugging; errors keep their traceback."""
    for unit in units:
        yield unit, run_unit(lake, unit, limits)


def on_cluster(
    client: Client,
    units: Sequence[Unit],
    lake: str,
    limits: Limits,
    cluster: Cluster,
    tell: Listener,
) -> Iterator[Result]:
    """Do units on the workers of a cluster, the longest first, in a bounded window.

    The results are small records, taken and dropped one by one, so that neither the
    scheduler nor a worker holds more than the window. What workers log arrives between them.
    Units that end their workers are tried again, one at a time, when all others are done; units
    whose workers are lost with their jobs are given to others.
    """
    from distributed import KilledWorker

    messages: SimpleQueue[WorkerMessage] = SimpleQueue()
    client.subscribe_topic(LOG_TOPIC, lambda event: messages.put(WorkerMessage(**event[1])))

    def attempted(some: Sequence[Unit]) -> Iterator[Result]:
        window = WINDOW_PER_WORKER * cluster.n_workers
        for result in _in_window(client, some, lake, limits, window):
            while not messages.empty():
                tell(messages.get())
            yield result

    def is_own(death: KilledWorker, deadline: float) -> bool:
        return not cluster.has_jobs or is_own_death(client, death, deadline)

    suspects: list[Unit] = []
    remaining: Sequence[Unit] = units
    for _ in range(MAX_LOSSES):
        killed = []
        for unit, result in attempted(remaining):
            if isinstance(result, KilledWorker):
                killed.append((unit, result))
            else:
                yield unit, result
        deadline = time.monotonic() + REVIVAL_SECONDS
        owns = [is_own(death, deadline) for _, death in killed]
        suspects += [unit for (unit, _), own in zip(killed, owns, strict=True) if own]
        remaining = [unit for (unit, _), own in zip(killed, owns, strict=True) if not own]

    def alone(unit: Unit) -> UnitRecord | BaseException:
        for _ in range(MAX_LOSSES):
            result: UnitRecord | BaseException
            ((_, result),) = attempted([unit])
            is_killed = isinstance(result, KilledWorker)
            if not is_killed or is_own(result, time.monotonic() + REVIVAL_SECONDS):
                return result
        return lost_worker()

    problem = killed_worker(cluster.memory_per_worker)
    yield from without_fatal(suspects, alone, problem, KilledWorker)
    yield from ((unit, lost_worker()) for unit in remaining)


def _in_window(
    client: Client, units: Sequence[Unit], lake: str, limits: Limits, window: int
) -> Iterator[Result]:
    """Do units, the longest first, so many at a time that are in flight."""
    from distributed import as_completed

    waiting = iter(sorted(units, key=lambda unit: -unit.estimate.seconds))
    submitted = {}

    def submit() -> None:
        unit = next(waiting, None)
        if unit is not None:
            # As bytes, because a scheduler unpickles arguments and pickles them again.
            packed = pickle.dumps((lake, unit, limits))
            future = client.submit(run_packed, packed, pure=False)
            submitted[future.key] = unit
            completed.add(future)

    completed = as_completed(with_results=True, raise_errors=False)
    for _ in range(window):
        submit()
    for future, result in completed:
        if not isinstance(result, UnitRecord):
            if future.status in ("lost", "pending"):
                # Its worker died with the record, and the scheduler repeats the task.
                completed.add(future)
                continue
            if future.status == "cancelled":
                raise ClusterError(
                    "the scheduler of the cluster is gone; what was published stays: start the "
                    "cluster if it is not this run's own, and run the recipe again"
                )
            has_failed = future.status == "error"
            result = future.exception() if has_failed else RuntimeError(f"it was {future.status}")
        unit = submitted.pop(future.key)
        future.release()
        submit()
        yield unit, result


def is_own_death(client: Client, death: KilledWorker, deadline: float) -> bool:
    """Whether a task ended the process of its worker, and not somebody the job around it.

    A nanny that lives starts its worker again. Where a job is cancelled, preempted or at the end
    of its wall time, the nanny ends with the worker, and the task is not to blame.

    Parameters
    ----------
    client : Client
        Of the cluster.
    death : KilledWorker
        What the scheduler says of the task.
    deadline : float
        Until when, by ``time.monotonic``, another worker of the nanny is waited for.
    """
    nanny = death.last_worker.nanny
    while nanny is not None:
        if any(worker["nanny"] == nanny for worker in client.scheduler_info()["workers"].values()):
            return True
        if time.monotonic() >= deadline:
            break
        time.sleep(0.2)
    return False


def lost_worker() -> ClusterError:
    """Why a unit is given up whose workers ended with the jobs that they were in."""
    return ClusterError(
        f"{MAX_LOSSES} times its workers were lost together with their jobs (cancelled, preempted, "
        "at the end of the wall time, or ended by the batch system for their memory), so it stays "
        "undone; see the logs of the jobs, and run the recipe again"
    )


def without_fatal(
    suspects: Sequence[Unit],
    attempt: Attempt,
    problem: SetAside,
    death: type[BaseException],
) -> Iterator[Result]:
    """Do units that ended their workers, without the structures that do.

    Parameters
    ----------
    suspects : sequence of Unit
        The units. One is tried at a time, so that a death has one cause, and cut in halves
        where its worker dies, until single structures are found.
    attempt : callable
        Does a unit, and returns its record or the error.
    problem : SetAside
        What is recorded of a structure that ends its worker alone.
    death : type of exception
        The error that says that the worker died.

    Yields
    ------
    Result
        Halves of new structures become parts of their own. The features of an existing part
        stay together: they are computed once more, without what was found.
    """
    n_deaths = 0

    def attempt_again(unit: Unit) -> UnitRecord | BaseException:
        nonlocal n_deaths
        if n_deaths == MAX_DEATHS:
            return RuntimeError(
                f"{n_deaths} more workers died of structures tried alone, so the fault is not in "
                "a few structures; see whether workers have enough memory (cluster.memory)"
            )
        result = attempt(unit)
        n_deaths += isinstance(result, death)
        return result

    for unit in suspects:
        found = _in_halves(attempt_again, unit, range(len(unit)), death)
        if unit.part_id is None:
            for rows, result in found:
                some = unit.take(rows)
                if isinstance(result, death):
                    some = replace(some, fatal={0: problem})
                    result = attempt(some)
                yield some, result
            continue
        ends = list(found)
        fatal = {rows.start: problem for rows, result in ends if isinstance(result, death)}
        if len(ends) == 1 and not fatal:
            yield unit, ends[0][1]
        else:
            whole = replace(unit, fatal={**unit.fatal, **fatal})
            yield whole, attempt_again(whole)


def _in_halves(
    attempt: Attempt, unit: Unit, rows: range, death: type[BaseException]
) -> Iterator[tuple[range, UnitRecord | BaseException]]:
    """Yield ranges of a unit and what became of them; where a worker died, of one structure."""
    result = attempt(unit.take(rows))
    if isinstance(result, death) and len(rows) > 1:
        middle = len(rows) // 2
        yield from _in_halves(attempt, unit, rows[:middle], death)
        yield from _in_halves(attempt, unit, rows[middle:], death)
    else:
        yield rows, result
