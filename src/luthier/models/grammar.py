"""What may be said next: a regular expression or a JSON schema as a mask over tokens, by the library llguidance.

    Grammar("regex", "[A-Z]{2}[0-9]+")     a light value; check() says whether it can be held to
    Grammar("json_schema", {...})

    held = Held(grammar, vocabulary(tokenizer))       compiled for one tokenizer
    held.allowed(width)    bool [V]: the tokens that may come          held.take(token)       one has come

A mask costs microseconds and a schema a millisecond to compile, so no schema stalls a server (docs/decisions.md). A text that
ends by itself matches whole; only the longest answer and the context cut it short. Of a schema, what cannot be held to
(`not`, `if`, `uniqueItems`, ...) is refused and never left out; `format` is held to for the formats that llguidance knows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from luthier.core.errors import ModelError, SpecError, missing_part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .call_form import CallForm

LONGEST = 100_000
"""Characters of a grammar as written."""
BLANKS = {"whitespace_flexible": True, "whitespace_pattern": r"( |\n[ \t]{0,16})?"}
"""Between the parts of JSON: nothing, a space, or a new line with its indent, as JSON is written, and never blanks without end."""


@dataclass(frozen=True)
class Grammar:
    """`written` is the expression, the schema as JSON text, or what `of_calls` makes."""

    kind: Literal["regex", "json_schema", "calls"]
    written: str

    @classmethod
    def of_schema(cls, schema: Any) -> Grammar:
        return cls("json_schema", json.dumps(schema, ensure_ascii=False, sort_keys=False))

    @classmethod
    def of_calls(cls, form: CallForm, functions: Sequence[Mapping[str, Any]]) -> Grammar:
        """One call of one of these functions ({"name", "parameters"}), as this model writes calls."""
        ways = []
        for one in functions:
            parameters = one.get("parameters") or {"type": "object"}
            if not isinstance(parameters, Mapping) or _refers(parameters):
                raise SpecError(
                    f"the parameters of the function {one['name']!r} cannot be held to: they refer to other places ($ref).",
                    remedy="Write the schema out, or do not demand a call (tool_choice: auto).",
                )
            told = {"name": {"const": one["name"]}, form.arguments: {"type": "object", **parameters}}
            ways.append(
                {"type": "object", "properties": told, "required": list(told), "additionalProperties": False}
            )
        schema = {"x-guidance": BLANKS, **(ways[0] if len(ways) == 1 else {"anyOf": ways})}
        parts = [form.opening, "[" * form.listed], ["]" * form.listed, form.closing]
        before, after = ([json.dumps(one) for one in side if one] for side in parts)
        pieces = [*before, "call", *after]
        lark = f"start: {' BLANK '.join(pieces)}\nBLANK: /[ \\n]{{0,2}}/\ncall: %json {json.dumps(schema)}\n"
        return cls("calls", lark)

    def check(self) -> None:
        """Raises SpecError for what cannot be held to, MissingPart without the library."""
        if fault := self._fault():
            told = {"regex": "the regular expression", "calls": "the parameters of the functions"}.get(
                self.kind, "the JSON schema"
            )
            raise SpecError(
                f"{told} cannot be held to while answering: {fault}.",
                remedy="Regular expressions are Rust's, without look-around and back-references."
                if self.kind == "regex"
                else "Write the schema without these keys; the step `schema` checks whole schemas after the answer.",
            )

    def _fault(self) -> str | None:
        library = _library()
        if len(self.written) > LONGEST:
            return f"it has more than {LONGEST:,} characters"
        try:
            bad, told = library.LLMatcher.validate_grammar_with_warnings(self.compiled(library))
        except ValueError as error:
            return " ".join(str(error).split())[:200]
        if bad:
            return _plain(told[0])
        return _plain(told[0]) if told else None

    def compiled(self, library: Any) -> str:
        matcher = library.LLMatcher
        if self.kind == "regex":
            return str(matcher.grammar_from_regex(self.written))
        if self.kind == "calls":
            return str(matcher.grammar_from_lark(self.written))
        schema = json.loads(self.written)
        if isinstance(schema, dict) and "x-guidance" in schema:
            raise ValueError("x-guidance stands in it, which says how to read a schema and not what it means")
        return str(matcher.grammar_from_json_schema(self.written, overrides=BLANKS))


def _refers(value: Any) -> bool:
    """Whether a schema refers to another place or says how it is to be read; put into a larger one, either would mean something else."""
    if isinstance(value, Mapping):
        return bool({"$ref", "$dynamicRef", "$id", "x-guidance"} & set(value)) or any(
            map(_refers, value.values())
        )
    return isinstance(value, list) and any(map(_refers, value))


def _plain(told: str) -> str:
    """The library's words on one line, without the copy of the grammar that follows them."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it is not understood"])[0].rstrip(".")[:200]


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise missing_part(
            "llguidance", "answers", "Holding answers to a regular expression or a schema"
        ) from None
    return llguidance


_VOCABULARIES: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def vocabulary(tokenizer: Any, end_ids: Collection[int]) -> Any:
    """The tokenizer as the library reads it, made once for each (a second for a large one). Raises ModelError."""
    found = _VOCABULARIES.get(tokenizer)
    if found is None:
        _library()
        from llguidance.hf import from_tokenizer

        try:
            found = from_tokenizer(tokenizer, eos_token=sorted(end_ids))
        except ValueError as error:
            raise ModelError(
                f"answers of this model cannot be held to a grammar: its tokenizer is not read ({error}).",
                remedy="Use a model with a fast tokenizer, or leave postprocess.constrain out.",
            ) from None
        _VOCABULARIES[tokenizer] = found
    return found


class Held:
    """One answer in the making. Raises ModelError when the grammar proves too large for this vocabulary."""

    def __init__(self, grammar: Grammar, vocabulary: Any) -> None:
        self._matcher = _library().LLMatcher(vocabulary, grammar.compiled(_library()), log_level=0)
        self._sound()

    def bits(self, width: int) -> NDArray[np.bool_]:
        """[V]: which tokens may come; where the text is whole and nothing can follow, those that end an answer."""
        import numpy as np

        told = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        self._sound()
        found = np.zeros(width, dtype=bool)
        n = min(width, len(told))
        found[:n] = told[:n]
        return found

    def allowed(self, width: int) -> Tensor:
        """`bits` on the processor."""
        import torch

        return torch.from_numpy(self.bits(width))

    def take(self, token: int) -> None:
        if not self._matcher.is_stopped():
            self._matcher.consume_token(token)
            self._sound()

    def masked(self, logits_V: Tensor) -> Tensor:
        """[V]: minus infinity where a token may not come."""
        return logits_V.masked_fill(~self.allowed(logits_V.shape[-1]).to(logits_V.device), float("-inf"))

    def _sound(self) -> None:
        if self._matcher.is_error():
            raise ModelError(
                f"the answer cannot be held to its grammar: {_plain(self._matcher.get_error())}.",
                remedy="Write a smaller schema or expression.",
            )
