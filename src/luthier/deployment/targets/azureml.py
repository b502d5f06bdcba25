"""Azure Machine Learning: a managed online endpoint, and a deployment of the image that `container` builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.errors import SpecError

from . import PORT, Shipped, Where
from .vllm import served_as
from .written import label, yaml

ENDPOINT = "https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json"
LONGEST = 32
"""Of an endpoint's name there."""
INSTANCES = {
    0: "Standard_E4s_v3",
    1: "Standard_NC24ads_A100_v4",
    2: "Standard_NC48ads_A100_v4",
    4: "Standard_NC96ads_A100_v4",
}
"""By their GPUs."""
DEPLOYMENT = "https://azuremlschemas.azureedge.net/latest/managedOnlineDeployment.schema.json"


def render(shipped: Shipped, where: Where) -> Mapping[str, str]:
    made = documents(shipped, where)
    return {**{f"{name}.yaml": yaml(told) for name, told in made.items()}, "README.md": _readme(shipped)}


def documents(shipped: Shipped, where: Where) -> dict[str, dict[str, Any]]:
    if where.gpus not in INSTANCES:
        raise SpecError(
            f"no instance that is written for azureml has {where.gpus} GPUs.",
            remedy=f"Take {', '.join(map(str, INSTANCES))}, or change instance_type in deployment.yaml.",
        )
    name = label(shipped.name, LONGEST)
    deployment = f"v{shipped.version}"
    tags = {"luthier-ref": shipped.ref, "luthier-release": shipped.release_digest}
    health = {"path": "/healthz", "port": PORT}
    secret = lambda key: f"${{{{azureml://connections/{name}-luthier/credentials/{key}}}}}"  # noqa: E731
    return {
        "endpoint": {
            "$schema": ENDPOINT,
            "name": name,
            "auth_mode": "aad_token",
            "public_network_access": "disabled",
            "tags": tags,
        },
        "deployment": {
            "$schema": DEPLOYMENT,
            "name": deployment,
            "endpoint_name": name,
            "environment": {
                "name": served_as(shipped),
                "image": where.image,
                "inference_config": {
                    "liveness_route": health,
                    "readiness_route": health,
                    "scoring_route": {"path": "/v1/chat/completions", "port": PORT},
                },
            },
            "environment_variables": {
                "LUTHIER_SERVE": shipped.ref,
                "LUTHIER_HOME": "/tmp/luthier",  # noqa: S108  the container's own
                "LUTHIER_DATABASE": secret("DATABASE"),
                "LUTHIER_BLOBS": secret("BLOBS"),
                "LUTHIER_KEYS": secret("KEYS"),
            },
            "instance_type": INSTANCES[where.gpus],
            "instance_count": where.replicas,
            "egress_public_network_access": "disabled",
            "request_settings": {"request_timeout_ms": 90_000, "max_concurrent_requests_per_instance": 40},
            "liveness_probe": {"initial_delay": 60, "period": 10, "timeout": 2, "failure_threshold": 60},
            "readiness_probe": {"initial_delay": 10, "period": 10, "timeout": 2, "failure_threshold": 60},
            "tags": tags,
        },
    }


def _readme(shipped: Shipped) -> str:
    name = label(shipped.name, LONGEST)
    return f"""\
# {shipped.ref} on Azure Machine Learning

Build the image (`luthier deploy render {shipped.ref} --to container`) and push it to the workspace's registry; `--image` is its digest there.
Make a connection `{name}-luthier` of kind custom with the secrets DATABASE, BLOBS and KEYS. Then

    az ml online-endpoint create -f endpoint.yaml
    az ml online-deployment create -f deployment.yaml --all-traffic

This serves one version, {shipped.ref}: a deployment is a version there, and its traffic is moved by `az ml online-endpoint update --traffic`.
Azure's own token is in the header Authorization, where Luthier wants its key: put a gateway in front that sends the key, or call it
inside the network.

Checked: both files by the loader of the SDK (azure-ai-ml, `load_online_endpoint` and `load_online_deployment`), when this target was
written and not in the tests. Not checked: a running endpoint, quotas, and that the connection is there.
"""
