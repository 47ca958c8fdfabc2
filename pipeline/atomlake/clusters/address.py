"""Workers that somebody else started: all that is known of them is the scheduler's address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from pydantic import ByteSize, Field, PositiveInt, model_validator

from atomlake.clusters.base import Cluster
from atomlake.clusters.certificates import Certificates
from atomlake.clusters.remote import SILENCE_IRREPLACEABLE, settings_of
from atomlake.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client

#: Seconds that a scheduler is given to answer.
PATIENCE = 30


class Address(Cluster):
    """A dask scheduler that is running, on this machine or elsewhere."""

    kind: ClassVar[str] = "address"
    title: ClassVar[str] = "a dask scheduler that is running"
    example: ClassVar[dict[str, Any]] = {
        "scheduler": "tls://login1:8786",
        "certificates": {
            "authority": "authority.pem",
            "certificate": "cluster.pem",
            "key": "cluster.key",
        },
    }

    scheduler: str = Field(description="Its address, such as tls://host:8786.")
    workers: PositiveInt = Field(
        default=1, description="Workers that are expected; more are used as they come."
    )
    memory: ByteSize = Field(default=ByteSize(4 * 10**9), description="Memory of one worker.")
    certificates: Certificates | None = Field(
        default=None, description="What the scheduler asks for; needed off this machine."
    )
    plain: bool = Field(
        default=False, description="Speak without encryption to another machine all the same."
    )

    @model_validator(mode="after")
    def _encrypted_off_this_machine(self) -> Address:
        parts = urlsplit(self.scheduler)
        if parts.scheme not in ("tcp", "tls") or not parts.hostname or not parts.port:
            raise ValueError(f"{self.scheduler!r} is no address such as tls://host:8786")
        if parts.scheme == "tls" and self.certificates is None:
            raise ValueError("a tls:// scheduler needs certificates (authority, certificate, key)")
        if parts.scheme == "tcp" and not (self.plain or _is_this_machine(parts.hostname)):
            raise ValueError(
                f"{self.scheduler} is on another machine and not encrypted: whoever reaches it "
                "can run anything as you. Start it with certificates (cluster/certificates.sh) "
                "and give tls://, or say plain: true"
            )
        return self

    @property
    def n_workers(self) -> int:
        """Workers that are expected."""
        return self.workers

    @property
    def memory_per_worker(self) -> int:
        """Bytes that one worker may use."""
        return int(self.memory)

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Connect; the scheduler and its workers go on after leaving."""
        import dask
        from distributed import Client

        from atomlake.clusters.plugins import greet

        security = self.certificates.security() if self.certificates else None
        with dask.config.set(settings_of(SILENCE_IRREPLACEABLE)):
            try:
                client = Client(self.scheduler, security=security, timeout=PATIENCE)
            except (OSError, ValueError, TypeError) as problem:
                raise ClusterError(
                    f"no scheduler answers at {self.scheduler} within {PATIENCE} s ({problem}); "
                    "is it running, and are these its certificates?"
                ) from problem
            with client:
                yield greet(client, leave_at_once=False)


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
