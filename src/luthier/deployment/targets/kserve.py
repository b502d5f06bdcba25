"""KServe: an InferenceService whose predictor is the container that Kubernetes runs too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import Shipped, Where
from .pod import around, container, secrets_told
from .written import label, yaml


def render(shipped: Shipped, where: Where) -> Mapping[str, str]:
    return {
        "inferenceservice.yaml": yaml(service(shipped, where)),
        "README.md": _readme(shipped, where),
    }


def service(shipped: Shipped, where: Where) -> dict[str, Any]:
    name, space = label(shipped.name), where.namespace
    hosts = (
        f"{name}.{space}.example.com",
        f"{name}-predictor.{space}.svc.cluster.local",
        f"{name}-predictor.{space}",
    )
    told = {
        "luthier/name": shipped.name, "luthier/rendered-from": shipped.ref, "luthier/release": shipped.release_digest,
        "serving.kserve.io/deploymentMode": "RawDeployment",
    }  # fmt: skip
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": space, "annotations": told},
        "spec": {
            "predictor": {
                "minReplicas": where.replicas,
                "maxReplicas": where.replicas,
                **around(shipped),
                "containers": [container(shipped, where, "kserve-container", hosts)],
            }
        },
    }


def _readme(shipped: Shipped, where: Where) -> str:
    return f"""\
# {shipped.ref} on KServe

{secrets_told(shipped, where.namespace)}
Then `kubectl apply -f inferenceservice.yaml`. The hosts after --allow-host are what clients may call it by: put your ingress domain in
place of example.com. Versions are rolled out by `luthier rollout`, not by KServe's canaryTrafficPercent, which would move requests
without keeping a user at one version and without the rule.

Checked: against the schema of v1beta1 InferenceService that KServe publishes, unknown fields included, and the container against that of
Kubernetes. Not checked: KServe's own admission webhook, and that your cluster has the mode RawDeployment.
"""
