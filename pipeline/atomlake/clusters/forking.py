"""The process that local workers are forked from.

It needs nothing of ours to be started, so that it can import while its starter still does.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver

#: Environment of every worker: one kernel thread per process, whatever library asks. What goes
#: wrong in a task is told by the driver, so that dask need not.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "DASK_LOGGING__DISTRIBUTED": "critical",
}

#: Module that gets a process ready for units.
PRELOAD = "atomlake.engine.preload"

#: What a worker process imports before its first task.
WORKER_MODULES = [PRELOAD]


def start() -> None:
    """Start the process unless it runs, and do not wait for it.

    It imports what workers need, once for all of them. It has a single thread, as a process
    that is forked must, because no library may start others.
    """
    multiprocessing.set_forkserver_preload(WORKER_MODULES)
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
