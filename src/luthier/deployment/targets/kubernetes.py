"""Plain Kubernetes: a Deployment with its Service, account, disruption budget and network policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import PORT, Shipped, Where
from .pod import around, container, secrets_told
from .written import label, yaml


def render(shipped: Shipped, where: Where) -> Mapping[str, str]:
    return {"manifests.yaml": yaml(*manifests(shipped, where)), "README.md": _readme(shipped, where)}


def manifests(shipped: Shipped, where: Where) -> list[dict[str, Any]]:
    name, space = label(shipped.name), where.namespace
    picked = {"app.kubernetes.io/name": name}
    labels = {**picked, "app.kubernetes.io/managed-by": "luthier"}
    told = {
        "luthier/name": shipped.name,
        "luthier/rendered-from": shipped.ref,
        "luthier/release": shipped.release_digest,
    }
    meta = {"name": name, "namespace": space, "labels": labels, "annotations": told}
    hosts = (name, f"{name}.{space}", f"{name}.{space}.svc", f"{name}.{space}.svc.cluster.local")
    served = container(shipped, where, "luthier", hosts)
    # the endpoint is taken out of the Service first, and only then is the server told to stop
    served["lifecycle"] = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    spread = {
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": picked},
    }  # fmt: skip
    pod = {
        "metadata": {"labels": labels, "annotations": told},
        "spec": {
            "serviceAccountName": name,
            **around(shipped),
            "topologySpreadConstraints": [spread],
            "containers": [served],
        },
    }
    found: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta, "automountServiceAccountToken": False},
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
            "spec": {
                "replicas": where.replicas,
                "selector": {"matchLabels": picked},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": pod,
            },
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": meta,
            "spec": {"selector": picked, "ports": [{"name": "http", "port": 80, "targetPort": PORT, "protocol": "TCP"}]},
        },
        {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta,
            "spec": {
                "podSelector": {"matchLabels": picked},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": PORT, "protocol": "TCP"}]}],
            },
        },
    ]  # fmt: skip
    if where.replicas > 1:
        budget = {"maxUnavailable": 1, "selector": {"matchLabels": picked}}
        found.append(
            {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": budget}
        )
    return found


def _readme(shipped: Shipped, where: Where) -> str:
    return f"""\
# {shipped.ref} on Kubernetes

{secrets_told(shipped, where.namespace)}
Then `kubectl apply -f manifests.yaml`. Inside the cluster: http://{label(shipped.name)}.{where.namespace}/v1, from pods of the same
namespace alone. Every pod follows the rollouts of {shipped.name} in that database: `luthier rollout start {shipped.name}@N` moves requests
in all of them, and one user gets the same version from each.

Memory is for two versions at once (a rollout), and counts 32-bit numbers where there is no GPU.

Checked: the manifests against the schemas of Kubernetes (kubernetes-validate). Not checked: that your cluster admits them (its policies,
its GPU plugin's name for a GPU), and that the sizes suit your traffic.
"""
