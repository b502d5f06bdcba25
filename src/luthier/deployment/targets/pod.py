"""The container that serves a release, as Kubernetes and KServe both describe it.

It starts `luthier serve NAME`, which follows the rollouts of NAME: so a new version needs no new manifest. Weights come from the blob
store by their SHA-256 into a folder that goes with the pod. Secrets (database, blob store, API keys) are named, never written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import PORT, UID, Shipped, Where
from .written import gibibytes, label

HOME, KEYS = "/var/lib/luthier", "/run/secrets/luthier"
START_S = 600
"""How long fetching and loading may take before a pod is given up."""


def secret(shipped: Shipped) -> str:
    return f"{label(shipped.name)}-luthier"


def memory_bytes(shipped: Shipped, where: Where) -> float:
    """What a pod may need: two versions during a rollout, twice their weights where a processor computes in 32 bits, and 2 GiB."""
    return 2 * shipped.weights_bytes * (1 if where.gpus else 2) + 2 * 2**30


def container(shipped: Shipped, where: Where, name: str, hosts: tuple[str, ...]) -> dict[str, Any]:
    """`hosts`: what clients may call it by."""
    needed, gpu = (
        gibibytes(memory_bytes(shipped, where)),
        {"nvidia.com/gpu": str(where.gpus)} if where.gpus else {},
    )
    health = {"path": "/healthz", "port": PORT}
    return {
        "name": name,
        "image": where.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [shipped.name, *(word for host in hosts for word in ("--allow-host", host))],
        "env": [
            {"name": "LUTHIER_HOME", "value": HOME},
            {"name": "LUTHIER_KEY_FILE", "value": f"{KEYS}/keys"},
            {"name": "LUTHIER_DATABASE", "valueFrom": _from(shipped, "database")},
            {"name": "LUTHIER_BLOBS", "valueFrom": _from(shipped, "blobs")},
        ],
        "envFrom": [{"secretRef": {"name": f"{secret(shipped)}-blobs", "optional": True}}],
        "ports": [{"name": "http1", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": "1", "memory": needed, "ephemeral-storage": gibibytes(4 * shipped.weights_bytes + 2**30), **gpu},
            "limits": {"memory": needed, **gpu},
        },
        "startupProbe": {"httpGet": health, "periodSeconds": 5, "failureThreshold": START_S // 5},
        "readinessProbe": {"httpGet": health, "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 10, "failureThreshold": 6},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "home", "mountPath": HOME},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  a folder of the pod's own
            {"name": "keys", "mountPath": KEYS, "readOnly": True},
        ],
    }  # fmt: skip


def around(shipped: Shipped) -> dict[str, Any]:
    """What a pod with that container has beside it. The server drains for 20 s after SIGTERM."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 40,
        "securityContext": {"runAsNonRoot": True, "fsGroup": UID, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "home", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {
                "name": "keys",
                "secret": {"secretName": secret(shipped), "defaultMode": 0o440, "items": [{"key": "keys", "path": "keys"}]},
            },
        ],
    }  # fmt: skip


def _from(shipped: Shipped, key: str) -> Mapping[str, Any]:
    return {"secretKeyRef": {"name": secret(shipped), "key": key}}


def secrets_told(shipped: Shipped, namespace: str) -> str:
    """How the secrets are made, for a README."""
    return f"""\
The secret `{secret(shipped)}` holds what is not written here; keys are made by `luthier serve` without --key-file, which shows one:

    kubectl -n {namespace} create secret generic {secret(shipped)} \\
        --from-file=keys=./keys --from-file=database=./database-url --from-file=blobs=./blobs-url

`database` is a PostgreSQL URL (LUTHIER_DATABASE) and `blobs` an object store's (LUTHIER_BLOBS), each in a file without a line end: the
same that `luthier run` wrote the release to. Credentials of the object store go into `{secret(shipped)}-blobs`, one variable a key.
"""
