"""Write the reference pages that follow from the code: docs/recipe.md (every key), docs/rules.md (every rule) and docs/cli.md
(every command).

python scripts/generate_docs.py           write them
python scripts/generate_docs.py --check   fail if they are not what the code says
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from luthier.app.recipe import Recipe
from luthier.cli.main import main as command_line
from luthier.core import plugin
from luthier.core.part import PartSpec
from luthier.core.units import Money

PARTS = {
    "connector": "Named by a key of its own in an entry of `data.sources`. Settings stand under the name (`sql: {url: ..., table: ...}`); those of `files` stand beside it.",
    "rule": "Written under `data.rules.quality`, `.relevance` or `.quantity`, bare (`normalize`) or with settings (`{length: {min: 3}}`).",
    "embedder": "Written under `evaluate.embedder`, or `embedder` of a rule that has one, bare (`hashed`) or with settings.",
    "answer_step": "Written in the list `postprocess.answers`, in order, bare (`json`) or with settings (`{snap: {edits: 1}}`). docs/answers.md says more.",
    "method": "Written under `train.method`, bare (`sft`) or with settings.",
    "reward": "Written in the list `rewards` of the method `grpo`, bare (`exact_match`) or with settings (`{regex: {pattern: '^yes'}}`). Each gives 0 to 1; an answer's rewards are added up, each times its weight.",
}
"""Kinds of the plugin table that a recipe names, each part with a Spec of its own."""
WRITTEN = {("SourceSpec", "connector"): "a connector's name", ("SourceSpec", "settings"): None}
"""Fields that are not written under their own names: what stands for them; None: nothing does."""
DOCS = Path(__file__).parent.parent / "docs"


def recipe_page() -> str:
    parts = [
        "# The recipe, key by key\n",
        "Made from the code by `scripts/generate_docs.py`; do not edit. `name`, `base` and `data` are needed, all else has a default.",
        "YAML 1.2: `1e-4` is a number, `no` is a string. `${VAR}` is read from the environment at the last moment and never recorded.\n",
    ]
    todo: list[tuple[str, type[BaseModel]]] = [("", Recipe)]
    done: set[type] = set()
    while todo:
        where, spec = todo.pop(0)
        if spec in done:
            continue
        done.add(spec)
        title = where or "top level"
        if sentence := _sentence(spec):
            title = f"{title}\n\n{sentence}"
        parts += [f"## {title}", "\n| key | what it takes | default | meaning |\n|---|---|---|---|"]
        for name, field in spec.model_fields.items():
            key = WRITTEN.get((spec.__name__, name), field.alias or name)
            if key is None:
                continue
            inner = _specs(field.annotation)
            parts.append(
                f"| `{key}` | {_kind(field.annotation)} | {_default(field)} | {' '.join((field.description or '').split())} |"
            )
            todo += [(f"{where}.{key}".lstrip("."), s) for s in inner]
        parts.append("")
    for kind, opening in PARTS.items():
        parts.append(f"## {kind.capitalize().replace('_', ' ')}s\n\n{opening}\n")
        for name in plugin.BUILT_IN[kind]:
            parts += _part(name, plugin.load(kind, name))
    return "\n".join(parts).rstrip() + "\n"


def _part(name: str, part: Any) -> list[str]:
    about = getattr(part, "about", None) or part.__doc__ or ""
    told = [f"### `{name}`\n", " ".join(about.split()) + "\n"]
    todo: list[tuple[str, type[BaseModel]]] = [("", part.spec)]
    while todo:
        where, spec = todo.pop(0)
        if not spec.model_fields:
            continue
        told += [f"`{where}`:\n"] if where else []
        told.append("| key | what it takes | default | meaning |\n|---|---|---|---|")
        for name, field in spec.model_fields.items():
            key = field.alias or name
            told.append(
                f"| `{key}` | {_kind(field.annotation)} | {_default(field)} | {' '.join((field.description or '').split())} |"
            )
            todo += [(f"{where}.{key}".lstrip("."), inner) for inner in _specs(field.annotation)]
        told.append("")
    return told


KINDS = {
    "RowRule": ("row", "looks at one row at a time: it streams, and costs no memory"),
    "KeyedRule": ("keyed", "compares small keys of all rows, in a database that spills to disk"),
    "PairRule": ("pair", "compares rows that agree on a hash, by features that are kept on disk"),
    "GatherRule": (
        "gather",
        "learns from features of all rows in one place, then looks at one row at a time",
    ),
    "GrowRule": ("grow", "makes rows of rows, one at a time; only for `quantity`"),
    "MakeRule": ("make", "makes rows of all rows of train, by asking a model; only for `quantity`"),
}
COSTS: dict[str, str] = json.loads((Path(__file__).parent / "rule_costs.json").read_text())
"""Rows in a second of one core where it was measured; how stands in the same file."""


def rules_page() -> str:
    parts = [
        "# The rules\n",
        "Made from the code by `scripts/generate_docs.py`; do not edit. How to write rules into a recipe is in docs/recipe.md; what",
        "each of them did to your rows stands in the dataset's report, with counts, reasons and examples.\n",
        "| kind | what that means |\n|---|---|",
        *(f"| {kind} | {means} |" for kind, means in KINDS.values()),
        "",
        f"Costs are rows in a second of one core. {COSTS['how']}\n",
        "| rule | kind | what it does | cost |\n|---|---|---|---|",
    ]
    loaded = {name: plugin.load("rule", name) for name in plugin.BUILT_IN["rule"]}
    for name, rule in loaded.items():
        kind, _ = KINDS[type(rule).__name__]
        parts.append(f"| [`{name}`](#{name}) | {kind} | {rule.about} | {COSTS.get(name, '')} |")
    parts.append("")
    for name, rule in loaded.items():
        kind, _ = KINDS[type(rule).__name__]
        head, *rest = _part(name, rule)
        private = " Nothing of a row is shown in reports before it has passed." if rule.private else ""
        source = rule.source if rule.source != "ours" else "our own"
        parts += [head.replace("###", "##"), *rest[:1]]
        parts.append(f"Kind: {kind}. Version: {rule.version}. Source: {source}.{private}\n")
        parts += [_explained(sys.modules[rule.spec.__module__].__doc__ or "", name), *rest[1:]]
    return "\n".join(parts).rstrip() + "\n"


def _explained(docstring: str, name: str) -> str:
    """A module's docstring as Markdown: what is indented is shown as it stands, paragraphs flow."""
    told = []
    for part in docstring.strip().removeprefix(f"{name}: ").split("\n\n"):
        lines = part.splitlines()
        if all(line.startswith("    ") for line in lines if line):
            told.append("\n".join(["```text", *(line.removeprefix("    ") for line in lines), "```"]))
        else:
            opening = [line for line in lines if not line.startswith("    ")]
            inner = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
            text = " ".join(line.strip() for line in opening)
            text = text[0].upper() + text[1:]
            if text.startswith("Not here: "):
                text = f"**Not here:** {text.removeprefix('Not here: ')}"
            told.append(text)
            if inner:
                told.append("\n".join(["```text", *inner, "```"]))
    return "\n\n".join(told) + "\n"


def _sentence(spec: type[BaseModel]) -> str:
    return " ".join((spec.__doc__ or "").split())


def _kind(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kind(get_args(annotation)[0])
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(a) for a in get_args(annotation) if a is not types.NoneType))
    if origin in (list, tuple):
        return "list of " + _kind(next((a for a in get_args(annotation) if a is not Ellipsis), str))
    if origin is dict:
        return "mapping to " + _kind(get_args(annotation)[1])
    if annotation is Money:
        return "money, e.g. `5 USD`"
    if isinstance(annotation, type) and issubclass(annotation, PartSpec):
        return "name, or name and settings"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}.get(
        annotation, "value"
    )


def _specs(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, PartSpec):
        return []
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [s for a in get_args(annotation) for s in _specs(a)]


def _default(field: Any) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "needed"
    value = field.default if field.default_factory is None else field.default_factory()
    if value is None:
        return ""
    if isinstance(value, PartSpec):
        return f"`{value.name}`"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def cli_page() -> str:
    parts = [
        "# The commands\n",
        "Made from the code by `scripts/generate_docs.py`; do not edit. Every command takes `--json`; progress goes to standard error.",
        "Exit codes: 0 done, 1 defect, 2 recipe or words, 3 data, 4 model, 5 store, 6 a part is missing, 7 the gate stopped it, 8 not allowed, 9 over budget, 130 interrupted.\n",
    ]
    for name, command in [("", command_line), *_commands(command_line)]:
        context = click.Context(command, info_name=f"luthier {name}".strip(), max_content_width=100)
        parts += [
            f"## `luthier {name}`".replace(" `", " `").rstrip("` ") + "`\n",
            "```text",
            command.get_help(context),
            "```\n",
        ]
    return "\n".join(parts).rstrip() + "\n"


def _commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with its words, those of a group after the group."""
    for name, command in group.commands.items():
        words = f"{before} {name}".strip()
        yield words, command
        if isinstance(command, click.Group):
            yield from _commands(command, words)


def main() -> int:
    pages = {"recipe.md": recipe_page(), "rules.md": rules_page(), "cli.md": cli_page()}
    if "--check" in sys.argv[1:]:
        stale = [
            name
            for name, text in pages.items()
            if not (DOCS / name).exists() or (DOCS / name).read_text() != text
        ]
        if stale:
            print(
                f"docs/{', docs/'.join(stale)} no longer say what the code does; run: python scripts/generate_docs.py",
                file=sys.stderr,
            )
        return bool(stale)
    for name, text in pages.items():
        (DOCS / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
