"""Grid Engine: every job starts workers that connect to the driver."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from atomlake.clusters.batch import Batch, clock


class GridEngine(Batch):
    """Jobs of Grid Engine (SGE, UGE, Altair), submitted one by one as the run needs them."""

    kind: ClassVar[str] = "sge"
    title: ClassVar[str] = "jobs of Grid Engine"
    jobqueue: ClassVar[str] = "dask_jobqueue.sge:SGECluster"
    example: ClassVar[dict[str, Any]] = {
        "workers": 16,
        "memory": "4GB",
        "walltime": "08:00:00",
        "queue": "all.q",
        "resources": "h_vmem=4G",
    }

    resources: str | None = Field(
        default=None, description="Resources of one job (-l), such as h_vmem=4G."
    )

    def _directives(self) -> dict[str, Any]:
        return {
            "queue": self.queue,
            "project": self.account,
            "resource_spec": self.resources,
            "walltime": clock(self.walltime),
        }
