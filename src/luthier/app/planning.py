"""What would run, how long, how much memory and money: said before anything is spent, and held against the budget.

The rows are prepared and the base imported (both are kept for the run); training is forecast from the real rows'
lengths by formula, and from a few real steps on this machine. `luthier plan` prints it, `luthier run` obeys it. What the
figures hold and what they leave out: docs/plan.md, and `notes` where it is not the usual.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from luthier.core.artifact import Artifact, short
from luthier.core.errors import SpecError
from luthier.core.event import Event
from luthier.core.units import show_bytes, show_count, show_seconds
from luthier.data.rules.rule import WouldAsk
from luthier.governance.policy import check_prices

from .asking import asks, check_keys, check_people, over_budget
from .context import RunContext
from .gating import remembering, rules_and_costs
from .line import STEPS, Look, Make, Results, materials, walk
from .recipe import Wish
from .systems import check as check_systems
from .systems import measuring
from .workbench import Workbench, workbench

if TYPE_CHECKING:
    from luthier.cost.forecast import CostForecast
    from luthier.data.spec import RuleSpec
    from luthier.postprocessing.spec import Form
    from luthier.training.plan import Forecast, Probe, Suggestion
    from luthier.training.spec import TrainSpec


@dataclass(frozen=True)
class Plan:
    """`steps`: each step of the line with its state; `rules`: by section, every rule in its order, with the settings that are not
    its defaults. Without `training` nothing has to be trained, or with `asking` the rows are not all there."""

    name: str
    steps: list[dict[str, str]]
    rules: dict[str, list[str]] = field(default_factory=dict)
    training: Forecast | None = None
    seconds: float | None = None  # training and evaluation together
    cost: CostForecast | None = None
    suggestion: Suggestion | None = None
    over_budget: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    asking: dict[str, Any] | None = None  # what rules would have models write, at most
    package: dict[str, int] = field(default_factory=dict)  # form -> bytes of its weights
    asks: list[dict[str, Any]] = field(
        default_factory=list
    )  # what the evaluation would ask of servers and a judge, at most
    gate: list[tuple[str, str]] = field(default_factory=list)  # each rule, and what measuring it costs

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
        return {"name": self.name, "steps": self.steps, "rules": self.rules, "forecast": self.forecast_facts(), "suggestion": asdict(self.suggestion) if self.suggestion else None,
                "over_budget": self.over_budget, "notes": self.notes, "asking": self.asking, "asks": self.asks, "package": self.package,
                "gate": [{"rule": rule, "cost": cost} for rule, cost in self.gate], "sections": self.sections()}  # fmt: skip

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Titles with (what, how much) pairs, for people."""
        rules = [(section, " → ".join(told)) for section, told in self.rules.items()]
        told = [("rules", rules)] if rules else []
        gate = [("gate", self.gate)] if self.gate else []
        t = self.training
        if t is None:
            return [*told, *gate]
        parts = ", ".join(f"{name} {show_bytes(size)}" for name, size in t.peak_bytes.items() if size)
        about = {"counted": "", "measured": "about ", "bound": "up to "}[t.known]
        shared = (
            f" by {t.team.size} processes"
            if t.team.sharing > 1
            else " by each process"
            if t.team.size > 1
            else ""
        )
        measured = " (measured)" if t.peak_total_bytes == t.measured_bytes else ""
        training = [
            ("steps", f"{t.steps:,} of {t.spec.batch.rows} rows, {t.validations} validations"),
            (
                "tokens",
                f"{about}{show_count(t.tokens)} to learn from, {show_count(t.supervised)} of them supervised; {show_count(t.validation_tokens)} to validate",
            ),
            (
                "trained",
                f"{show_count(t.trained_parameters)} of {show_count(t.facts.parameters)} parameters, {t.dtype}",
            ),
            (
                "memory",
                f"{show_bytes(t.peak_total_bytes)} at most{shared}{measured}: {parts}",
            ),
            ("time", show_seconds(t.seconds) if t.seconds is not None else "not known without the probe"),
        ]
        whole = [("time", show_seconds(self.seconds) if self.seconds is not None else "not known")]
        if self.cost:
            whole += [
                ("money", str(self.cost.money) if self.cost.money else "not known"),
                *(("", line) for line in self.cost.basis),
            ]
        packed = [(form, show_bytes(size)) for form, size in self.package.items()]
        return [*told, ("training", training), ("package", packed), ("whole run", whole), *gate]


def make_plan(wish: Wish, at: RunContext, *, probe: bool) -> Plan:
    """The plan of a whole recipe. Raises what preparing the rows and importing the base raise."""
    there = walk(wish, at, Look(at))
    known = before_asking(wish, at, there.model)
    if there.model is not None:
        asked = [] if there.report or there.dataset is None else asks(wish, at, there.dataset)
        return Plan(
            wish.recipe.name,
            _steps(wish, there),
            written_rules(wish),
            over_budget=over_budget(asked, wish.recipe.budget.money, None),
            notes=[*known, *(one.sentence for one in asked)] if there.report is None else [],
            asks=[one.plain() for one in asked],
            gate=rules_and_costs(wish, there=there.report is not None),
        )
    try:
        so_far = materials(wish, at, Make(at), asks=False)
    except WouldAsk as told:
        later = "training can be forecast once the rows are there: `luthier data prepare` asks for them, or leave the rule out for a first look"
        notes = [*known, *told.sentences, later]
        steps = _steps(wish, there)
        return Plan(
            wish.recipe.name,
            steps,
            written_rules(wish),
            asking=told.figures,
            notes=notes,
            gate=rules_and_costs(wish),
        )
    plan = plan_training(wish, at, so_far, probe=probe)
    return replace(plan, notes=[*plan.notes, *known])


def before_asking(wish: Wish, at: RunContext, model: Artifact | None) -> list[str]:
    """What of the systems and the judge is wrong or worth knowing before anything is spent. Raises SpecError, NotFound."""
    check_keys(wish.recipe, at)
    check_people(wish.recipe, at)
    check_prices(wish.recipe.evaluate.gate, at.hourly)
    told = check_systems(wish.recipe, at, model)
    measuring(wish.recipe, at)
    return told


def written_rules(wish: Wish) -> dict[str, list[str]]:
    """As they run, whatever shorthand the recipe has for them."""
    rules = wish.recipe.data.rules
    sections = {name: getattr(rules, name) for name in type(rules).model_fields}
    return {name: [_rule(one) for one in some] for name, some in sections.items() if some}


def _rule(wish: RuleSpec) -> str:
    try:
        usual = type(wish.settings)().plain()
    except ValidationError:  # some need a setting
        usual = {}
    own = wish.settings.model_dump(mode="json", exclude_defaults=True)
    own = {name: value for name, value in own.items() if name not in usual or value != usual[name]}
    told = ", ".join(f"{name}: {value}" for name, value in own.items())
    return f"{wish.name} ({told})" if told else wish.name


def plan_training(wish: Wish, at: RunContext, so_far: Results, *, probe: bool) -> Plan:
    """The forecast of what is not there yet, from prepared rows and an imported base."""
    from luthier.cost.budget import check
    from luthier.cost.forecast import forecast as price
    from luthier.cost.prices import load_prices
    from luthier.training import plan as training
    from luthier.training.memory import let_go

    recipe = wish.recipe
    forms = _packable(wish, at, so_far)
    made, there = _measure(wish, at, so_far, probe)
    if made.probe:
        let_go(made.probe.device)  # what the real steps held, before anything else is started
    seconds = None if made.seconds is None else made.seconds + _evaluation_seconds(wish, at, so_far, made)
    prices, warnings = load_prices(at.home / "prices.yaml", machine=recipe.budget.machine)
    cost = price(seconds, recipe.budget.machine, recipe.budget.machines, prices)
    limit = recipe.budget.memory or there
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
    asked = asks(wish, at, so_far.dataset) if so_far.dataset else []
    over += over_budget(asked, recipe.budget.money, cost.money)
    notes = [*warnings, *_notes(wish, made), *(one.sentence for one in asked)]
    return Plan(
        recipe.name,
        _steps(wish, walk(wish, at, Look(at))),
        written_rules(wish),
        made,
        seconds,
        cost,
        suggestion,
        over,
        notes,
        package=_sizes(forms, at, so_far, made),
        asks=[one.plain() for one in asked],
        gate=rules_and_costs(
            wish,
            _remembered_tokens(wish, at, so_far, made),
            made.probe.seconds_per_read_token if made.probe else None,
        ),
    )


def _packable(wish: Wish, at: RunContext, so_far: Results) -> tuple[Form, ...]:
    """The forms to pack. Raises ModelError or MissingPart for one that cannot be made of this base, before anything is trained."""
    from luthier.postprocessing.forms import refuse

    recipe = wish.recipe
    assert so_far.base is not None
    forms = recipe.postprocess.forms(recipe.train.adapter.kind)
    refuse(forms, at.folder(so_far.base), own_head=not recipe.train.method.load().through_vocabulary)
    return forms


def _sizes(forms: tuple[Form, ...], at: RunContext, so_far: Results, made: Forecast) -> dict[str, int]:
    from luthier.postprocessing.forms import size_bytes

    assert so_far.base is not None
    base = at.folder(so_far.base)
    return {form: size_bytes(form, base, made.facts, made.trained_parameters) for form in forms}


def _notes(wish: Wish, made: Forecast) -> list[str]:
    """What the figures rest on, or leave out, where that is not the usual."""
    from luthier.training.method import Method

    name, method = made.spec.method.name, made.spec.method.load()
    processes = f"train.parallel: {made.team.size} processes share the work"
    told = []
    if (search := wish.recipe.search) is not None:
        limits = [str(limit) for limit in (search.time and show_seconds(search.time), search.money) if limit]
        until = f", until {' or '.join(limits)} is used up" if limits else ""
        told.append(
            f"the search trains up to {search.trials * (search.folds or 1)} times{until}; the figures above are of one training"
        )
    if made.spec.parallel.kind == "fsdp":
        told.append(
            f"{processes} and none of them could do it alone, so no real steps were tried: time and money are not known"
        )
    elif made.spec.parallel.kind == "ddp":
        than = "processes on one processor are no faster" if made.team.one_memory else "an upper bound"
        told.append(f"{processes}; time and money are forecast of one process alone ({than})")
    if made.known == "bound":
        copies, gain = method(made.spec.method.settings).grows()
        answers = "an answer" if copies == 1 else f"{copies} answers"
        told.append(
            f"{name} learns from {answers} to each row, of up to {gain:,} tokens: tokens are an upper bound"
        )
    elif made.known == "measured":
        told.append(
            f"how long the answers get that {name} learns from is taken from the rows of the real steps, and memory from the longest there may be"
        )
    if made.probe is None and method.prepare is not Method.prepare:
        told.append(f"what {name} prepares before the first step is in no figure")
    if made.spec.activation_checkpointing is True and wish.recipe.train.activation_checkpointing == "auto":
        told.append(
            "activation checkpointing is on, a third slower: training would not fit in memory otherwise"
        )
    if wish.recipe.task.kind != "classify":
        told.append(
            "the time for writing the answers of the evaluation is not forecast: it depends on how long they get"
        )
    return told


def refuse_over_budget(plan: Plan) -> None:
    """Raise SpecError when the forecast breaks a limit. Nothing has been spent but the preparing of rows."""
    if plan.over_budget:
        raise SpecError(
            "this run would go over its limits:\n  " + "\n  ".join(plan.over_budget),
            remedy="Raise the budget, or make the run smaller (`luthier plan` shows what it is made of).",
        )


def _steps(wish: Wish, there: Results) -> list[dict[str, str]]:
    told = []
    recipe = wish.recipe
    for step in STEPS:
        if step == "calibration" and not recipe.postprocess.calibrating(recipe.task.kind):
            continue
        artifact = getattr(there, step)
        if artifact is None:
            told.append({"step": step, "state": "to do", "detail": ""})
        else:
            told.append({"step": step, "state": "there", "detail": f"{short(artifact.digest)}"})
    return told


def _measure(wish: Wish, at: RunContext, so_far: Results, probe: bool) -> tuple[Forecast, int]:
    """The forecast of training, and the memory that there is for it. What is cut across processes cannot be tried in one."""
    from luthier.training import memory
    from luthier.training import plan as training

    bench = workbench(wish, at, so_far)
    figures = _probed(at, bench) if probe and bench.spec.parallel.kind != "fsdp" else None
    device = figures.device if figures else _device(bench.spec)
    there = memory.machine_bytes(device)
    lengths = memory.Lengths.of(bench.splits, bench.spec)
    made = training.forecast(bench.spec, bench.facts, lengths, figures, None, bench.others, there, device)
    return made, there


def _device(spec: TrainSpec) -> str:
    """Where training would compute here; without a GPU the plan is made for the processor, whatever the recipe asks for."""
    import torch

    return "cuda" if spec.device != "cpu" and torch.cuda.is_available() else "cpu"


def _probed(at: RunContext, bench: Workbench) -> Probe:
    """The probe's figures, remembered in the ledger as long as training, machine and the figures' meaning stay the same."""
    from luthier.training.plan import Probe
    from luthier.training.probe import VERSION, probe

    made_by = {"machine": _machine(), "version": VERSION}
    known = at.store.ledger.last(kind="probe", subject=bench.key)
    if known and {name: known.data.get(name) for name in made_by} == made_by:
        return Probe(**known.data["figures"])
    at.progress("probe: real steps", 0, None)
    figures = probe(bench.spec, bench.method, bench.folders, bench.splits, bench.template, at)
    at.store.ledger.append(Event("probe", bench.key, {**made_by, "figures": asdict(figures)}))
    return figures


def _machine() -> dict[str, Any]:
    import platform

    import torch

    return {"node": platform.node(), "threads": torch.get_num_threads(), "torch": torch.__version__}


BESIDE_TOKENS = {"general": 12_000, "safety": 7_000}
"""Read and written for one model's answers to a built-in set beside the task, about. Files are not counted."""


def _evaluation_seconds(wish: Wish, at: RunContext, so_far: Results, made: Forecast) -> float:
    """Reading each row's prompt and answer, or its prompt and the tree of labels, once for every language model that is
    measured. Left out: the examples of the three-shot prompt, which are read once, and the plain baseline."""
    import json

    assert so_far.dataset is not None and so_far.base is not None and made.probe is not None
    about = json.loads((at.folder(so_far.dataset) / "dataset.json").read_text(encoding="utf-8"))
    rows = min(about["counts"]["test"], wish.recipe.evaluate.rows or about["counts"]["test"])
    a_row = float(made.lengths.train[:, 0].mean())
    if labels := about["task"]["labels"]:
        a_row += _tree_tokens(at.folder(so_far.base), labels)
    wish_ = wish.recipe.evaluate.measuring()
    systems = sum(
        1 for s in wish_.systems(wish.recipe.task.kind) if wish_.kind_of(s) not in ("tfidf", "endpoint")
    )
    rows += min(rows, wish_.timed)
    more = _remembered_tokens(wish, at, so_far, made)
    more += sum(2 * BESIDE_TOKENS[name] for name, told in wish_.sets.items() if told == "auto")
    return (rows * a_row * systems + more) * made.probe.seconds_per_read_token


def _remembered_tokens(wish: Wish, at: RunContext, so_far: Results, made: Forecast) -> float:
    import json

    assert so_far.dataset is not None
    about = json.loads((at.folder(so_far.dataset) / "dataset.json").read_text(encoding="utf-8"))
    return remembering(wish, about["counts"], float(made.lengths.train[:, 0].mean()))


def _tree_tokens(base: Path, labels: list[str]) -> int:
    """Nodes of the tree that the labels' tokens make: what a row costs besides its prompt when labels are scored."""
    from luthier.models.weights import load_tokenizer

    tokenizer = load_tokenizer(base)
    told = [tuple(tokenizer(label, add_special_tokens=False)["input_ids"]) for label in labels]
    return len({one[: k + 1] for one in told for k in range(len(one))}) + len(
        labels
    )  # and the end after each label
