"""vLLM: the adapter beside its base where vLLM reads it, else whole weights; as one command and as values of its production stack.

vLLM knows neither labels nor the package's steps; what it leaves out is told. A version is another name there, always: adapters
that are loaded anew under one name have been answered from the old one's cache (vllm-project/vllm#42125).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.errors import SpecError

from . import Shipped, Where
from .written import gibibytes, label, yaml

MODELS = "/models"


def render(shipped: Shipped, where: Where) -> Mapping[str, str]:
    return {
        "serve.sh": _command(shipped),
        "values.yaml": yaml(values(shipped, where)),
        "README.md": _readme(shipped),
    }


def as_adapter(shipped: Shipped) -> bool:
    return bool(shipped.vllm and shipped.vllm["ready"])


def served_as(shipped: Shipped) -> str:
    return f"{label(shipped.name)}-v{shipped.version}"


def left_out(shipped: Shipped) -> str:
    """What clients lose in comparison with Luthier's own server, for a README."""
    if not shipped.held:
        return "Nothing of how answers are made is lost: this package refines none.\n"
    return f"vLLM does not do what this package asks of answers: {', '.join(shipped.held)}. Measured figures were with it.\n"


def arguments(shipped: Shipped) -> list[str]:
    """After `vllm serve`."""
    name = served_as(shipped)
    if not as_adapter(shipped):
        return [f"{MODELS}/{name}", "--served-model-name", name]
    assert shipped.vllm is not None
    return [
        f"{MODELS}/base", "--enable-lora", "--max-lora-rank", str(shipped.vllm["max_lora_rank"]), "--max-loras", "2",
        "--lora-modules", f"{name}={MODELS}/{name}",
    ]  # fmt: skip


def _command(shipped: Shipped) -> str:
    words = " ".join(arguments(shipped))
    return f"""\
#!/bin/sh
# {shipped.ref} in vLLM. VLLM_API_KEY is read by vLLM itself from the environment.
set -eu
: "${{VLLM_API_KEY:?error: set the key that clients must send}}"
exec vllm serve {words} --host 0.0.0.0 --port 8000 "$@"
"""


def values(shipped: Shipped, where: Where) -> dict[str, Any]:
    """Of the Helm chart vllm/vllm-stack."""
    if not where.gpus:
        raise SpecError(
            "vLLM's production stack runs on GPUs, and none is asked for.", remedy="Add --gpus 1."
        )
    repository, _, tag = where.image.rpartition(":")
    if ":" in (head := where.image.partition("@")[0]).rpartition("/")[2]:
        repository, _, tag = head.rpartition(":")
        tag += where.image[len(head) :]
    words = arguments(shipped)
    spec: dict[str, Any] = {
        "name": served_as(shipped),
        "repository": repository,
        "tag": tag,
        "modelURL": words[0],
        "replicaCount": where.replicas,
        "requestCPU": 2,
        "requestMemory": gibibytes(2 * shipped.weights_bytes + 4 * 2**30),
        "requestGPU": where.gpus,
        "enableLoRA": as_adapter(shipped),
        "vllmConfig": {"tensorParallelSize": where.gpus, "extraArgs": [w for w in words[1:] if w != "--enable-lora"]},
        "extraVolumes": [{"name": "models", "persistentVolumeClaim": {"claimName": f"{label(shipped.name)}-models", "readOnly": True}}],
        "extraVolumeMounts": [{"name": "models", "mountPath": MODELS, "readOnly": True}],
    }  # fmt: skip
    key = {"secretName": f"{label(shipped.name)}-vllm", "secretKey": "api-key"}
    return {"servingEngineSpec": {"enableEngine": True, "vllmApiKey": key, "modelSpec": [spec]}}


def _readme(shipped: Shipped) -> str:
    name = served_as(shipped)
    if as_adapter(shipped):
        layout = f"""\
    {MODELS}/base         {shipped.base}, the very files (digest in luthier.json: base_digest)
    {MODELS}/{name}       luthier export {shipped.ref} {name} --form adapter
"""
        how = "The base is loaded once and the adapter beside it; `--max-loras 2` leaves room for the next version.\n"
    else:
        why = shipped.vllm["why"] if shipped.vllm else "this release has no adapter"
        layout = f"    {MODELS}/{name}       luthier export {shipped.ref} {name} --form merged\n"
        how = f"Whole weights, since {why}.\n"
    return f"""\
# {shipped.ref} in vLLM

{layout}
{how}
One machine: `sh serve.sh`. Kubernetes: `helm install NAME vllm/vllm-stack -f values.yaml`, with the folder above in a volume claim
`{label(shipped.name)}-models` and a secret `{label(shipped.name)}-vllm` with the key `api-key`. Clients name the model `{name}`: a version is
another name, so that no answer comes from another version's cache.

{left_out(shipped)}
Checked: values.yaml against the chart's own values.schema.json, the script by the shell's parser; that vLLM can read this adapter by its
settings (rank, kind, modules). Not checked: a running vLLM, and what the chart makes of the values.
"""
