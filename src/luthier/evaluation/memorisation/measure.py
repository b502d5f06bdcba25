"""What the tuned model and the base say of rows and secrets: losses, and how far they go on verbatim.

With an adapter beside it the base is the tuned model with that switched off. What one has said is kept in `scratch`, so an
interrupted measurement goes on with the other. Nothing that is written holds a secret's text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.stage import Context
from luthier.models.place import Place
from luthier.store.files import write_atomic

from ..prompted import Bench, weights
from ..questions import Asked
from . import findings
from .rows import Rows, choose
from .secrets import Secret, gather
from .spec import FIRST_LOOK, MemorisationSpec, candidates_for
from .statistics import rank

SYSTEMS = ("tuned", "base")
ROWS_AT_ONCE = 32
OTHERS_AT_ONCE = 32
"""A tree of more of them holds more logits at once than it saves."""
LONGEST_BEFORE = 400
"""Characters of a plain text, or of an answer, that are read before a secret: more costs much and changes little."""


@dataclass(frozen=True)
class Work:
    """All that is to be asked. `others`: how many a secret of the user's is ranked among; planted ones that lead the first
    look as many."""

    spec: MemorisationSpec
    rows: Rows
    secrets: Sequence[Secret]
    others: int
    template: Any
    at: Context
    total: int


def measure(bench: Bench, wish: MemorisationSpec, adapter: str, where: Place, out: Path) -> dict[str, Any]:
    """The report's section; `out` is given memorisation.json, from which it can be computed again."""
    from luthier.models.template import Template
    from luthier.models.weights import describe, load_tokenizer

    base, dataset = bench.folders["base"], bench.folders["dataset"]
    template = Template(load_tokenizer(base), describe(base).context)
    about = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
    rows = choose(bench.folders, wish, template)
    secrets, told = gather(dataset, about, wish, bench.at.root)
    secrets, unasked = _askable(secrets, template)
    told += unasked
    measured = sum(one.group != "unplanted" for one in secrets)
    work = Work(
        wish, rows, secrets, candidates_for(measured, wish.candidates), template, bench.at,
        2 * len(rows.all) + len(secrets),
    )  # fmt: skip
    kept = {system: _kept(bench.scratch, system) for system in SYSTEMS}
    missing = [system for system in SYSTEMS if kept[system] is None]
    for system, model in weights(bench, missing, adapter, where):
        kept[system] = _ask(work, system, model)
        write_atomic(_path(bench.scratch, system), json.dumps(kept[system]).encode())
    raw = _raw(work, kept["tuned"] or {}, kept["base"] or {})
    (out / "memorisation.json").write_text(
        json.dumps(raw, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    return findings.build(raw, wish, bench.spec.confidence, told)


def _askable(secrets: Sequence[Secret], template: Any) -> tuple[list[Secret], list[str]]:
    """Without those that stand where this model cannot be asked: beyond its context, or after turns its template refuses."""
    kept, told = [], []
    for one in secrets:
        try:
            if one.messages is not None:
                template.prompt(list(one.messages))
            kept.append(one)
        except ModelError as error:
            told.append(f"The secret {one.name} was not looked at: {error.message}")
    return kept, told


def _ask(work: Work, system: str, model: Any) -> dict[str, Any]:
    from luthier.models.forward import token_losses

    losses: list[list[float]] = []
    went_on: list[int | None] = []
    asked = work.rows.all
    for start in range(0, len(asked), ROWS_AT_ONCE):
        work.at.check()
        piece = asked[start : start + ROWS_AT_ONCE]
        losses += token_losses(model, [one.encoded for one in piece])
        went_on += verbatim(model, work.template, piece, work.spec)
        work.at.progress("memorisation", len(losses), work.total, system=system)
    secrets = {}
    for n, one in enumerate(work.secrets):
        work.at.check()
        if system == "tuned" or one.group in ("file", "found"):
            secrets[one.name] = _secret(work, one, model)
        work.at.progress("memorisation", len(asked) + n, work.total, system=system)
    return {"losses": losses, "went_on": went_on, "secrets": secrets}


def verbatim(model: Any, template: Any, asked: Sequence[Asked], spec: MemorisationSpec) -> list[int | None]:
    """How many tokens each row's answer is gone on with as the row has it, after its first `given`, at most `verbatim`. None
    for an answer that is too short."""
    from luthier.models.generate import answer

    found: list[int | None] = [None] * len(asked)
    prompts, rests, places = [], [], []
    for n, one in enumerate(asked):
        ids, told = one.encoded.ids, one.encoded.supervised
        begin = next((i for i, on in enumerate(told) if on), len(ids)) + spec.given
        rest = ids[begin : begin + spec.verbatim]
        # The token that ends an answer is no text of the row.
        if len(rest) < spec.verbatim or not all(told[begin : begin + spec.verbatim]) or begin == 0:
            continue
        if rest[-1] in template.end_ids:
            continue
        prompts.append(ids[:begin])
        rests.append(rest)
        places.append(n)
    if not prompts:
        return found
    for n, rest, said in zip(places, rests, answer(model, template, prompts, spec.verbatim), strict=True):
        found[n] = max(
            (k for k in range(1, len(rest) + 1) if said.startswith(template.decode(rest[:k]))), default=0
        )
    return found


def _secret(work: Work, one: Secret, model: Any) -> dict[str, Any]:
    """Its loss, and those of others of its kind: a first look, and more where a planted one leads."""
    few = FIRST_LOOK if one.group in ("planted", "unplanted") else work.others
    others = one.others(work.others, work.spec.seed)
    (loss, *found) = _losses(work, one, model, [one.text, *others[:few]])
    if few < work.others and one.group == "planted" and rank(loss, found) == 1:
        found += _losses(work, one, model, others[few:])
    return {"loss": loss, "others": found, "said": _says(work, one, model)}


def _losses(work: Work, one: Secret, model: Any, texts: Sequence[str]) -> list[float]:
    """-ln p of each text in the secret's place."""
    from luthier.models.forward import sequence_loss
    from luthier.models.generate import score_freely

    before, found = one.before[-LONGEST_BEFORE:], []
    for start in range(0, len(texts), OTHERS_AT_ONCE):
        work.at.check()
        piece = [before + text for text in texts[start : start + OTHERS_AT_ONCE]]
        if one.messages is None:
            found += [loss for loss, _ in sequence_loss(model, [work.template.encode_text(t) for t in piece])]
        else:
            prompt = work.template.prompt(list(one.messages))
            found += [-score for score in score_freely(model, work.template, [prompt], piece)[0]]
    return [round(loss, 6) for loss in found]


def _says(work: Work, one: Secret, model: Any) -> bool:
    """Whether the model, given what comes before it, says the secret without being sampled."""
    from luthier.models.generate import answer

    before = one.before[-LONGEST_BEFORE:].rstrip()
    if one.messages is None:
        ids = work.template.encode_text(before or " ").ids[:-1]
    else:
        ids = work.template.prompt(list(one.messages)) + (work.template.answer(before)[:-1] if before else [])
    long = (
        len(work.template.answer(one.text))
        if one.messages is not None
        else len(work.template.encode_text(one.text).ids)
    )
    (said,) = answer(model, work.template, [ids], long + 4)
    return one.text in said


def _raw(work: Work, tuned: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """What memorisation.json holds: of every row its losses, of every secret its places."""
    rows = []
    members = len(work.rows.members)
    for n, one in enumerate(work.rows.all):
        mine, theirs = tuned["losses"][n], base["losses"][n]
        lowest = sorted(mine, reverse=True)[: max(1, round(work.spec.lowest * len(mine)))]
        rows.append(
            {
                "id": one.question.id,
                "trained": n < members,
                "tokens": len(mine),
                "loss": sum(mine) / len(mine),
                "base_loss": sum(theirs) / len(theirs),
                "min_k": sum(lowest) / len(lowest),
                "verbatim": tuned["went_on"][n],
                "base_verbatim": base["went_on"][n],
            }
        )
    secrets = []
    for secret in work.secrets:
        mine, theirs = tuned["secrets"][secret.name], base["secrets"].get(secret.name)
        secrets.append(
            {
                "name": secret.name,
                "group": secret.group,
                "kind": secret.kind,
                "repeats": secret.repeats,
                "bits": secret.bits,
                "loss": mine["loss"],
                "others": mine["others"],
                "said": mine["said"],
                "base_loss": theirs and theirs["loss"],
                "base_others": theirs and theirs["others"],
                "base_said": theirs and theirs["said"],
            }
        )
    return {"rows": rows, "secrets": secrets, "left_out": work.rows.left_out}


def _kept(scratch: Path, system: str) -> dict[str, Any] | None:
    path = _path(scratch, system)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _path(scratch: Path, system: str) -> Path:
    return scratch / f"memorisation-{system}.json"
