"""A Spec is a frozen, typed wish: what a person writes in a recipe or a wire carries.

    text ──read_yaml──▶ Tree (plain values + the line of each) ──override──▶ ──parse──▶ Spec

YAML 1.2: `1e-4` is a number and `no` is a string. Unknown keys, repeated keys, tags and aliases are refused,
with the line. `${VAR}` stays as written: `resolve` puts the environment's value in at the last moment, and only
what is written is ever recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .errors import SpecError, did_you_mean

LARGEST_BYTES = 250_000
DEEPEST = 40

Path = tuple[str | int, ...]
S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """The parent of everything a person writes. Each field's sentence stands under it, once."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            known = [f.alias or name for name, f in cls.model_fields.items()]
            for key in value:
                if key not in known:
                    raise PydanticCustomError(
                        "unknown_key",
                        "there is no key '{key}' here; {hint}",
                        {"key": str(key), "hint": did_you_mean(str(key), known)},
                    )
        return value

    def plain(self) -> dict[str, Any]:
        """As plain JSON values, every default spelled out: what identity is made of."""
        return self.model_dump(mode="json", by_alias=True)


@dataclass(frozen=True)
class Tree:
    """Plain values with the source line of each (1-based), keyed by path."""

    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)
    source: str = "recipe"

    def where(self, path: Path) -> str:
        """`recipe.yaml:12` for the deepest part of `path` that has a line (pydantic adds tags that have none)."""
        known: Path = ()
        for part in path:
            if (*known, part) in self.lines:
                known = (*known, part)
        line = self.lines.get(known)
        return f"{self.source}:{line}" if line else self.source


def read_yaml(text: str, source: str = "recipe") -> Tree:
    """Parse one YAML 1.2 document of plain values. Raises SpecError with the line."""
    from ruamel.yaml.error import YAMLError

    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_BYTES:
        raise SpecError(
            f"{source} is larger than {LARGEST_BYTES:,} bytes.",
            remedy="A recipe is short; put data in files.",
        )
    lines: dict[Path, int] = {}
    try:
        _refuse_tricks(_reader().parse(text), source)
        node = _reader().compose(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{source}:{mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(
            f"{at}: this is not valid YAML: {problem}.",
            remedy="Check indentation, quotes and brackets there.",
        ) from None
    if node is None:
        raise SpecError(
            f"{source} is empty.", remedy="`luthier init DATA_FILE` writes a recipe to start from."
        )
    return Tree(_value(node, (), lines, source), lines, source)


def _reader() -> Any:
    """Of YAML 1.2. The scanner reads a thousand brackets ahead, for seconds, before it tells of the first, so it counts them itself."""
    from ruamel.yaml import YAML
    from ruamel.yaml.scanner import RoundTripScanner, ScannerError

    class Counting(RoundTripScanner):
        def fetch_flow_collection_start(self, *given: Any, **named: Any) -> None:
            if len(self.flow_context) >= DEEPEST:
                raise ScannerError(None, None, f"nested deeper than {DEEPEST} levels", self.reader.get_mark())
            super().fetch_flow_collection_start(*given, **named)

    made = YAML(typ="rt", pure=True)
    made.Scanner = Counting
    return made


def _refuse_tricks(events: Any, source: str) -> None:
    depth = 0
    for event in events:
        name = type(event).__name__
        at = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
        if name == "AliasEvent":
            raise SpecError(
                f"{at}: aliases (*name) are not allowed.", remedy="Write the value out where it is used."
            )
        tag = getattr(event, "tag", None)
        if tag and name != "DocumentStartEvent":
            raise SpecError(
                f"{at}: the tag {tag} is not allowed.",
                remedy="Recipes hold plain values only; remove the tag.",
            )
        depth += name.endswith("StartEvent") and name.startswith(("Mapping", "Sequence"))
        depth -= name.endswith("EndEvent") and name.startswith(("Mapping", "Sequence"))
        if depth > DEEPEST:
            raise SpecError(f"{at}: nested deeper than {DEEPEST} levels.", remedy="Flatten it.")


def _value(node: Any, path: Path, lines: dict[Path, int], source: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    kind = type(node).__name__
    if kind == "MappingNode":
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = key_node.start_mark.line + 1
            if key in result:
                raise SpecError(f"{source}:{here}: the key {key!r} stands twice.", remedy="Keep one of them.")
            lines[(*path, key)] = here
            result[key] = _value(value_node, (*path, key), lines, source)
        return result
    if kind == "SequenceNode":
        return [_value(child, (*path, i), lines, source) for i, child in enumerate(node.value)]
    return _scalar(node.value, str(node.tag).rsplit(":", 1)[-1], f"{source}:{line}")


def _scalar(text: str, tag: str, at: str) -> Any:
    try:
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if tag == "int":
            bare = text.replace("_", "")
            return int(bare, 0) if re.match(r"[-+]?0[xob]", bare) else int(bare)
        if tag == "float":
            return float(
                text.replace("_", "")
                .replace(".inf", "inf")
                .replace(".nan", "nan")
                .replace(".Inf", "inf")
                .replace(".NaN", "nan")
            )
    except ValueError:
        raise SpecError(
            f"{at}: {text[:40]!r} is not a number this program can hold.",
            remedy="Write it shorter, or quote it.",
        ) from None
    return text


def override(tree: Tree, assignments: list[str] | tuple[str, ...]) -> Tree:
    """Apply `--set a.b=c`: the value is YAML, the path uses dots, list items are numbers.

    >>> override(Tree({"train": {"epochs": 1}}), ["train.epochs=3"]).value
    {'train': {'epochs': 3}}
    """
    import copy

    value = copy.deepcopy(tree.value)
    lines = dict(tree.lines)
    for text in assignments:
        dotted, equals, right = text.partition("=")
        if not equals or not dotted.strip():
            raise SpecError(f"--set {text!r} has no '='.", remedy="Write --set train.epochs=3")
        new = read_yaml(right, f"--set {dotted}").value if right.strip() else None
        parts: list[str | int] = list(dotted.strip().split("."))
        here = value
        for i, part in enumerate(parts):
            if isinstance(here, list):
                if re.fullmatch(r"[0-9]{1,6}", str(part)):
                    part = parts[i] = int(part)
                if not isinstance(part, int) or part >= len(here):
                    raise SpecError(
                        f"--set {dotted}: {part!r} is not an item of a list of {len(here)}.",
                        remedy="Items count from 0.",
                    )
            elif not isinstance(here, dict):
                raise SpecError(
                    f"--set {dotted}: {'.'.join(map(str, parts[:i]))} is a plain value.",
                    remedy="Set the value itself.",
                )
            if i == len(parts) - 1:
                here[part] = new
            else:
                if isinstance(here, dict) and here.get(part) is None:
                    here[part] = {}
                here = here[part]
        stale = tuple(parts)
        lines = {p: n for p, n in lines.items() if p[: len(stale)] != stale}
    return Tree(value, lines, tree.source)


def parse(
    cls: type[S], tree: Tree, remedy: str = "docs/recipe.md explains every key; nothing has been run."
) -> S:
    """A Spec from a Tree. Every fault is told at once, each with its line. Raises SpecError."""
    if not isinstance(tree.value, dict):
        raise SpecError(
            f"{tree.source} holds a {type(tree.value).__name__}, not keys and values.",
            remedy="Start with `name: ...`.",
        )
    try:
        return cls.model_validate(tree.value)
    except ValidationError as error:
        told = "\n".join(dict.fromkeys(_tell(tree, fault) for fault in error.errors(include_url=False)))
        raise SpecError(told, remedy=remedy) from None


def _tell(tree: Tree, fault: Any) -> str:
    path: Path = tuple(fault["loc"])
    context = fault.get("ctx") or {}
    if fault["type"] == "unknown_key":
        path = (*path, context["key"])
    at = tree.where(path)
    dotted = ".".join(
        str(p) for p in path if not (isinstance(p, str) and p.startswith(("function-", "tagged-")))
    )
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        message = "this key is needed and is not there"
    given = fault.get("input")
    tail = ""
    if fault["type"] not in ("unknown_key", "missing", "value_error") and isinstance(
        given, str | int | float | bool | None
    ):
        tail = f" (it is {str(given)[:60]!r})"
    return f"{at}: {dotted or 'the recipe'}: {message}{tail}"


_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def references(text: str) -> list[str]:
    """The names of the environment variables that a text refers to.

    >>> references("postgresql://${USER}:${PASSWORD}@db/x")
    ['USER', 'PASSWORD']
    """
    return _REFERENCE.findall(text)


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """Put values in place of ${VAR}. The result is for immediate use and must not be recorded. Raises SpecError."""
    for name in references(text):
        if name not in environ:
            raise SpecError(
                f"the environment variable {name} is not set, and {text!r} refers to it.",
                remedy=f"export {name}=...",
            )
    return _REFERENCE.sub(lambda m: environ[m[1]], text)


def redact(message: str, written: str, environ: Mapping[str, str]) -> str:
    """`message` with every value that `written` refers to replaced by its reference: for errors of libraries.

    >>> redact("cannot reach s3://k3y@x", "s3://${KEY}@x", {"KEY": "k3y"})
    'cannot reach s3://${KEY}@x'
    """
    for name in references(written):
        if value := environ.get(name):
            message = message.replace(value, f"${{{name}}}")
    return message
