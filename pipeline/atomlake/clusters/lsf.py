"""LSF: every job starts workers that connect to the driver."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from atomlake.clusters.batch import Batch, clock


class Lsf(Batch):
    """Jobs of IBM Spectrum LSF, submitted one by one as the run needs them."""

    kind: ClassVar[str] = "lsf"
    title: ClassVar[str] = "jobs of LSF"
    jobqueue: ClassVar[str] = "dask_jobqueue.lsf:LSFCluster"
    example: ClassVar[dict[str, Any]] = {
        "workers": 64,
        "memory": "4GB",
        "walltime": "08:00:00",
        "queue": "normal",
    }

    memory_unit: Literal["kb", "mb", "gb", "tb"] = Field(
        default="mb", description="What the site counts memory in (LSF_UNIT_FOR_LIMITS)."
    )

    def _directives(self) -> dict[str, Any]:
        return {
            "queue": self.queue,
            "project": self.account,
            "walltime": clock(self.walltime).rpartition(":")[0],
            "lsf_units": self.memory_unit,
            "use_stdin": True,
        }
