"""Imported by the process that local workers are forked from, and by each remote worker."""

# ruff: noqa: E402 - What is imported stays: to look for garbage in it takes a tenth of the time, and
# would have each forked process copy it.
import gc

gc.disable()

from contextlib import suppress

import distributed.nanny
import distributed.worker  # noqa: F401

from atomlake.errors import KernelCacheError

with suppress(KernelCacheError):  # the driver tells of it
    from atomlake.engine import tasks

    tasks.load_common_kernels()

gc.freeze()
# Reading makes many small objects and no cycles: to look for garbage after every 2,000 of them, as
# Python does, takes a sixth of the time of reading.
gc.set_threshold(50_000, 20, 100)
gc.enable()


def dask_setup(_: object) -> None:
    """Compile what every unit needs, or load it, before the worker joins its scheduler."""
    from atomlake.engine import tasks

    tasks.warm([])
