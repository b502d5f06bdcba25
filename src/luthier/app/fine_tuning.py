"""Fine-tuning as OpenAI's API asks for it: what is asked becomes a job of the kind `fine_tune`, whose wish says all in our words.

    asked ──▶ files are there and fit the method; "auto" becomes numbers ──▶ wish ──▶ queue

Everything that can be wrong with a request is found here, before anything is queued. Not here: OpenAI's objects (server/platform), what
the job does (app/jobs/fine_tune).
"""

from __future__ import annotations

import ast
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from luthier.core.errors import SpecError
from luthier.store.retries import KnownJob, Try

from .bases import Base, base_of
from .permitted import project_of
from .tuning_rows import Checked

if TYPE_CHECKING:
    from luthier.store.jobs import Job

    from .site import Caller, Site

KIND = "fine_tune"
MODEL = "model"
CHECKPOINT = "checkpoint"
Method = Literal["supervised", "dpo", "reinforcement"]
FORMS: dict[str, str] = {"supervised": "chat", "dpo": "preference", "reinforcement": "reinforcement"}
AUTO_EPOCHS = 3
LARGEST_AUTO_BATCH = 16
AUTO_BETA = 0.1
REMEDY = "docs/fine-tuning-api.md says what may be asked for."
GENERATIONS = 4
FIELD = re.compile(r"\{\{\s*item\.([A-Za-z0-9_]{1,64})\s*\}\}")
SAMPLE = re.compile(r"\{\{\s*sample\.output_text\s*\}\}")


@dataclass(frozen=True)
class Asked:
    """What a client asks for. Hyperparameters None: ours to choose. `own` is what stands under x_luthier."""

    model: str
    training_file: str
    method: Method = "supervised"
    validation_file: str | None = None
    test_file: str | None = None
    suffix: str | None = None
    seed: int | None = None
    epochs: int | None = None
    batch: int | None = None
    multiplier: float | None = None
    beta: float | None = None
    grader: Mapping[str, Any] | None = None
    compute: float | None = None
    eval_interval: int | None = None
    task: Literal["chat", "classify"] = "chat"
    instruction: str | None = None
    adapter: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0


@dataclass(frozen=True)
class Rewards:
    """A grader as rewards of ours. `answer`: the field of a line that is compared with."""

    rewards: list[Any]
    weights: list[float]
    answer: str | None


class FineTuning:
    """`site.fine_tuning`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def submit(
        self,
        caller: Caller,
        asked: Asked,
        shown: Mapping[str, Any],
        *,
        once: tuple[str, str] | None = None,
        tried: Try | None = None,
    ) -> Job:
        """Durable on return. `shown`: the dialect's own part, to which what was chosen is added. `once`, `tried`: how the request is known
        when it comes again; then the job of before is returned. Raises NotFound, SpecError, Conflict."""
        project, retries = caller.project or "", self._site.store.retries
        if once is not None and (known := retries.known(project, caller.user, KIND, once)) is not None:
            return self._site.jobs.get(caller, known)
        wish, chosen = self._wish(caller, asked)
        told = {
            **shown,
            "hyperparameters": chosen,
            "seed": wish["seed"],
            "organization_id": caller.organisation or "",
        }
        job_id = f"ftjob-{secrets.token_hex(12)}"

        def settle(connection: Any) -> None:
            if tried is not None:
                retries.settle(connection, project, tried, job_id, time.time())

        try:
            return self._site.jobs.submit(
                caller, KIND, wish, id=job_id, shown=told, priority=asked.priority, once=once, also=settle
            )
        except KnownJob as known_job:
            return self._site.jobs.get(caller, known_job.job)

    def _wish(self, caller: Caller, asked: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what the job is to do, the numbers that were chosen)."""
        base = base_of(self._site.top.home, asked.model)
        files = self._site.app(caller).uploaded
        form = FORMS[asked.method]
        checks = {
            name: files.check_of(name)
            for name in (asked.training_file, asked.validation_file, asked.test_file)
            if name
        }
        for name, found in checks.items():
            _need_form(name, found, form, asked.method)
        rows = checks[asked.training_file].rows
        rewards = rewards_of(asked.grader) if asked.method == "reinforcement" else None
        if rewards is not None and rewards.answer is not None:
            for name, found in checks.items():
                if rewards.answer not in found.fields:
                    raise SpecError(
                        f"the grader compares with item.{rewards.answer}, which not every line of {name} has.",
                        remedy=f"Every line has: {', '.join(found.fields) or 'nothing beside messages'}.",
                    )
        numbers = {
            "n_epochs": asked.epochs or AUTO_EPOCHS,
            "batch_size": asked.batch or max(1, min(LARGEST_AUTO_BATCH, rows // 10)),
            "learning_rate_multiplier": asked.multiplier or 1.0,
        }
        chosen: dict[str, Any] = dict(numbers)
        if asked.method == "dpo":
            chosen["beta"] = asked.beta or AUTO_BETA
        seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
        made = secrets.token_hex(4)
        tools, weighted = (
            any(getattr(one, name) for one in checks.values()) for name in ("tools", "weighted")
        )
        wish = {
            "base": base.base,
            "name": f"ft-{made}",
            "fine_tuned_model": self._model_id(caller, base, asked.suffix, made),
            "files": {
                "train": asked.training_file,
                "validation": asked.validation_file,
                "test": asked.test_file,
            },
            "form": form,
            "tools": tools,
            "answer": rewards.answer if rewards else None,
            "gate": self._site.policies.effective(project_of(caller)).gate_floor(),
            "seed": seed,
            "multiplier": numbers["learning_rate_multiplier"],
            "task": {"kind": asked.task, **({"instruction": asked.instruction} if asked.instruction else {})},
            "train": {
                "method": _method(asked, weighted, rewards),
                "epochs": numbers["n_epochs"],
                "batch": {"rows": numbers["batch_size"]},
                "seed": seed,
                **({"adapter": dict(asked.adapter)} if asked.adapter else {}),
                **({"validate_every": asked.eval_interval} if asked.eval_interval else {}),
            },
        }
        _check_train(wish)
        return wish, chosen

    def _model_id(self, caller: Caller, base: Base, suffix: str | None, made: str) -> str:
        """ft:BASE:ORGANISATION:SUFFIX:ID. No part holds a colon or a slash, so it fits into a URL as it stands."""
        assert caller.organisation is not None
        organisation = slug(self._site.store.accounts.organisation(caller.organisation).title)
        return f"ft:{base.name}:{organisation}:{slug(suffix or '')}:{made}"


def slug(text: str) -> str:
    """
    >>> slug("Customer Care / EU"), slug("")
    ('customer-care-eu', '')
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:64]


def _need_form(name: str, found: Checked, form: str, method: str) -> None:
    if found.form != form:
        raise SpecError(
            f"the file {name} holds {found.form} lines, and the method {method} learns from {form} lines.",
            remedy="Upload another file, or choose another method.",
        )


def _method(asked: Asked, weighted: bool, rewards: Rewards | None) -> Any:
    if asked.method == "dpo":
        return {"dpo": {"beta": asked.beta or AUTO_BETA}}
    if rewards is not None:
        generations = max(2, round(GENERATIONS * (asked.compute or 1.0)))
        return {
            "grpo": {
                "rewards": rewards.rewards,
                "reward_weights": rewards.weights,
                "generations": generations,
            }
        }
    return {"sft": {"turns": "last"}} if weighted else "sft"


def _check_train(wish: Mapping[str, Any]) -> None:
    """Now, and not when the job runs. Raises SpecError."""
    from luthier.core.spec import Tree, parse
    from luthier.data.task import TaskSpec
    from luthier.training.spec import TrainSpec

    parse(TrainSpec, Tree(dict(wish["train"]), source="train"), remedy=REMEDY)
    parse(TaskSpec, Tree(dict(wish["task"]), source="task"), remedy=REMEDY)


def rewards_of(grader: Mapping[str, Any] | None) -> Rewards:
    """A declarative grader as rewards. Raises SpecError for what has none.

    >>> rewards_of({"type": "string_check", "name": "right", "input": "{{sample.output_text}}", "operation": "eq", "reference": "{{item.answer}}"})
    Rewards(rewards=['exact_match'], weights=[1.0], answer='answer')
    """
    if grader is None:
        raise SpecError("method.reinforcement.grader is missing.", remedy="Say what makes an answer good.")
    kind = grader.get("type")
    if kind == "string_check":
        reward, answer = _string_check(grader)
        return Rewards([reward], [1.0], answer)
    if kind == "multi":
        return _multi(grader)
    raise SpecError(
        f"a grader of the type {str(kind)[:40]!r} is not trained on here.",
        remedy="Use string_check (eq with {{item.FIELD}}; like and ilike with a text), or multi of such with a sum.",
    )


def _string_check(grader: Mapping[str, Any]) -> tuple[Any, str | None]:
    said, reference, operation = (grader.get(name) for name in ("input", "reference", "operation"))
    if not isinstance(said, str) or not SAMPLE.fullmatch(said.strip()):
        raise SpecError(
            "a grader's input is {{sample.output_text}} here.", remedy="Compare the whole answer."
        )
    if not isinstance(reference, str) or not reference:
        raise SpecError("a grader's reference is missing.", remedy="Write {{item.FIELD}} or a text.")
    of_item = FIELD.fullmatch(reference.strip())
    if operation == "eq" and of_item:
        return "exact_match", of_item[1]
    if "{{" in reference or operation not in ("eq", "like", "ilike"):
        raise SpecError(
            f"string_check {str(operation)[:20]!r} with the reference {reference[:80]!r} is not trained on here.",
            remedy="Use eq with {{item.FIELD}} alone, or eq, like, ilike with a text that is the same for every line.",
        )
    pattern = ("(?i)" if operation == "ilike" else "") + re.escape(reference)
    return {"regex": {"pattern": pattern, "whole": operation == "eq"}}, None


def _multi(grader: Mapping[str, Any]) -> Rewards:
    graders = grader.get("graders")
    if not isinstance(graders, Mapping) or not graders or len(graders) > 8:
        raise SpecError("a multi grader has one to eight graders, by name.", remedy="Name each of them.")
    weights = _sum(str(grader.get("calculate_output", "")), list(graders))
    rewards: list[Any] = []
    answers: list[str] = []
    for name in weights:
        one = graders[name]
        if not isinstance(one, Mapping) or one.get("type") != "string_check":
            raise SpecError(
                f"the grader {name[:60]!r} is no string_check.", remedy="Only such are put together here."
            )
        reward, answer = _string_check(one)
        rewards.append(reward)
        answers += [answer] if answer is not None else []
    if len(set(answers)) > 1:
        raise SpecError(
            f"the graders compare with {' and '.join(sorted(set(answers)))}.",
            remedy="Compare with one field of item.",
        )
    return Rewards(rewards, list(weights.values()), answers[0] if answers else None)


def _sum(formula: str, names: Sequence[str]) -> dict[str, float]:
    """What each name counts in a weighted sum; read, never run.

    >>> _sum("0.7 * a + b", ["a", "b"])
    {'a': 0.7, 'b': 1.0}
    """
    found: dict[str, float] = {}

    def read(node: ast.expr) -> None:
        match node:
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                read(left)
                read(right)
            case (
                ast.BinOp(
                    left=ast.Constant(value=float() | int() as times), op=ast.Mult(), right=ast.Name(id=name)
                )
                | ast.BinOp(
                    left=ast.Name(id=name), op=ast.Mult(), right=ast.Constant(value=float() | int() as times)
                )
            ) if name in names and name not in found:
                found[name] = float(times)
            case ast.Name(id=name) if name in names and name not in found:
                found[name] = 1.0
            case _:
                raise ValueError

    try:
        read(ast.parse(formula[:1000], mode="eval").body)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise SpecError(
            f"calculate_output {formula[:80]!r} is not a weighted sum of the graders.",
            remedy="Write for example 0.7 * first + 0.3 * second",
        ) from None
    return found
