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
        "address": "atomlake.clusters.address:Address",
        "htcondor": "atomlake.clusters.htcondor:HtCondor",
        "kubernetes": "atomlake.clusters.kubernetes:Kubernetes",
        "local": "atomlake.clusters.local:Local",
        "lsf": "atomlake.clusters.lsf:Lsf",
        "pbs": "atomlake.clusters.pbs:Pbs",
        "sge": "atomlake.clusters.sge:GridEngine",
        "slurm": "atomlake.clusters.slurm:Slurm",
        "slurm-allocation": "atomlake.clusters.slurm_allocation:SlurmAllocation",
        "ssh": "atomlake.clusters.ssh:Ssh",
    },
)

names = _REGISTRY.names
get = _REGISTRY.get
