"""The techniques that advice is given about: what each sets in a recipe, when it can be done at all, and what speaks for it.

Pure: facts of a case in, settings and reasons out. A technique is ranked by its tier, which rules below decide and say in words;
within a tier the one that is forecast to take less comes first. The rules are where to begin, not the answer: the answer is a
measurement, and `luthier search --techniques` makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.core.units import show_count

FEW_ROWS = 100
SOME_ROWS = 1_000
MANY_ROWS = 5_000
MANY_TOKENS = 1_000_000
SMALL_BASE = 500_000_000
GOOD_BASELINE = 0.9
WIDE = 3.0
"""A technique's learning rate is searched from its default divided by this to its default times it."""


@dataclass(frozen=True)
class Case:
    """What is known before anything is trained. `pairs`, `rated` and `texts` are shares of the training rows: with a worse answer
    beside the better, with a judgement, without a question. `plain` is what word counts reach on held-out
    parts of the training rows, `promised` what they gain from twice as many."""

    kind: str
    train: int
    validation: int
    test: int
    tokens: int
    longest: int
    labels: Mapping[str, int]
    pairs: float
    rated: float
    texts: float
    parameters: int
    layers: int
    memory_bytes: int
    disk_bytes: int
    device: str
    teacher: str | None = None
    plain: float | None = None
    plain_se: float | None = None
    promised: float | None = None

    @property
    def fewest(self) -> int | None:
        """Rows of the rarest label."""
        return min(self.labels.values()) if self.labels else None

    @property
    def rate(self) -> str:
        return f"{self.train:,} training rows"


@dataclass(frozen=True)
class Technique:
    """`sets`: the recipe's fields that make it. `trains`: whether anything is trained. `needs` says why it cannot be, or None;
    `weighs` gives (tier, reasons), tier 0 first."""

    name: str
    title: str
    sets: Mapping[str, Any]
    needs: Callable[[Case], str | None]
    weighs: Callable[[Case], tuple[int, list[str]]]
    trains: bool = True
    over: Mapping[str, Any] = field(default_factory=dict)


def _always(_: Case) -> None:
    return None


def _adapter(adapter: Mapping[str, Any], method: Any = "sft", rate: float | None = None) -> dict[str, Any]:
    """A learning rate that was chosen for another adapter says nothing of this one."""
    return {"train.method": method, "train.adapter": dict(adapter), "train.learning_rate": rate}


def _around(rate: float) -> dict[str, Any]:
    return {"train.learning_rate": {"low": rate / WIDE, "high": rate * WIDE, "log": True}}


# -- what speaks for each -----------------------------------------------------------------------------------------------


def _prompting(case: Case) -> tuple[int, list[str]]:
    told = ["nothing is trained; every run measures it beside the tuned model, so it costs nothing to know"]
    if case.train < FEW_ROWS:
        return 1, [
            f"{case.rate} are few (under {FEW_ROWS}): what the base can already do may be most of it",
            *told,
        ]
    return 4, [
        *told,
        f"{case.rate} are there to learn from, and tuned models of this size beat prompted ones (Liu et al. 2022)",
    ]


def _few_shot(case: Case) -> tuple[int, list[str]]:
    tier, told = _prompting(case)
    return tier, [*told[:1], "three examples in every prompt make every answer dearer for good"]


def _plain(case: Case) -> tuple[int, list[str]]:
    told = [
        "a linear model on word counts: seconds to train, no GPU, and often hard to beat (Wang and Manning 2012)"
    ]
    if case.plain is None:
        return 3, [
            *told,
            "what it reaches here was not looked at: too few rows, or numbers in place of labels",
        ]
    wide = f" ±{100 * (case.plain_se or 0):.1f}" if case.plain_se else ""
    told.insert(
        0, f"on held-out parts of the training rows it is right in {100 * case.plain:.1f}{wide} % of them"
    )
    if case.plain >= GOOD_BASELINE:
        return 0, [
            *told,
            f"that is {100 * GOOD_BASELINE:.0f} % or more: a language model must earn what it costs more",
        ]
    return 3, told


def _lora(case: Case) -> tuple[int, list[str]]:
    told = [
        "as good as full fine-tuning for instructions and labels at a fraction of the memory (Hu et al. 2021; Biderman et al. 2024)"
    ]
    if case.train < FEW_ROWS:
        return 2, [f"{case.rate} are few (under {FEW_ROWS}), so look at prompting first", *told]
    return 1, told


def _head(case: Case) -> tuple[int, list[str]]:
    if case.kind == "regress":
        return 1, [
            "numbers are predicted as numbers: no answer is unreadable, and none is written token by token"
        ]
    told = [
        "one pass gives all labels' scores: the cheapest answer there is, and nothing but a label can come out"
    ]
    if (case.fewest or 0) < 20:
        return 2, [
            f"the rarest label has {case.fewest or 0} rows (under 20), and a new head knows nothing of what labels mean",
            *told,
        ]
    return 1, told


def _rslora(case: Case) -> tuple[int, list[str]]:
    told = ["rank 64 with a scale that keeps high ranks learning (Kalajdzievski 2023)"]
    if case.train >= MANY_ROWS:
        return 1, [f"{case.rate} are many (over {MANY_ROWS:,}): a low rank may be what holds it back", *told]
    return 3, [*told, f"{case.rate} hardly fill a low rank"]


def _dora(_: Case) -> tuple[int, list[str]]:
    return 3, [
        "a little better than LoRA at low ranks in its authors' experiments (Liu et al. 2024), and slower: parts are not fused"
    ]


def _qlora(case: Case) -> tuple[int, list[str]]:
    told = ["the frozen base in 4 bits: about a quarter of its memory, slower (Dettmers et al. 2023)"]
    if case.parameters < SMALL_BASE:
        return 4, [
            f"a base of {show_count(case.parameters)} parameters is small, so there is little memory to save",
            *told,
        ]
    return 2, told


def _ia3(case: Case) -> tuple[int, list[str]]:
    few = case.train < SOME_ROWS
    return (2 if few else 3), [
        f"the fewest numbers that can move, hard to overfit with {case.rate} (Liu et al. 2022)" if few
        else f"the fewest numbers that can move; with {case.rate} more capacity can be filled (Liu et al. 2022)"
    ]  # fmt: skip


def _full(case: Case) -> tuple[int, list[str]]:
    told = [
        "every weight moves: learns most and forgets most (Biderman et al. 2024), sixteen bytes of memory per parameter"
    ]
    if case.tokens >= MANY_TOKENS or case.train >= MANY_ROWS:
        return 2, [f"{case.rate} with {case.tokens:,} tokens are many", *told]
    return 3, [*told, f"{case.rate} with {case.tokens:,} tokens are few for it"]


def _top(case: Case) -> tuple[int, list[str]]:
    part = max(1, case.layers // 4)
    return 2, [
        f"the topmost {part} of {case.layers} blocks move: in classification about 90 % of the quality for a fraction of the work (Lee et al. 2019)"
    ]


def _continued(case: Case) -> tuple[int, list[str]]:
    return 1, [
        f"{100 * case.texts:.0f} % of the training rows are plain texts: learning the domain's language first helps the task after it (Gururangan et al. 2020)"
    ]


def _preference(name: str, source: str) -> Callable[[Case], tuple[int, list[str]]]:
    def weighs(case: Case) -> tuple[int, list[str]]:
        share = case.rated if name == "kto" else case.pairs
        what = "a judgement" if name == "kto" else "a worse answer beside the better one"
        tier = 1 if name in ("dpo", "kto") else 2
        return tier, [f"{100 * share:.0f} % of the training rows have {what} ({source})"]

    return weighs


def _distill(case: Case) -> tuple[int, list[str]]:
    return 2, [
        f"learns from {case.teacher}'s own answers (Kim and Rush 2016): worth it where that model is clearly better at this task than the rows are"
    ]


# -- when it cannot be --------------------------------------------------------------------------------------------------


def _of_kinds(*kinds: str) -> Callable[[Case], str | None]:
    def needs(case: Case) -> str | None:
        return (
            None
            if case.kind in kinds
            else f"it is for {' and '.join(kinds)} tasks, and this one is {case.kind}"
        )

    return needs


def _pairs(case: Case) -> str | None:
    if case.pairs >= 1:
        return None
    return f"it compares a better and a worse answer, and {100 * case.pairs:.0f} % of the training rows have both (map.rejected)"


def _rated(case: Case) -> str | None:
    if case.rated >= 1:
        return None
    return f"it needs a judgement of each answer, and {100 * case.rated:.0f} % of the training rows have one (map.rating)"


def _texts(case: Case) -> str | None:
    if case.texts > 0:
        return None
    return "it learns from plain texts, and no training row is one (map.text)"


def _teacher(case: Case) -> str | None:
    if case.teacher is not None:
        return None
    return "no larger model is named to learn from: luthier advise RECIPE --set 'train.method={distill: {teacher: NAME}}'"


def table(case: Case) -> Sequence[Technique]:
    """Every technique, in no order that means anything."""
    top = max(1, case.layers // 4)
    own_head = "regress" if case.kind == "regress" else "classify"
    merged = {"postprocess.export": None}
    distill = {"distill": {"teacher": case.teacher or "NAME", "level": "sequence"}}
    lora = {"kind": "lora", "rank": 16}
    ranks = {"train.adapter.rank": [4, 16, 64]}
    return (
        Technique("prompting", "prompt the base, train nothing", {}, _always, _prompting, False),
        Technique("few-shot", "three examples in the prompt, train nothing", {}, _always, _few_shot, False),
        Technique("tfidf", "word counts and a linear model", {}, _of_kinds("classify", "regress"), _plain, False),
        Technique("lora", "LoRA", _adapter(lora), _always, _lora, over={**ranks, **_around(2e-4)}),
        Technique("head", "a head of its own, with LoRA below it", _adapter(lora, own_head), _of_kinds("classify", "regress"), _head, over=_around(2e-4)),
        Technique("rslora", "rsLoRA of rank 64", _adapter({"kind": "lora", "rank": 64, "rslora": True}), _always, _rslora, over=_around(2e-4)),
        Technique("dora", "DoRA", _adapter({"kind": "lora", "rank": 16, "dora": True}), _always, _dora, over=_around(2e-4)),
        Technique("qlora", "LoRA over a base of 4 bits", _adapter({"kind": "lora", "rank": 16, "quantize": "4bit"}), _always, _qlora, over=_around(2e-4)),
        Technique("ia3", "IA³", _adapter({"kind": "ia3"}), _always, _ia3, over=_around(3e-3)),
        Technique("full", "full fine-tuning", {**_adapter({"kind": "full"}), **merged}, _always, _full, over=_around(2e-5)),
        Technique("top-layers", f"full fine-tuning of the topmost {top} of {case.layers} blocks", {**_adapter({"kind": "full", "last_layers": top}), **merged}, _always, _top, over=_around(5e-5)),
        Technique("continued", "continued pre-training on the texts, with LoRA", _adapter({"kind": "lora", "rank": 64, "rslora": True}), _texts, _continued, over=_around(2e-4)),
        Technique("dpo", "DPO on pairs", _adapter(lora, "dpo", 5e-5), _pairs, _preference("dpo", "Rafailov et al. 2023"), over=_around(5e-5)),
        Technique("orpo", "ORPO on pairs, without a reference model", _adapter(lora, "orpo"), _pairs, _preference("orpo", "Hong et al. 2024"), over=_around(2e-4)),
        Technique("simpo", "SimPO on pairs, without a reference model", _adapter(lora, "simpo", 5e-5), _pairs, _preference("simpo", "Meng et al. 2024"), over=_around(5e-5)),
        Technique("kto", "KTO on single judgements", _adapter(lora, "kto", 5e-5), _rated, _preference("kto", "Ethayarajh et al. 2024"), over=_around(5e-5)),
        Technique("distillation", "distillation from a larger model's answers", _adapter(lora, distill), _teacher, _distill, over=_around(2e-4)),
    )  # fmt: skip
