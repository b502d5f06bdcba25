"""One run: the plan's limits are held against it, the line is walked, the gate judges, a name is given, a report is
written. Everything else is a reading of what this leaves in the ledger.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import __version__
from luthier.core.artifact import Artifact
from luthier.core.errors import GateFailed, LuthierError
from luthier.core.event import Event
from luthier.cost.meter import actual, error
from luthier.cost.prices import load_prices
from luthier.governance.waiver import Asked, told
from luthier.store.files import write_atomic

from .asking import asks, refuse
from .checking import check_devices
from .context import RunContext
from .judging import Judging
from .line import STEPS, Look, Make, Results, materials, walk
from .planning import before_asking, plan_training, refuse_over_budget
from .recipe import Wish

if TYPE_CHECKING:
    from luthier.governance.waiver import WaiverSpec

    from .report.facts import RunFacts


ALSO_SHOWN = (
    "ece",
    "rouge_l",
    "rmse",
    "answered",
    "perplexity",
)  # on the terminal; all metrics are in the report


@dataclass(frozen=True)
class Run:
    """What a run gave. `made` lists the steps that really ran; empty: everything was there already."""

    run: str
    name: str
    release: str  # name@version
    made: list[str]
    digests: dict[str, str]
    verdicts: list[dict[str, Any]]
    report: dict[str, Any] = field(repr=False)
    report_path: Path
    seconds: float
    waivers: list[dict[str, Any]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        systems = {name: system["metrics"] for name, system in self.report["systems"].items()}
        told = {k: v for k, v in asdict(self).items() if k != "report"}
        return told | {
            "report_path": str(self.report_path),
            "metrics": systems,
            "comparisons": self.report["comparisons"],
            "lines": self.lines(),
        }

    def lines(self) -> list[str]:
        """Before and after, each with its interval: what a person wants to know first."""
        told: list[str] = []
        shown = {
            "classify": {"macro_f1", "accuracy"},
            "regress": {"mae", "r2"},
            "chat": {"token_f1", "exact_match", "perplexity", "judge_score", "win_rate"},
            "extract": {"field_f1", "exact_object", "schema_valid"},
        }[self.report["task"]["kind"]]
        for name, system in self.report["systems"].items():
            figures = "  ".join(
                f"{metric} {value:.3f}"
                for metric, value in system["metrics"].items()
                if value is not None and metric in {*shown, *ALSO_SHOWN}
            )
            told.append(f"{name:12} {figures}")
        for c in (c for c in self.report["comparisons"] if c["metric"] in shown):
            told.append(
                f"{c['metric']}: {c['of']} against {c['to']} {c['difference']:+.3f} "
                f"({100 * c['confidence']:.4g} % interval {c['low']:+.3f} to {c['high']:+.3f}, {self.report['rows']} rows)"
            )
        told += [f"gate: {v['metric']} {v['rule']}: {_said(v)}, {v['reason']}" for v in self.verdicts]
        told += [
            f"released under waiver: {one['metric']} {one['rule']}, by {one['by']} on {one['on']}: {one['because']}"
            for one in self.waivers
        ]
        return told


def _said(verdict: Mapping[str, Any]) -> str:
    return "passed" if verdict["passed"] else "waived" if verdict["waived"] else "failed"


def run_line(
    wish: Wish,
    at: RunContext,
    *,
    fresh: bool = False,
    waive: Asked | None = None,
    also: Callable[[Results], None] | None = None,
) -> Run:
    """Raises GateFailed when policy stops the line, Interrupted when the user does; both leave what was finished. `waive`: broken
    rules that a person lets pass; without it a report that only passed so stops at the gate again. `also`: who else sees the report
    once the gate has let it pass, before anything is packed; it may raise GateFailed."""
    began = time.monotonic()
    judging = Judging(wish, at, waive)
    there = walk(wish, at, Look(at), judging.known)
    if not fresh and (known := _up_to_date(wish, at, there, judging, began)):
        return known
    check_devices(wish.recipe)
    before_asking(wish, at, there.model)
    at.emit(
        "run.started",
        name=wish.recipe.name,
        recipe=wish.text,
        overrides=list(wish.overrides),
        source=Path(wish.source).name,
        environment=_environment(),
    )
    make = Make(at, frozenset(STEPS) if fresh else frozenset())
    try:
        so_far = materials(wish, at, make)
        if fresh or there.model is None:
            plan = plan_training(wish, at, so_far, probe=True)
            refuse_over_budget(plan)
            at.emit("forecast", **plan.forecast_facts())
        elif there.report is None and so_far.dataset is not None:
            refuse(asks(wish, at, so_far.dataset), wish.recipe.budget.money)
        # The two materials were just made: the walk must return them, not make them anew once more.
        make.fresh -= {"dataset", "base"}

        def permit(so_far: Results) -> Sequence[WaiverSpec]:
            waivers = judging.permit(so_far)
            if also is not None:
                also(so_far)
            return waivers

        results = walk(wish, at, make, permit)
    except LuthierError as stopped:
        state = "stopped by the gate" if isinstance(stopped, GateFailed) else type(stopped).__name__.lower()
        at.emit(
            "run.finished",
            name=wish.recipe.name,
            state=state,
            reason=stopped.message,
            seconds=time.monotonic() - began,
        )
        if isinstance(stopped, GateFailed):
            path = _write_report(
                wish, at, replace(walk(wish, at, Look(at)), package=None, release=None), judging, None
            )
            raise GateFailed(f"{stopped.message}\n  report: {path}", remedy=stopped.remedy) from None
        raise
    assert results.release is not None
    act = at.actor.act(
        "released",
        wish.recipe.name,
        {"run": at.run, "waived": [one.metric for one in judging.waivers]},
    )
    version = at.store.catalog.name(wish.recipe.name, results.release.digest, act)
    at.emit(
        "run.finished",
        name=wish.recipe.name,
        state="released",
        release=str(version),
        made=make.made,
        seconds=time.monotonic() - began,
    )
    if "model" in make.made:
        foreseen, took = _forecast_and_actual(wish, at, results)
        missed = {
            what: error(foreseen.get(what), took[what])
            for what in ("tokens", "peak_bytes", "training_seconds", "seconds")
        }
        at.emit("actual", **took, forecast_error=missed)
    path = _write_report(wish, at, results, judging, str(version))
    return _run(at, wish, results, str(version), make.made, judging, path, began)


def _up_to_date(wish: Wish, at: RunContext, there: Results, judging: Judging, began: float) -> Run | None:
    """The run that would do nothing: everything is there, and the name's newest version is this very release."""
    if there.release is None:
        return None
    newest = at.store.catalog.history(wish.recipe.name)
    if not newest or newest[-1].digest != there.release.digest:
        return None
    path = _report_path(at, str(newest[-1]))
    if not path.exists():
        return None
    judging.judge(there)
    return _run(at, wish, there, str(newest[-1]), [], judging, path, began)


def _run(
    at: RunContext,
    wish: Wish,
    results: Results,
    release: str,
    made: list[str],
    judging: Judging,
    path: Path,
    began: float,
) -> Run:
    digests = {step: artifact.digest for step in STEPS if (artifact := getattr(results, step))}
    return Run(
        at.run,
        wish.recipe.name,
        release,
        made,
        digests,
        [asdict(v) for v in judging.verdicts],
        _report(at, results),
        path,
        time.monotonic() - began,
        told(judging.waivers),
    )


def _report(at: RunContext, results: Results) -> dict[str, Any]:
    assert results.report is not None
    return json.loads((at.folder(results.report) / "report.json").read_text(encoding="utf-8"))


def _report_path(at: RunContext, version: str) -> Path:
    return at.home / "reports" / f"{version}.html"


def _write_report(
    wish: Wish, at: RunContext, results: Results, judging: Judging, release: str | None
) -> Path:
    """The page for people; a reading of the artifacts and of this run's events, so it can be written again."""
    from .report.page import render

    path = _report_path(at, release or f"{wish.recipe.name}-stopped-{at.run}")
    write_atomic(path, render(_facts(wish, at, results, judging, release)).encode())
    return path


def _facts(wish: Wish, at: RunContext, results: Results, judging: Judging, release: str | None) -> RunFacts:
    from .lineage import graph
    from .report.facts import RunFacts as Facts

    def read(artifact: Artifact | None, name: str) -> Any:
        return json.loads((at.folder(artifact) / name).read_text(encoding="utf-8")) if artifact else None

    foreseen, took = _forecast_and_actual(wish, at, results)
    artifacts = (
        at.store.catalog.ancestors(results.release.digest)
        if results.release
        else [a for a in vars(results).values() if a]
    )
    nodes, edges = graph(at.store, artifacts, {})
    return Facts(
        name=wish.recipe.name,
        release=release,
        state="released" if release else "stopped by the gate",
        reason=None
        if release
        else "; ".join(
            f"{v.metric} {v.rule}: {v.reason}" for v in judging.verdicts if not v.passed and not v.waived
        ),
        made_on=time.strftime("%Y-%m-%d"),
        base=wish.recipe.base,
        dataset=read(results.dataset, "dataset.json"),
        rules=read(results.dataset, "rules.json"),
        history=read(results.model, "history.json"),
        train=results.model.spec if results.model else None,
        report=read(results.report, "report.json"),
        verdicts=[asdict(v) for v in judging.verdicts],
        waivers=told(judging.waivers),
        forecast=foreseen or None,
        actual=took,
        lineage_nodes=nodes,
        lineage_edges=edges,
        recipe=wish.text,
        overrides=wish.overrides,
        environment=_environment(),
    )


def _forecast_and_actual(
    wish: Wish, at: RunContext, results: Results
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was foreseen for making this model and measuring it, and what it took; both read from the ledger."""
    events, budget = _events_of_model(at, results), wish.recipe.budget
    prices, _ = load_prices(at.home / "prices.yaml", machine=budget.machine)
    took = actual(events, budget.machine, budget.machines, prices, steps=("model", "report"))
    foreseen = next((e.data for e in reversed(events) if e.kind == "forecast"), {})
    told = took.plain()
    if wish.recipe.train.parallel.kind != "none":
        told["peak_bytes"] = None  # this process only listened to those that trained
    return dict(foreseen), told


def _events_of_model(at: RunContext, results: Results) -> list[Event]:
    """The events of every run that worked on this model, those that were cut off too, and of this run."""
    ledger, model = at.store.ledger, results.model
    tried = [e.subject for e in ledger.read(kind="stage.started") if model and e.data["key"] == model.key]
    return [e for run in dict.fromkeys([*tried, at.run]) for e in ledger.read(subject=run)]


def _environment() -> dict[str, str]:
    import importlib.metadata

    found = {
        "luthier": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in ("torch", "transformers", "peft", "polars", "pyarrow", "scikit-learn"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
