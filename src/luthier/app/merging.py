"""Several tuned models become one: what a person writes of it, and the one step of the line that does it.

The file names models as people do (name@version); the artifact is made of their digests, so that a name which moves on
changes nothing that was made.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError
from luthier.core.spec import Spec, override, parse, read_yaml
from luthier.models.spec import Dtype
from luthier.postprocessing.merge_spec import LawSpec, LinearSpec, MergeSpec
from luthier.store import Store

from .context import RunContext, Watch
from .line import Make
from .recipe import read_written


class MergedModelSpec(Spec):
    """One of the models that are merged."""

    model: str = Field(min_length=1)
    """A release (name, name@version) or the digest of a tuned model."""
    weight: float = 1.0
    """How much of it goes in; below 0 takes out what it learnt (task_arithmetic, ties, dare)."""


class MergeFile(Spec):
    """Several models of one base become one (`luthier merge FILE`)."""

    models: list[MergedModelSpec] = Field(min_length=1, max_length=64)
    """Which, each with its weight; a bare name has the weight 1. The first says what the task is."""
    method: LawSpec = LinearSpec()
    """The law: {kind: linear | task_arithmetic | ties | dare | slerp}."""
    dtype: Dtype | None = None
    """The number format of the result; null: the base's own."""
    measure: str | None = None
    """A release or report: the result answers the same test rows, by the same metrics, and can be compared with it."""

    @field_validator("models", mode="before")
    @classmethod
    def _bare_names(cls, value: Any) -> Any:
        return (
            [{"model": one} if isinstance(one, str) else one for one in value]
            if isinstance(value, list)
            else value
        )


@dataclass(frozen=True)
class Merged:
    """`model` and `report` are digests; `metrics` is system -> metric -> value of the report."""

    model: str
    method: str
    models: list[str]
    report: str | None = None
    measured_as: str | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return dict(vars(self))


def read_merge(path: Path, overrides: tuple[str, ...] = ()) -> tuple[MergeFile, MergeSpec]:
    """What is wished. Raises SpecError with every fault and its line."""
    remedy = "docs/packages.md explains every key; nothing has been run."
    wish = parse(MergeFile, override(read_yaml(read_written(path), path.name), overrides), remedy)
    try:
        weights = [one.weight for one in wish.models]
        return wish, MergeSpec(method=wish.method, weights=weights, dtype=wish.dtype)
    except ValidationError as error:
        told = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise SpecError(f"{path.name}: {told}.", remedy=remedy) from None


def merge(
    store: Store,
    path: Path,
    overrides: tuple[str, ...],
    environ: Mapping[str, str],
    watch: Watch,
    stop: threading.Event,
) -> Merged:
    """The merged model, made or found; with `measure` its report too. Raises SpecError, NotFound, ModelError."""
    from luthier.postprocessing.merging import STAGE

    wish, spec = read_merge(path, overrides)
    models = [tuned_model(store, one.model) for one in wish.models]
    measure = None if wish.measure is None else _report(store, wish.measure)
    at = RunContext(store, f"merge-{path.stem}", path.resolve().parent, environ, watch, stop)
    parents: dict[str, Artifact | None] = {f"model.{i}": one for i, one in enumerate(models)}
    parents["base"] = store.catalog.get(models[0].parents["base"])
    if dataset := models[0].parents.get("dataset"):
        parents["dataset"] = store.catalog.get(dataset)
    make = Make(at)
    made = make("model", STAGE, spec, parents)
    done = Merged(made.digest, spec.method.kind, [one.model for one in wish.models])
    if measure is None:
        return done
    report = _measured(store, make, made, measure)
    told = json.loads((store.folder(report) / "report.json").read_text(encoding="utf-8"))
    metrics = {name: system["metrics"] for name, system in told["systems"].items()}
    return Merged(done.model, done.method, done.models, report.digest, wish.measure, metrics)


def tuned_model(store: Store, reference: str) -> Artifact:
    """The tuned model that a release, a package or a digest means. Raises NotFound, SpecError."""
    artifact = store.catalog.get(reference)
    while artifact.kind in ("release", "package"):
        artifact = store.catalog.get(artifact.parents["model"])
    if artifact.kind != "model" or "base" not in artifact.parents:
        raise SpecError(
            f"{reference} is a {artifact.kind} that was not tuned from a base.",
            remedy="Name a release (`luthier list`) or the digest of a tuned model (`luthier list model`).",
        )
    return artifact


def _report(store: Store, reference: str) -> Artifact:
    artifact = store.catalog.get(reference)
    if artifact.kind == "release":
        artifact = store.catalog.get(artifact.parents["report"])
    if artifact.kind != "report":
        raise SpecError(
            f"measure: {reference} is a {artifact.kind}, not a release or a report.",
            remedy="Name a release whose test rows the merged model is to answer.",
        )
    return artifact


def _measured(store: Store, make: Make, model: Artifact, like: Artifact) -> Artifact:
    """The report of `model` on the rows and by the metrics of another report, against the same models. Raises SpecError for another
    base."""
    from luthier.evaluation.suite import STAGE, MeasureSpec

    if like.parents["base"] != model.parents["base"]:
        raise SpecError(
            "measure: that release was tuned from another base than the merged model.",
            remedy="Name a release of the same base, or leave `measure` out.",
        )
    wish, sent = without_servers(like.spec)
    if sent:
        message = f"no server is asked again: {', '.join(sent)} of that release's report {'is' if len(sent) == 1 else 'are'} left out"
        make.at.emit("note", about="merge", message=message)
    others = {role: store.catalog.get(one) for role, one in like.parents.items() if role not in _ITS_OWN}
    return make("report", STAGE, MeasureSpec.model_validate(wish), {**others, "model": model})


_ITS_OWN = ("model", "calibration", "judge/human")
"""Of a report's parents, what says something of that one model."""


def without_servers(spec: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(a report's spec without whoever is asked over a network, for whose budget and permission nobody has been asked; what was left
    out)."""
    from luthier.evaluation.spec import METRICS

    wish, sent = dict(spec), []
    if (against := wish.get("against")) is not None:
        here = [one for one in against if isinstance(one, str) or not {"endpoint", "url"} & set(one)]
        sent += [str(one.get("name")) for one in against if one not in here]
        wish["against"] = here
    if judge := wish.get("judge"):
        sent += [] if isinstance(judge["model"], str) else ["the judge"]
        wish["judge"] = {**judge, "human": None} if isinstance(judge["model"], str) else None
    if wish.get("judge") is None and wish.get("metrics") is not None:
        wish["metrics"] = [name for name in wish["metrics"] if not METRICS[name].judged]
    answering = wish.get("answering") or {}
    if (answering.get("fallback") or {}).get("endpoint"):
        sent.append("the fallback")
        wish["answering"] = {**answering, "fallback": None}
    return wish, sent
