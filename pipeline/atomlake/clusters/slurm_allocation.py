"""One allocation of Slurm: srun starts this command on each task, which finds its role."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr

from atomlake.clusters.certificates import Certificates, private_folder, write
from atomlake.clusters.forking import WORKER_ENVIRONMENT
from atomlake.clusters.remote import SILENCE_IRREPLACEABLE, Remote, settings_of
from atomlake.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

#: Tasks of the allocation that do not compute: the scheduler and the driver.
N_OTHERS = 2

#: Seconds that the tasks of an allocation wait for its first one.
PATIENCE = 120


class SlurmAllocation(Remote):
    """``srun atomlake run RECIPE`` inside one job: scheduler, driver and workers are its tasks."""

    kind: ClassVar[str] = "slurm-allocation"
    title: ClassVar[str] = "the tasks of one Slurm allocation (srun)"
    example: ClassVar[dict[str, Any]] = {"memory": "4GB", "interface": "ib0"}

    interface: str | None = Field(
        default=None, description="Network interface of the tasks, such as ib0."
    )
    _runner: Any = PrivateAttr(default=None)
    _files: Certificates | None = PrivateAttr(default=None)

    @property
    def n_workers(self) -> int:
        """Tasks of the allocation that compute; ``workers`` outside of one."""
        tasks = os.environ.get("SLURM_NTASKS")
        return self.workers if tasks is None else max(1, int(tasks) - N_OTHERS)

    def join(self) -> None:
        """Become the scheduler (task 0), a worker (tasks 2 and up), or go on as the driver."""
        import dask

        if "SLURM_PROCID" not in os.environ:
            raise ClusterError(
                "cluster kind 'slurm-allocation' runs inside an allocation, with one task for the "
                "scheduler, one for the driver and one for each worker: "
                "sbatch --ntasks=6 --wrap 'srun atomlake run RECIPE'"
            )
        try:
            from dask_jobqueue.slurm import SLURMRunner
        except ImportError as problem:
            raise ClusterError(
                "cluster kind 'slurm-allocation' needs the package dask-jobqueue: "
                "pip install 'atomlake[batch]'"
            ) from problem
        os.environ.update(WORKER_ENVIRONMENT | self.environment)
        settings = settings_of(SILENCE_IRREPLACEABLE)
        if self.tls:
            self._files = self._certificates()
            settings |= self._files.settings()
        dask.config.set(settings)
        self._runner = SLURMRunner(
            scheduler_file=str(self._folder() / "scheduler-{job_id}.json"),
            scheduler_options={
                "interface": self.interface,
                "protocol": "tls://" if self.tls else "tcp://",
                "dashboard": self.dashboard is not None,
                "dashboard_address": self.dashboard or "127.0.0.1:0",
            },
            worker_class="distributed.Nanny",
            worker_options={
                "nthreads": 1,
                "memory_limit": self.memory_per_worker,
                "interface": self.interface,
                "protocol": "tls://" if self.tls else "tcp://",
                "dashboard": False,
            },
        )

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Connect to the scheduler of the allocation; end it and the workers on leaving."""
        from distributed import Client

        from atomlake.clusters.plugins import greet

        if self._runner is None:
            self.join()
        # The runner would end its scheduler in plain words, which one with certificates ignores:
        # a client that knows no more than the address ends it as its own.
        self._runner.scheduler_comm = None
        address = self._runner.scheduler_address
        with self._runner, Client(address, security=self._security()) as client:
            try:
                yield greet(client)
            finally:
                client.shutdown()
        shutil.rmtree(self._folder(), ignore_errors=True)

    def _security(self) -> Any:
        return self._files.security() if self._files else None

    def _folder(self) -> Path:
        return private_folder(self.shared_folder / f"allocation-{os.environ['SLURM_JOB_ID']}")

    def _certificates(self) -> Certificates:
        """Issue certificates in the first task; wait for them in the others."""
        files = Certificates.in_folder(self._folder())
        if os.environ["SLURM_PROCID"] == "0":
            return write(self._folder())
        waited_until = time.monotonic() + PATIENCE
        while not files.certificate.exists():
            if time.monotonic() > waited_until:
                raise ClusterError(
                    f"the first task of the allocation wrote no certificates into "
                    f"{self._folder()} within {PATIENCE} s; is it a folder that all nodes share?"
                )
            time.sleep(0.1)
        return files
