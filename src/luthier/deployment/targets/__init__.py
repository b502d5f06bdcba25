"""A release written out for where it is to run: files to read, review and apply with that place's own tools. Nothing is applied here.

    release ──▶ Shipped (name, version, digests, sizes) ─┐
    options ──▶ Where (image by digest, replicas, ...)  ─┴──▶ render ──▶ {path: text}

    written      YAML and JSON that every reader reads the same way; names as Kubernetes takes them
    pod          the container that serves a release: probes, resources, rights, secrets by reference
    container kubernetes kserve vllm sagemaker azureml    one target each: `render(shipped, where)`, pure

What holds everywhere: no secret is written, only where it is to be found; images by digest; not root, nothing writable but what must be.
Each README of a target says what of it has been checked and what has not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from luthier.core.errors import SpecError
from luthier.core.plugin import load

DIGEST = re.compile(r"[a-z0-9][a-zA-Z0-9./_:-]{0,250}@sha256:[0-9a-f]{64}")
UID = 10001
"""Who a container of ours runs as."""
PORT = 8000


@dataclass(frozen=True)
class Shipped:
    """A release, as far as a target must know it. `weights_bytes`: of the form that is served. `vllm`: whether its adapter fits there
    (`ready`, `why`, `max_lora_rank`). `held`: what vLLM would not do with answers and Luthier's server does."""

    name: str
    version: int
    release_digest: str
    package_digest: str
    base: str
    forms: tuple[str, ...]
    weights_bytes: int
    luthier: str
    vllm: Mapping[str, object] | None = None
    held: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Where:
    """`image`: by digest; for `container` what is built on, elsewhere what runs. `gpus`: of each replica."""

    image: str
    namespace: str = "default"
    replicas: int = 2
    gpus: int = 0


LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    "container": ("namespace", "replicas"),
    "vllm": ("namespace",),
    "sagemaker": ("namespace", "gpus"),
    "azureml": ("namespace",),
}
"""What nothing of a target's files could say: Kubernetes' namespaces elsewhere, how many of one machine, GPUs where the instance has them."""


def where_to(
    target: str,
    image: str,
    namespace: str | None = None,
    replicas: int | None = None,
    gpus: int | None = None,
) -> Where:
    """What is written; what is None, as usual. Raises SpecError for an option that the target would ignore."""
    written: dict[str, Any] = {
        name: value
        for name, value in (("namespace", namespace), ("replicas", replicas), ("gpus", gpus))
        if value is not None
    }
    if ignored := [name for name in LEFT_OUT.get(target, ()) if name in written]:
        raise SpecError(
            f"{' and '.join(f'--{name}' for name in ignored)} would change nothing in what is written for {target}.",
            remedy="Leave it out; the README that is written says how that place is told.",
        )
    return replace(Where(image), **written)


Render = Callable[[Shipped, Where], Mapping[str, str]]


def render(shipped: Shipped, target: str, where: Where) -> dict[str, str]:
    """Path -> text. Raises SpecError for an unknown target, an image without its digest, or what the target cannot run."""
    if not DIGEST.fullmatch(where.image):
        raise SpecError(
            f"the image {where.image[:200]!r} has no digest, so tomorrow it may be another one.",
            remedy="Write NAME@sha256:... (`docker buildx imagetools inspect NAME` shows it).",
        )
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", where.namespace):
        raise SpecError(
            f"{where.namespace[:100]!r} is no Kubernetes namespace.",
            remedy="Use a-z, 0-9 and '-', at most 63.",
        )
    make: Render = load("target", target)
    return dict(make(shipped, where))
