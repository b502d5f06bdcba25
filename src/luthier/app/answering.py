"""From a reference to an engine that answers: which folders, which facts, which release stands behind it, and where and
in which number format it answers: as the release's report was measured, as far as this machine can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, NotFound, SpecError
from luthier.core.plugin import load
from luthier.models.place import Place, place
from luthier.outputs.other import EndpointOther, LocalOther, Other, model_folder
from luthier.postprocessing.forms import SERVED
from luthier.postprocessing.package import rows_to_compare
from luthier.postprocessing.reading import GGUF
from luthier.serving.engine import Engine
from luthier.serving.gguf_cache import PLACE
from luthier.serving.opening import Kind, Opening
from luthier.serving.package import PackageFacts, read_facts
from luthier.store import Store

from .context import RunContext
from .engine_parity import FROM_GGUF, agreed
from .packing import served_folder

REFERENCE = "transformers"
"""The plain engine, by which reports are measured."""


@dataclass(frozen=True)
class Answerer:
    """An engine and what it stands for. `digest` is what an answer's record points at: the release if there is one."""

    engine: Engine
    name: str
    digest: str
    release: str | None  # name@version
    by: str = REFERENCE
    """The engine's name."""
    how: str = ""
    """What it answers from, in words."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """How far it says what the plain engine says; empty for the plain engine itself."""


def open_engine(
    at: RunContext,
    reference: str,
    *,
    name: str | None = None,
    engine: str = REFERENCE,
    settings: Mapping[str, str] | None = None,
) -> Answerer:
    """Load what a reference means: a release, a package, a tuned model or an imported base. An event tells where it will
    not answer as it was measured. Another engine than the plain one must say what that says, or is refused. Raises ModelError,
    NotFound, MissingPart, SpecError where a key that the package refers to is not set."""
    store = at.store
    artifact = store.catalog.get(reference)
    held = _held(store, artifact, engine)
    where = as_measured(at, artifact)
    what = Opening(
        held.base,
        held.adapter,
        held.facts,
        where.dtype,
        where.device,
        base_digest=held.base_digest,
        digest=held.digest,
        cache=store.home / PLACE,
        gguf=held.gguf,
        other=_other(at, artifact, held.facts, where),
        settings=settings or {},
        secret=at.secret,
    )
    kind = engine_of(engine, what.settings)
    made: Engine = kind.open(what)
    made.load()
    try:
        parity = {} if engine == REFERENCE else agreed(at, made, what, engine, _rows(store, artifact))
    except BaseException:
        made.close()
        raise
    names = store.catalog.names_of(artifact.digest)
    asked = [str(v) for v in names if str(v) == reference] or [str(v) for v in names]
    how = getattr(getattr(made, "backend", None), "told", "")
    return Answerer(
        made,
        name or reference.partition("@")[0],
        artifact.digest,
        asked[-1] if asked else None,
        engine,
        how or where.dtype,
        parity,
    )


def engine_of(name: str, settings: Mapping[str, str]) -> Kind:
    """The class that opens it. Raises SpecError, MissingPart for what no model would change."""
    kind: Kind = load("engine", name)
    if not (hasattr(kind, "open") and hasattr(kind, "check")):
        raise SpecError(
            f"the engine {name!r} answers from no release.", remedy="Leave --engine out, or write llamacpp."
        )
    kind.check(settings)
    return kind


def _other(at: RunContext, artifact: Artifact, facts: PackageFacts, where: Place) -> Other | None:
    """The model that the package asks where its own is not sure; one of this store is the very one that was measured."""
    wish = facts.answering.fallback
    if wish is None:
        return None
    labels = facts.labels if facts.constrain else None
    if wish.endpoint is not None:
        if wish.endpoint.key:
            at.secret(wish.endpoint.key)  # told now, and not to the first client whose question needs it
        return EndpointOther(wish.endpoint, at.secret, labels)
    package = at.store.catalog.get(artifact.parents["package"]) if artifact.kind == "release" else artifact
    folders = {
        role: at.store.folder(at.store.catalog.get(package.parents[role]))
        for role in ("fallback", "fallback_base")
        if role in package.parents
    }
    return LocalOther(
        model_folder(folders["fallback"]),
        folders.get("fallback_base"),
        dtype=where.dtype,
        device=where.device,
        labels=labels,
        grammar=facts.answering.grammar(),
    )


def as_measured(at: RunContext, artifact: Artifact) -> Place:
    """Device and number format of a release's report. What was measured as `auto` came out as some format then, and that is
    what counts. What was never measured answers as this machine does best."""
    if artifact.kind != "release":
        return place()
    report = at.store.catalog.get(artifact.parents["report"])
    device, dtype = report.spec["device"], report.spec["dtype"]
    try:
        where = place(device, dtype)
    except SpecError:
        where = place("auto", dtype)
        _told(at, f"was measured on {device}, which is not here: it answers on {where.device}")
    then = _came_out_as(at.store, report) if dtype == "auto" else None
    if then == "bf16" and where.dtype == "fp32":
        _told(at, "was measured in bf16, which this machine has not in hardware: it answers in fp32")
    elif then == "fp32":
        where = replace(where, dtype="fp32")
    return where


def _told(at: RunContext, reason: str) -> None:
    at.emit(
        "fallback",
        what="as measured",
        reason=f"the release {reason}; its answers may differ from the report's",
    )


def _came_out_as(store: Store, report: Artifact) -> str | None:
    """The number format that the tuned model was measured in, as the runs that made the report told it."""
    started = store.ledger.read(kind="stage.started")
    runs = dict.fromkeys(event.subject for event in started if event.data["key"] == report.key)
    told = [event.data for run in runs for event in store.ledger.read(kind="evaluated", subject=run)]
    return next((one["dtype"] for one in reversed(told) if one["system"] == "tuned"), None)


@dataclass(frozen=True)
class _Held:
    """What an artifact holds to answer from. `digest`: of the package or model, which its files follow from."""

    base: Path
    adapter: Path | None
    facts: PackageFacts
    base_digest: str
    digest: str
    gguf: Mapping[str, Path]


def _held(store: Store, artifact: Artifact, engine: str) -> _Held:
    if artifact.kind == "release":
        artifact = store.catalog.get(artifact.parents["package"])
    if artifact.kind not in ("package", "model"):
        raise ModelError(
            f"a {artifact.kind} cannot answer.",
            remedy="Name a release, a package or a model (`luthier list`).",
        )
    folder = store.folder(artifact)
    facts = read_facts(folder)
    base_digest = artifact.parents.get("base", artifact.digest)
    if artifact.kind == "model":
        if not (folder / "adapter_config.json").exists():
            return _Held(folder, None, facts, base_digest, artifact.digest, {})
        return _Held(_base_folder(store, artifact), folder, facts, base_digest, artifact.digest, {})
    forms = FROM_GGUF.get(engine, ())
    gguf: dict[str, Path] = {form: folder / form / GGUF for form in forms if (folder / form).is_dir()}
    if any((folder / form).is_dir() for form in SERVED):
        place, beside = served_folder(folder)
        base = _base_folder(store, artifact) if beside else place
        return _Held(base, place if beside else None, facts, base_digest, artifact.digest, gguf)
    if gguf:
        return _Held(_base_folder(store, artifact), None, facts, base_digest, artifact.digest, gguf)
    able = [name for name, forms in FROM_GGUF.items() if any((folder / form).is_dir() for form in forms)]
    raise ModelError(
        "this package holds no form that is answered from here.",
        remedy=f"Run the recipe with one of {', '.join(SERVED)} in postprocess.export, or serve the exported form in its own engine"
        + (f", here --engine {' or '.join(able)}." if able else "."),
    )


def _rows(store: Store, artifact: Artifact) -> list[list[Mapping[str, Any]]]:
    """Conversations that the model came from, up to the last answer; none for a base."""
    if artifact.kind == "release":
        artifact = store.catalog.get(artifact.parents["package"])
    if "dataset" not in artifact.parents:
        return []
    told = rows_to_compare(store.folder(store.catalog.get(artifact.parents["dataset"])))
    chats = [one[0] for one in told if not isinstance(one, str) and not one[1]]
    return [list(takewhile(lambda turn: turn["role"] != "assistant", chat)) for chat in chats]


def _base_folder(store: Store, artifact: Artifact) -> Path:
    digest = artifact.parents.get("base")
    if digest is None:
        raise NotFound(f"{artifact} does not say which base it belongs to.", remedy="Run its recipe again.")
    return store.folder(store.catalog.get(digest))
