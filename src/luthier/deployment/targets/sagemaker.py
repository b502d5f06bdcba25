"""Amazon SageMaker: what create_model, create_endpoint_config and create_endpoint are called with. Answered by AWS's vLLM container,
which speaks SageMaker's own protocol (/ping, /invocations) and hands chat requests to vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import Shipped, Where
from .vllm import left_out, served_as
from .written import pretty

INSTANCE = "ml.g5.xlarge"


def render(shipped: Shipped, where: Where) -> Mapping[str, str]:
    calls = requests(shipped, where)
    return {**{f"{name}.json": pretty(told) for name, told in calls.items()}, "README.md": _readme(shipped)}


def requests(shipped: Shipped, where: Where) -> dict[str, dict[str, Any]]:
    """Operation -> parameters. ${...} is filled in by whoever applies it."""
    name = served_as(shipped)
    tags = [
        {"Key": "luthier-release", "Value": shipped.release_digest},
        {"Key": "luthier-ref", "Value": shipped.ref},
    ]
    return {
        "create_model": {
            "ModelName": name,
            "ExecutionRoleArn": "${SAGEMAKER_ROLE_ARN}",
            "EnableNetworkIsolation": True,
            "PrimaryContainer": {
                "Image": where.image,
                "ModelDataSource": {
                    "S3DataSource": {
                        "S3Uri": f"s3://${{BUCKET}}/{name}/", "S3DataType": "S3Prefix", "CompressionType": "None",
                    }
                },
                "Environment": {
                    "SM_VLLM_MODEL": "/opt/ml/model", "SM_VLLM_SERVED_MODEL_NAME": name, "HF_HUB_OFFLINE": "1",
                },
            },
            "Tags": tags,
        },
        "create_endpoint_config": {
            "EndpointConfigName": name,
            "ProductionVariants": [
                {
                    "VariantName": name, "ModelName": name, "InstanceType": INSTANCE,
                    "InitialInstanceCount": where.replicas, "InitialVariantWeight": 1.0,
                    "ModelDataDownloadTimeoutInSeconds": 1200, "ContainerStartupHealthCheckTimeoutInSeconds": 600,
                }
            ],
            "KmsKeyId": "${KMS_KEY_ID}",
            "Tags": tags,
        },
        "create_endpoint": {"EndpointName": name, "EndpointConfigName": name, "Tags": tags},
    }  # fmt: skip


def _readme(shipped: Shipped) -> str:
    name = served_as(shipped)
    return f"""\
# {shipped.ref} on Amazon SageMaker

    luthier export {shipped.ref} {name} --form merged
    aws s3 cp --recursive {name} s3://$BUCKET/{name}/
    export SAGEMAKER_ROLE_ARN BUCKET KMS_KEY_ID
    for call in create_model create_endpoint_config create_endpoint; do
        envsubst < $call.json > /tmp/$call.json
        aws sagemaker "$(echo $call | tr _ -)" --cli-input-json file:///tmp/$call.json
    done

`--image` is AWS's vLLM container for SageMaker, by digest. The container has no network (EnableNetworkIsolation); who may call it is
IAM's matter, not API keys'. Each version is a model and an endpoint configuration of its own: going back is update_endpoint
with the one before. A 7-billion model in 16 bits wants {INSTANCE} or larger; change it in create_endpoint_config.json.

{left_out(shipped)}
Checked: all three calls against botocore's model of the service (names, types, lengths, what is needed). Not checked: that the role, the
bucket and the instance are yours to use, and a running endpoint.
"""
