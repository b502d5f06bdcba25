"""Which technique for my case? From the rows, the task, the base, this machine and the budget: a ranked list, each with the
forecast that `luthier plan` would give, its reasons with their numbers, and the words that set it.

    rows prepared ─▶ Case ─▶ techniques: can it be? what speaks for it? ─▶ forecast ─▶ fits? ─▶ rank
    advice ─▶ the section `search.techniques` (luthier search --techniques)

Nothing is trained and no test row is looked at; their number is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from luthier.core.errors import LuthierError, MissingPart, SpecError
from luthier.core.units import Money, show_bytes, show_count, show_seconds

from .context import RunContext
from .line import Make, Results, materials
from .planning import plan_training
from .recipe import Wish, again
from .techniques import Case, Technique, table

MOST_TRIED = 6
ROWS_READ = 200_000


@dataclass(frozen=True)
class Advice:
    """`possible`: it can be done here within the limits; else `why_not` says what stands against it. `seconds`, `peak_bytes` and
    `money` are what `luthier plan` says of it; None where that is not known. `sets` make the recipe this technique."""

    name: str
    title: str
    possible: bool
    tier: int
    reasons: list[str]
    why_not: list[str]
    sets: list[str]
    trains: bool
    seconds: float | None = None
    peak_bytes: int | None = None
    trained_parameters: int | None = None
    money: Money | None = None
    over: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Advised:
    """`advice`: what is possible first, each part ranked."""

    name: str
    case: Case
    advice: list[Advice]
    notes: list[str]

    def plain(self) -> dict[str, Any]:
        advice = [
            asdict(one) | {"money": list(one.money) if one.money else None, "figures": figures(one)}
            for one in self.advice
        ]
        return {
            "name": self.name, "case": asdict(self.case), "told": told(self.case), "advice": advice, "notes": self.notes,
        }  # fmt: skip


def advise(wish: Wish, at: RunContext, *, probe: bool) -> Advised:
    """Prepares the rows and imports the base, which a run would find again. `probe` takes real steps for each technique, so that
    times are known; without it memory alone is."""
    wish = again(wish, ("search=null",))
    so_far = materials(wish, at, Make(at), asks=False)
    case, notes = _case(wish, at, so_far)
    known = table(case)
    found = []
    for n, technique in enumerate(known):
        at.check()
        at.progress("advise", n, len(known), technique=technique.name)
        found.append(_advice(technique, case, wish, at, so_far, probe))
    ranked = sorted(found, key=lambda one: (not one.possible, one.tier, one.seconds or 0.0, one.name))
    return Advised(wish.recipe.name, case, ranked, notes)


def _advice(
    technique: Technique, case: Case, wish: Wish, at: RunContext, so_far: Results, probe: bool
) -> Advice:
    tier, reasons = technique.weighs(case)
    sets = [f"{path}={json.dumps(value)}" for path, value in technique.sets.items()]
    told: dict[str, Any] = {
        "name": technique.name, "title": technique.title, "tier": tier, "sets": sets, "trains": technique.trains,
        "over": technique.over,
    }  # fmt: skip
    if why := technique.needs(case):
        return Advice(possible=False, reasons=[], why_not=[why], **told)
    if not technique.trains:
        return Advice(possible=True, reasons=reasons, why_not=[], **told)
    try:
        other = again(wish, tuple(sets))
        from .checking import check

        check(other.recipe)
        made = so_far if not other.recipe.train.other_models else materials(other, at, Make(at), asks=False)
        plan = plan_training(other, at, made, probe=probe)
    except LuthierError as error:
        return Advice(possible=False, reasons=reasons, why_not=[error.message], **told)
    assert plan.training is not None
    against = [one for one in plan.over_budget if probe or "not known" not in one]
    if need := _disk(plan.training, case):
        against.append(need)
    figures: dict[str, Any] = {
        "seconds": plan.seconds,
        "peak_bytes": plan.training.peak_total_bytes,
        "trained_parameters": plan.training.trained_parameters,
        "money": plan.cost.money if plan.cost else None,
    }
    return Advice(possible=not against, reasons=reasons, why_not=against, **told, **figures)


def _disk(made: Any, case: Case) -> str | None:
    """Three checkpoints of what moves with its two moments, and the model."""
    need = made.trained_parameters * 4 * (3 * 3 + 1)
    if need <= case.disk_bytes:
        return None
    return f"disk: checkpoints need about {show_bytes(need)}, and {show_bytes(case.disk_bytes)} are free"


# -- the case -----------------------------------------------------------------------------------------------------------


def _case(wish: Wish, at: RunContext, so_far: Results) -> tuple[Case, list[str]]:
    import torch

    from luthier.data.shards import Side
    from luthier.models.weights import describe
    from luthier.training.memory import machine_bytes

    assert so_far.dataset is not None and so_far.base is not None
    folder = at.folder(so_far.dataset)
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    facts = describe(at.folder(so_far.base))
    side = Side(folder / "train.parquet")
    table_ = side.table(["rejected", "rating", "text"])
    n = max(1, table_.num_rows)
    shares = {name: 1 - table_[name].null_count / n for name in ("rejected", "rating", "text")}
    tokens = _tokens(wish, at, so_far)
    labels = {label: int(counts["train"]) for label, counts in (about.get("labels") or {}).items()}
    device = "cuda" if wish.recipe.train.device != "cpu" and torch.cuda.is_available() else "cpu"
    notes: list[str] = []
    plain = _plain(about, side, at, notes)
    teacher = next(iter(wish.recipe.train.other_models.values()), None)
    case = Case(
        about["task"]["kind"], about["counts"]["train"], about["counts"]["validation"], about["counts"]["test"],
        *tokens, labels, shares["rejected"], shares["rating"], shares["text"], facts.parameters, facts.layers,
        wish.recipe.budget.memory or machine_bytes(device), shutil.disk_usage(at.home).free, device, teacher, *plain,
    )  # fmt: skip
    if case.labels and (ratio := max(labels.values()) / max(1, min(labels.values()))) >= 5:
        notes.append(
            f"labels are uneven: the most frequent has {ratio:.1f} times the rows of the rarest; `luthier data advise` says what helps"
        )
    return case, notes


def _tokens(wish: Wish, at: RunContext, so_far: Results) -> tuple[int, int]:
    """(of all training rows, of the longest), as the base's tokenizer counts them for plain learning of answers."""
    from .workbench import workbench

    plain = again(wish, ('train.method="sft"', 'train.adapter={"kind": "lora"}'))
    bench = workbench(plain, at, Results(so_far.dataset, so_far.base))
    tokens = bench.splits["train"].tokens
    return int(tokens.sum()), int(tokens.max())


def _plain(
    about: Mapping[str, Any], side: Any, at: RunContext, notes: list[str]
) -> tuple[float | None, float | None, float | None]:
    """(what word counts reach, its standard error, what twice the rows promise)."""
    from luthier.data.canaries import natural
    from luthier.evaluation.learning_curve import curve

    if about["task"]["kind"] != "classify" or side.rows > ROWS_READ:
        return None, None, None
    at.progress("word counts", 0, None)
    rows = natural(side.table(["id", "messages", "label", "group", "made_from", "source"])).to_pylist()
    try:
        told = curve(rows, list(about["task"]["labels"] or ()))
    except MissingPart as lacking:
        notes.append(lacking.message)
        return None, None, None
    if told is None:
        return None, None, None
    right = told.accuracy[-1]
    return right, (right * (1 - right) / told.asked) ** 0.5, told.twice


# -- what a search does with it -----------------------------------------------------------------------------------------


def techniques_of(advised: Advised, wish: Wish) -> tuple[str, ...]:
    """Words that add a search over the techniques that are possible, the likeliest first, as many as trials leave two for each;
    limits of the recipe's budget become the search's where it has none. Raises SpecError where fewer than two are."""
    trained = [one for one in advised.advice if one.possible and one.trains]
    spec = wish.recipe.search
    trials = spec.trials if spec is not None else 2 * min(MOST_TRIED, len(trained)) + 1
    chosen = trained[: max(2, min(MOST_TRIED, (trials - 1) // 2))]
    if len(chosen) < 2:
        named = "; ".join(f"{one.name}: {one.why_not[0]}" for one in advised.advice if one.why_not)
        raise SpecError(
            f"fewer than two techniques are possible here, so there is nothing to compare ({named[:400]}).",
            remedy="`luthier advise RECIPE` says what stands against each.",
        )
    told = {one.name: {"set": _setting(one), "over": _ranges(one)} for one in chosen}
    words = [f"search.techniques={json.dumps(told)}"]
    if spec is None:
        words.append(f"search.trials={trials}")
    budget = wish.recipe.budget
    if budget.time is not None and (spec is None or spec.time is None):
        words.append(f"search.time={budget.time}")
    if budget.money is not None and (spec is None or spec.money is None):
        words.append(f"search.money={budget.money.amount} {budget.money.currency}")
    return tuple(words)


def _setting(one: Advice) -> dict[str, Any]:
    pairs = (word.partition("=") for word in one.sets)
    return {path: json.loads(value) for path, _, value in pairs}


def _ranges(one: Advice) -> dict[str, Any]:
    return dict(one.over)


def told(case: Case) -> Sequence[tuple[str, str]]:
    """The case, for people: (what, how much)."""
    shown = [
        ("task", case.kind + (f", {len(case.labels)} labels, the rarest with {case.fewest:,} rows" if case.labels else "")),
        ("rows", f"{case.train:,} to train, {case.validation:,} to validate, {case.test:,} for the test"),
        ("tokens", f"{case.tokens:,} to learn from, at most {case.longest:,} in a row"),
        ("base", f"{show_count(case.parameters)} parameters, {case.layers} blocks"),
        ("machine", f"{case.device}, {show_bytes(case.memory_bytes)} of memory, {show_bytes(case.disk_bytes)} of disk"),
    ]  # fmt: skip
    if case.plain is not None:
        more = "" if case.promised is None else f"; twice the rows promise {100 * case.promised:.1f} %"
        shown.append(("word counts", f"right in {100 * case.plain:.1f} % of held-out training rows{more}"))
    return shown


def figures(one: Advice) -> tuple[str, str, str]:
    """(time, memory, money), for people."""
    time = "–" if one.seconds is None else show_seconds(one.seconds)
    return (
        time if one.trains else "no training",
        "–" if one.peak_bytes is None else show_bytes(one.peak_bytes),
        "–" if one.money is None else str(one.money),
    )
