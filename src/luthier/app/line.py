"""The line: rows → dataset → model → report → (policy) → package → release. Written once, walked in two ways.

    walk(wish, at, Make(...))   makes what is missing and returns what is there
    walk(wish, at, Look(...))   only looks: what of it is already there

A step is known by its key (spec, stage version, parents' digests), so a changed section reruns only what follows
from it, and a second run of the same recipe finds everything and does nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from luthier.core.artifact import Artifact, key_of, short
from luthier.core.errors import DataError, NotFound, SpecError
from luthier.core.spec import Spec
from luthier.core.stage import Output, Stage
from luthier.cost.meter import Meter
from luthier.postprocessing.forms import SERVED
from luthier.store.files import DISK_ERRORS, explain, write_atomic

from . import openlineage, systems
from .beside import kept_beside
from .checking import reader
from .context import RunContext
from .lineage import EXPORTED
from .recipe import Recipe, Wish

if TYPE_CHECKING:
    from luthier.evaluation.calibration import CalibrateSpec
    from luthier.evaluation.spec import EvaluateSpec
    from luthier.evaluation.suite import MeasureSpec
    from luthier.governance.waiver import WaiverSpec

STEPS = ("dataset", "base", "model", "calibration", "report", "package", "release")


class Strategy(Protocol):
    """How a step is had. A parent that is None makes the step None: what it would be made of is not there yet."""

    def __call__(
        self, step: str, stage: Stage, spec: Spec, parents: Mapping[str, Artifact | None]
    ) -> Artifact | None: ...


@dataclass
class Look:
    """Return what the catalog holds; make nothing."""

    at: RunContext

    def __call__(
        self, step: str, stage: Stage, spec: Spec, parents: Mapping[str, Artifact | None]
    ) -> Artifact | None:
        known = {role: parent.digest for role, parent in parents.items() if parent is not None}
        if len(known) < len(parents):
            return None
        return self.at.store.catalog.find(key_of(stage.kind, spec.plain(), stage.version, known))


@dataclass
class Make:
    """Return what the catalog holds, or make it. `fresh` names steps that are made anew even so."""

    at: RunContext
    fresh: frozenset[str] = frozenset()
    made: list[str] = field(default_factory=list)

    def __call__(
        self, step: str, stage: Stage, spec: Spec, parents: Mapping[str, Artifact | None]
    ) -> Artifact:
        at, store = self.at, self.at.store
        inputs = {role: parent for role, parent in parents.items() if parent is not None}
        digests = {role: parent.digest for role, parent in inputs.items()}
        key = key_of(stage.kind, spec.plain(), stage.version, digests)
        if step not in self.fresh and (known := store.catalog.find(key)):
            at.emit("stage.known", step=step, digest=known.digest)
            return known
        at.check()
        with store.working(key) as (out, scratch):
            if step not in self.fresh and (
                known := store.catalog.find(key)
            ):  # another process finished it meanwhile
                at.emit("stage.known", step=step, digest=known.digest)
                return known
            at.emit("stage.started", step=step, key=key)
            with openlineage.told(at, step, key, inputs) as made, Meter() as meter:
                output = _explained(stage, spec, inputs, out, scratch, at)
                artifact = store.commit(
                    stage.kind, key, spec.plain(), stage.version, digests, out, output.summary
                )
                made(artifact)
        at.emit("stage.finished", step=step, digest=artifact.digest, **meter.figures())
        self.made.append(step)
        return artifact


def _explained(
    stage: Stage, spec: Spec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: RunContext
) -> Output:
    """Run the stage; a full disk or a missing right is told as such, whichever library met it."""
    try:
        return stage.function(spec, inputs, out, scratch, at)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise explain(error, out) from error
        raise


@dataclass(frozen=True)
class Results:
    """What the line gave so far; None where it has not come to."""

    dataset: Artifact | None = None
    base: Artifact | None = None
    model: Artifact | None = None
    calibration: Artifact | None = None
    report: Artifact | None = None
    package: Artifact | None = None
    release: Artifact | None = None
    others: Mapping[str, Artifact | None] = field(default_factory=dict)
    """Models that the method needs beside the base (a teacher), by role."""
    beside: Mapping[str, Artifact | None] = field(default_factory=dict)
    """Datasets of rows beside the task, by role."""


def sources(wish: Wish, at: RunContext) -> dict[str, Artifact]:
    """The data sources as artifacts: identity is what is written and a fingerprint of what is there. Where rows of them are
    to be forgotten, `forgotten` says which."""
    found = {f"source.{i}": one for i, one in enumerate(_given(wish, at))}
    if at.store.tombstones.any():
        from .data.forget import concerning

        forgotten = concerning(at.store, _marks(wish, found.values()))
        if forgotten:
            spec = {"forgotten": forgotten.plain()}
            found["forgotten"] = _recorded(at, spec, {"forgotten": len(forgotten)})
    return found


def _given(wish: Wish, at: RunContext) -> list[Artifact]:
    from luthier.data.connectors import fingerprints

    with _remembered(at.home / "fingerprints.json") as cache:
        found = fingerprints(wish.recipe.data, wish.folder, at, cache)
        return [_source(at, written, mark) for written, mark in found]


def _marks(wish: Wish, found: Iterable[Artifact]) -> dict[str, str]:
    """What records of each source are called -> its fingerprint."""
    from luthier.data.prepare import source_names

    names = source_names(wish.recipe.data.sources)
    marks = [
        str(one.spec["fingerprint"]) for one in islice(found, len(names))
    ]  # contracts and what rules read come after
    return dict(zip(names, marks, strict=True))


@contextmanager
def _remembered(path: Path) -> Iterator[dict[str, str]]:
    """Hashes of local files by path, size and time of change, so that a large file is read once. Losing it is harmless."""
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict):
        known = {}
    before = dict(known)
    yield known
    if known != before:
        write_atomic(path, json.dumps(known, indent=0).encode())


def _source(at: RunContext, written: Mapping[str, Any], mark: str) -> Artifact:
    return _recorded(at, {**written, "fingerprint": mark}, {"fingerprint": short(mark)})


def recorded_file(at: RunContext, written: str) -> Artifact:
    """A file that a section of the recipe names, known by its bytes. Raises DataError where it cannot be read."""
    try:
        mark = hashlib.sha256((at.root / written).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"{written} cannot be read: {error.strerror}.", remedy="Name a file beside the recipe."
        ) from None
    return _source(at, {"files": written}, mark)


def _recorded(at: RunContext, spec: Mapping[str, Any], summary: Mapping[str, Any]) -> Artifact:
    key = key_of("source", spec, 1, {})
    return at.store.catalog.record(Artifact("source", key, spec, 1, {}, (), summary, time.time()))


def materials(wish: Wish, at: RunContext, make: Strategy, *, asks: bool = True) -> Results:
    """The first part of the line, which costs little: the dataset, the base, and other models that the method needs. Where a
    rule would have rows written by a model, it is asked only if `asks`; otherwise WouldAsk is raised."""
    recipe = wish.recipe
    dataset = prepared(wish, at, make, asks=asks)
    others = {role: imported(name, at, make) for role, name in recipe.train.other_models.items()}
    # now, so that a file that is not there is told before anything is trained
    rows = kept_beside(wish, at, make)
    return Results(dataset, imported(recipe.base, at, make), others=others, beside=rows)


def prepared(wish: Wish, at: RunContext, make: Strategy, *, asks: bool = True) -> Artifact | None:
    """Without the rows that are to be forgotten. Where such rows turn up in bytes that no tombstone knows yet, it is told that
    they stand there too, and the dataset is made anew."""
    from luthier.data.plan import model_roles
    from luthier.data.prepare import PrepareSpec

    from .data.about import describe
    from .data.forget import watched

    recipe = wish.recipe
    spec = PrepareSpec(
        task=recipe.task.settled(at.root), data=recipe.data, watched=watched(at.store), asks=asks
    )
    asked = {role: imported(name, at, make) for name, role in model_roles(recipe.data.rules).items()}
    dataset = without_forgotten(wish, at, make, "dataset", spec, asked)
    if dataset is not None:
        describe(at.store, dataset.digest, recipe.data.about)
    return dataset


def without_forgotten(
    wish: Wish, at: RunContext, make: Strategy, step: str, spec: Spec, asked: Mapping[str, Artifact | None]
) -> Artifact | None:
    """The dataset of a wish's sources; `asked` are models that rules ask, by role."""
    from luthier.data.forgotten import StillThere
    from luthier.data.prepare import STAGE as PREPARE

    from .data.forget import still_there

    parents = sources(wish, at)
    try:
        return make(step, PREPARE, spec, {**parents, **asked})
    except StillThere as found:
        if not still_there(at.store, found.hits, _marks(wish, parents.values())):
            raise
        rows = f"{len(found.hits)} row{'s' if len(found.hits) > 1 else ''}"
        at.emit(
            "note",
            about="forgotten",
            message=f"{rows} that were to be forgotten stand in these sources too; they are left out",
        )
        return make(step, PREPARE, spec, {**sources(wish, at), **asked})


def import_base(base: str, at: RunContext) -> Artifact:
    """A base model by its name, outside of any recipe: imported when it is not there yet."""
    made = imported(base, at, Make(at))
    assert made is not None
    return made


def imported(base: str, at: RunContext, make: Strategy) -> Artifact | None:
    """A base model by its name. One that was exported from this home has the model that it is as a parent: what that has learnt is in
    it."""
    from luthier.models.intake import STAGE as IMPORT
    from luthier.models.intake import exported_model, fingerprint, spec_of

    spec = spec_of(base, at.root)
    parents = {"source": _source(at, {"base": base}, fingerprint(spec.base, at.root))}
    if (digest := exported_model(spec.base, at.root)) is not None:
        with suppress(NotFound):  # another home's
            if (model := at.store.catalog.get(digest)).kind == "model":
                parents[EXPORTED] = model
    return make("base", IMPORT, spec, parents)


def trained(wish: Wish, make: Strategy, so_far: Results) -> Results:
    """From the materials on to the tuned model."""
    from luthier.training.train import STAGE as TRAIN

    parents = {**so_far.others, "base": so_far.base, "dataset": so_far.dataset}
    return replace(so_far, model=make("model", TRAIN, wish.recipe.train, parents))


def calibrating(recipe: Recipe, measuring: MeasureSpec) -> CalibrateSpec:
    """What the probabilities are looked at for."""
    from luthier.evaluation.calibration import CalibrateSpec

    wish, kind = recipe.postprocess, recipe.task.kind
    abstain = {} if wish.abstain is None else wish.abstain.plain()
    isotonic = wish.calibrate is not None and wish.isotonic(kind)
    return CalibrateSpec(
        temperature=wish.calibrate is not None and not isotonic,
        isotonic=isotonic,
        answering=measuring.answering.model_copy(update={"fallback": None}),
        max_tokens=measuring.max_tokens,
        dtype=measuring.dtype,
        device=measuring.device,
        **abstain,
    )


def _embedder(at: RunContext, measuring: EvaluateSpec, recipe: Recipe) -> dict[str, Artifact]:
    """What the metric similarity depends on beside its settings: the files of an embedder that has any."""
    embedder = measuring.embedder
    if "similarity" not in measuring.measured(recipe.task.kind) or (mark := embedder.mark()) is None:
        return {}
    return {
        "embedder": _recorded(
            at, {"embedder": embedder.plain(), "fingerprint": mark}, {"fingerprint": short(mark)}
        )
    }


def measuring_of(recipe: Recipe, at: RunContext) -> MeasureSpec:
    """How the recipe's model is measured, with the way from what it says to an answer; a file of planted secrets is part of that by
    what it holds."""
    from luthier.evaluation.suite import MeasureSpec

    how = systems.measuring(recipe, at)
    if how.memorisation is not None and how.memorisation.canaries is not None:
        from luthier.evaluation.memorisation.secrets import digest_of_file

        written = Path(how.memorisation.canaries).expanduser()
        digest = digest_of_file(at.root / written, written.name)
        known = how.memorisation.model_copy(update={"canaries_sha256": digest})
        how = how.model_copy(update={"memorisation": known})
    wish = {name: getattr(how, name) for name in type(how).model_fields}
    own_head = not recipe.train.method.load().through_vocabulary
    return MeasureSpec(
        **wish,
        answering=recipe.postprocess.answering(recipe.task.kind, own_head),
        sure=recipe.postprocess.abstain_below is not None or recipe.postprocess.abstain is not None,
        hourly=at.hourly if how.timed else None,
    )


def self_contained(wish: Wish) -> Recipe:
    """The recipe with what its `postprocess` names in files put in, so that another file is another wish. Raises SpecError."""
    return wish.recipe.model_copy(
        update={"postprocess": wish.recipe.postprocess.inlined(reader(wish.folder))}
    )


def asked_beside(recipe: Recipe, at: RunContext, make: Strategy) -> dict[str, Artifact | None]:
    """The other model that answers where this one is not sure, as parents: the package of a release, or a base."""
    wish = recipe.postprocess.fallback
    if wish is None or wish.to is None:
        return {}
    catalog = at.store.catalog
    try:
        found = catalog.get(wish.to)
    except NotFound:
        return {"fallback": imported(wish.to, at, make)}
    if found.kind == "release":
        found = catalog.get(found.parents["package"])
    if found.kind != "package":
        raise SpecError(
            f"postprocess.fallback.to: {wish.to} is a {found.kind}, and a release is asked, or a base model by its name.",
            remedy="Name a release (`luthier list`), or a base model as `base` of the recipe takes it.",
        )
    if found.kind == "package" and not set(SERVED) & set(found.summary["forms"]):
        raise SpecError(
            f"postprocess.fallback.to: {wish.to} holds {', '.join(found.summary['forms'])}, and none of these answers from here.",
            remedy=f"Name a release with one of {', '.join(SERVED)} in postprocess.export.",
        )
    more = {"fallback_base": catalog.get(found.parents["base"])} if "base" in found.parents else {}
    return {"fallback": found, **more}


def walk(
    wish: Wish,
    at: RunContext,
    make: Strategy,
    permit: Callable[[Results], Sequence[WaiverSpec]] | None = None,
) -> Results:
    """The whole line. `permit` sees the report and raises GateFailed to stop before anything is packed or named; it returns what
    a person let pass all the same."""
    from luthier.evaluation.calibration import STAGE as CALIBRATE
    from luthier.evaluation.suite import STAGE as EVALUATE
    from luthier.governance.release import STAGE as PUBLISH
    from luthier.governance.release import ReleaseSpec

    from .packing import PACKAGE

    recipe = self_contained(wish)
    so_far = trained(wish, make, materials(wish, at, make))
    dataset, base, model = so_far.dataset, so_far.base, so_far.model
    measuring = measuring_of(recipe, at)
    calibration: dict[str, Artifact | None] = {}
    if recipe.postprocess.calibrating(recipe.task.kind):
        wished = calibrating(recipe, measuring)
        made = make("calibration", CALIBRATE, wished, {"model": model, "base": base, "dataset": dataset})
        calibration = {"calibration": made}
    other = asked_beside(recipe, at, make)
    others = {**systems.parents(measuring, recipe, at, make, model), **systems.judging(measuring, at, make)}
    others |= {**_embedder(at, measuring, recipe), **so_far.beside, **other}
    tested = {"model": model, "base": base, "dataset": dataset, **calibration, **others}
    report = make("report", EVALUATE, measuring, tested)
    so_far = replace(so_far, report=report, calibration=calibration.get("calibration"))
    waivers = permit(so_far) if permit and report is not None else ()
    packed = {"model": model, "base": base, "dataset": dataset, **calibration, **other}
    package = make("package", PACKAGE, recipe.postprocess, packed)
    publish = ReleaseSpec(name=recipe.name, gate=recipe.evaluate.gate, waivers=list(waivers))
    parents = {"package": package, "report": report, "model": model, "dataset": dataset, "base": base}
    return replace(so_far, package=package, release=make("release", PUBLISH, publish, parents))
