"""Where the work runs: one file per kind of cluster, one line each in the registry below."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atomlake.clusters.base import Cluster

_REGISTRY: dict[str, str] = {
    "local": "atomlake.clusters.local:Local",
}


def names() -> list[str]:
    """Names of every kind of cluster, those of installed packages included."""
    return sorted({*_REGISTRY, *(e.name for e in entry_points(group="atomlake.clusters"))})


def get(name: str) -> type[Cluster]:
    """Return the class of a registered kind of cluster.

    Raises
    ------
    KeyError
        If no kind has that name.
    """
    if name in _REGISTRY:
        module, _, attribute = _REGISTRY[name].partition(":")
        return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
    for entry in entry_points(group="atomlake.clusters"):
        if entry.name == name:
            return entry.load()  # type: ignore[no-any-return]
    raise KeyError(f"no cluster kind is called {name!r}; there are {names()}")
