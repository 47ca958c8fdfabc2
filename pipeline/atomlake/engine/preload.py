"""Imported by the process that local workers are forked from, and by each remote worker."""

from contextlib import suppress

from atomlake.errors import KernelCacheError

with suppress(KernelCacheError):  # the driver tells of it
    from atomlake.engine import tasks

    tasks.load_common_kernels()


def dask_setup(_: object) -> None:
    """Compile what every unit needs, or load it, before the worker joins its scheduler."""
    tasks.warm([])
