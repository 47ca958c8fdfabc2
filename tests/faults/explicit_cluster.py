"""Runs a recipe on a cluster of which every part is a process of its own.

::

    python tests/faults/explicit_cluster.py RECIPE
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from distributed import Client

from atomlake import recipe as recipes
from atomlake.clusters.base import Cluster
from atomlake.engine.run import run

N_WORKERS = 2


class Explicit(Cluster):
    """Scheduler and workers that somebody else started."""

    kind: ClassVar[str] = "explicit"
    title: ClassVar[str] = "a scheduler at an address"

    address: str

    @property
    def n_workers(self) -> int:
        return N_WORKERS

    @property
    def memory_per_worker(self) -> int:
        return 10**9

    @contextmanager
    def open(self) -> Iterator[Client]:
        with Client(self.address, timeout=30) as client:
            yield client


def main(recipe: str) -> int:
    """Start all processes, wait for the driver, and return its exit code."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    here = ["--host", "127.0.0.1", "--no-dashboard"]
    subprocess.Popen([*dask, "scheduler", "--port", str(port), *here])
    for _ in range(N_WORKERS):
        subprocess.Popen(
            [*dask, "worker", address, "--nthreads", "1", "--nanny", *here, "--death-timeout", "20"]
        )
    driver = [sys.executable, __file__, recipe, "--driver", address]
    return subprocess.run(driver, check=False).returncode


def drive(recipe: str, address: str) -> None:
    """Run the recipe on the cluster."""
    asked = recipes.load(recipe)
    run(asked.model_copy(update={"cluster": Explicit(address=address)}))


if __name__ == "__main__":
    if "--driver" in sys.argv:
        drive(sys.argv[1], sys.argv[3])
    else:
        sys.exit(main(sys.argv[1]))
