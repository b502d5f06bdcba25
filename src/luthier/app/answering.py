"""From a reference to an engine that answers: which folders, which facts, which release stands behind it, and where and
in which number format it answers: as the release's report was measured, as far as this machine can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from luthier.core.artifact import Artifact
from luthier.core.errors import ModelError, NotFound, SpecError
from luthier.core.plugin import load
from luthier.models.place import Place, place
from luthier.outputs.other import EndpointOther, LocalOther, Other, model_folder
from luthier.postprocessing.forms import SERVED
from luthier.serving.engine import Engine
from luthier.serving.package import PackageFacts, read_facts
from luthier.store import Store

from .context import RunContext
from .packing import served_folder


@dataclass(frozen=True)
class Answerer:
    """An engine and what it stands for. `digest` is what an answer's record points at: the release if there is one."""

    engine: Engine
    name: str
    digest: str
    release: str | None  # name@version


def open_engine(
    at: RunContext, reference: str, *, name: str | None = None, engine: str = "transformers"
) -> Answerer:
    """Load what a reference means: a release, a package, a tuned model or an imported base. An event tells where it will
    not answer as it was measured. Raises ModelError, NotFound, SpecError where a key that the package refers to is not set."""
    store = at.store
    artifact = store.catalog.get(reference)
    base, adapter, facts = _folders(store, artifact)
    where = as_measured(at, artifact)
    other = _other(at, artifact, facts, where)
    more = {} if other is None else {"other": other}
    made: Engine = load("engine", engine)(
        base, adapter, facts=facts, dtype=where.dtype, device=where.device, **more
    )
    made.load()
    names = store.catalog.names_of(artifact.digest)
    asked = [str(v) for v in names if str(v) == reference] or [str(v) for v in names]
    return Answerer(made, name or reference.partition("@")[0], artifact.digest, asked[-1] if asked else None)


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
    if artifact.kind == "package":
        if not any((folder / form).is_dir() for form in SERVED):
            raise ModelError(
                "this package holds no form that is answered from here.",
                remedy=f"Run the recipe with one of {', '.join(SERVED)} in postprocess.export, or serve the exported form in its own engine.",
            )
        place, beside = served_folder(folder)
        if not beside:
            return place, None, facts
    adapter = folder / "adapter" if artifact.kind == "package" else folder
    if not (adapter / "adapter_config.json").exists():
        return adapter, None, facts
    return _base_folder(store, artifact), adapter, facts


def _base_folder(store: Store, artifact: Artifact) -> Path:
    digest = artifact.parents.get("base")
    if digest is None:
        raise NotFound(f"{artifact} does not say which base it belongs to.", remedy="Run its recipe again.")
    return store.folder(store.catalog.get(digest))
