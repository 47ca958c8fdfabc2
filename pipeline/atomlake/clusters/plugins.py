"""What every worker of every kind of cluster does beside its tasks."""

from __future__ import annotations

import logging
import os
import socket
import threading

from distributed import Client, Worker, WorkerPlugin

from atomlake.clusters.base import LOG_TOPIC


class Conduct(WorkerPlugin):  # type: ignore[misc]
    """Makes a worker start in the driver's folder, report what it logs, and leave at once.

    A worker keeps nothing that is not in the lake, and Python takes seconds to take apart an
    interpreter full of compiled kernels: longer than dask waits before it kills the process.

    Parameters
    ----------
    folder : str
        The driver's current folder, from where relative paths of sources start. A worker that
        does not have it stays where it is; paths that are not relative mean the same there too.
    leaves_at_once : bool
        Whether the process ends with the worker, without tidying up.
    """

    def __init__(self, folder: str, leaves_at_once: bool) -> None:
        self.folder = folder
        self.leaves_at_once = leaves_at_once

    def setup(self, worker: Worker) -> None:
        """Go to the folder, and listen to all logs and warnings of the process."""
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        logging.captureWarnings(True)
        logging.getLogger().addHandler(_ToDriver(worker))

    def teardown(self, worker: Worker) -> None:
        """Leave as soon as the scheduler has been told."""
        if self.leaves_at_once:
            threading.Timer(0.05, os._exit, (0,)).start()


class _ToDriver(logging.Handler):
    """Sends the driver what a worker warns of, whichever library says it."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self.worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self.worker.loop.add_callback(
            self.worker.log_event,
            LOG_TOPIC,
            {
                "worker": f"{socket.gethostname()} {os.getpid()}",
                "level": record.levelname,
                "message": f"{record.name}: {record.getMessage()}",
            },
        )


def greet(client: Client, *, leave_at_once: bool = True) -> Client:
    """Tell the workers of a cluster, and those that join later, how to conduct themselves.

    Parameters
    ----------
    client : Client
        Of the cluster.
    leave_at_once : bool
        Whether the workers are ours, so that their processes may end as it suits us.
    """
    client.register_plugin(Conduct(os.getcwd(), leave_at_once))
    return client
