"""What every worker of every kind of cluster does beside its tasks."""

from __future__ import annotations

import os
import threading

from distributed import Worker, WorkerPlugin


class LeaveAtOnce(WorkerPlugin):  # type: ignore[misc]
    """Ends the process when the worker closes, with no tidying up.

    A worker keeps nothing that is not in the lake, and Python takes seconds to take apart an
    interpreter full of compiled kernels: longer than dask waits before it kills the process.
    """

    def teardown(self, worker: Worker) -> None:
        """Leave as soon as the scheduler has been told."""
        threading.Timer(0.05, os._exit, (0,)).start()


class WorkInFolder(WorkerPlugin):  # type: ignore[misc]
    """Makes the driver's folder the worker's, from where relative paths of sources start.

    Parameters
    ----------
    folder : str
        The driver's current folder. A worker that does not have it stays where it is, and
        paths that are not relative mean the same there too.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def setup(self, worker: Worker) -> None:
        """Go there."""
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
