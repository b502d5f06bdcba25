"""From a reference to an engine that answers: which folders, which facts, which release stands behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, NotFound
from luthier.core.plugin import load
from luthier.models.place import place
from luthier.serving.engine import Engine
from luthier.serving.package import PackageFacts, read_facts
from luthier.store import Store


@dataclass(frozen=True)
class Answerer:
    """An engine and what it stands for. `digest` is what an answer's record points at: the release if there is one."""

    engine: Engine
    name: str
    digest: str
    release: str | None  # name@version


def open_engine(
    store: Store, reference: str, *, name: str | None = None, engine: str = "transformers"
) -> Answerer:
    """Load what a reference means: a release, a package, a tuned model or an imported base. Raises ModelError, NotFound."""
    artifact = store.catalog.get(reference)
    base, adapter, facts = _folders(store, artifact)
    where = place()  # as it was measured
    made: Engine = load("engine", engine)(base, adapter, facts=facts, dtype=where.dtype, device=where.device)
    made.load()
    names = store.catalog.names_of(artifact.digest)
    asked = [str(v) for v in names if str(v) == reference] or [str(v) for v in names]
    return Answerer(made, name or reference.partition("@")[0], artifact.digest, asked[-1] if asked else None)


def _folders(store: Store, artifact: Artifact) -> tuple[Path, Path | None, PackageFacts]:
    if artifact.kind == "release":
        artifact = store.catalog.get(artifact.parents["package"])
    if artifact.kind not in ("package", "model"):
        raise ModelError(
            f"a {artifact.kind} cannot answer.",
            remedy="Name a release, a package or a model (`luthier list`).",
        )
    folder = store.folder(artifact)
    facts = read_facts(folder)
    if artifact.kind == "package" and (folder / "merged").is_dir():
        return folder / "merged", None, facts
    adapter = folder / "adapter" if artifact.kind == "package" else folder
    if not (adapter / "adapter_config.json").exists():
        return adapter, None, facts
    return _base_folder(store, artifact), adapter, facts


def _base_folder(store: Store, artifact: Artifact) -> Path:
    digest = artifact.parents.get("base")
    if digest is None:
        raise NotFound(f"{artifact} does not say which base it belongs to.", remedy="Run its recipe again.")
    return store.folder(store.catalog.get(digest))
