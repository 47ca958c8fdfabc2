"""What all clusters share whose workers are on other machines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import ByteSize, Field, PositiveInt

from atomlake.clusters import certificates
from atomlake.clusters.base import DASK_SETTINGS, Cluster
from atomlake.clusters.forking import PRELOAD, WORKER_ENVIRONMENT

#: Seconds of silence after which a worker counts as lost: short where something starts
#: another one (dask accepts no less than 11 s), long where nothing does, because a worker
#: that was counted as lost leaves and does not come back.
SILENCE_REPLACED = "30s"
SILENCE_IRREPLACEABLE = "300s"

#: Settings that worker processes read from their own environment.
_OF_WORKERS = ("distributed.worker.", "distributed.comm.", "distributed.admin.")


class Remote(Cluster):
    """Settings of a cluster whose workers are on other machines."""

    workers: PositiveInt = Field(default=1, description="Worker processes that are asked for.")
    memory: ByteSize = Field(default=ByteSize(4 * 10**9), description="Memory of one worker.")
    tls: bool = Field(
        default=True, description="Encrypt and authenticate what driver and workers say."
    )
    dashboard: str | None = Field(
        default="127.0.0.1:0",
        description="Where the scheduler serves dask's dashboard; null for nowhere.",
    )
    shared_folder: Path = Field(
        default=Path("~/.atomlake"),
        description="Folder that driver and workers both see, for certificates and logs.",
    )
    environment: dict[str, str] = Field(
        default_factory=dict,
        exclude=True,
        repr=False,
        description="Environment variables of the workers; the catalogue does not keep them.",
    )

    @property
    def n_workers(self) -> int:
        """Worker processes that are asked for."""
        return self.workers

    @property
    def memory_per_worker(self) -> int:
        """Bytes that one worker may use."""
        return int(self.memory)

    @property
    def has_dashboard(self) -> bool:
        """Whether dask's dashboard is served somewhere."""
        return self.dashboard is not None

    @contextmanager
    def certified(self) -> Iterator[certificates.Certificates | None]:
        """Issue certificates for one run if ``tls`` asks for them."""
        with certificates.issued(self.shared_folder) if self.tls else nullcontext() as made:
            yield made


def settings_of(silence: str) -> dict[str, Any]:
    """Return dask's settings for the driver, scheduler and workers of a remote cluster.

    Parameters
    ----------
    silence : str
        How long a connection may be silent before the other end counts as lost.
    """
    return DASK_SETTINGS | {
        "distributed.comm.timeouts.tcp": silence,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.scheduler.worker-ttl": "10 minutes",
        "distributed.worker.preload": PRELOAD,
    }


def environment_of(settings: Mapping[str, Any], more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that bring a worker process its settings.

    The variables that hold libraries to one thread are set for the nanny, because what a
    nanny already has wins over what dask would set for its worker.
    """
    names = {
        "DASK_" + name.upper().replace(".", "__").replace("-", "_"): str(value)
        for name, value in settings.items()
        if name.startswith(_OF_WORKERS)
    }
    return WORKER_ENVIRONMENT | names | dict(more)


def exports(environment: Mapping[str, str]) -> list[str]:
    """Return shell lines that set environment variables."""
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
