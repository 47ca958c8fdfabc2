"""Worker processes on this machine; the default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import psutil
from pydantic import ByteSize, Field, PositiveInt

from atomlake.clusters import forking
from atomlake.clusters.base import DASK_SETTINGS, Cluster

if TYPE_CHECKING:
    from distributed import Client


#: Nobody asks a worker of this machine how it does over HTTP.
LOCAL_SETTINGS: dict[str, Any] = {"distributed.worker.http.routes": []}


class Local(Cluster):
    """A dask cluster of processes on this machine, reachable from this machine only."""

    kind: ClassVar[str] = "local"
    title: ClassVar[str] = "worker processes on this machine"
    example: ClassVar[dict[str, Any]] = {"workers": 4, "memory": "2GB"}
    opens_early: ClassVar[bool] = True
    has_jobs: ClassVar[bool] = False

    workers: PositiveInt | Literal["auto"] = Field(
        default="auto", description="Number of worker processes; auto is one per usable core."
    )
    memory: ByteSize | Literal["auto"] = Field(
        default="auto", description="Memory of one worker; auto is an equal share of 80 percent."
    )
    dashboard: bool = Field(default=True, description="Serve the dask dashboard on this machine.")

    @property
    def n_workers(self) -> int:
        """Worker processes."""
        return usable_cores() if self.workers == "auto" else self.workers

    @property
    def memory_per_worker(self) -> int:
        """Bytes that one worker may use."""
        if self.memory == "auto":
            return int(0.8 * psutil.virtual_memory().total / self.n_workers)
        return int(self.memory)

    @property
    def has_dashboard(self) -> bool:
        """Whether dask's dashboard is served."""
        return self.dashboard

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Start the processes and yield a client; stop them on leaving."""
        import dask
        import distributed.utils
        from distributed import Client, LocalCluster

        from atomlake.clusters.plugins import greet

        forking.start()
        # Before its first worker dask would import pandas and more here, for a process to fork
        # from that already runs.
        distributed.utils._forkserver_preload_set = True
        with (
            dask.config.set(DASK_SETTINGS | LOCAL_SETTINGS),
            LocalCluster(
                n_workers=self.n_workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=self.memory_per_worker,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": self.dashboard},
                silence_logs="ERROR",
            ) as cluster,
            Client(cluster) as client,
        ):
            # The number of workers is not set once but watched, so that one is replaced whose
            # nanny gave up, or was ended because it had none at the wrong moment.
            cluster.adapt(minimum=self.n_workers, maximum=self.n_workers, interval="5s")
            yield greet(client)


def usable_cores() -> int:
    """Cores that this process may run on, which a batch system may have limited."""
    return len(os.sched_getaffinity(0))
