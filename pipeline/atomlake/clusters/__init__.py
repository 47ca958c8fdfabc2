"""Where the work runs: one file per kind of cluster, one line each in the registry below."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atomlake.registry import Registry

if TYPE_CHECKING:
    from atomlake.clusters.base import Cluster

_REGISTRY: Registry[Cluster] = Registry(
    "cluster kind",
    "atomlake.clusters",
    {
        "local": "atomlake.clusters.local:Local",
    },
)

names = _REGISTRY.names
get = _REGISTRY.get
