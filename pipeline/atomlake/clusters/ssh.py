"""Machines that are reached by SSH: workers on each, no batch system."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveInt, model_validator

from atomlake.clusters.remote import (
    SILENCE_IRREPLACEABLE,
    Remote,
    environment_of,
    settings_of,
)
from atomlake.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

#: Time without tasks after which the scheduler and its workers end: nothing else tells them of a
#: driver that was killed, because a lost connection ends no process.
ORPHANED = "15 minutes"


class Ssh(Remote):
    """Worker processes on machines that accept SSH and see the same folders."""

    kind: ClassVar[str] = "ssh"
    title: ClassVar[str] = "machines reached by SSH"
    example: ClassVar[dict[str, Any]] = {
        "hosts": ["node1", "node2"],
        "workers_per_host": 8,
        "memory": "4GB",
    }

    hosts: tuple[str, ...] = Field(min_length=1, description="Machines that get workers.")
    workers_per_host: PositiveInt = Field(default=1, description="Workers of each machine.")
    user: str | None = Field(default=None, description="User there; yours if not given.")
    port: PositiveInt = Field(default=22, description="Port of their SSH servers.")
    identity: Path | None = Field(default=None, description="Private key to log in with.")
    known_hosts: Path = Field(
        default=Path("~/.ssh/known_hosts"), description="Keys of the machines; others are refused."
    )
    python: str | None = Field(default=None, description="Python there; the driver's by default.")
    scheduler_host: str | None = Field(
        default=None, description="Machine of the scheduler; the first of the hosts by default."
    )

    @model_validator(mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        """Let the number of workers follow from the hosts."""
        if isinstance(value, dict) and isinstance(value.get("hosts"), list | tuple):
            per_host = value.get("workers_per_host", 1)
            if isinstance(per_host, int):
                return {"workers": max(1, len(value["hosts"]) * per_host)} | value
        return value

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Start a scheduler and workers by SSH; stop them on leaving."""
        import dask
        from distributed import Client, SSHCluster

        from atomlake.clusters.plugins import greet

        scheduler = self.scheduler_host or self.hosts[0]
        with self.certified() as files:
            settings = settings_of(SILENCE_IRREPLACEABLE)
            # dask waits for the line of its log in which each worker tells its address.
            environment = environment_of(
                {}, {"DASK_LOGGING__DISTRIBUTED": "info"} | self.environment
            )
            settings["distributed.nanny.pre-spawn-environ"] = environment
            # Nobody would replace a nanny that dask takes for lost, and ends.
            settings["distributed.deploy.lost-worker-timeout"] = "10000 days"
            if files:
                settings |= files.settings()
            with dask.config.set(settings):
                try:
                    cluster = SSHCluster(
                        [scheduler, *self.hosts],
                        connect_options=self._connection(),
                        worker_options={
                            "n_workers": self.workers_per_host,
                            "nthreads": 1,
                            "memory_limit": self.memory_per_worker,
                            "dashboard": False,
                        },
                        scheduler_options={
                            "host": scheduler,
                            "port": 0,
                            "dashboard": self.dashboard is not None,
                            "dashboard_address": self.dashboard or "127.0.0.1:0",
                            "idle_timeout": ORPHANED,
                        },
                        remote_python=self.python,
                        security=files.security() if files else None,
                        silence_logs="ERROR",
                    )
                except Exception as problem:
                    raise ClusterError(
                        f"the workers on {', '.join(self.hosts)} cannot be started by SSH: "
                        f"{problem or type(problem).__name__}; does "
                        f"'ssh {self.hosts[0]} {self.python or 'python3'} -c \"import atomlake\"' "
                        "work?"
                    ) from problem
                with cluster, Client(cluster) as client:
                    yield greet(client)

    def _connection(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "port": self.port,
            "known_hosts": str(self.known_hosts.expanduser()),
        }
        if self.user is not None:
            options["username"] = self.user
        if self.identity is not None:
            options["client_keys"] = [str(self.identity.expanduser())]
        return options
