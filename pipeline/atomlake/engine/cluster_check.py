"""Whether the cluster of a recipe would work: start it, ask every worker, stop it."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from distributed import get_worker

from atomlake import sources
from atomlake.descriptors import Soap
from atomlake.descriptors.base import Gradients
from atomlake.engine.tasks import warm
from atomlake.engine.versions import versions
from atomlake.errors import ClusterError
from atomlake.lake import layout
from atomlake.recipe import Recipe
from atomlake.structures import Structures

if TYPE_CHECKING:
    from distributed import Client

#: Seconds by which a worker's clock may differ; the lake's times come from many machines.
LARGEST_CLOCK_DIFFERENCE = 5.0

#: Part of the recipe's memory that a worker must have; dask rounds what it is told.
ROUNDED = 0.98

#: Part of the fastest worker's speed below which a worker is worth a remark.
SLOW = 0.5


@dataclass(frozen=True)
class WorkerReport:
    """What one worker says about itself.

    Attributes
    ----------
    host : str
        Its machine.
    versions : dict of str to str
        Of Python, atomlake and what computes and writes.
    memory_nbytes : int
        Its memory limit.
    n_threads : int
        Tasks that it would run at once.
    microseconds_per_atom : float
        Time of a SOAP on a small crystal, compiled.
    compile_seconds : float
        Time until its kernels were there.
    problems : tuple of str
        What would make a run fail.
    """

    host: str
    versions: dict[str, str]
    memory_nbytes: int
    n_threads: int
    microseconds_per_atom: float
    compile_seconds: float
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ClusterReport:
    """What all workers say, and what does not fit together.

    Attributes
    ----------
    workers : dict of str to WorkerReport
        By address.
    clocks : dict of str to float
        Seconds that each worker's clock is ahead of the driver's.
    start_seconds : float
        Time from asking for workers to the last of them.
    problems : list of str
        What would make a run fail; none if it would work.
    remarks : list of str
        What is worth knowing and hinders nothing.
    """

    workers: dict[str, WorkerReport]
    clocks: dict[str, float]
    start_seconds: float
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check_cluster(recipe: Recipe, *, patience: float = 300.0) -> ClusterReport:
    """Start the recipe's cluster, run one small task on each worker, and stop it.

    Parameters
    ----------
    recipe : Recipe
        Its cluster is started; its lake and its sources must be seen from every worker.
    patience : float
        Seconds to wait for the workers.

    Raises
    ------
    ClusterError
        If the cluster cannot be started or too few workers come.
    """
    recipe.cluster.join()
    started = time.monotonic()
    with recipe.cluster.open() as client:
        n_wanted = recipe.cluster.n_workers
        try:
            client.wait_for_workers(n_wanted, timeout=patience)
        except TimeoutError as problem:
            raise ClusterError(
                f"{_n_workers(client)} of {n_wanted} workers came within {patience:.0f} s; look "
                "at the queue, and at the logs of the jobs"
            ) from problem
        start_seconds = time.monotonic() - started
        lake = layout.place(recipe.lake).absolute()
        lake.parent.mkdir(parents=True, exist_ok=True)
        with _left_file(lake.parent) as probe:
            questions = {
                address: client.submit(
                    _report, str(probe), _files(recipe), workers=[address], pure=False
                )
                for address in client.scheduler_info(n_workers=-1)["workers"]
            }
            reports = {address: question.result() for address, question in questions.items()}
            clocks = {address: _clock_difference(client, address) for address in reports}
    return _compare(reports, clocks, recipe.cluster.memory_per_worker, start_seconds)


def _clock_difference(client: Client, address: str) -> float:
    """Seconds that a worker's clock is ahead, by the shortest of a few questions."""
    answers = []
    for _ in range(3):
        asked = time.time()
        answer: float = client.submit(time.time, workers=[address], pure=False).result()
        answered = time.time()
        answers.append((answered - asked, answer - (asked + answered) / 2))
    return min(answers)[1]


def _n_workers(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


@contextmanager
def _left_file(folder: layout.Place) -> Iterator[layout.Place]:
    """Leave a file that only this check knows, to see whether workers look at the same folder."""
    path = folder / f".atomlake-check-{uuid.uuid4().hex[:8]}"
    path.write_bytes(path.name.encode())
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _files(recipe: Recipe) -> dict[str, int]:
    """Sizes of the source files, by path as the workers are given it."""
    found = [location for source in recipe.sources for location in sources.expand(source)]
    return {path: os.path.getsize(path) for path in found if os.path.isfile(path)}


# ----- On the worker


def _report(probe: str, files: dict[str, int]) -> WorkerReport:
    compiling = time.perf_counter()
    soap = Soap(species=("Si",), cutoff=5.0, n_max=8, l_max=6, sigma=0.5)
    warm([(soap, Gradients("none", False))])
    compiled = time.perf_counter() - compiling
    worker = get_worker()
    return WorkerReport(
        host=socket.gethostname(),
        versions=versions(),
        memory_nbytes=int(worker.memory_manager.memory_limit or 0),
        n_threads=worker.state.nthreads,
        microseconds_per_atom=_speed(soap),
        compile_seconds=compiled,
        problems=tuple(_reach(layout.place(probe), files)),
    )


def _speed(soap: Soap) -> float:
    """Microseconds per atom of a silicon crystal, the best of three."""
    numbers = np.full(8, 14)
    basis = [[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0], [1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1]]
    crystal = Structures.single(numbers, 5.43 / 4 * np.array(basis), 5.43 * np.eye(3), True)
    crystals = Structures.concatenate([crystal] * 25)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        soap.compute(crystals)
        seconds.append(time.perf_counter() - start)
    return 1e6 * min(seconds) / crystals.n_atoms


def _reach(probe: layout.Place, files: dict[str, int]) -> Iterator[str]:
    """Say which of the driver's files this worker does not see as the driver does."""
    try:
        seen = probe.read_bytes().decode()
        if seen != probe.name:
            yield f"{probe} holds something else than the driver wrote"
        own = probe.with_name(f"{probe.name}-{uuid.uuid4().hex[:8]}")
        own.write_bytes(b"written by a worker")
        own.unlink()
    except OSError as problem:
        yield f"the folder of the lake cannot be read and written: {problem}"
    for path, size in files.items():
        try:
            found = os.path.getsize(path)
        except OSError as problem:
            yield f"a source cannot be read: {problem}"
            continue
        if found != size:
            yield f"source {path} has {found:,} bytes here and {size:,} where the driver runs"


# ----- On the driver


def _compare(
    reports: dict[str, WorkerReport],
    clocks: dict[str, float],
    memory_nbytes: int,
    start_seconds: float,
) -> ClusterReport:
    report = ClusterReport(reports, clocks, start_seconds)
    fastest = min(r.microseconds_per_atom for r in reports.values())
    for address, worker in sorted(reports.items()):
        who = f"{worker.host} ({address})"
        report.problems.extend(f"{who}: {problem}" for problem in worker.problems)
        for name, mine in versions().items():
            if worker.versions.get(name) != mine:
                report.problems.append(
                    f"{who}: {name} {worker.versions.get(name)}, and the driver has {mine}; "
                    "install the same environment"
                )
        if abs(clocks[address]) > LARGEST_CLOCK_DIFFERENCE:
            report.remarks.append(f"{who}: its clock is {clocks[address]:+.1f} s off")
        if worker.memory_nbytes and worker.memory_nbytes < ROUNDED * memory_nbytes:
            report.problems.append(
                f"{who}: its limit is {worker.memory_nbytes / 1e9:.2f} GB, and the recipe counts "
                f"on {memory_nbytes / 1e9:.2f} GB; change cluster.memory or the workers"
            )
        if worker.n_threads > 1:
            report.problems.append(
                f"{who}: it would run {worker.n_threads} tasks at once in one memory; start it "
                "with --nthreads 1, and as many workers as cores"
            )
        if worker.microseconds_per_atom > fastest / SLOW:
            report.remarks.append(
                f"{who}: {worker.microseconds_per_atom:.1f} µs an atom, and the fastest takes "
                f"{fastest:.1f}; is something else running there?"
            )
    return report
