"""HTCondor: every job starts workers that connect to the driver."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ByteSize, Field, field_validator

from atomlake.clusters.batch import Batch


class HtCondor(Batch):
    """Jobs of HTCondor, submitted one by one as the run needs them."""

    kind: ClassVar[str] = "htcondor"
    title: ClassVar[str] = "jobs of HTCondor"
    jobqueue: ClassVar[str] = "dask_jobqueue.htcondor:HTCondorCluster"
    example: ClassVar[dict[str, Any]] = {"workers": 64, "memory": "4GB", "disk": "10GB"}

    disk: ByteSize = Field(default=ByteSize(10**9), description="Local disk of one job.")

    @field_validator("queue")
    @classmethod
    def _no_queues(cls, value: str | None) -> str | None:
        if value is not None:
            raise ValueError("HTCondor has no queues; say what a job needs in directives")
        return value

    def _directives(self) -> dict[str, Any]:
        submitted = {"MY.ProjectName": f'"{self.account}"'} if self.account else {}
        for directive in self.directives:
            name, _, value = directive.partition("=")
            submitted[name.strip()] = value.strip()
        limit = f"(JobStatus == 2) && (time() - EnteredCurrentStatus > {self._seconds})"
        return {
            "disk": f"{int(self.disk)}B",
            "job_extra_directives": {"periodic_remove": limit} | submitted,
        }

    @property
    def _seconds(self) -> int:
        return int(self.walltime.total_seconds())
