"""Slurm: every job starts workers that connect to the driver."""

from __future__ import annotations

from typing import Any, ClassVar

from atomlake.clusters.batch import Batch, clock


class Slurm(Batch):
    """Jobs of Slurm, submitted one by one as the run needs them."""

    kind: ClassVar[str] = "slurm"
    title: ClassVar[str] = "jobs of Slurm"
    jobqueue: ClassVar[str] = "dask_jobqueue.slurm:SLURMCluster"
    example: ClassVar[dict[str, Any]] = {
        "workers": 64,
        "memory": "4GB",
        "walltime": "08:00:00",
        "queue": "main",
        "interface": "ib0",
    }

    def _directives(self) -> dict[str, Any]:
        return {"queue": self.queue, "account": self.account, "walltime": clock(self.walltime)}
