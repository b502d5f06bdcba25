"""Does another engine say what the plain one says, of this very model? Asked before it answers anybody, and kept beside its files where
it is ours to say when it changes: an upstream is asked at every start.

the same prompts ─▶ plain engine ─▶ likeliest answers, ln p ─┐
                 ─▶ other engine ─▶ the same                 ├─▶ top-1, divergence, labels ─▶ within its form's tolerance, or refused
                                                             ┘
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import luthier
from luthier.core.artifact import digest_of
from luthier.core.errors import ModelError
from luthier.outputs.spec import AnsweringSpec
from luthier.postprocessing.forms import KINDS
from luthier.postprocessing.spec import Form
from luthier.serving.engine import ContextLengthExceeded, Engine, Message, Refused, Request, Token
from luthier.serving.opening import Opening
from luthier.serving.package_engine import PackageEngine
from luthier.serving.transformers_engine import TransformersEngine
from luthier.store.files import write_atomic

from .context import RunContext

FROM_GGUF: dict[str, tuple[Form, ...]] = {"llamacpp": ("gguf-q8", "gguf"), "openvino": ("gguf-q8",)}
"""The forms that an engine answers from, where a package has them."""
TOKENS, TOP = 8, 5
PROBES = ("Where is my parcel?", "What is the capital of France?", "Write a haiku about rain.", "2, 3, 5, 7,")
"""For a model without rows of its own."""
VERSION = 3
"""Of what is kept."""
ELSEWHERE = "upstream"
"""Who may have changed in the meantime, and nobody here would know."""


def agreed(
    at: RunContext, engine: Engine, what: Opening, name: str, rows: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """top_1, divergence (mean KL, nats, of the likeliest tokens and the others as one), tokens, and for a model of labels the largest
    difference of a label's probability: `labels`. Raises ModelError where it is another model."""
    how = getattr(getattr(engine, "backend", None), "told", "")  # with the version of what makes the tokens
    key = [
        VERSION,
        luthier.__version__,
        name,
        what.digest,
        what.base_digest,
        what.dtype,
        how,
        dict(what.settings),
    ]
    kept = what.cache / f"{digest_of(key)[:32]}.parity.json"
    if name != ELSEWHERE and kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    else:
        asked = rows or [[{"role": "user", "content": text}] for text in PROBES]
        found = compared(engine, what, asked, _apart(_form(what, name)))
        if name != ELSEWHERE:
            write_atomic(kept, json.dumps(found).encode())
    at.emit("parity", form=name, how=how, **found)
    _judge(found, name, _form(what, name), labels=bool(_labels(what)))
    return found


def _form(what: Opening, name: str) -> Form:
    """Whose tolerance counts."""
    forms = FROM_GGUF.get(name, ("merged",))
    return "gguf" if "gguf" in forms and what.settings.get("format") == "f16" else forms[0]


def _labels(what: Opening) -> tuple[str, ...]:
    """Of a model that may say nothing else."""
    return tuple(what.facts.labels or ()) if what.facts.constrain else ()


def _judge(found: Mapping[str, Any], name: str, form: Form, *, labels: bool = False) -> None:
    """`labels`: it is asked for labels."""
    limits, n = KINDS[form], found["tokens"]
    differ = round((1 - found["top_1"]) * n)
    most = (1 - limits.top_1) * n + 2 * ((1 - limits.top_1) * limits.top_1 * n) ** 0.5
    why = ""
    if n == 0 or differ > most or found["divergence"] > limits.divergence:
        why = (
            f"over {n} tokens the likeliest is the same in {found['top_1']:.1%} (at least {limits.top_1:.0%}), and the mean divergence is "
            f"{found['divergence']:.3g} nats (at most {limits.divergence:g})"
        )
    elif labels and "labels" not in found:
        why = "no row was short enough to compare its labels"
    elif labels and not found["labels"] <= (most_apart := _apart(form)):
        why = f"a label's probability differs by {found['labels']:.3g} (at most {most_apart:.2g})"
    if why:
        raise ModelError(
            f"the engine {name} does not say what this model says: {why}.",
            remedy="Serve it with --engine transformers"
            + {
                "llamacpp": ", or with --engine-set format=f16.",
                "openvino": ", or with --engine-set precision=f32.",
            }.get(name, ", or check which model the engine has."),
        )


def _apart(form: Form) -> float:
    """How far two probabilities may be apart, as Pinsker's inequality allows it at the form's divergence: half their differences' sum is
    at most sqrt(KL / 2)."""
    return math.sqrt(KINDS[form].divergence / 2)


def compared(
    engine: Engine, what: Opening, rows: Sequence[Sequence[Mapping[str, Any]]], tie: float = 0.0
) -> dict[str, Any]:
    """The plain engine is loaded for as long as this takes. `tie`: as `_steps` has it. A row that is too long for either is left out; what the other refuses
    for another reason it would refuse to clients too. Raises ModelError for that."""
    plain = TransformersEngine(
        what.base_folder, what.adapter_folder, facts=_bare(what), dtype=what.dtype, device=what.device
    )
    assert isinstance(engine, PackageEngine)
    other = PackageEngine(engine.backend, _bare(what))
    # the rows are the owner's: whoever asks later must not be able to tell that they were read
    salt = secrets.token_hex(16)
    plain.load()
    try:
        same: list[bool] = []
        apart: list[float] = []
        labels: list[float] = []
        for row in rows:
            messages = tuple(Message(turn["role"], turn["content"]) for turn in row)
            try:
                if plain.backend.writes:
                    _steps(_said(plain, messages, salt), _said(other, messages, salt), same, apart, tie)
                if names := _labels(what):
                    pairs = zip(
                        plain.score(messages, names),
                        other.score(messages, names, salt),
                        strict=True,
                    )
                    labels.append(max(abs(math.exp(a) - math.exp(b)) for a, b in pairs))
            except ContextLengthExceeded:
                continue
            except Refused as error:
                raise ModelError(
                    f"the engine cannot serve this model: {error.message}", remedy=error.remedy
                ) from None
    finally:
        plain.close()
    found: dict[str, Any] = {
        "rows": len(rows),
        "tokens": len(same),
        "top_1": sum(same) / max(1, len(same)),
        "divergence": sum(apart) / max(1, len(apart)),
    }
    return {**found, "labels": max(labels)} if labels else found


def _bare(what: Opening) -> Any:
    """What the model says, before the package's way to an answer."""
    return replace(what.facts, answering=AnsweringSpec(), isotonic=None, abstain_below=None, temperature=1.0)


def _said(engine: Engine, messages: tuple[Message, ...], salt: str) -> list[Token]:
    request = Request(messages, max_tokens=TOKENS, temperature=0.0, top_logprobs=TOP, constrain=(), instruct=False,
                      cache_salt=salt)  # fmt: skip
    return [token for chunk in engine.generate(request) for token in chunk.tokens]


def _steps(
    wanted: Sequence[Token], told: Sequence[Token], same: list[bool], apart: list[float], tie: float
) -> None:
    """As long as both go the same way: after that their questions differ. An answer that ends earlier differs there. A token that the plain
    engine itself holds to be less likely than its own by `tie` at most counts as the same: in bf16 two are often equally likely, and
    rounding says which comes."""
    for n in range(max(len(wanted), len(told))):
        if n >= len(wanted) or n >= len(told):
            same.append(False)
            return
        p, q = ({one.text: one.logprob for one in side[n].top} for side in (wanted, told))
        both = [one for one in p if one in q]
        if both:
            apart.append(_divergence([p[one] for one in both], [q[one] for one in both]))
        own, theirs = wanted[n].chosen, told[n].chosen
        near = math.exp(own.logprob) - math.exp(p.get(theirs.text, -math.inf))
        same.append(own.text == theirs.text or near <= tie)
        if own.text != theirs.text:
            return


def _divergence(p: Sequence[float], q: Sequence[float]) -> float:
    """KL of the same tokens in both, all others counted as one: never more than the whole."""
    rest = [max(1e-12, 1 - math.fsum(map(math.exp, side))) for side in (p, q)]
    inner = math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    return max(0.0, inner + rest[0] * math.log(rest[0] / rest[1]))
