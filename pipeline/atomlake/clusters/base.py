"""What a kind of cluster is: settings from the recipe, and a dask client while it is open."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from atomlake.clusters.forking import WORKER_ENVIRONMENT
from atomlake.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

#: Under this name workers send what they log to the driver.
LOG_TOPIC = "atomlake-log"

#: Seconds in which a nanny whose worker died has started another. Who does not see one by then
#: takes the nanny for lost, too: a shorter time would end nannies at work.
REVIVAL_SECONDS = 60.0

#: A worker may die through no fault of its task (preemption, a neighbour on the node), so
#: tasks survive some deaths; the bounded window keeps what one death can repeat small. Of a task
#: that does not, the engine asks whether the nanny of its last worker lives; if so, it is tried
#: alone in the end, by which the structure at fault is found. Event loops look at their own delay
#: seldom: 50 times a second, as dask would have it, takes 3 % of a core in the driver.
DASK_SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.work-stealing": True,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,
    "distributed.deploy.lost-worker-timeout": f"{REVIVAL_SECONDS} s",
    "distributed.admin.tick.interval": "10s",
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.large-graph-warning-threshold": "100MB",
    "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
    "distributed.worker.multiprocessing-method": "forkserver",
}


class Cluster(BaseModel, ABC):
    """Settings of one kind of cluster, as a recipe's ``cluster`` section gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Name in recipes and in the registry.
    kind: ClassVar[str]
    #: One line for people.
    title: ClassVar[str]
    #: Settings as a site would write them, for the reference pages.
    example: ClassVar[dict[str, Any]]
    #: Whether to open it while the work is planned: it takes about a second, and nobody else
    #: waits or pays for it.
    opens_early: ClassVar[bool] = False
    #: Whether workers run in jobs that can end under them: cancelled, preempted, out of time.
    has_jobs: ClassVar[bool] = True

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """Worker processes that are asked for, each with one kernel thread."""

    @property
    @abstractmethod
    def memory_per_worker(self) -> int:
        """Bytes that one worker may use."""

    @property
    def has_dashboard(self) -> bool:
        """Whether dask's dashboard is served somewhere."""
        return True

    def join(self) -> None:
        """Take this process's place in the cluster, before anything else is done.

        Only a cluster in which every process runs the same command has places to take: the
        driver returns from here, the scheduler and the workers never do.
        """

    def script(self) -> str:
        """Return what the batch system or the operator would be given; start nothing.

        Raises
        ------
        ClusterError
            If this kind of cluster gives nothing to anybody.
        """
        raise ClusterError(f"a cluster of kind {self.kind!r} ({self.title}) has no script")

    @abstractmethod
    def open(self) -> AbstractContextManager[Client]:
        """Start what has to be started and yield a client; stop it on leaving."""
