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
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from luthier.core.errors import ModelError, SpecError, missing_part

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 100_000
"""Characters of a grammar as written."""
BLANKS = {"whitespace_flexible": True, "whitespace_pattern": r"( |\n[ \t]{0,16})?"}
"""Between the parts of JSON: nothing, a space, or a new line with its indent, as JSON is written, and never blanks without end."""


@dataclass(frozen=True)
class Grammar:
    """`written` is the expression, or the schema as JSON text."""

    kind: Literal["regex", "json_schema"]
    written: str

    @classmethod
    def of_schema(cls, schema: Any) -> Grammar:
        return cls("json_schema", json.dumps(schema, ensure_ascii=False, sort_keys=False))

    def check(self) -> None:
        """Raises SpecError for what cannot be held to, MissingPart without the library."""
        if fault := self._fault():
            told = "the regular expression" if self.kind == "regex" else "the JSON schema"
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
        schema = json.loads(self.written)
        if isinstance(schema, dict) and "x-guidance" in schema:
            raise ValueError("x-guidance stands in it, which says how to read a schema and not what it means")
        return str(matcher.grammar_from_json_schema(self.written, overrides=BLANKS))


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

    def allowed(self, width: int) -> Tensor:
        """[V] bool, on the processor; where the text is whole and nothing can follow, the tokens that end an answer."""
        import numpy as np
        import torch

        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        self._sound()
        found = torch.zeros(width, dtype=torch.bool)
        n = min(width, len(bits))
        found[:n] = torch.from_numpy(bits[:n].astype(bool))
        return found

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
