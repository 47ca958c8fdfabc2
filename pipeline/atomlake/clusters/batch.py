"""What all batch systems share: jobs that each start workers, submitted by dask-jobqueue."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator

from atomlake.clusters.certificates import Certificates, private_folder
from atomlake.clusters.remote import (
    SILENCE_REPLACED,
    Remote,
    environment_of,
    exports,
    settings_of,
)
from atomlake.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

#: Part of a job's wall time after which its workers retire, and by how much they differ, so
#: that they do not all leave at once. Shorter jobs run into the wall: their tasks are repeated.
LIFETIME, STAGGER, SHORTEST = 0.85, 0.1, timedelta(minutes=10)


class Batch(Remote):
    """Settings of a cluster whose workers are jobs of a batch system."""

    #: Class of dask-jobqueue that submits the jobs.
    jobqueue: ClassVar[str]

    site: Path | None = Field(
        default=None, description="YAML file of settings that the recipe's own keys override."
    )
    workers_per_job: PositiveInt = Field(default=1, description="Worker processes of one job.")
    walltime: timedelta = Field(
        default=timedelta(hours=1),
        description='Time limit of one job, such as "08:00:00"; a job that ends is replaced.',
    )
    queue: str | None = Field(default=None, description="Queue or partition.")
    account: str | None = Field(default=None, description="Account or project that is charged.")
    directives: tuple[str, ...] = Field(
        default=(), description="More directives of the job script, such as --qos=long."
    )
    prologue: tuple[str, ...] = Field(
        default=(), description="Shell lines before a worker starts, such as module load."
    )
    python: str | None = Field(
        default=None, description="Python of the workers; the driver's if not given."
    )
    interface: str | None = Field(
        default=None, description="Network interface of driver and workers, such as ib0."
    )
    local_folder: Path = Field(default=Path("/tmp"), description="Folder on the worker's own disk.")

    @model_validator(mode="before")
    @classmethod
    def _of_the_site(cls, value: Any) -> Any:
        """Take what the site's file says, and let the recipe's own keys win."""
        if not isinstance(value, dict) or "site" not in value:
            return value
        settings = dict(value)
        path = Path(str(settings["site"])).expanduser()
        try:
            site = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
            raise ValueError(f"the site file {path} cannot be read: {problem}") from problem
        if not isinstance(site, dict):
            raise ValueError(f"the site file {path} is not a mapping of cluster settings")
        kind = site.pop("kind", cls.kind)
        if kind != cls.kind:
            raise ValueError(
                f"the site file {path} is for {kind!r} and the recipe for {cls.kind!r}"
            )
        return site | settings

    @field_validator("walltime")
    @classmethod
    def _some_time(cls, value: timedelta) -> timedelta:
        if value < timedelta(minutes=1):
            raise ValueError("a job needs a walltime of a minute at least")
        return value

    @property
    def n_jobs(self) -> int:
        """Jobs that are kept running."""
        return -(-self.workers // self.workers_per_job)

    def script(self) -> str:
        """Return the script of one job; the addresses in capitals are known once it runs."""
        files = Certificates.in_folder(self.shared_folder.expanduser() / "CERTIFICATES")
        options = self._options(files if self.tls else None)
        protocol = "tls" if self.tls else "tcp"
        security = options.pop("security")
        job = self._cluster_class().job_cls(
            f"{protocol}://SCHEDULER:PORT", name="WORKER", security=security, **options
        )
        return str(job.job_script())

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Start the scheduler in this process and keep the jobs running until it is left."""
        import dask
        from distributed import Client

        from atomlake.clusters.plugins import greet

        settings = settings_of(SILENCE_REPLACED)
        with (
            dask.config.set(settings),
            self.certified() as files,
            self._cluster_class()(
                scheduler_options={
                    "dashboard_address": self.dashboard or "127.0.0.1:0",
                    "dashboard": self.dashboard is not None,
                },
                silence_logs="ERROR",
                **self._options(files),
            ) as cluster,
        ):
            # The number of jobs is not set once but watched, so that lost ones are replaced.
            cluster.adapt(minimum_jobs=self.n_jobs, maximum_jobs=self.n_jobs, interval="2s")
            with Client(cluster) as client:
                yield greet(client)

    @abstractmethod
    def _directives(self) -> dict[str, Any]:
        """Return the options of dask-jobqueue that only this batch system has."""

    def _options(self, files: Certificates | None) -> dict[str, Any]:
        logs = private_folder(self.shared_folder) / "logs"
        environment = environment_of(settings_of(SILENCE_REPLACED), self.environment)
        arguments = ["--no-dashboard"]
        if self.walltime >= SHORTEST:
            seconds = self.walltime.total_seconds()
            arguments += ["--lifetime", f"{LIFETIME * seconds:.0f}s"]
            arguments += ["--lifetime-stagger", f"{STAGGER * seconds:.0f}s"]
        return {
            "cores": self.workers_per_job,
            "processes": self.workers_per_job,
            "memory": f"{self.memory_per_worker * self.workers_per_job}B",
            "job_name": "atomlake",
            "python": self.python,
            "interface": self.interface,
            "local_directory": str(self.local_folder),
            "log_directory": str(logs),
            "job_script_prologue": [*self.prologue, *exports(environment)],
            "job_extra_directives": list(self.directives),
            "worker_extra_args": arguments,
            "death_timeout": 120,
            "protocol": "tls://" if files else None,
            "security": files.security() if files else None,
            **self._directives(),
        }

    def _cluster_class(self) -> Any:
        module, name = self.jobqueue.split(":")
        try:
            return getattr(import_module(module), name)
        except ImportError as problem:
            raise ClusterError(
                f"cluster kind {self.kind!r} needs the package dask-jobqueue ({problem}): "
                "pip install 'atomlake[batch]'"
            ) from problem


def clock(walltime: timedelta) -> str:
    """Return a time limit as hours:minutes:seconds."""
    minutes, seconds = divmod(int(walltime.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}"
