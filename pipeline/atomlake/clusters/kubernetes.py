"""Kubernetes: the dask operator starts a scheduler and workers as pods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from pydantic import Field, PositiveFloat, model_validator

from atomlake.clusters.remote import (
    SILENCE_REPLACED,
    Remote,
    environment_of,
    settings_of,
)
from atomlake.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client


class Kubernetes(Remote):
    """Pods that the dask operator starts, keeps running, and replaces."""

    kind: ClassVar[str] = "kubernetes"
    title: ClassVar[str] = "pods of Kubernetes, through the dask operator"
    example: ClassVar[dict[str, Any]] = {
        "image": "registry.example.org/atomlake:0.1.0",
        "workers": 8,
        "memory": "4GB",
        "tls": False,
        "claims": {"lakes": "/lakes"},
    }

    image: str = Field(description="Container image with this version of atomlake.")
    name: str = Field(
        default="atomlake",
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        max_length=50,
        description="Name of the DaskCluster object.",
    )
    namespace: str = Field(default="default", description="Namespace of the pods.")
    cpu: PositiveFloat = Field(default=1.0, description="Cores that one worker asks for.")
    claims: dict[str, str] = Field(
        default_factory=dict,
        description="Persistent volume claims of lake and sources: name to folder in the pods.",
    )
    secrets: tuple[str, ...] = Field(
        default=(), description="Secrets whose keys become variables of the workers (buckets)."
    )

    @model_validator(mode="after")
    def _plain_inside(self) -> Kubernetes:
        if self.tls:
            raise ValueError(
                "the dask operator speaks plain TCP to its pods (the driver reaches them through "
                "the API server, encrypted): let nobody else in with "
                "cluster/kubernetes/network-policy.yaml, and say tls: false"
            )
        return self

    def script(self) -> str:
        """Return the DaskCluster object that the operator would be given."""
        return yaml.safe_dump(_without_nulls(self._specification()), sort_keys=False)

    @contextmanager
    def open(self) -> Iterator[Client]:
        """Create the object, wait for its scheduler, and delete it on leaving."""
        import dask
        from distributed import Client

        from atomlake.clusters.plugins import greet

        operator = self._operator()
        settings = settings_of(SILENCE_REPLACED)
        with dask.config.set(settings):
            try:
                cluster = operator.KubeCluster(
                    namespace=self.namespace, custom_cluster_spec=self._specification()
                )
            except Exception as problem:
                raise ClusterError(
                    f"the DaskCluster {self.name!r} cannot be started in namespace "
                    f"{self.namespace!r}: {problem}; is the dask operator installed, and does "
                    "kubectl reach the cluster?"
                ) from problem
            with cluster, Client(cluster) as client:
                yield greet(client)

    def _specification(self) -> dict[str, Any]:
        settings = settings_of(SILENCE_REPLACED)
        quantities = {"cpu": f"{self.cpu:g}", "memory": str(self.memory_per_worker)}
        command = ["dask", "worker", "--nthreads", "1", "--nworkers", "1"]
        command += ["--memory-limit", str(self.memory_per_worker)]
        specification: dict[str, Any] = self._operator().make_cluster_spec(
            name=self.name,
            image=self.image,
            n_workers=self.workers,
            resources={"requests": quantities, "limits": {"memory": quantities["memory"]}},
            env=environment_of(settings, self.environment),
            worker_command=command,
        )
        for role in ("worker", "scheduler"):
            pod = specification["spec"][role]["spec"]
            container = pod["containers"][0]
            pod["volumes"] = [
                {"name": name, "persistentVolumeClaim": {"claimName": name}} for name in self.claims
            ]
            container["volumeMounts"] = [
                {"name": name, "mountPath": folder} for name, folder in self.claims.items()
            ]
            container["envFrom"] = [{"secretRef": {"name": name}} for name in self.secrets]
        return specification

    def _operator(self) -> Any:
        try:
            from dask_kubernetes import operator
        except ImportError as problem:
            raise ClusterError(
                f"cluster kind 'kubernetes' needs the package dask-kubernetes ({problem}): "
                "pip install 'atomlake[kubernetes]'"
            ) from problem
        return operator


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value
