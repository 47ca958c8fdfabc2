"""Imported by the process that local workers are forked from, and by each remote worker."""

from contextlib import suppress

import scipy.special  # noqa: F401 - tables of radial functions and of MBTR are made with it

from atomlake.errors import KernelCacheError

with suppress(KernelCacheError):  # the driver tells of it
    from atomlake.engine import tasks

    tasks.load_common_kernels()


def dask_setup(_: object) -> None:
    """Compile what every unit needs, or load it, before the worker joins its scheduler."""
    from atomlake.engine import tasks

    tasks.warm([])
