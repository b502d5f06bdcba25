"""App: every verb, once. Command line, HTTP and pages call these methods and add nothing of their own.

app = App.open()                       # reads the environment, once
plan = app.plan(Path("recipe.yaml"))   # what would run, before anything is spent
done = app.run(Path("recipe.yaml"))    # does it
app.show("ticket-router@1"); app.lineage("row:4be1…"); app.engine("ticket-router")
app.data.inspect("ticket-router")    # and all else that can be asked of a dataset
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import Artifact
from luthier.core.errors import SpecError
from luthier.core.event import Event
from luthier.core.units import Money
from luthier.store import Store

from .acting import Actor, local
from .context import RunContext, Silent, Watch
from .data import Data
from .openlineage import sender

if TYPE_CHECKING:
    from luthier.governance.waiver import Asked
    from luthier.postprocessing.sums import Verdict

    from .advising import Advised
    from .answering import Answerer
    from .auditing import Audit
    from .comparing import Compared
    from .doctor import Finding
    from .exporting import Exported
    from .lineage import Lineage
    from .merging import Merged
    from .monitoring import Monitor
    from .planning import Plan
    from .profiling import Profiled
    from .recipe import Wish
    from .rendering import Rendered
    from .rollouts import Rollouts
    from .running import Run
    from .searching import Searched
    from .selecting import Selected
    from .traffic import Traffic
    from .uploaded import Uploaded


class App:
    """Open with `App.open`. Thread-safe for reading; one run at a time per recipe."""

    def __init__(
        self, home: Path, environ: Mapping[str, str], actor: Actor | None = None, store: Store | None = None
    ) -> None:  # fmt: skip
        self.home = home
        self.actor = actor or local()
        self._environ = environ
        self._store = store

    @classmethod
    def open(cls, environ: Mapping[str, str] | None = None) -> App:
        """LUTHIER_HOME (default ~/.luthier), LUTHIER_DATABASE and LUTHIER_BLOBS say where things are kept."""
        environ = dict(os.environ if environ is None else environ)
        home = Path(
            environ.get("LUTHIER_HOME") or Path(environ.get("HOME", "~")).expanduser() / ".luthier"
        ).expanduser()
        return cls(home.absolute(), environ)

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = Store.open(
                self.home,
                database_url=self._environ.get("LUTHIER_DATABASE"),
                blobs_url=self._environ.get("LUTHIER_BLOBS"),
                environ=self._environ,
            )
        return self._store

    @property
    def data(self) -> Data:
        """What can be asked of datasets."""
        return Data(self)

    @property
    def traffic(self) -> Traffic:
        """What served models were asked and answered, where that is kept."""
        from .traffic import Traffic as Verbs

        return Verbs(self)

    @property
    def uploaded(self) -> Uploaded:
        """Files that people put in."""
        from .uploaded import Uploaded as Verbs

        return Verbs(self)

    @property
    def audit(self) -> Audit:
        """Who did, or was denied, what; and whether that is what was written."""
        from .auditing import Audit as Verbs

        return Verbs(self)

    @property
    def rollouts(self) -> Rollouts:
        """Which version of a name answers, and how the next one takes over."""
        from .rollouts import Rollouts as Verbs

        return Verbs(self)

    @property
    def monitor(self) -> Monitor:
        """How released models fare: drift, alerts, new runs."""
        from .monitoring import Monitor as Verbs

        return Verbs(self)

    # -- recipes ----------------------------------------------------------------------------------------------------

    def init(self, data_file: str, *, base: str, name: str | None = None, folder: Path | None = None) -> str:
        """The text of a commented recipe for a data file or URL: map, task and split proposed from what is in it.
        `folder` is where the recipe will stand; its paths start there."""
        from .propose import write_recipe

        return write_recipe(
            data_file, base=base, name=name, folder=folder or Path.cwd(), environ=self._environ
        )

    def plan(self, recipe: Path, overrides: tuple[str, ...] = (), *, probe: bool = True, watch: Watch | None = None,
             stop: threading.Event | None = None) -> Plan:  # fmt: skip
        """What would run, how long, how much memory and money. Prepares the rows (kept for the run); trains nothing."""
        from .planning import make_plan

        wish = self._read(recipe, overrides)
        with closing(self._context(wish, watch, stop)) as at:
            return make_plan(wish, at, probe=probe)

    def profile(self, recipe: Path, overrides: tuple[str, ...] = (), *, steps: int = 3, watch: Watch | None = None,
                stop: threading.Event | None = None) -> Profiled:  # fmt: skip
        """Where the time of a training step goes and what holds it back, from a few real steps. Keeps no weights."""
        from .profiling import profile_training

        wish = self._read(recipe, overrides)
        with closing(self._context(wish, watch, stop)) as at:
            return profile_training(wish, at, steps)

    def search(self, recipe: Path, overrides: tuple[str, ...] = (), *, join: bool = False, workers: int = 1,
               techniques: bool = False, watch: Watch | None = None,
               stop: threading.Event | None = None) -> Searched:  # fmt: skip
        """Try the settings that `search` names, on the validation rows; the test rows are not touched. `join`: take part in a search
        that others began; `workers`: processes of this machine; `techniques`: over those that `advise` finds possible."""
        from .searching import search_line

        if techniques:
            overrides = (*overrides, *self._techniques(recipe, overrides, watch, stop))
        wish = self._read(recipe, overrides)
        if wish.recipe.search is None:
            raise SpecError(
                "the recipe has no section `search`, so there is nothing to try.",
                remedy="Add one: search: {over: {train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}}",
            )
        with closing(self._context(wish, watch, stop)) as at:
            return search_line(wish, at, at.hourly, join=join, workers=workers)

    def _techniques(self, recipe: Path, overrides: tuple[str, ...], watch: Watch | None,
                    stop: threading.Event | None) -> tuple[str, ...]:  # fmt: skip
        """The section `search.techniques` that follows from advice, as words; none where the recipe has one."""
        from .advising import advise, techniques_of

        wish = self._read(recipe, overrides)
        if wish.recipe.search is not None and wish.recipe.search.techniques:
            return ()
        with closing(self._context(wish, watch, stop)) as at:
            return techniques_of(advise(wish, at, probe=True), wish)

    def advise(self, recipe: Path, overrides: tuple[str, ...] = (), *, probe: bool = True, watch: Watch | None = None,
               stop: threading.Event | None = None) -> Advised:  # fmt: skip
        """Which techniques suit this recipe's rows, task, machine and budget, each with its forecast and reasons. Trains nothing."""
        from .advising import advise

        wish = self._read(recipe, overrides)
        with closing(self._context(wish, watch, stop)) as at:
            return advise(wish, at, probe=probe)

    def select(self, references: tuple[str, ...] = (), *, recipe: Path | None = None, overrides: tuple[str, ...] = (),
               metric: str | None = None, rule: str = "one_standard_error", name: str | None = None) -> Selected:  # fmt: skip
        """Which of several trained models, or of a search's trials, to go on with, by figures on validation rows alone. `name`: give
        the release that is kept this name, as its newest version."""
        from .selecting import name_it, select_runs, select_trials

        if recipe is None and overrides:
            raise SpecError(
                "values are changed of a recipe, and none is named.",
                remedy="Add --recipe RECIPE, or leave --set out.",
            )
        if recipe is None:
            found = select_runs(self.store, references, metric=metric, rule=rule)
            return (
                found if name is None else replace(found, named=name_it(self.store, found, name, self.actor))
            )
        if references or name is not None:
            raise SpecError(
                "a recipe's search chooses among trials, which are not released yet.",
                remedy="Leave out the models and the name; the answer says what to run.",
            )
        if metric is not None:
            raise SpecError(
                "the trials of a search were judged by its own metric (search.metric).",
                remedy="Leave the metric out, or search once more by another one.",
            )
        wish = self._read(recipe, overrides)
        with closing(self._context(wish, None)) as at:
            return select_trials(wish, at, rule=rule)

    def run(self, recipe: Path, overrides: tuple[str, ...] = (), *, fresh: bool = False, waive: Asked | None = None,
            watch: Watch | None = None, stop: threading.Event | None = None) -> Run:  # fmt: skip
        """The whole line; where the recipe has a search, that first, and then the line of what it kept. Raises GateFailed with
        the numbers when policy stops it, Interrupted when the user does. `waive`: rules that a person lets this model break."""
        from .running import run_line

        wish = self._read(recipe, overrides)
        with closing(self._context(wish, watch, stop)) as at:
            if wish.recipe.search is not None:
                from .searching import search_line
                from .trying import with_setting

                wish = with_setting(wish, search_line(wish, at, at.hourly).kept_trial.setting)
            return run_line(wish, at, fresh=fresh, waive=waive)

    def merge(self, written: Path, overrides: tuple[str, ...] = (), *, watch: Watch | None = None,
              stop: threading.Event | None = None) -> Merged:  # fmt: skip
        """Several tuned models of one base become one, as a file says; measured where it names a release whose rows it is to
        answer."""
        from .merging import merge

        return merge(
            self.store, written, overrides, self._environ, watch or Silent(), stop or threading.Event()
        )

    def _read(self, recipe: Path, overrides: tuple[str, ...]) -> Wish:
        from .checking import check, check_answers
        from .recipe import read_recipe

        wish = read_recipe(recipe, overrides)
        check(wish.recipe)
        check_answers(wish)
        return wish

    def _context(self, wish: Wish, watch: Watch | None, stop: threading.Event | None = None) -> RunContext:
        hourly, about = self._hourly(wish), wish.recipe.data.about
        run = f"run-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        return RunContext(
            self.store, run, wish.folder, self._environ, watch or Silent(), stop or threading.Event(), hourly,
            name=wish.recipe.name, about=about.plain() if about else {}, lineage=sender(self._environ), actor=self.actor,
        )  # fmt: skip

    def _hourly(self, wish: Wish) -> Money | None:
        """What an hour of the machines costs; it must be known where training or a search may cost no more than so much."""
        from luthier.cost.prices import load_prices
        from luthier.training.stopping import refuse_unpriced

        budget, limit, search = wish.recipe.budget, wish.recipe.train.stop_at, wish.recipe.search
        needed = limit.money is not None or (search is not None and search.money is not None)
        prices, _ = load_prices(self.home / "prices.yaml", machine=budget.machine)
        price = prices.look_up(budget.machine) if needed else prices.find(budget.machine)
        if price is None:
            return None
        hourly = Money(price.value * budget.machines, price.currency)
        refuse_unpriced(limit.money, hourly)
        refuse_unpriced(search.money if search else None, hourly, "search")
        return hourly

    # -- records ----------------------------------------------------------------------------------------------------

    def listing(
        self, kind: str | None = None, *, tags: Sequence[str] = (), owner: str | None = None, purpose: str | None = None
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Released names with their versions, or with `kind` every artifact of that kind; newest first. `tags`, `owner` and
        `purpose` leave those of which a recipe says so (`data.about`), and what was made from them."""
        from .wanted import Wanted

        wanted = Wanted(tuple(tags), owner, purpose)
        wanted.refuse(kind)
        if kind is None:
            rows = []
            for version in reversed(self.store.catalog.history()):
                artifact = self.store.catalog.get(version.digest)
                if not wanted.has(self.store, artifact):
                    continue
                rows.append(
                    {
                        "name": str(version),
                        "digest": version.digest,
                        "created_s": version.created_s,
                        "summary": dict(artifact.summary),
                    }
                )
            return sorted(rows, key=lambda row: -row["created_s"])
        known = (
            "source",
            "dataset",
            "model",
            "report",
            "benchmark",
            "package",
            "release",
            "reference",
            "run",
        )
        if kind not in known:
            from luthier.core.errors import did_you_mean

            raise SpecError(f"there is no kind {kind!r}.", remedy=did_you_mean(kind, known))
        if kind == "run":
            return self._runs()
        return [
            {
                "digest": a.digest,
                "kind": a.kind,
                "created_s": a.created_s,
                "summary": dict(a.summary),
                **self._about(a),
            }
            for a in self.store.catalog.all(kind)
            if wanted.has(self.store, a)
        ]

    def _about(self, artifact: Artifact) -> dict[str, Any]:
        told = self.data.about(artifact.digest) if artifact.kind == "dataset" else None
        return {"about": dict(told)} if told else {}

    def _runs(self) -> list[dict[str, Any]]:
        runs: dict[str, dict[str, Any]] = {}
        for event in self.store.ledger.read(kind=["run.started", "run.finished"]):
            row = runs.setdefault(
                event.subject, {"run": event.subject, "created_s": event.time_s, "state": "not finished"}
            )
            row |= {
                k: v for k, v in event.data.items() if k in ("name", "state", "release", "reason", "seconds")
            }
        return sorted(runs.values(), key=lambda row: -row["created_s"])

    def show(self, reference: str, *, verify: bool = False) -> dict[str, Any]:
        """One artifact, whole: spec, parents, files, names, and the folder its files can be read from."""
        artifact = self.store.catalog.get(reference)
        damaged = [f.path for f in self.store.verify(artifact)] if verify else None
        return {
            "kind": artifact.kind, "digest": artifact.digest, "key": artifact.key,
            "names": [str(v) for v in self.store.catalog.names_of(artifact.digest)],
            "created_s": artifact.created_s, "summary": dict(artifact.summary), "spec": dict(artifact.spec),
            "parents": dict(artifact.parents),
            "files": [{"path": f.path, "sha256": f.sha256, "size_bytes": f.size_bytes} for f in artifact.files],
            "folder": str(self.store.folder(artifact)) if artifact.files else None,
            "report": self._report_of(artifact),
            **self._waivers_of(artifact),
            **self._about(artifact),
            **({"damaged": damaged} if verify else {}),
        }  # fmt: skip

    def _waivers_of(self, artifact: Artifact) -> dict[str, Any]:
        """What a release was let pass, and whether the ledger knows of it."""
        from luthier.governance.waiver import EVENT, WaiverSpec

        if not (waivers := artifact.spec.get("waivers")):
            return {}
        events = list(self.store.ledger.read(kind=EVENT, subject=artifact.parents["report"]))
        known = [WaiverSpec.model_validate(one) for event in events for one in event.data["waivers"]]
        told = [WaiverSpec.model_validate(one) for one in waivers]
        return {"waivers": [{**one.plain(), "recorded": one in known} for one in told]}

    def _report_of(self, artifact: Artifact) -> str | None:
        for version in self.store.catalog.names_of(artifact.digest):
            path = self.home / "reports" / f"{version}.html"
            if path.exists():
                return str(path)
        return None

    def page(self, reference: str) -> Path:
        """The page of a release (NAME, NAME@VERSION) or of a search (NAME-search). Raises NotFound."""
        from .pages import page_of

        return page_of(self.store, self.home / "reports", reference)

    def pictures(self, reference: str, folder: Path | None = None) -> list[Path]:
        """Every drawing of that page as a PNG file, in `folder` or in a folder beside the page that has its name."""
        from .report.png import write

        page = self.page(reference)
        return write(page, folder or page.with_suffix(""))

    def compare(self, one: str, other: str) -> Compared:
        """Two releases (or reports) on the test rows that both were asked, paired."""
        from .comparing import compare_releases

        return compare_releases(self.store, one, other)

    def lineage(self, reference: str, *, all_rows: bool = False) -> Lineage:
        """Where something came from and what came of it; see app.lineage for the references."""
        from .lineage import trace

        return trace(self.store, reference, all_rows=all_rows)

    def export(self, reference: str, target: Path, *, form: str = "merged", watch: Watch | None = None,
               stop: threading.Event | None = None) -> Exported:  # fmt: skip
        """A release's or model's weights as a plain folder in one form (postprocess.export lists them). Packed and checked now
        where the release does not hold that form. Never overwrites."""
        from .exporting import export

        at = RunContext(
            self.store,
            f"export-{reference}",
            Path.cwd(),
            self._environ,
            watch or Silent(),
            stop or threading.Event(),
        )
        artifact = self.store.catalog.get(reference)
        done = export(at, artifact, target, form)
        self.store.audit.append(
            self.actor.act("exported", reference, {"digest": artifact.digest, "form": form})
        )
        return done

    def render(
        self, reference: str, target: str, folder: Path, *, image: str, namespace: str | None = None, replicas: int | None = None,
        gpus: int | None = None,
    ) -> Rendered:  # fmt: skip
        """A release written out for a container, Kubernetes, KServe, vLLM, SageMaker or Azure ML: files to review and apply there. What is
        None is as usual there; what a target would ignore raises SpecError."""
        from luthier.deployment.targets import where_to

        from .rendering import render_release

        where = where_to(target, image, namespace, replicas, gpus)
        return render_release(self.store, reference, target, where, folder)

    @staticmethod
    def verify(folder: Path) -> Verdict:
        """Whether an exported folder is as it was written: files that are missing, changed or were added."""
        from luthier.postprocessing.sums import verify

        return verify(folder)

    def harness(self, reference: str, tasks: Sequence[str], *, include: Path | None = None, limit: int | None = None,
                shots: int | None = None, chat: bool = True, network: bool = False, watch: Watch | None = None,
                stop: threading.Event | None = None) -> dict[str, Any]:  # fmt: skip
        """Tasks of lm-evaluation-harness on a release, a model, or a known base by its name; kept as a `benchmark`. Nothing is
        fetched unless `network`."""
        from .benchmarking import run_tasks

        run = f"harness-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        root = Path.cwd() if include is None else include.absolute()
        stop = stop or threading.Event()
        with closing(RunContext(self.store, run, root, self._environ, watch or Silent(), stop)) as at:
            return run_tasks(
                at, reference, tasks, include=include is not None, limit=limit, shots=shots, chat=chat, network=network
            )  # fmt: skip

    # -- use --------------------------------------------------------------------------------------------------------

    def engine(self, reference: str, *, watch: Watch | None = None, by: str = "transformers",
               settings: Mapping[str, str] | None = None) -> Answerer:  # fmt: skip
        """The release behind a reference, or a known base by its name, loaded and ready, in the engine called `by`. The caller closes
        its engine. `watch` hears where it cannot answer as it was measured."""
        from luthier.models.known import KNOWN

        from .answering import open_engine
        from .line import import_base

        if reference in KNOWN and not self.store.catalog.history(reference):
            at = RunContext(self.store, f"import-{reference}", Path.cwd(), self._environ)
            digest = import_base(reference, at).digest
            return open_engine(at, digest, name=reference, engine=by, settings=settings)
        at = RunContext(self.store, f"answer-{reference}", Path.cwd(), self._environ, watch or Silent())
        return open_engine(at, reference, engine=by, settings=settings)

    def base_engine(self, base: str) -> Answerer:
        """A base as a recipe names one (a known name, a folder), loaded and ready. The caller closes its engine."""
        from .answering import open_engine
        from .line import import_base

        at = RunContext(self.store, f"import-{base[-80:]}", self.home, self._environ)
        return open_engine(at, import_base(base, at).digest, name=base)

    def record_answer(self, response_id: str, **facts: Any) -> None:
        """One fact per served answer: which release gave it. No text is kept."""
        self.store.ledger.append(Event("answer", response_id, facts))

    def doctor(self) -> list[Finding]:
        """What this machine has, what is missing, and how to get it."""
        from .doctor import examine

        return examine(
            self.home,
            self._environ.get("LUTHIER_DATABASE"),
            self._environ.get("LUTHIER_BLOBS"),
            self._environ,
        )
