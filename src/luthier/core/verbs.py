"""The verbs that a server takes: names, what each is asked with, who may. App, server, client and command line all read this one table.

    records.show   {"reference": "router@1", "verify": false}      answered at once
    recipes.run    {"recipe": {"text": ..., "files": {...}}, ...}  becomes a job

The fields of a wish are the arguments of App's method, in its order. What App takes as a path goes as bytes known by their SHA-256 (Written,
Sent): no wish holds a path or an address of the server. Who takes a step (`by`) is who asks, so no wish says it. Not here: how a verb is
done (app/verbs), how it travels (server/platform/verbs, sdk).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from .spec import Spec

PATH: Final = "/luthier/v1/do"
MOST_FILES: Final = 1_000

Text = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Long = Annotated[str, StringConstraints(max_length=4_000)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ +=@-]*", re.ASCII)


def a_file_name(value: str) -> str:
    """A relative path of plain parts: nothing hidden, nothing upwards.

    >>> a_file_name("rows/june.jsonl")
    'rows/june.jsonl'
    """
    if len(value) > 300 or not all(_PLAIN.fullmatch(part) for part in value.split("/")):
        raise PydanticCustomError(
            "file_name", "{name} is not a relative path of plain names", {"name": repr(value[:100])}
        )
    return value


class Wish(Spec):
    """What a verb is asked with. Nothing is converted."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


class Sent(Wish):
    """A file that was sent before."""

    name: Text
    sha256: Sha256

    _name = field_validator("name")(a_file_name)


class Written(Wish):
    """A file that a person wrote, as text, and the files beside it that it names."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=1_000_000)]
    name: Text = "recipe.yaml"
    files: Annotated[dict[str, Sha256], Field(max_length=MOST_FILES)] = Field(default_factory=dict)
    """Relative path: SHA-256 of what was sent before."""

    @field_validator("name")
    @classmethod
    def _one_part(cls, value: str) -> str:
        if "/" in value:
            raise PydanticCustomError("file_name", "it is not one plain name")
        return a_file_name(value)

    @field_validator("files")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            a_file_name(name)
        return value


Sets = Annotated[list[Annotated[str, StringConstraints(max_length=10_000)]], Field(max_length=200)]
Texts = Annotated[list[Text], Field(max_length=1_000)]
Conditions = Annotated[list[Long], Field(max_length=100)]


def _none() -> Any:
    return Field(default_factory=list)


class Nothing(Wish):
    pass


class RecipeWish(Wish):
    recipe: Written
    overrides: Sets = _none()


class ProbedWish(RecipeWish):
    probe: bool = True


class ProfileWish(RecipeWish):
    steps: Annotated[int, Field(ge=1, le=1000)] = 3


class SearchWish(RecipeWish):
    join: bool = False
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    techniques: bool = False


class RunWish(RecipeWish):
    fresh: bool = False
    waive: Texts = _none()
    """Metrics of the gate whose rules are let go for this model."""
    because: Long | None = None


class MergeWish(Wish):
    written: Written
    overrides: Sets = _none()


class SelectWish(Wish):
    references: Texts = _none()
    metric: Text | None = None
    rule: Text = "one_standard_error"
    name: Text | None = None


class CompareWish(Wish):
    one: Text
    other: Text


class ExportWish(Wish):
    reference: Text
    form: Text = "merged"


class RenderWish(Wish):
    reference: Text
    target: Text
    image: Text
    namespace: Text | None = None
    replicas: Annotated[int, Field(ge=1, le=1000)] | None = None
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None


class HarnessWish(Wish):
    reference: Text
    tasks: Texts
    limit: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    shots: Annotated[int, Field(ge=0, le=100)] | None = None
    chat: bool = True


class ListingWish(Wish):
    kind: Text | None = None
    tags: Texts = _none()
    owner: Text | None = None
    purpose: Text | None = None


class ShowWish(Wish):
    reference: Text
    verify: bool = False


class LineageWish(Wish):
    reference: Text
    all_rows: bool = False


class ReferenceWish(Wish):
    reference: Text


class InspectWish(Wish):
    reference: Text
    base: Text | None = None
    page: bool = True


class AdviseWish(Wish):
    reference: Text
    base: Text | None = None


class ExplainWish(Wish):
    row: Text
    dataset: Text | None = None


class SearchRowsWish(Wish):
    reference: Text
    words: Texts = _none()
    where: Conditions = _none()
    limit: Annotated[int, Field(ge=0, le=1000)] = 20


class ForgetWish(Wish):
    where: Annotated[list[Long], Field(min_length=1, max_length=100)]
    dataset: Text | None = None
    reason: Long | None = None
    really: bool = False


class ExportRowsWish(Wish):
    reference: Text
    format: Literal["parquet", "jsonl", "csv", "lm-eval"] = "parquet"
    croissant: bool = False


class NewestWish(Wish):
    name: Text
    newest: Annotated[int, Field(ge=1, le=10_000)] = 50


class ExchangeWish(Wish):
    exchange_id: Text


class FeedbackWish(Wish):
    path: Sent


class RemoveWish(Wish):
    ids: Texts = _none()
    older_s: Annotated[float, Field(ge=0)] | None = None
    user: Long | None = None
    name: Text | None = None
    why: Long | None = None


class StartWish(Wish):
    ref: Text
    reason: Long
    plan: dict[str, Any] | None = None


class VersionWish(Wish):
    ref: Text


class StepWish(Wish):
    name: Text
    reason: Long


class NameWish(Wish):
    name: Text


class ReportWish(Wish):
    name: Text
    since: Text | None = None
    until: Text | None = None


class BaselineWish(Wish):
    name: Text
    since: Text
    because: Long
    until: Text | None = None


class TrailWish(Wish):
    after: Annotated[int, Field(ge=0, lt=2**62)] = 0
    action: Text | None = None
    actor: Text | None = None
    subject: Text | None = None
    newest: Annotated[int, Field(ge=1, le=100_000)] = 50


class EraseWish(Wish):
    person: Text
    because: Long


@dataclass(frozen=True)
class Verb:
    """`long`: it becomes a job. `into`: App's argument that names a folder to fill; from afar the files are fetched into it. `files`: keys
    of the result that name a page or a picture; from afar each is {"name", "sha256", "size_bytes"}. `here`: keys that only mean something
    on the server's machine; from afar they are None."""

    name: str
    permission: str
    wish: type[Wish]
    about: str
    long: bool = False
    into: str | None = None
    files: tuple[str, ...] = ()
    here: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        return self.name.partition(".")[0]

    @property
    def method(self) -> str:
        return self.name.partition(".")[2]

    @property
    def path(self) -> str:
        return f"{PATH}/{self.name}"


_TABLE = (
    Verb("recipes.plan", "jobs.write", ProbedWish, "What would run, how long, how much.", long=True),
    Verb("recipes.profile", "jobs.write", ProfileWish, "Where the time of a training step goes.", long=True, files=("picture",)),
    Verb("recipes.search", "jobs.write", SearchWish, "Try the settings that a recipe names.", long=True, files=("report",)),
    Verb("recipes.advise", "jobs.write", ProbedWish, "Which techniques suit a recipe's case.", long=True),
    Verb("recipes.run", "jobs.write", RunWish, "The whole line, from rows to a release.", long=True, files=("report_path",)),
    Verb("recipes.merge", "jobs.write", MergeWish, "One model of several.", long=True),
    Verb("models.select", "models.write", SelectWish, "Which of several models to keep, by validation rows."),
    Verb("models.compare", "records.read", CompareWish, "Two releases on the rows that both were asked."),
    Verb("models.export", "models.write", ExportWish, "A model's weights in one form.", long=True, into="target", here=("folder",)),
    Verb("models.render", "records.read", RenderWish, "A release written out for a target.", into="folder", here=("folder",)),
    Verb("models.harness", "evals.write", HarnessWish, "Tasks of lm-evaluation-harness on a model.", long=True),
    Verb("records.listing", "records.read", ListingWish, "Released names, or artifacts of a kind."),
    Verb("records.show", "records.read", ShowWish, "One artifact, whole.", files=("report",), here=("folder",)),
    Verb("records.lineage", "records.read", LineageWish, "Where something came from and what came of it."),
    Verb("records.page", "records.read", ReferenceWish, "The page of a release or of a search.", files=("page",)),
    Verb("records.pictures", "records.read", ReferenceWish, "Every drawing of that page as PNG.", into="folder"),
    Verb("data.prepare", "jobs.write", RecipeWish, "The dataset of a recipe, without training.", long=True),
    Verb("data.inspect", "data.read", InspectWish, "What is in a dataset.", files=("report",)),
    Verb("data.advise", "data.read", AdviseWish, "What would help a dataset."),
    Verb("data.diff", "data.read", CompareWish, "What two datasets do not share."),
    Verb("data.explain", "data.read", ExplainWish, "What happened to one row."),
    Verb("data.search", "data.read", SearchRowsWish, "Rows with these words."),
    Verb("data.export", "data.write", ExportRowsWish, "A dataset's rows as files.", long=True, into="to", here=("to",)),
    Verb("data.forget", "data.write", ForgetWish, "Leave records out from now on."),
    Verb("data.forgotten", "data.read", Nothing, "What was forgotten."),
    Verb("traffic.names", "data.read", Nothing, "Names whose traffic is kept."),
    Verb("traffic.listing", "data.read", NewestWish, "The newest exchanges of a name."),
    Verb("traffic.show", "data.read", ExchangeWish, "One exchange."),
    Verb("traffic.feedback", "feedback", FeedbackWish, "Judgements of a file (.jsonl or .csv, at most 64 MB).", long=True),
    Verb("traffic.remove", "data.write", RemoveWish, "Take exchanges out."),
    Verb("rollouts.start", "rollouts.write", StartWish, "Begin to put a version in place of another."),
    Verb("rollouts.promote", "rollouts.write", StepWish, "The candidate answers from now on."),
    Verb("rollouts.roll_back", "rollouts.write", StepWish, "What answered before answers again."),
    Verb("rollouts.pause", "rollouts.write", StepWish, "Stay at this share."),
    Verb("rollouts.resume", "rollouts.write", StepWish, "Go on."),
    Verb("rollouts.approve", "approvals.decide", StepWish, "Agree to a candidate that waits for it."),
    Verb("rollouts.plan_of", "rollouts.read", VersionWish, "How a version would take over, as its recipe says."),
    Verb("rollouts.status", "rollouts.read", NameWish, "Where a rollout stands."),
    Verb("rollouts.history", "rollouts.read", NameWish, "Every step that was taken."),
    Verb("rollouts.listing", "rollouts.read", Nothing, "All rollouts."),
    Verb("monitor.report", "data.read", ReportWish, "A stretch of traffic against what is usual."),
    Verb("monitor.show", "data.read", NameWish, "Where monitoring of a name stands."),
    Verb("monitor.baseline", "models.write", BaselineWish, "Take good traffic for what is usual."),
    Verb("monitor.approve", "approvals.decide", StepWish, "Let a new model go on to a rollout."),
    Verb("monitor.decline", "approvals.decide", StepWish, "Do not use a new model."),
    Verb("audit.newest", "audit.read", TrailWish, "The newest entries of the project's trail."),
    Verb("audit.verify", "audit.read", Nothing, "Whether the trail is what was written."),
    Verb("audit.erase", "audit.write", EraseWish, "Who somebody is goes, what was done stays."),
)  # fmt: skip
VERBS: Mapping[str, Verb] = {verb.name: verb for verb in _TABLE}
