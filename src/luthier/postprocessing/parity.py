"""Is what is packed what was trained? The same conversations through the model as training left it and through every packed
form, in the engine that the form is made for: first their tokens, then its weights, then what is said after each.

    trained model ─┐                    tokens differ     the tokenizer or the chat template of the form
                   ├─ same rows ─▶      weights differ    scaling, merging, quantising, a lost tensor   (weight_check.py)
    packed form  ──┘                    answers differ    what is left: its settings, or the engine
                                        served answers    the server's own engine, asked as clients ask

Nothing is packed that does not agree. How far answers may differ is the form's own (forms.py): quantising moves them. Merged
weights are checked even where only forms made from them are packed, so that a fault of merging cannot hide behind a wider
tolerance. Who serves is not known here: the app gives a function (`Serve`).

KL(trained ‖ form) is over the whole vocabulary where the engine tells it all. Where it tells its likeliest tokens S only, it is
Σ_S p·ln(p/q) + p'·ln(p'/q') with p', q' what is left of each: never more than the whole (log-sum inequality).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError

from . import reading
from .forms import KINDS
from .forms import SERVED as ANSWERED_FROM
from .spec import Form

if TYPE_CHECKING:
    import torch

Row = str | tuple[Sequence[Mapping[str, Any]], Any]
"""A plain text, or (messages, tools or None)."""
ROWS = 8
TOKENS = 1_000
"""Most supervised tokens that are compared, over all rows."""
SERVED_TOKENS, SERVED_TOP = 8, 20
"""Tokens of each answer that are compared with the server's, and alternatives that it tells of each."""
SERVED = "served"
_KEPT = "Nothing was packed; the trained model is kept."


@dataclass(frozen=True)
class Step:
    """One token of a served answer: its text (None: the end) and its likeliest alternatives (text, ln p)."""

    text: str | None
    top: tuple[tuple[str, float], ...]


Serve = Callable[[Path, Path, Sequence[Sequence[Mapping[str, Any]]], int, int], list[list[Step]]]
"""(package folder, base folder, prompts, tokens, alternatives) -> each prompt's likeliest answer, by the serving engine."""


@dataclass(frozen=True)
class Parity:
    """`top_1`: share of `tokens` where both call the same token likeliest; `divergence`: mean KL(trained ‖ form), nats, with its
    `worst` place. `check` and `engine`: what was done and by what."""

    rows: int
    tokens: int
    top_1: float
    divergence: float
    worst: float
    check: str
    engine: str
    tokens_per_s: float | None = None

    def plain(self) -> dict[str, Any]:
        """Without the speed, which is another every time: these figures are part of an artifact."""
        return {key: value for key, value in asdict(self).items() if key != "tokens_per_s"}


def check(
    model: Path,
    base: Path,
    forms: Mapping[Form, Path],
    conversations: Sequence[Row],
    context: int,
    scratch: Path,
    *,
    whole: Path | None = None,
    serve: tuple[Serve, Path] | None = None,
    tell: Callable[[str, Parity], object] = lambda form, parity: None,
) -> dict[str, dict[str, Any]]:
    """Form -> Parity as plain values. `whole`: the merged weights that forms were made from; `serve`: with the package's folder;
    `tell` hears each form's figures before they are judged.
    Raises ModelError naming the form and the cause. One model is held at a time."""
    from luthier.models import weights

    scratch.mkdir(parents=True, exist_ok=True)
    template = _template(base, context)
    rows = _encoded(template, conversations)
    for form, folder in forms.items():
        _same_tokens(form, folder, template, conversations, rows, context, scratch)
    _same_weights(model, base, forms, whole)
    prompts = _prompts(conversations, template)
    trained = weights.load(model, base_folder=base)
    wanted = reading.said(trained, rows, TOKENS)
    path = [_greedy(trained, template, one) for one in prompts] if serve else []
    del trained
    found: dict[str, dict[str, Any]] = {}
    for form, folder in forms.items():
        gc.collect()
        read = reading.read(form, folder, base, whole, rows, prompts, context, TOKENS)
        _same_prompts(form, read, template, prompts)
        parity = _compared(wanted, read, len(rows))
        tell(form, parity)
        _judge(form, parity, folder)
        found[form] = parity.plain()
    if serve and prompts:
        ask, package = serve
        steps = ask(package, base, prompts, SERVED_TOKENS, SERVED_TOP)
        parity = _compared_steps(path, steps, template)
        tell(SERVED, parity)
        _judge(SERVED, parity, package)
        found[SERVED] = parity.plain()
    return found


def _judge(form: str, parity: Parity, folder: Path) -> None:
    limits = KINDS[_answering(folder) if form == SERVED else form]  # type: ignore[index]
    # Near ties turn by chance: of few tokens more of them may, by two deviations of a share.
    n, differ = parity.tokens, round((1 - parity.top_1) * parity.tokens)
    most = (1 - limits.top_1) * n + 2 * ((1 - limits.top_1) * limits.top_1 * n) ** 0.5
    if differ > most or parity.divergence > limits.divergence:
        what = "the serving engine" if form == SERVED else f"the packed form {form!r}"
        raise ModelError(
            f"{what} does not say what the trained model says: over {parity.tokens:,} tokens of "
            f"{parity.rows} rows the likeliest is the same in {parity.top_1:.1%} (at least {limits.top_1:.0%}), and the mean divergence is "
            f"{parity.divergence:.3g} nats (at most {limits.divergence:g}), by {parity.engine}. {_cause(form)}",
            remedy=f"{_KEPT} Package it again, and report this if it stays.",
        )


def _answering(package: Path) -> Form:
    """The form that our own engine answers from, whose tolerance is then the server's."""
    return next(form for form in ANSWERED_FROM if (package / form).is_dir())


# -- tokens ---------------------------------------------------------------------------------------------------------------


def _template(folder: Path, context: int) -> Any:
    from luthier.models.template import Template
    from luthier.models.weights import load_tokenizer

    return Template(load_tokenizer(folder), context)


def _encoded(template: Any, conversations: Sequence[Row]) -> list[Any]:
    return [
        template.encode_text(one) if isinstance(one, str) else template.encode(*one) for one in conversations
    ]


def _same_tokens(
    form: Form,
    folder: Path,
    template: Any,
    conversations: Sequence[Row],
    rows: Sequence[Any],
    context: int,
    scratch: Path,
) -> None:
    own = reading.template(form, folder, context, scratch)
    try:
        packed = _encoded(own, conversations)
    except ModelError as error:
        raise ModelError(
            f"the packed form {form!r} cannot render what the model was trained on: {error.message}",
            remedy=_KEPT,
        ) from None
    for n, (one, other) in enumerate(zip(rows, packed, strict=True)):
        if list(one.ids) != list(other.ids):
            told = conversations[n]
            plain = told if isinstance(told, str) else "\n".join(turn["content"] or "" for turn in told[0])
            same = template.tokenizer(plain)["input_ids"] == own.tokenizer(plain)["input_ids"]
            raise _other_tokens(
                form, list(one.ids), list(other.ids), "chat template" if same else "tokenizer"
            )


def _same_prompts(form: Form, read: reading.Read, template: Any, prompts: Sequence[Any]) -> None:
    """As the engine itself renders and cuts them, where it does."""
    for prompt, tokens in zip(prompts, read.tokens or [], strict=False):
        if tokens is None:
            raise ModelError(
                f"the packed form {form!r}: {read.engine} cannot render its chat template ({read.fault}).",
                remedy=_KEPT,
            )
        wanted = template.prompt(prompt)
        if tokens != wanted:
            raise _other_tokens(
                form, wanted, tokens, f"tokenizer or chat template, as {read.engine} reads them,"
            )


def _other_tokens(form: Form, wanted: list[int], found: list[int], cause: str) -> ModelError:
    at = next(
        (i for i, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b),
        min(len(wanted), len(found)),
    )
    return ModelError(
        f"the packed form {form!r} reads a conversation as other tokens than training did, from token {at} on: its "
        f"{cause} is another one.",
        remedy=f"{_KEPT} Package it again with the base that it was tuned from.",
    )


def _prompts(conversations: Sequence[Row], template: Any) -> list[list[dict[str, Any]]]:
    """What stands before the last answer, of rows that any client could send and every engine reads alike: words only, without
    tools or written-out control tokens, with room for an answer."""
    found = []
    for one in conversations:
        if isinstance(one, str) or one[1]:
            continue
        turns = [dict(turn) for turn in one[0]]
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()
        plain = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
        words = all(
            isinstance(turn["content"], str)
            and turn["role"] in ("system", "user", "assistant")
            and not template.holds_control(turn["content"])
            for turn in plain
        )
        if plain and words and len(template.prompt(plain)) + SERVED_TOKENS <= template.context:
            found.append(plain)
    return found


# -- weights --------------------------------------------------------------------------------------------------------------


def _same_weights(model: Path, base: Path, forms: Mapping[Form, Path], whole: Path | None) -> None:
    from . import weight_check

    if "adapter" in forms and (fault := weight_check.adapter_fault(model, forms["adapter"])):
        raise _other_weights("adapter", fault, ["merged"])
    if whole is None:
        return
    made = [form for form in forms if KINDS[form].whole]
    if fault := weight_check.merged_fault(model, base, whole):
        raise _other_weights("merged", fault, made)
    for form in made:
        if form in weight_check.ROUNDINGS and (fault := weight_check.rounded_fault(form, forms[form], whole)):
            raise _other_weights(form, fault, made)


def _other_weights(form: Form, fault: str, made: Sequence[Form]) -> ModelError:
    from_it = (
        f" It is what {', '.join(made)} {'is' if len(made) == 1 else 'are'} made from."
        if form == "merged" and made != ["merged"]
        else ""
    )
    return ModelError(
        f"the packed form {form!r} does not say what the trained model says. {fault}{from_it}",
        remedy=f"{_KEPT} Package it again, and report this if it stays.",
    )


# -- answers --------------------------------------------------------------------------------------------------------------


def _compared(wanted: torch.Tensor, read: reading.Read, rows: int) -> Parity:
    import torch

    told = read.told
    if told.whole is not None:
        apart = (wanted.exp() * (wanted - told.whole)).sum(-1)
        same = wanted.argmax(-1) == told.whole.argmax(-1)
    else:
        assert told.ids is not None and told.top is not None
        apart = lumped_divergence(wanted.gather(-1, told.ids), told.top)
        same = wanted.argmax(-1) == told.ids.gather(-1, told.top.argmax(-1, keepdim=True))[:, 0]
    top_1 = float(same.to(torch.float32).mean())
    return Parity(
        rows,
        len(wanted),
        top_1,
        float(apart.mean()),
        float(apart.max()),
        read.check,
        read.engine,
        read.tokens_per_s,
    )


def lumped_divergence(trained_TK: torch.Tensor, form_TK: torch.Tensor) -> torch.Tensor:
    """KL [T] from ln p of the same K tokens in both, all others counted as one. A lower bound of the whole divergence."""
    p, q = trained_TK.double(), form_TK.double()
    rest_p, rest_q = ((1 - one.exp().sum(-1)).clamp_min(1e-12) for one in (p, q))
    return ((p.exp() * (p - q)).sum(-1) + rest_p * (rest_p.log() - rest_q.log())).clamp_min(0)


def _greedy(model: Any, template: Any, prompt: Sequence[Mapping[str, Any]]) -> list[tuple[int, torch.Tensor]]:
    """The trained model's likeliest answer, token by token without any cache: (token, ln p [V]), its end included."""
    import torch

    ids, steps = list(template.prompt(prompt)), []
    with torch.inference_mode():
        for _ in range(SERVED_TOKENS):
            logp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].float(), -1)
            token = int(logp.argmax())
            steps.append((token, logp))
            ids.append(token)
            if token in template.end_ids or len(ids) >= template.context:
                break
    return steps


def _compared_steps(
    path: Sequence[Sequence[tuple[int, torch.Tensor]]], served: Sequence[Sequence[Step]], template: Any
) -> Parity:
    """Step by step as long as both went the same way: after that their questions differ."""
    import torch

    same, apart = [], []
    for mine, theirs in zip(path, served, strict=True):
        for (token, logp), step in zip(mine, theirs, strict=False):
            text = None if token in template.end_ids else _text(template, token)
            same.append(text == step.text)
            pairs = {_text(template, int(one)): int(one) for one in logp.topk(4 * SERVED_TOP).indices.flip(0)}
            # Parts of characters all look alike as text; they are left among the others.
            told = {other: p for other, p in reversed(step.top) if "\ufffd" not in other}
            both = [(pairs[other], p) for other, p in told.items() if other in pairs]
            if both:
                ids = torch.tensor([[one for one, _ in both]])
                apart.append(float(lumped_divergence(logp[ids], torch.tensor([[p for _, p in both]]))[0]))
            if not same[-1]:
                break
    count = max(1, len(same))
    return Parity(
        len(path), len(same), sum(same) / count, sum(apart) / max(1, len(apart)), max(apart, default=0.0),
        f"likeliest answers of at most {SERVED_TOKENS} tokens; log-probabilities of the {SERVED_TOP} likeliest, the others as one",
        "the server's transformers engine",
    )  # fmt: skip


def _text(template: Any, token: int) -> str:
    text: str = template.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return text


def _cause(form: str) -> str:
    """What can be told without running anything: tokens and weights were found to be the same before."""
    if form == SERVED:
        return "The files are the same, so the way they are asked is another: instruction, template or number format."
    if form == "onnx":
        return "Its tokens are the same, so its weights or its graph are others."
    return (
        "Its tokens and weights are the same, so its settings are others, or the engine reads them otherwise."
    )
