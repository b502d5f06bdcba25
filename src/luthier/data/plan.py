"""In which order rules run, and what is decided between them: a function of the recipe alone.

    group 1    row rules, one after the other on a batch that is opened once
               then keyed rules, over the keys of all rows; or a rule that learns from all rows; or one that makes rows
    group 2    the row rules after those, ...
    sides      after the last rule of quality and relevance the rows are divided into train, validation and test
    group n    rules of quantity, on the rows of train alone: what is measured is never cut, copied or made up

Identical rows get ids of their own before the first rule that sees all rows, or before the sides. Not here: who carries it out
(engines/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.core import plugin

from .report import Account
from .rules.rule import GatherRule, GrowRule, KeyedRule, Lent, MakeRule, PairRule, RowRule, Rule
from .spec import RuleSpec, RulesSpec, reads
from .split import Sides

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Step:
    """A rule with its settings; `given` are the same with files as they are reached, or what is lent to a rule that asks a model. `hidden`: a rule of the recipe takes
    private data out, and has not seen the rows before this step: nothing of them is shown. `number`: its place in rules.json,
    where the reading is 0. `learnt`: what a GatherRule has learnt from all rows; such a step is carried out like a row rule."""

    rule: Rule
    settings: Any
    hidden: bool = False
    number: int = 0
    bound: Any = None
    learnt: pa.Table | None = None

    @property
    def given(self) -> Any:
        return self.settings if self.bound is None else self.bound

    def account(self) -> Account:
        return Account(self.rule.name, self.settings.plain(), self.rule.version)


@dataclass(frozen=True)
class Group:
    """`learns`: a rule that learns from all rows, which have passed `rows`. `numbers`: give identical rows ids of their own; the sources whose ids a column gives. `sides`: divide the rows, after
    everything else; `hidden` says that what is set aside there must not be shown."""

    rows: tuple[Step, ...] = ()
    keyed: tuple[Step, ...] = ()
    grows: Step | None = None
    learns: Step | None = None
    numbers: tuple[str, ...] | None = None
    sides: Sides | None = None
    hidden: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        alone = [step for step in (self.grows, self.learns) if step]
        return (*self.rows, *alone, *self.keyed)

    @property
    def needs_keys(self) -> bool:
        return bool(self.keyed) or self.sides is not None or self.numbers is not None


def models(wish: RuleSpec) -> dict[str, str]:
    """The base models that a rule's settings name, by setting."""
    rule = plugin.load("rule", wish.name)
    found = {name: getattr(wish.settings, name) for name in getattr(rule, "models", ())}
    return {name: told for name, told in found.items() if told is not None}


def model_roles(rules: RulesSpec) -> dict[str, str]:
    """Every base model that rules name -> the role that it has among the parents of the dataset."""
    named = dict.fromkeys(name for wish in rules.ordered for name in models(wish).values())
    return {name: f"asked.{n}" for n, name in enumerate(named)}


def plan_of(
    rules: RulesSpec,
    sides: Sides,
    named: tuple[str, ...] = (),
    reached: Callable[[str], str] = str,
    lend: Callable[[RuleSpec], Lent] | None = None,
) -> list[Group]:
    """In order; those after the one that divides are for train alone. `reached` gives a file that a rule names as it is found
    from anywhere; `lend` what a rule that asks a model works with.

    >>> from luthier.data.spec import SplitSpec
    >>> rules = RulesSpec.model_validate({"quality": ["normalize", "deduplicate", "drop_empty"]})
    >>> told = plan_of(rules, Sides(SplitSpec(), stratify=False))
    >>> [([s.rule.name for s in g.rows], [s.rule.name for s in g.keyed], g.numbers) for g in told]
    [(['normalize'], ['deduplicate'], ()), (['drop_empty'], [], None)]
    """
    wishes = rules.ordered
    steps = [_step(wish, reached, lend) for wish in wishes]
    last_private = max((n for n, step in enumerate(steps) if step.rule.private), default=-1)
    steps = [replace(step, hidden=n <= last_private, number=n + 1) for n, step in enumerate(steps)]
    divide = len(wishes) - len(rules.quantity)
    before = _grouped(steps[:divide])
    if not before or before[-1].learns:
        before.append(Group())
    before[-1] = replace(before[-1], sides=sides, hidden=last_private >= divide)
    return _numbered(before, named) + _grouped(steps[divide:])


def _numbered(groups: list[Group], named: tuple[str, ...]) -> list[Group]:
    """With ids of their own for identical rows before anything looks at all rows."""
    first = next(n for n, group in enumerate(groups) if group.needs_keys or group.learns)
    own = groups[first]
    if own.learns:
        numbers = [Group(own.rows, numbers=named), replace(own, rows=())]
    else:
        numbers = [replace(own, numbers=named)]
    return [*groups[:first], *numbers, *groups[first + 1 :]]


def _step(
    wish: RuleSpec, reached: Callable[[str], str], lend: Callable[[RuleSpec], Lent] | None = None
) -> Step:
    rule = plugin.load("rule", wish.name)
    if lend is not None and bool(getattr(rule, "models", None)):
        return Step(rule, wish.settings, bound=lend(wish))
    files = {name: [reached(one) for one in told] for name, told in reads(wish).items()}
    bound = wish.settings.model_copy(update=files) if files else None
    return Step(rule, wish.settings, bound=bound)


def _grouped(steps: Iterable[Step]) -> list[Group]:
    found: list[Group] = []
    rows: list[Step] = []
    keyed: list[Step] = []
    for step in steps:
        if keyed and not isinstance(step.rule, KeyedRule | PairRule):
            found.append(Group(tuple(rows), keyed=tuple(keyed)))
            rows, keyed = [], []
        if isinstance(step.rule, RowRule):
            rows.append(step)
        elif isinstance(step.rule, GrowRule | MakeRule):
            found.append(Group(tuple(rows), grows=step))
            rows = []
        elif isinstance(step.rule, GatherRule):
            found.append(Group(tuple(rows), learns=step))
            rows = []
        else:
            keyed.append(step)
    if rows or keyed:
        found.append(Group(tuple(rows), keyed=tuple(keyed)))
    return found
