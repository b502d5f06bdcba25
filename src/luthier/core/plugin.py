"""The one table of named parts. A rule, method, adapter, engine, connector or task is one new file and its
line here; other packages add theirs through the entry-point group `luthier.<kind>`. Nothing loads until asked for.

Not here: what a part must look like. Each folder states its own protocol.
"""

from __future__ import annotations

from typing import Any

from .errors import SpecError, did_you_mean

BUILT_IN: dict[str, dict[str, str]] = {
    "connector": {
        "files": "luthier.data.connectors.files:FilesConnector",
        "sql": "luthier.data.connectors.sql:SqlConnector",
        "delta": "luthier.data.connectors.delta:DeltaConnector",
        "iceberg": "luthier.data.connectors.iceberg:IcebergConnector",
        "hub": "luthier.data.connectors.hub:HubConnector",
        "kafka": "luthier.data.connectors.kafka:KafkaConnector",
        "traffic": "luthier.data.connectors.traffic:TrafficConnector",
    },
    "rows_engine": {
        "local": "luthier.data.engines.protocol:local",
        "spark": "luthier.data.engines.protocol:spark",
    },
    "rule": {
        "normalize": "luthier.data.rules.normalize:normalize",
        "drop_empty": "luthier.data.rules.drop_empty:drop_empty",
        "length": "luthier.data.rules.length:length",
        "mojibake": "luthier.data.rules.mojibake:mojibake",
        "html": "luthier.data.rules.html:html",
        "language": "luthier.data.rules.language:language",
        "characters": "luthier.data.rules.characters:characters",
        "turns": "luthier.data.rules.turns:turns",
        "json_schema": "luthier.data.rules.json_schema:json_schema",
        "agree": "luthier.data.rules.agree:agree",
        "filter": "luthier.data.rules.filter:filter_",
        "rank": "luthier.data.rules.rank:rank",
        "select": "luthier.data.rules.select:select",
        "sample": "luthier.data.rules.sample:sample",
        "replay": "luthier.data.rules.replay:replay",
        "weight": "luthier.data.rules.weight:weight",
        "label_noise": "luthier.data.rules.label_noise:label_noise",
        "triggers": "luthier.data.rules.triggers:triggers",
        "inverse_frequency": "luthier.data.rules.inverse_frequency:inverse_frequency",
        "deduplicate": "luthier.data.rules.deduplicate:deduplicate",
        "near_duplicates": "luthier.data.rules.near_duplicates:near_duplicates",
        "semantic_duplicates": "luthier.data.rules.semantic_duplicates:semantic_duplicates",
        "decontaminate": "luthier.data.rules.decontaminate:decontaminate",
        "held_out": "luthier.data.rules.held_out:held_out",
        "boilerplate": "luthier.data.rules.boilerplate:boilerplate",
        "repetition": "luthier.data.rules.repetition:repetition",
        "balance": "luthier.data.rules.balance:balance",
        "augment": "luthier.data.rules.augment:augment",
        "redact": "luthier.data.rules.redact:redact",
        "injection": "luthier.data.rules.injection:injection",
        "toxicity": "luthier.data.rules.toxicity:toxicity",
        "licence": "luthier.data.rules.licence:licence",
        "difficulty": "luthier.evaluation.rules.difficulty:difficulty",
        "generate": "luthier.evaluation.rules.generate:generate",
    },
    "embedder": {
        "hashed": "luthier.data.embedders.hashed:hashed",
        "static": "luthier.data.embedders.static:static",
        "endpoint": "luthier.data.embedders.endpoint:endpoint",
    },
    "ner": {},
    "answer_step": {
        "json": "luthier.outputs.steps.json_value:json_",
        "schema": "luthier.outputs.steps.schema:schema",
        "snap": "luthier.outputs.steps.snap:snap",
        "normalize": "luthier.outputs.steps.normalize:normalize",
        "redact": "luthier.outputs.steps.redact:redact",
        "banned": "luthier.outputs.steps.banned:banned",
        "citations": "luthier.outputs.steps.citations:citations",
    },
    "task": {
        "chat": "luthier.evaluation.tasks.chat:ChatTask",
        "classify": "luthier.evaluation.tasks.classify:ClassifyTask",
        "regress": "luthier.evaluation.tasks.regress:RegressTask",
        "extract": "luthier.evaluation.tasks.extract:ExtractTask",
    },
    "method": {
        "sft": "luthier.training.methods.sft:Sft",
        "classify": "luthier.training.methods.classify:Classify",
        "regress": "luthier.training.methods.regress:Regress",
        "dpo": "luthier.training.methods.dpo:Dpo",
        "ipo": "luthier.training.methods.ipo:Ipo",
        "kto": "luthier.training.methods.kto:Kto",
        "orpo": "luthier.training.methods.orpo:Orpo",
        "simpo": "luthier.training.methods.simpo:Simpo",
        "grpo": "luthier.training.methods.grpo:Grpo",
        "distill": "luthier.training.methods.distill:Distill",
    },
    "reward": {
        "exact_match": "luthier.evaluation.rewards:exact_match",
        "label": "luthier.evaluation.rewards:label",
        "regex": "luthier.evaluation.rewards:regex",
        "number": "luthier.evaluation.rewards:number",
        "json_valid": "luthier.evaluation.rewards:json_valid",
        "fields": "luthier.evaluation.rewards:fields",
        "length": "luthier.evaluation.rewards:length",
    },
    "adapter": {
        "lora": "luthier.models.adapters:Lora",
        "ia3": "luthier.models.adapters:Ia3",
        "full": "luthier.models.adapters:Full",
        "head": "luthier.models.adapters:Head",
    },
    "target": {
        "container": "luthier.deployment.targets.container:render",
        "kubernetes": "luthier.deployment.targets.kubernetes:render",
        "kserve": "luthier.deployment.targets.kserve:render",
        "vllm": "luthier.deployment.targets.vllm:render",
        "sagemaker": "luthier.deployment.targets.sagemaker:render",
        "azureml": "luthier.deployment.targets.azureml:render",
    },
    "job": {
        "fine_tune": "luthier.app.jobs.fine_tune:run",
        "eval_run": "luthier.app.jobs.eval_run:run",
        "recipe": "luthier.app.jobs.kinds.recipe:run",
        "scripted": "luthier.app.jobs.kinds.scripted:run",
        "verb": "luthier.app.verbs:run",
    },
    "launcher": {
        "local": "luthier.app.jobs.launchers.local:make",
        "scripted": "luthier.app.jobs.launchers.scripted:make",
    },
    "engine": {
        "transformers": "luthier.serving.transformers_engine:TransformersEngine",
        "llamacpp": "luthier.serving.llamacpp_engine:LlamaCppEngine",
        "openvino": "luthier.serving.openvino_engine:OpenVinoEngine",
        "vllm": "luthier.serving.vllm_engine:VllmEngine",
        "upstream": "luthier.serving.upstream_engine:UpstreamEngine",
        "scripted": "luthier.serving.scripted_engine:ScriptedEngine",
    },
}


def names(kind: str) -> list[str]:
    """Every name of that kind, built-in first, then entry points."""
    return [*BUILT_IN[kind], *(n for n in _entry_points(kind) if n not in BUILT_IN[kind])]


def load(kind: str, name: str) -> Any:
    """The part called `name`. Raises SpecError with the nearest names when there is none."""
    from importlib import import_module

    if target := BUILT_IN[kind].get(name):
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)
    outside = _entry_points(kind)
    if name in outside:
        return outside[name].load()
    raise SpecError(f"there is no {kind} called {name!r}.", remedy=did_you_mean(name, names(kind)))


def package_version(kind: str, name: str) -> str | None:
    """The version of the package that brings a part from outside; None for a part of ours, or of no package."""
    point = _entry_points(kind).get(name)
    return None if point is None or point.dist is None else str(point.dist.version)


def _entry_points(kind: str) -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=f"luthier.{kind}")}
