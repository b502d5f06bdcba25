"""What every field of a recipe that holds text is to whoever lets recipes of others in: words, or a way to reach something.

A field that is in no list here is refused where a policy vets the recipe, and a test fails for it: who adds a field to a Spec says here
what it is. Fields are named by the class that declares them, so a part of another package that builds on one of ours is known as far as
it does.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from luthier.core.part import PartSpec
from luthier.core.spec import Spec
from luthier.core.units import Money

Kind = Literal[
    "words",  # a name of a column, a label, a pattern, an instruction: opened by nobody
    "file",  # a file to read: the id of an uploaded one, or an address
    "source",  # an address to read from: a URL, a folder, a database
    "sources",  # a mapping with addresses among its values
    "brokers",  # host:port, several by commas
    "dataset",  # an id on a hub
    "inside",  # a path or pattern inside something that is vetted by itself
    "table",  # a name in a catalog, or else an address
    "base",  # a base model
    "model",  # a base model, or a release of the project
    "server",  # a URL to send to, with the keys of the same section
    "mail",  # a host to send mail by, with the keys of the same section
    "key",  # ${NAME}, sent to the server of the same section
    "secret",  # ${NAME}, used here
    "plugin",  # a part's name
    "settings",  # of a search: what other fields may become
    "never",  # not for recipes of others
]

_LISTS: dict[Kind, str] = {
    "words": """
        app.recipe.Recipe: name
        data.task.TaskSpec: instruction labels
        data.task.SourceTaskSpec: instruction
        data.spec.SourceSpec: name
        data.spec.SplitSpec: group_by
        data.spec.AboutSpec: owner licence purpose retention tags
        data.maps.MapSpec: messages tools system user assistant label chosen rejected rating text id group keep
        data.maps.ConstantSpec: constant
        data.maps.ConversationSpec: group order_by role content roles
        data.maps.RankingSpec: answers text score
        data.maps.RatingSpec: column words
        data.contract.ContractSpec: columns
        data.contract.ColumnSpec: min max values pattern
        data.contract.FreshSpec: column
        data.rules.language.Language: keep
        data.rules.json_schema.JsonSchema: schema_
        data.rules.filter.Filter: keep
        data.rules.rank.Rank: goal
        data.egress.ServerSpec: allow_host
        data.egress.EgressSpec: model
        data.rules.select.Select: score
        data.rules.replay.Replay: new
        data.rules.weight.Weight: weights expression
        data.rules.augment.Augment: labels synonyms templates counterparts
        data.rules.injection.Injection: phrases
        data.rules.toxicity.Toxicity: words
        data.rules.licence.Licence: allow sources
        evaluation.rules.generate.Generate: labels pivot keep
        evaluation.rewards.Regex: pattern
        evaluation.rewards.JsonValid: keys
        models.spec.LoraSpec: targets
        models.spec.Ia3Spec: targets
        training.spec.MixSpec: weights
        training.spec.TrainSpec: order
        training.spec.EarlyStoppingSpec: metric
        training.search.SearchSpec: metric study
        training.space.WhenSpec: when
        evaluation.spec.EvaluateSpec: against metrics
        evaluation.spec.ColumnSpec: column
        evaluation.spec.EvaluateSection: gate
        evaluation.spec.GateRule: better_than not_worse_than
        evaluation.systems.EndpointSystem: name
        evaluation.systems.ReleaseSystem: release name
        evaluation.systems.ProductionSystem: production
        evaluation.systems.BaseSystem: name
        evaluation.memorisation.spec.MemorisationSpec: canaries_sha256
        evaluation.judge.spec.CriterionSpec: name asks lowest highest
        outputs.steps.snap.Snap: labels
        outputs.steps.normalize.Normalize: fields
        outputs.steps.banned.Banned: words patterns mask
        outputs.steps.citations.Citations: pattern
        outputs.spec.HeldSpec: regex
        monitoring.spec.EmailSpec: allow_host sender to
        cost.spec.BudgetSpec: machine
        data.connectors.files.FilesSpec: sheet
        data.connectors.sql.SqlSpec: table query params key watermark since until identity
        data.connectors.delta.DeltaSpec: timestamp
        data.connectors.lake.LakeSpec: watermark since until
        data.connectors.iceberg.IcebergSpec: ref
        data.connectors.hub.HubSpec: revision config split
        data.connectors.kafka.KafkaSpec: topic from_ to
        data.connectors.traffic.TrafficSpec: name releases since until
    """,
    "file": """
        data.connectors.files.FilesSpec: files
        data.task.TaskSpec: schema_
        data.spec.SourceSpec: contract
        data.rules.rank.Rank: to
        data.rules.decontaminate.Decontaminate: against
        evaluation.spec.EvaluateSpec: general safety
        evaluation.memorisation.spec.MemorisationSpec: canaries
        evaluation.judge.spec.JudgeSpec: rubric human
        outputs.steps.schema.SchemaStep: schema_
        outputs.steps.banned.Banned: file
        outputs.spec.HeldSpec: json_schema
    """,
    "source": """
        data.embedders.static.StaticSpec: folder
        data.connectors.sql.SqlSpec: url
        data.connectors.delta.Where: url
        data.connectors.iceberg.IcebergSpec: also_under
        data.connectors.hub.HubSpec: path
    """,
    "sources": "data.connectors.iceberg.IcebergSpec: catalog",
    "brokers": "data.connectors.kafka.KafkaSpec: brokers",
    "dataset": "data.connectors.hub.HubSpec: dataset",
    "inside": "data.connectors.hub.HubSpec: files",
    "table": "data.connectors.iceberg.Where: table",
    "base": """
        app.recipe.Recipe: base
        training.methods.distill.DistillSettings: teacher
        evaluation.rules.difficulty.Difficulty: model
        evaluation.rules.generate.Generate: model
        evaluation.systems.BaseSystem: base
    """,
    "model": """
        evaluation.judge.spec.JudgeSpec: model
        outputs.spec.FallbackSpec: to
        app.merging.MergedModelSpec: model
        app.merging.MergeFile: measure
    """,
    "server": """
        data.egress.ServerSpec: url
        evaluation.systems.SentSpec: url
    """,
    "mail": "monitoring.spec.EmailSpec: host",
    "key": """
        data.egress.EgressSpec: key
        monitoring.spec.WebhookSpec: secret
        monitoring.spec.EmailSpec: user password
    """,
    "secret": "data.rules.redact.Redact: key",
    "plugin": """
        data.spec.SourceSpec: connector
        data.rules.redact.Redact: ner
    """,
    "settings": """
        training.search.SearchSpec: over techniques
        training.space.ChoiceSpec: choices
        training.space.TechniqueSpec: set over
    """,
    "never": """
        training.search.SearchSpec: storage
        data.embedders.endpoint.EndpointSpec: cache
        data.engines.protocol.SparkEngineSpec: master connect storage options
        data.connectors.kafka.KafkaSpec: options
    """,
}


def _read(lists: dict[Kind, str]) -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for kind, text in lists.items():
        for line in filter(None, map(str.strip, text.splitlines())):
            where, _, names = line.partition(": ")
            for name in names.split():
                assert f"{where}.{name}" not in found, f"{where}.{name} stands twice"
                found[f"{where}.{name}"] = kind
    return found


FIELDS = _read(_LISTS)


def kind_of(spec: type[Spec], name: str) -> Kind | None:
    """What a field is; None where nobody has said so."""
    return FIELDS.get(called(spec, name))


@cache
def called(spec: type[BaseModel], name: str) -> str:
    """A field by the class that declares it: `data.rules.rank.Rank.to`."""
    owner = next(one for one in spec.__mro__ if name in inspect.get_annotations(one))
    return f"{owner.__module__.removeprefix('luthier.')}.{owner.__qualname__}.{name}"


@cache
def reaching() -> frozenset[str]:
    """Names of fields that are more than words: what no search may set."""
    aliases = {"endpoint", "schema"}
    return (
        frozenset(
            path.rpartition(".")[2] for path, kind in FIELDS.items() if kind not in ("words", "settings")
        )
        | aliases
    )


@cache
def holds_text(spec: type[BaseModel], name: str) -> bool:
    """Whether a field may hold text of its writer's choice, beside what nested Specs hold."""
    return _free(spec.model_fields[name].annotation)


def _free(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _free(get_args(annotation)[0])
    if origin is Literal or annotation in (int, float, bool, type(None), Money, Ellipsis):
        return False
    if origin is not None:
        return any(_free(one) for one in get_args(annotation))
    return not (isinstance(annotation, type) and issubclass(annotation, BaseModel))


def specs_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The Specs that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from specs_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType) or get_origin(annotation) is not None:
        for one in get_args(annotation):
            yield from specs_in(one)


def every_field(root: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
    """Every field below a Spec that may hold text, those of all parts of Luthier included."""
    from luthier.core import plugin
    from luthier.data.spec import SourceSpec

    todo, seen = [root], set()
    while todo:
        spec = todo.pop()
        if spec in seen:
            continue
        seen.add(spec)
        if issubclass(spec, PartSpec):
            todo += [plugin.load(spec.kind, name).spec for name in plugin.BUILT_IN[spec.kind]]
            continue
        if issubclass(spec, SourceSpec):
            todo += [plugin.load("connector", name).spec for name in plugin.BUILT_IN["connector"]]
        for name, field in spec.model_fields.items():
            if holds_text(spec, name):
                yield spec, name
            if field.annotation is not Spec:
                todo += [one for one in specs_in(field.annotation) if one is not Spec]
