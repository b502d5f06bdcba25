"""A release written out for where it is to run: the facts are gathered here, the files are made in deployment/targets."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier import __version__
from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError
from luthier.deployment.targets import Shipped, Where, render
from luthier.postprocessing.forms import SERVED
from luthier.store import Store
from luthier.store.files import explained

EXTRAS = ("train", "serve", "postgres", "s3")
"""Of Luthier, in the image that serves: its own engine needs what `train` brings."""


@dataclass(frozen=True)
class Rendered:
    """`files`: their paths in the folder."""

    ref: str
    target: str
    folder: str
    files: list[str]


def render_release(store: Store, reference: str, target: str, where: Where, folder: Path) -> Rendered:
    """Fill `folder`, which must not be there yet. Raises SpecError for what is no released name or cannot run there."""
    shipped = shipped_of(store, reference)
    files = render(shipped, target, where)
    if folder.exists():
        raise SpecError(f"{folder} is already there.", remedy="Name a folder that does not exist yet.")
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    with explained(folder.parent):
        partial.mkdir(parents=True)
        try:
            for path, text in files.items():
                (partial / path).write_text(text, encoding="utf-8")
                (partial / path).chmod(0o755 if path.endswith(".sh") else 0o644)
            os.rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Rendered(shipped.ref, target, str(folder), sorted(files))


def shipped_of(store: Store, reference: str) -> Shipped:
    """The facts of a released version (NAME: the newest)."""
    release = store.catalog.get(reference)
    versions = store.catalog.names_of(release.digest)
    asked = [v for v in versions if reference in (str(v), v.name)]
    if release.kind != "release" or not versions:
        raise SpecError(
            f"{reference!r} is no released version of a name.",
            remedy="Name one, as ticket-router@3 (`luthier list` shows them).",
        )
    version = (asked or versions)[-1]
    if "package" not in release.parents:
        raise SpecError(
            f"{version} was released without a package, so there is nothing that could run anywhere.",
            remedy="Make a release of its recipe anew (`luthier run`).",
        )
    package = store.catalog.get(release.parents["package"])
    said: dict[str, Any] = json.loads((store.folder(package) / "luthier.json").read_text(encoding="utf-8"))
    return Shipped(
        version.name, version.version, release.digest, package.digest, said["base_name"], tuple(said["forms"]),
        _weights_bytes(store, package), __version__, said.get("vllm"), tuple(_held(said)), tuple(requirements()),
    )  # fmt: skip


def _weights_bytes(store: Store, package: Artifact) -> int:
    """Of the form that our engine answers from, its base included where it stands beside it."""
    paths = {file.path: file.size_bytes for file in package.files}
    form = next((one for one in SERVED if any(path.startswith(f"{one}/") for path in paths)), None)
    size = sum(size for path, size in paths.items() if form is None or path.startswith(f"{form}/"))
    if form == "adapter":
        base = store.catalog.get(package.parents["base"])
        size += sum(file.size_bytes for file in base.files)
    return size


def _held(said: Mapping[str, Any]) -> Iterator[str]:
    """What our server does with answers and another would not."""
    answering = said.get("answering") or {}
    if said.get("constrain") == "labels":
        yield "answers are one of the labels, with their probabilities"
    if answering.get("constrain"):
        yield "answers are held to a grammar while they are written"
    if answering.get("answers"):
        yield "answers go through the package's steps"
    if answering.get("vote"):
        yield "answers are put to a vote"
    if answering.get("fallback"):
        yield "another model is asked where this one is not sure"
    if said.get("abstain_below") is not None:
        yield "unsure answers are declined"
    if (said.get("task") or {}).get("instruction"):
        yield "the instruction is put in by the server (clients must send it themselves)"


def requirements() -> list[str]:
    """Everything that serving needs, at the versions that are installed here, Luthier first."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned: dict[str, str] = {}
    todo: list[tuple[str, frozenset[str]]] = [("luthier", frozenset(EXTRAS))]
    done: set[tuple[str, frozenset[str]]] = set()
    while todo:
        name, extras = todo.pop()
        if (name, extras) in done:
            continue
        done.add((name, extras))
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed here is not served with either
        if name != "luthier":
            pinned[canonicalize_name(name)] = found.version
        for written in found.requires or ():
            one = Requirement(re.sub(r"\s*#.*", "", written))
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                todo.append((one.name, frozenset(one.extras)))
    return [f"luthier=={__version__}", *(f"{name}=={version}" for name, version in sorted(pinned.items()))]
