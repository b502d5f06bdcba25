"""The stage that makes a Dataset: sources -> records -> rules -> split -> files, in bounded memory.

    train.parquet validation.parquet test.parquet   records, sorted by id
    removed.parquet                                  every row that is not in them: id, origin, rule, reason, preview
    trail.parquet                                    every change of a row: id, step (its place in rules.json), what, why
    rules.json                                       what each step did, with examples; entry 0 is the reading
    dataset.json                                     the task, the counts (of every source too), the split
    manifest.json                                    the Parquet files: a large side is a folder of shards (shards.py)

Relative paths start at the context's `root`, which is no part of the identity. The files are a function of the spec
and of the sources' bytes. Seconds and warnings are events.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, computed_field

from luthier.core.errors import StoreError
from luthier.core.spec import Spec
from luthier.core.stage import Context, Output, Stage

from .spec import DataSpec, RuleSpec, RulesSpec, SourceSpec, rule_version
from .task import TaskSpec

if TYPE_CHECKING:
    from luthier.core.artifact import Artifact


class PrepareSpec(Spec):
    task: TaskSpec = TaskSpec()
    """What is to be learnt."""
    data: DataSpec
    """Sources, rules and split, as written."""
    watched: dict[str, list[str] | None] = Field(default_factory=dict, exclude=True)
    """Records that were forgotten elsewhere (data/forgotten): if one of them is read nothing is made. No part of the identity."""

    asks: bool = Field(default=True, exclude=True)
    """Whether rules may ask what costs time or money; otherwise such a rule raises rules.rule.WouldAsk. No part of the identity."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def rule_versions(self) -> dict[str, int]:
        """The version of each rule's algorithm: a dataset made by another version is another dataset."""
        return {rule.name: rule_version(rule.name) for rule in self.rules.ordered}

    @property
    def rules(self) -> RulesSpec:
        """What rows must pass: the rules as written, and before the rows are divided what the task wants of their answers."""
        written = self.data.rules
        if self.task.kind != "extract":
            return written
        schema = self.task.schema_ if isinstance(self.task.schema_, dict) else None
        answers = RuleSpec.model_validate({"json_schema": {"schema": schema}})
        return written.model_copy(update={"relevance": [*written.relevance, answers]})


def prepare(
    spec: PrepareSpec, inputs: Mapping[str, Artifact], out: Path, scratch: Path, at: Context
) -> Output:
    """Read the sources, run the rules, split, write. The sources in `inputs` have no files: they are identity only, and
    `forgotten` says which records are not read. The models there are asked by rules (plan.model_roles).

    Raises DataError for anything a source, a row or a label is not supposed to be."""
    from .forgotten import Forgotten
    from .preparation import Preparation

    asked = {role: parent for role, parent in inputs.items() if parent.kind == "model"}
    if odd := [role for role, parent in inputs.items() if parent.kind != "source" and role not in asked]:
        raise AssertionError(
            f"a dataset is made from sources, with models that rules ask, and {odd[0]} is neither"
        )
    work = scratch / "prepare"
    shutil.rmtree(
        work, ignore_errors=True
    )  # what an interrupted run left; reading is quick, so it starts afresh
    work.mkdir(parents=True)
    listed = inputs.get("forgotten")
    forgotten = Forgotten.of(listed.spec["forgotten"]) if listed else Forgotten()
    pins = {role: one.spec["pinned"] for role, one in inputs.items() if "pinned" in one.spec}
    preparation = Preparation(spec, out, work, at, forgotten, pins, asked)
    full_disk: tuple[type[Exception], ...] = (OSError, *preparation.write_errors)
    try:
        facts = preparation.run()
    except full_disk as error:  # what fails while reading a source is a DataError already
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"the dataset cannot be written: {reason}.",
            remedy=f"Make room, or allow writing, under {scratch} and {out}; then run again.",
        ) from None
    _write(out / "rules.json", preparation.reports)
    _write(out / "dataset.json", facts)
    shutil.rmtree(work)
    counts = facts["counts"]
    at.emit("dataset", counts=counts, labels=len(facts["labels"] or {}), characters=facts["characters"])
    return Output(
        {**counts, "removed": preparation.removed_rows, "labels": len(facts["labels"] or {}) or None}
    )


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def source_names(sources: Sequence[SourceSpec]) -> list[str]:
    """What records of each source are called: its name, or what its connector calls it; a name that stands there already
    gets a number.

    >>> source_names([SourceSpec(files="a.jsonl"), SourceSpec(files="b.jsonl", name="b"), SourceSpec(files="x/a.jsonl")])
    ['a.jsonl', 'b', 'a.jsonl#2']
    """
    names: list[str] = []
    for source in sources:
        wanted = name = source.name or source.default_name
        number = 1
        while name in names:
            number += 1
            name = f"{wanted}#{number}"
        names.append(name)
    return names


STAGE = Stage("dataset", 6, prepare)
