"""Group relative policy optimisation: the model answers every prompt several times, computed rewards score the answers,
and each answer's tokens become more or less likely by how much it is better than its group (Shao et al. 2024,
"DeepSeekMath", equations 3 and 4).

    unfold    prompt -> `generations` answers, drawn from the model as it now is -> rewards -> advantages
    loss      -ρ·A + β·KL per token, ρ = p / p when the answers were drawn

Answers are drawn anew for every step and learnt from once (as in their section 4.2), so ρ is 1, its gradient is ∇ln p, and
the paper's clip of ρ to 1 ± ε could never act: there is none. How an answer's tokens are counted is `normalise`: by its
own length (the paper), by all answers of the step (Yu et al. 2025, "DAPO", equation 8) or by a constant, without dividing
advantages by their spread (Liu et al. 2025, "Understanding R1-Zero-Like Training", section 3.2: Dr. GRPO).

Of a row only the question is known before the run, so `train.longest`, rows.parquet and the proof speak of the question
and one token of answer. Validation answers greedily, once; its loss is the mean reward with the sign turned.
Legend: R answers, S their tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from luthier.core.artifact import digest_of
from luthier.core.errors import SpecError
from luthier.core.part import PartSpec
from luthier.training.method import Example, Loss, Method, MethodSettings, Work
from luthier.training.rows import Row, Tokens

from .classify import question_of

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.shapes import Facts
    from luthier.models.template import Template
    from luthier.training.packing import Packed
    from luthier.training.rows import Rows

# Keeps a group whose answers are nearly all alike from being blown up.
SPREAD_FLOOR = 1e-4


class RewardSpec(PartSpec):
    """One reward; written `exact_match` or `{regex: {pattern: "^yes"}}`."""

    kind = "reward"
    example = '{regex: {pattern: "^yes"}}'


class GrpoSettings(MethodSettings):
    """Of `grpo`."""

    rewards: list[RewardSpec] = Field(min_length=1)
    """What makes an answer good; several are added up."""
    reward_weights: list[float] | None = None
    """What each of them counts, in the same order; without it 1 each."""
    generations: int = Field(default=4, ge=2, le=1024)
    """Answers to each prompt, which are compared with each other."""
    max_tokens: int = Field(default=64, ge=1, le=100_000)
    """Most tokens of an answer; one that is not finished by then is scored as it stands."""
    temperature: float = Field(default=1.0, gt=0, le=10)
    """How freely answers are drawn. Too little, and a group's answers are all the same and teach nothing."""
    kl: float = Field(default=0.0, ge=0, le=100)
    """How strongly the model is held to where it started (the paper's β); needs an adapter that can be switched off."""
    normalise: Literal["answer", "step", "constant"] = "answer"
    """What an answer's tokens are divided by: their number, the mean number of the step's answers, or max_tokens."""
    by_spread: bool = True
    """Divide advantages by the spread of their group's rewards."""

    def asks_start(self) -> str | None:
        return "kl" if self.kl else None

    @model_validator(mode="after")
    def _one_weight_each(self) -> GrpoSettings:
        if self.reward_weights is not None and len(self.reward_weights) != len(self.rewards):
            raise ValueError(
                f"{len(self.reward_weights)} reward_weights for {len(self.rewards)} rewards; give one for each"
            )
        return self


def advantages(rewards_G: np.ndarray, by_spread: bool = True) -> np.ndarray:
    """(r - mean) / (standard deviation + 1e-4) within one group, [G].

    >>> advantages(np.array([1.0, 0.0, 0.0, 1.0])).round(3).tolist()  # mean 1/2, deviation 1/2
    [1.0, -1.0, -1.0, 1.0]
    """
    centred = rewards_G - rewards_G.mean()
    return centred / (rewards_G.std() + SPREAD_FLOOR) if by_spread else centred


def policy_losses(logprobs_S: Tensor, advantages_S: Tensor) -> Tensor:
    """-ρ·A of every token, [S]; ρ = exp(ln p - ln p as a constant) is 1, and its gradient that of ln p."""
    import torch

    return -torch.exp(logprobs_S - logprobs_S.detach()) * advantages_S


def kl_estimates(logprobs_S: Tensor, reference_S: Tensor) -> Tensor:
    """p_ref/p - ln(p_ref/p) - 1 of every token, [S]: not negative, and its mean is the divergence (equation 4)."""
    import torch

    difference_S = reference_S - logprobs_S
    return torch.expm1(difference_S) - difference_S


@dataclass(frozen=True)
class Answered(Row):
    """A prompt with one answer; `signal` is its reward. One that is not learnt from only counts as measured."""

    advantage: float = 0.0
    divisor: float = 1.0
    learnt: bool = True


@dataclass(frozen=True)
class Rollouts:
    """Answers of one micro-batch."""

    packed: Packed
    rewards_R: Tensor
    advantages_R: Tensor
    divisors_R: Tensor
    weights_R: Tensor
    learnt: bool

    @property
    def tokens(self) -> int:
        return self.packed.tokens

    @property
    def supervised(self) -> int:
        return self.packed.supervised

    @property
    def row_weights(self) -> Sequence[float]:
        return self.packed.row_weights

    def to(self, device: Any) -> Rollouts:
        moved = {name: one.to(device) for name, one in vars(self).items() if name != "learnt"}
        return replace(self, **moved)


class Grpo(Method):
    """Learns from its own answers by rewards that are computed: `{grpo: {rewards: [exact_match]}}`."""

    spec = GrpoSettings
    watch = ("reward", "max")
    figures = ("loss", "reward", "answer_tokens")
    unit = "around 0 in training by construction; in validation the mean reward with its sign turned"

    def __init__(self, settings: GrpoSettings) -> None:
        self.settings = settings
        self.work: Work | None = None
        self.validation: frozenset[str] = frozenset()

    def encode(self, record: Mapping[str, Any], template: Template) -> Example:
        example = question_of(record, template, "grpo")
        return replace(example, answer=record["messages"][-1]["content"])

    def prepare(self, model: Any, splits: Mapping[str, Rows], work: Work) -> None:
        self.work, self.validation = work, frozenset(splits["validation"].names)
        if self.settings.kl and not hasattr(model, "disable_adapter"):
            raise SpecError(
                f"train.method grpo with kl = {self.settings.kl:g} compares with the model before training, and with "
                "this adapter that model is gone after the first step.",
                remedy="Use adapter: {kind: lora}, which can be switched off, or set kl: 0.",
            )

    # -- answers ----------------------------------------------------------------------------------------------------

    def unfold(self, model: Any, rows: Sequence[Row], seed: int) -> Sequence[Row]:
        """One row per answer. Rows of the validation split are answered greedily, once, and not learnt from."""
        measured = [row for row in rows if row.id in self.validation]
        learnt = [row for row in rows if row.id not in self.validation]
        return [*self._measured(model, measured), *self._learnt(model, learnt, seed)]

    def grows(self) -> tuple[int, int]:
        return self.settings.generations, self.settings.max_tokens

    def _measured(self, model: Any, rows: Sequence[Row]) -> Iterator[Row]:
        for row, (tokens,) in zip(rows, self._write(model, rows, 1, 0.0, None), strict=True):
            yield self._answered(row, tokens, self._reward(row, tokens), learnt=False)

    def _learnt(self, model: Any, rows: Sequence[Row], seed: int) -> list[Row]:
        wish, made = self.settings, []
        names = told_apart([row.id for row in rows])
        draws = np.array([draws_of(seed, name, wish.generations, wish.max_tokens) for name in names])
        written = self._write(model, rows, wish.generations, wish.temperature, draws)
        for row, name, answers in zip(rows, names, written, strict=True):
            rewards = np.array([self._reward(row, tokens) for tokens in answers])
            for g, (tokens, advantage) in enumerate(
                zip(answers, advantages(rewards, wish.by_spread), strict=True)
            ):
                one = self._answered(row, tokens, float(rewards[g]), advantage=float(advantage))
                made.append(replace(one, id=f"{name}/{g}"))
        weights = [row.weight for row in made]
        counts = [row.sequences[0].supervised_count for row in made]
        mean = float(np.average(counts, weights=weights)) if made else 1.0
        constant = {"step": mean, "constant": float(wish.max_tokens)}.get(wish.normalise)
        return [replace(row, divisor=constant or float(n)) for row, n in zip(made, counts, strict=True)]

    def _write(
        self, model: Any, rows: Sequence[Row], copies: int, temperature: float, draws: np.ndarray | None
    ) -> list[list[Tokens]]:
        """`copies` answers to each row's prompt, prompt included."""
        from luthier.models.sample import sample
        from luthier.training.machine import enough_to_write

        assert self.work is not None
        prompts, most = [row.sequences[0].ids[:-1].tolist() for row in rows], self.settings.max_tokens
        if not prompts:
            return []
        with enough_to_write(prompts, copies, most, "grpo"), self.work.machine.precision(model):
            written = sample(
                model, self.work.template, prompts, copies, most, temperature=temperature, draws_PGN=draws
            )
        return [
            [continued(prompt, one.ids) for one in some]
            for prompt, some in zip(prompts, written, strict=True)
        ]

    def _reward(self, row: Row, tokens: Tokens) -> float:
        assert self.work is not None
        text = self.work.template.decode(tokens.ids[tokens.supervised].tolist())
        weights = self.settings.reward_weights or [1.0] * len(self.settings.rewards)
        scores = [one.load()(text, row.answer, one.settings) for one in self.settings.rewards]
        return float(np.dot(weights, scores))

    @staticmethod
    def _answered(
        row: Row, tokens: Tokens, reward: float, *, advantage: float = 0.0, learnt: bool = True
    ) -> Answered:
        told = {**vars(row), "sequences": (tokens,), "signal": reward}
        return Answered(**told, advantage=advantage, divisor=1.0, learnt=learnt)

    # -- loss -------------------------------------------------------------------------------------------------------

    def collate(self, rows: Sequence[Row]) -> Rollouts:
        import torch

        from luthier.training.packing import pack_sequences

        answered = [row for row in rows if isinstance(row, Answered)]
        assert len(answered) == len(rows), "grpo learns from unfolded rows"
        weights = [row.weight for row in answered]
        return Rollouts(
            pack_sequences([row.sequences[0] for row in answered], weights, weights, share=self.share),
            torch.tensor([float(row.signal or 0.0) for row in answered]),
            torch.tensor([row.advantage for row in answered]),
            torch.tensor([row.divisor for row in answered]),
            torch.tensor(weights),
            all(row.learnt for row in answered),
        )

    def loss(self, model: Any, batch: Rollouts) -> Loss:
        """Metrics: mean `reward`, mean `answer_tokens`, and `kl` (nats per token) where it counts."""
        import torch

        packed, wish = batch.packed, self.settings
        ones_S = torch.ones_like(packed.targets, dtype=torch.float32)
        tokens_R = packed.per_sequence(ones_S)
        metrics = {
            "reward": float((batch.rewards_R * batch.weights_R).sum()),
            "answer_tokens": float((tokens_R * batch.weights_R).sum()),
        }
        if not batch.learnt:
            losses_R = -batch.rewards_R * batch.weights_R
            return Loss(losses_R.sum(), losses_R, metrics)
        reference_S = None
        if wish.kl:
            with torch.no_grad(), switched_off(model):
                reference_S = self._logprobs(model, packed)
        logprobs_S = self._logprobs(model, packed)
        advantages_S = batch.advantages_R[packed.owner]
        losses_S = policy_losses(logprobs_S, advantages_S)
        if reference_S is not None:
            kl_S = kl_estimates(logprobs_S, reference_S)
            losses_S = losses_S + wish.kl * kl_S
            means_R = packed.per_sequence(kl_S.detach()) / tokens_R
            metrics["kl"] = float((means_R * batch.weights_R).sum())
        losses_R = packed.per_sequence(losses_S) / batch.divisors_R * batch.weights_R
        return Loss(losses_R.sum(), losses_R.detach(), metrics)

    def _logprobs(self, model: Any, packed: Packed) -> Tensor:
        """ln p of the answers' tokens [S] in the distribution that they were drawn from."""
        from torch.nn.functional import cross_entropy

        from luthier.models.losses import token_logprobs

        if self.settings.temperature == 1:
            return token_logprobs(model, packed.inputs, packed.keep, packed.targets)
        logits_SV = model(**packed.inputs, logits_to_keep=packed.keep, use_cache=False).logits[0]
        return -cross_entropy(logits_SV.float() / self.settings.temperature, packed.targets, reduction="none")

    def holds(self, facts: Facts, others: Mapping[str, Facts], tokens: int, width: int) -> Mapping[str, int]:
        """Keys and values of the answers that are written together, were each as long as it may be."""
        from luthier.models.sample import ANSWERS_AT_ONCE

        each = 2 * facts.layers * facts.kv_heads * facts.head_size * width
        return {"generation": ANSWERS_AT_ONCE * each * (self.settings.max_tokens + min(tokens, 512))}


@contextmanager
def switched_off(model: Any) -> Iterator[None]:
    """The model that the adapter stands on, without dropout."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with model.disable_adapter():
            yield
    finally:
        for module in training:
            module.training = True


def continued(prompt: Sequence[int], answer: Sequence[int]) -> Tokens:
    """A prompt and its answer, of which every token is supervised."""
    ids = np.array([*prompt, *answer], np.int32)
    return Tokens(ids, np.arange(len(ids)) >= len(prompt))


def told_apart(names: Sequence[str]) -> list[str]:
    """The names, marked where they repeat: a mix may draw a row twice in one step, and each draw has answers of its own.

    >>> told_apart(["a", "b", "a", "a"])
    ['a', 'b', 'a#1', 'a#2']
    """
    seen: Counter[str] = Counter()
    told = []
    for name in names:
        told.append(f"{name}#{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return told


def draws_of(seed: int, name: str, copies: int, tokens: int) -> np.ndarray:
    """[G, tokens] numbers in [0, 1), which follow from the seed and the row's name alone."""
    return np.random.default_rng(int(digest_of([seed, name])[:15], 16)).random((copies, tokens))
