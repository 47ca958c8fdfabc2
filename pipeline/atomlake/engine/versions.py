"""Versions of the software that decides the numbers and the format."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

PACKAGES = ("atomlake", "numpy", "scipy", "numba", "zarr", "xarray", "deltalake", "ase")


@cache
def versions() -> dict[str, str]:
    """Version of Python and of each package."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
