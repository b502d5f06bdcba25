"""What would run, how long, how much memory and money: said before anything is spent, and held against the budget.

The rows are prepared and the base imported (both are kept for the run); training is forecast from the real rows'
lengths by formula, and from two real steps on this machine. `luthier plan` prints it, `luthier run` obeys it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.artifact import key_of, short
from luthier.core.errors import SpecError
from luthier.core.event import Event
from luthier.core.units import show_bytes, show_count, show_seconds

from .context import RunContext
from .line import STEPS, Look, Make, Results, materials, walk
from .recipe import Wish

if TYPE_CHECKING:
    from luthier.cost.forecast import CostForecast
    from luthier.training.plan import Forecast, Probe, Suggestion


@dataclass(frozen=True)
class Plan:
    """`steps`: each step of the line with its state. Without `training` nothing has to be trained."""

    name: str
    steps: list[dict[str, str]]
    training: Forecast | None = None
    seconds: float | None = None  # training and evaluation together
    cost: CostForecast | None = None
    suggestion: Suggestion | None = None
    over_budget: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def forecast_facts(self) -> dict[str, Any]:
        """The figures that a run is measured against."""
        t = self.training
        if t is None:
            return {}
        money = self.cost.money if self.cost else None
        return {
            "steps": t.steps, "tokens": t.tokens, "supervised": t.supervised, "peak_bytes": t.peak_total_bytes, "parts": dict(t.peak_bytes),
            "training_seconds": t.seconds, "seconds": self.seconds, "probed": t.probe is not None,
            "money": [money.amount, money.currency] if money else None, "basis": list(self.cost.basis) if self.cost else [],
        }  # fmt: skip

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "steps": self.steps, "forecast": self.forecast_facts(), "suggestion": asdict(self.suggestion) if self.suggestion else None,
                "over_budget": self.over_budget, "notes": self.notes}  # fmt: skip

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Titles with (what, how much) pairs, for people."""
        t = self.training
        if t is None:
            return []
        parts = ", ".join(f"{name} {show_bytes(size)}" for name, size in t.peak_bytes.items() if size)
        training = [
            ("steps", f"{t.steps:,} of {t.spec.batch.rows} rows, {t.validations} validations"),
            (
                "tokens",
                f"{show_count(t.tokens)} to learn from, {show_count(t.supervised)} of them supervised; {show_count(t.validation_tokens)} to validate",
            ),
            (
                "trained",
                f"{show_count(t.trained_parameters)} of {show_count(t.facts.parameters)} parameters, {t.dtype}",
            ),
            (
                "memory",
                f"{show_bytes(t.peak_total_bytes)} at most{' (measured)' if t.probe else ''}: {parts}",
            ),
            ("time", show_seconds(t.seconds) if t.seconds is not None else "not known without the probe"),
        ]
        whole = [("time", show_seconds(self.seconds) if self.seconds is not None else "not known")]
        if self.cost:
            whole += [
                ("money", str(self.cost.money) if self.cost.money else "not known"),
                *(("", line) for line in self.cost.basis),
            ]
        return [("training", training), ("whole run", whole)]


def make_plan(wish: Wish, at: RunContext, *, probe: bool) -> Plan:
    """The plan of a whole recipe. Raises what preparing the rows and importing the base raise."""
    there = walk(wish, at, Look(at))
    if there.model is not None:
        return Plan(wish.recipe.name, _steps(there))
    so_far = materials(wish, at, Make(at))
    return plan_training(wish, at, so_far, probe=probe)


def plan_training(wish: Wish, at: RunContext, so_far: Results, *, probe: bool) -> Plan:
    """The forecast of what is not there yet, from prepared rows and an imported base."""
    from luthier.cost.budget import check
    from luthier.cost.forecast import forecast as price
    from luthier.cost.prices import load_prices
    from luthier.training import plan as training

    recipe = wish.recipe
    facts, lengths, measured = _measure(wish, at, so_far, probe)
    made = training.forecast(recipe.train, facts, lengths, measured)
    seconds = (
        None
        if made.seconds is None
        else made.seconds + _evaluation_seconds(wish, at, so_far, lengths, measured)
    )
    prices, warnings = load_prices(at.home / "prices.yaml", machine=recipe.budget.machine)
    cost = price(seconds, recipe.budget.machine, recipe.budget.machines, prices)
    limit = recipe.budget.memory or _memory_bytes()
    suggestion = training.suggest(made, limit) if made.peak_total_bytes > limit else None
    remedy = f"--set {' --set '.join(suggestion.settings)} ({suggestion.effect})" if suggestion else None
    over = check(
        recipe.budget, seconds, made.peak_total_bytes, cost.money, {"memory": remedy} if remedy else None
    )
    if recipe.budget.memory is None and made.peak_total_bytes > limit:
        over.append(
            f"training needs {show_bytes(made.peak_total_bytes)} and this machine has {show_bytes(limit)}"
            + (f"; the cheapest change that fits: {remedy}" if remedy else "")
        )
    notes = list(warnings)
    if recipe.task.kind != "classify":
        notes.append(
            "the time for writing the answers of the evaluation is not forecast: it depends on how long they get"
        )
    return Plan(recipe.name, _steps(walk(wish, at, Look(at))), made, seconds, cost, suggestion, over, notes)


def refuse_over_budget(plan: Plan) -> None:
    """Raise SpecError when the forecast breaks a limit. Nothing has been spent but the preparing of rows."""
    if plan.over_budget:
        raise SpecError(
            "this run would go over its limits:\n  " + "\n  ".join(plan.over_budget),
            remedy="Raise the budget, or make the run smaller (`luthier plan` shows what it is made of).",
        )


def _steps(there: Results) -> list[dict[str, str]]:
    told = []
    for step in STEPS:
        artifact = getattr(there, step)
        if artifact is None:
            told.append({"step": step, "state": "to do", "detail": ""})
        else:
            told.append({"step": step, "state": "there", "detail": f"{short(artifact.digest)}"})
    return told


def _measure(wish: Wish, at: RunContext, so_far: Results, probe: bool) -> tuple[Any, Any, Probe | None]:
    """The model's facts, the rows' lengths, and the probe's figures (remembered in the ledger)."""
    from luthier.models.weights import describe
    from luthier.training import plan as training
    from luthier.training.train import STAGE, tokenised

    assert so_far.base is not None and so_far.dataset is not None
    parents = {role: one.digest for role, one in so_far.others.items() if one is not None}
    parents |= {"base": so_far.base.digest, "dataset": so_far.dataset.digest}
    spec = wish.recipe.train
    key = key_of(STAGE.kind, spec.plain(), STAGE.version, parents)
    base, dataset = at.folder(so_far.base), at.folder(so_far.dataset)
    facts = describe(base)
    with at.store.working(key) as (_, scratch):  # the run finds the tokens there
        method = spec.method.load()(spec.method.settings)
        splits, _ = tokenised(
            spec, method, base, dataset, facts.context, dict(sorted(parents.items())), scratch, at
        )
    lengths = training.Lengths.of(splits)
    if not probe:
        return facts, lengths, None
    return facts, lengths, _probed(wish, at, key, base, splits["train"])


def _probed(wish: Wish, at: RunContext, key: str, base: Any, rows: Any) -> Probe:
    from luthier.training.plan import Probe
    from luthier.training.probe import probe

    machine = _machine()
    known = at.store.ledger.last(kind="probe", subject=key)
    if known and known.data["machine"] == machine:
        return Probe(**known.data["figures"])
    at.progress("probe: two real steps", 0, 2)
    figures = probe(wish.recipe.train, base, rows)
    at.progress("probe: two real steps", 2, 2)
    at.store.ledger.append(Event("probe", key, {"machine": machine, "figures": asdict(figures)}))
    return figures


def _machine() -> dict[str, Any]:
    import platform

    import torch

    return {"node": platform.node(), "threads": torch.get_num_threads(), "torch": torch.__version__}


def _evaluation_seconds(
    wish: Wish, at: RunContext, so_far: Results, lengths: Any, probe: Probe | None
) -> float:
    """Reading each row's prompt and answer, or its prompt and the tree of labels, once for every language model that is
    measured. Left out: the examples of the three-shot prompt, which are read once, and the plain baseline."""
    import json

    assert so_far.dataset is not None and so_far.base is not None and probe is not None
    about = json.loads((at.folder(so_far.dataset) / "dataset.json").read_text(encoding="utf-8"))
    rows = min(about["counts"]["test"], wish.recipe.evaluate.rows or about["counts"]["test"])
    a_row = sum(n for n, _ in lengths.train) / len(lengths.train)
    if labels := about["task"]["labels"]:
        a_row += _tree_tokens(at.folder(so_far.base), labels)
    systems = sum(1 for s in wish.recipe.evaluate.systems(wish.recipe.task.kind) if s != "tfidf")
    return rows * a_row * systems * probe.seconds_per_validation_token


def _tree_tokens(base: Path, labels: list[str]) -> int:
    """Nodes of the tree that the labels' tokens make: what a row costs besides its prompt when labels are scored."""
    from luthier.models.weights import load_tokenizer

    tokenizer = load_tokenizer(base)
    told = [tuple(tokenizer(label, add_special_tokens=False)["input_ids"]) for label in labels]
    return len({one[: k + 1] for one in told for k in range(len(one))}) + len(
        labels
    )  # and the end after each label


def _memory_bytes() -> int:
    import psutil

    allowed = int(psutil.virtual_memory().total)
    try:  # a container may be given less than the machine has
        return min(allowed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return allowed
