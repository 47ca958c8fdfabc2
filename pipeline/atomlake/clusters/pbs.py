"""PBS: every job starts workers that connect to the driver."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from atomlake.clusters.batch import Batch, clock


class Pbs(Batch):
    """Jobs of PBS (OpenPBS, PBS Professional), submitted one by one as the run needs them."""

    kind: ClassVar[str] = "pbs"
    title: ClassVar[str] = "jobs of PBS"
    jobqueue: ClassVar[str] = "dask_jobqueue.pbs:PBSCluster"
    example: ClassVar[dict[str, Any]] = {
        "workers": 64,
        "memory": "4GB",
        "walltime": "08:00:00",
        "queue": "workq",
    }

    resources: str | None = Field(
        default=None,
        description="Resources of one job (-l); select=1:ncpus=…:mem=… if not given.",
    )

    def _directives(self) -> dict[str, Any]:
        return {
            "queue": self.queue,
            "account": self.account,
            "resource_spec": self.resources,
            "walltime": clock(self.walltime),
        }
