"""What may differ between the trials of a search: values of recipe fields, some of them only where another has a certain value.

    train.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}            a range
    train.adapter.rank: [4, 8, 16]                                         a choice
    train.adapter: [{kind: ia3}, {kind: lora, rank: 8}]                    a choice of whole sections
    train.adapter.rank: {choices: [4, 64], when: {train.adapter.rslora: true}}     a choice that is there in some trials only

Techniques are named bundles: what each sets, and what is drawn for it alone. Pure: nothing here knows Optuna but `suggest`,
which asks a trial of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from luthier.core.spec import Spec

if TYPE_CHECKING:
    import optuna

SEARCHED = ("train", "base", "data.rules", "data.sources.N.weight", "postprocess")
"""What may differ between trials. All trials are asked the validation rows of the recipe as written, whatever their own are."""
JUDGED = ("answers", "constrain", "vote")
"""Of `postprocess`, what changes the answers that trials are judged by; a technique may set the rest beside it."""
TECHNIQUE = "technique"
"""What stands for the chosen technique where a condition names it."""


class WhenSpec(Spec):
    when: dict[str, Any] | None = None
    """Only in trials where other searched fields have these values (one, or a list of several); `technique` names a technique."""


class RangeSpec(WhenSpec):
    """Numbers between two bounds."""

    low: float
    """The least value."""
    high: float
    """The largest value."""
    log: bool = False
    """Whether the logarithm is drawn evenly: for what matters by factors, such as a learning rate."""

    @model_validator(mode="after")
    def _a_range(self) -> RangeSpec:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; a range with log: true begins above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether both bounds are whole numbers, so that only these are tried."""
        return self.low.is_integer() and self.high.is_integer() and not (self.log and self.high <= 1)

    @property
    def ends(self) -> list[Any]:
        return [int(end) if self.whole else end for end in (self.low, self.high)]


class ChoiceSpec(WhenSpec):
    """Values to choose from; written as a list where there is no condition."""

    choices: list[Any]
    """The values. One may be a whole section: {kind: lora, rank: 8}."""

    @property
    def ends(self) -> list[Any]:
        return list(self.choices)


def _which(value: Any) -> str:
    if isinstance(value, list):
        return "list"
    choices = "choices" in value if isinstance(value, Mapping) else isinstance(value, ChoiceSpec)
    return "choices" if choices else "range"


Drawn = Annotated[
    Annotated[RangeSpec, Tag("range")]
    | Annotated[ChoiceSpec, Tag("choices")]
    | Annotated[list[Any], Tag("list")],
    Discriminator(_which),
]


class TechniqueSpec(Spec):
    """One way to do it: what it sets, and what is drawn for it alone."""

    set: dict[str, Any] = Field(default={})
    """Fields of the recipe, by path, with the values that make this technique."""
    over: dict[str, Drawn] = Field(default={})
    """Fields that differ between trials of this technique."""

    @model_validator(mode="after")
    def _may_differ(self) -> TechniqueSpec:
        check(self.over)
        for path in self.set:
            refuse_unsearched(path)
        return self


def check(over: Mapping[str, Drawn]) -> None:
    """Raises ValueError for paths that may not differ, choices of one, and conditions that nothing can meet."""
    for path, wish in over.items():
        refuse_unsearched(path)
        first, *rest = path.split(".")
        if first == "postprocess" and (not rest or rest[0] not in JUDGED):
            raise ValueError(
                f"{path} does not change what trials are judged by; of postprocess only {', '.join(JUDGED)} may be drawn"
            )
        values = [] if isinstance(wish, RangeSpec) else ends(wish)
        if not isinstance(wish, RangeSpec) and len(values) < 2:
            raise ValueError(
                f"{path} has {len(values)} value{'' if len(values) == 1 else 's'} to choose from; give at least two"
            )
        for other, wanted in conditions(wish).items():
            if other == TECHNIQUE:
                continue
            if other not in over:
                raise ValueError(
                    f"{path}: when names {other}, which is not searched; name a field of search.over"
                )
            if other == path:
                raise ValueError(f"{path}: when names the field itself")
            if not isinstance(over[other], RangeSpec):
                for value in wanted:
                    if value not in ends(over[other]):
                        raise ValueError(
                            f"{path}: when {other} is {value!r}, which is none of its values ({_some(ends(over[other]))})"
                        )
    in_order(over)


def refuse_unsearched(path: str) -> None:
    """Raises ValueError for a path that would change what trials are compared by."""
    free = ("train", "base", "data.rules", "postprocess")
    if any(path == root or path.startswith(f"{root}.") for root in free):
        return
    if re.fullmatch(r"data\.sources\.[0-9]+\.weight", path):
        return
    raise ValueError(
        f"{path} cannot be searched: trials are compared on the same validation rows, so only {', '.join(SEARCHED)} may differ"
    )


def ends(wish: RangeSpec | ChoiceSpec | list[Any]) -> list[Any]:
    """Every choice, or both ends of a range."""
    return list(wish) if isinstance(wish, list) else wish.ends


def conditions(wish: RangeSpec | ChoiceSpec | list[Any]) -> dict[str, list[Any]]:
    """Field -> the values of which it must have one.

    >>> conditions(RangeSpec(low=1, high=2, when={"base": "a"}))
    {'base': ['a']}
    """
    when = None if isinstance(wish, list) else wish.when
    return {path: value if isinstance(value, list) else [value] for path, value in (when or {}).items()}


def in_order(over: Mapping[str, Drawn]) -> list[str]:
    """The paths, each after those that its condition names. Raises ValueError for conditions that go round in a circle.

    >>> in_order({"train.a": RangeSpec(low=0, high=1, when={"train.b": 1}), "train.b": [1, 2]})
    ['train.b', 'train.a']
    """
    found: list[str] = []
    while len(found) < len(over):
        ready = [
            path
            for path, wish in over.items()
            if path not in found and all(o in found or o == TECHNIQUE for o in conditions(wish))
        ]
        if not ready:
            left = [path for path in over if path not in found]
            raise ValueError(f"the conditions of {', '.join(left)} wait for each other")
        found += ready
    return found


def meets(wish: RangeSpec | ChoiceSpec | list[Any], setting: Mapping[str, Any]) -> bool:
    """Whether the field is there in a trial of this setting so far."""
    return all(path in setting and setting[path] in wanted for path, wanted in conditions(wish).items())


def suggest(
    trial: optuna.Trial, over: Mapping[str, Drawn], techniques: Mapping[str, TechniqueSpec]
) -> tuple[dict[str, Any], str | None]:
    """(a value for each field that is there, the technique). Choices are drawn by place, so that they may be of any kind."""
    setting: dict[str, Any] = {}
    technique = None
    if techniques:
        technique = trial.suggest_categorical(TECHNIQUE, list(techniques))
        setting |= techniques[technique].set
    _draw(trial, over, setting, "", technique)
    if technique is not None:
        _draw(trial, techniques[technique].over, setting, f"{technique}: ", technique)
    return setting, technique


def _draw(
    trial: optuna.Trial,
    over: Mapping[str, Drawn],
    setting: dict[str, Any],
    prefix: str,
    technique: str | None,
) -> None:
    """A field of one technique has a name of its own: what is drawn for it says nothing of another's."""
    for path in in_order(over):
        wish, name = over[path], prefix + path
        if not meets(wish, {**setting, TECHNIQUE: technique}):
            continue
        if not isinstance(wish, RangeSpec):
            values = ends(wish)
            setting[path] = values[trial.suggest_categorical(name, list(range(len(values))))]
        elif wish.whole:
            setting[path] = trial.suggest_int(name, int(wish.low), int(wish.high), log=wish.log)
        else:
            # what a person would write, and what JSON gives back as it was
            drawn = trial.suggest_float(name, wish.low, wish.high, log=wish.log)
            setting[path] = float(f"{drawn:.6g}")


def fits(
    setting: Mapping[str, Any],
    technique: str | None,
    over: Mapping[str, Drawn],
    techniques: Mapping[str, TechniqueSpec],
) -> bool:
    """Whether a setting could have been drawn here: what stands in a shared database is not believed unseen.

    >>> fits({"train.epochs": 2}, None, {"train.epochs": [1, 2]}, {}), fits({"name": "x"}, None, {"train.epochs": [1, 2]}, {})
    (True, False)
    """
    own = techniques.get(technique) if technique is not None else None
    if (own is None) != (not techniques):
        return False
    wishes = {**over, **(own.over if own else {})}
    given = own.set if own else {}
    for path, value in setting.items():
        wish = wishes.get(path)
        if wish is None:
            if path not in given or given[path] != value:
                return False
        elif not isinstance(wish, RangeSpec):
            if value not in ends(wish):
                return False
        elif not isinstance(value, int | float) or not wish.low * (1 - 1e-5) <= value <= wish.high * (
            1 + 1e-5
        ):
            return False
    return True


def bounds(over: Mapping[str, Drawn], techniques: Mapping[str, TechniqueSpec]) -> Iterator[dict[str, Any]]:
    """Settings at which every value that can be refused early shows itself: each choice, and both ends of each range, with what
    their conditions ask."""
    yield from _bounds(over, {})
    for one in techniques.values():
        yield dict(one.set)
        yield from _bounds(one.over, one.set)


def _bounds(over: Mapping[str, Drawn], given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for path, wish in over.items():
        for end in ends(wish):
            yield {**given, **_asked(path, over), path: end}


def _asked(path: str, over: Mapping[str, Drawn]) -> dict[str, Any]:
    """The least setting in which the field is there."""
    found: dict[str, Any] = {}
    for other, wanted in conditions(over[path]).items():
        if other in over:
            found |= {**_asked(other, over), other: wanted[0]}
    return found


def grid(over: Mapping[str, Drawn], techniques: Mapping[str, TechniqueSpec]) -> int | None:
    """How many settings there are in all; None where there is a range, or a condition, which is not counted out.

    >>> grid({"train.adapter.rank": [1, 2], "train.epochs": [1, 2, 3]}, {})
    6
    """
    size = 1
    for wish in [*over.values(), *(w for one in techniques.values() for w in one.over.values())]:
        if isinstance(wish, RangeSpec) or conditions(wish):
            return None
    for wish in over.values():
        size *= len(ends(wish))
    if not techniques:
        return size
    each = 0
    for one in techniques.values():
        mine = size
        for wish in one.over.values():
            mine *= len(ends(wish))
        each += mine
    return each


def _some(values: list[Any]) -> str:
    return ", ".join(repr(value) for value in values[:6])
