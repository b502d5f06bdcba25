"""A conversation becomes token ids and a loss mask, by the model's own chat template and nothing else.

    messages[:k] + generation prompt   ──render──▶  ids of the prompt        must be a token prefix of
    messages[:k+1]                     ──render──▶  ids with the answer      and this of the whole

What lies between the two is the answer: it is supervised up to and including the token that ends the turn. Where
a template is not a prefix (it drops earlier thinking, or merges tokens across the seam) this raises and never guesses.

Control tokens written in a message's *content* ("<|im_end|>" in a row, or typed by a user) are encoded as the
characters they are, so that data can never close a turn. The same holds for what stands in tools and in calls of them.

Tools are rendered by the template too, or refused where it does not know them: an assistant's calls are then its answer, and
supervised like one.

Not here: a time limit. A template is a program; `intake` runs it once in a process that can be killed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import ModelError

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None
"""Functions in OpenAI's form: [{"type": "function", "function": {"name", "description", "parameters"}}]."""
# Unicode noncharacters: never assigned to anything, so they mark a place in text without meaning anything.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_SHIELDED = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_PROBE = "probe"


class NotAPrefix(ModelError):
    """The chat template renders a turn differently once something follows it."""


class TooLong(ModelError):
    """More tokens than the model's context, or than the limit set. Nothing was cut."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(
            f"{tokens:,} tokens do not fit in {limit:,}.",
            remedy="Shorten the text, choose a model with a longer context, or skip such rows (train.too_long: skip).",
        )
        self.tokens, self.limit = tokens, limit


@dataclass(frozen=True)
class Encoded:
    """`supervised[i]` says whether token i is one the model must learn to say. Equal lengths; token 0 never is."""

    ids: list[int]
    supervised: list[bool]


class Template:
    """A tokenizer with its own chat template and a limit of `context` tokens. Without a chat template it encodes plain text
    and refuses conversations.

    end_ids   the tokens that end an answer: the tokenizer's EOS, and what the template puts after an answer
    """

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.tokenizer = tokenizer
        self.context = context
        added = tokenizer.added_tokens_decoder.values()
        self._control = sorted(
            {str(token.content) for token in added if token.special}, key=len, reverse=True
        )
        self._control_pattern = re.compile("|".join(map(re.escape, self._control)) or "(?!)")
        self._tools_fault: str | None = None
        self.end_ids: frozenset[int] = self._find_end_ids()

    def holds_control(self, text: str) -> bool:
        """Whether a control token is written out in it; encoded here as characters, in other engines as the token."""
        return bool(self._control_pattern.search(text))

    def need_chat(self) -> None:
        """Raises ModelError where there is no chat template."""
        if not self.tokenizer.chat_template:
            raise ModelError(
                "this model has no chat template, so it does not say what a conversation looks like.",
                remedy="Choose its instruct or chat version, or train it on plain text (map: {text: COLUMN}).",
            )

    def need_tools(self) -> None:
        """Raises ModelError where the chat template leaves out tools, calls or what they answer."""
        if self._tools_fault is None:
            self._tools_fault = self._find_tools_fault()
        if self._tools_fault:
            raise ModelError(
                f"this model's chat template does not know tools: {self._tools_fault}.",
                remedy="Choose a model that calls functions (its template writes `tools`), or leave rows with tools out.",
            )

    def encode(self, messages: Sequence[Message], tools: Tools = None) -> Encoded:
        """Token ids of a whole conversation, with the tools it may call. Raises NotAPrefix, TooLong, ModelError."""
        turns = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        if not turns:
            raise ModelError(
                "the conversation has no assistant message.", remedy="Map an answer for every row."
            )
        if tools:
            self.need_tools()
        whole = self._render(messages, tools=tools)
        supervised = [False] * len(whole)
        for k in turns:
            prompt = self._render(messages[:k], answer_next=True, tools=tools)
            answered = whole if k == len(messages) - 1 else self._render(messages[: k + 1], tools=tools)
            self._need_prefix(prompt, answered, k, "its prompt")
            self._need_prefix(answered, whole, k, "the turn alone")
            end = next((i for i in range(len(prompt), len(answered)) if answered[i] in self.end_ids), None)
            if end is None:
                raise ModelError(
                    f"the chat template does not close the answer in message {k + 1} with a stop token.",
                    remedy="A model trained so would never stop; fix chat_template in the model's folder.",
                )
            supervised[len(prompt) : end + 1] = [True] * (end + 1 - len(prompt))
        self._need_room(len(whole))
        return Encoded(whole, supervised)

    def encode_text(self, text: str) -> Encoded:
        """Plain text, closed by EOS: everything is supervised but the first token, which nothing precedes."""
        ids = [*self._bos(), *self._tokens(self._shield(text)), self.tokenizer.eos_token_id]
        self._need_room(len(ids))
        return Encoded(ids, [False] + [True] * (len(ids) - 1))

    def prompt(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """Token ids up to where the answer begins. Raises TooLong when no room is left for one token of answer."""
        if tools:
            self.need_tools()
        ids = self._render(messages, answer_next=True, tools=tools)
        self._need_room(len(ids) + 1)
        return ids

    def answer(self, text: str) -> list[int]:
        """The tokens of an answer after any prompt, with the token that ends the turn.

        The seam is safe because `encode` refuses a template whose prompt is not a token prefix.
        """
        opening = [{"role": "user", "content": _PROBE}]
        encoded = self.encode([*opening, {"role": "assistant", "content": text}])
        return [token for token, told in zip(encoded.ids, encoded.supervised, strict=True) if told]

    def rendered(self, messages: Sequence[Message], *, answer_next: bool = True) -> str:
        """What the template writes, for `tokens` alone: control tokens in contents are marked there, so that they stay text.
        Without `answer_next` the last message is the assistant's and is not closed: the answer goes on from there."""
        if answer_next:
            return self._written(messages, True, None)
        return self._written(messages[:-1], True, None) + self._shield(messages[-1]["content"])

    def shielded(self, text: str) -> str:
        """Plain text for `tokens`, whose control tokens stay text."""
        return self._shield(text)

    def tokens(self, text: str, *, opens: bool) -> list[int]:
        """The ids of what `rendered` and `shielded` gave, put together. `opens`: plain text, before which the tokenizer's own
        begin token goes, if it has one."""
        return [*self._bos(), *self._tokens(text)] if opens else self._read(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, control tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _render(
        self, messages: Sequence[Message], answer_next: bool = False, tools: Tools = None
    ) -> list[int]:
        return self._read(self._written(messages, answer_next, tools))

    def _written(self, messages: Sequence[Message], answer_next: bool, tools: Tools) -> str:
        """The template's text, control tokens in contents shielded."""
        self.need_chat()
        shielded = [
            {
                name: self._shielded(value) if name in ("content", "tool_calls") else value
                for name, value in message.items()
            }
            for message in messages
        ]
        offered = {"tools": self._shielded(tools)} if tools else {}
        from jinja2.exceptions import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    shielded, tokenize=False, add_generation_prompt=answer_next, **offered
                )
            )
        except TemplateError as error:
            roles = ", ".join(str(message["role"]) for message in messages)
            raise ModelError(
                f"the chat template refuses this conversation ({roles}): {error}.",
                remedy="Many templates want system first, then user and assistant in turn.",
            ) from None

    def _read(self, text: str) -> list[int]:
        ids = self._tokens(text)
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise ModelError(
                f"the chat template writes the begin token {self.tokenizer.bos_token!r} twice.",
                remedy="Fix chat_template in the model's folder; a doubled begin token lowers quality without a sign.",
            )
        return ids

    def _shielded(self, value: Any) -> Any:
        """A content, or all texts inside calls or tools."""
        if isinstance(value, str):
            return self._shield(value)
        if isinstance(value, Mapping):
            return {key: self._shielded(inner) for key, inner in value.items()}
        return [self._shielded(inner) for inner in value] if isinstance(value, list) else value

    def _shield(self, content: str) -> str:
        return self._control_pattern.sub(lambda m: f"{_OPEN}{self._control.index(m[0])}{_CLOSE}", content)

    def _tokens(self, text: str) -> list[int]:
        """Shielded control tokens are encoded in two halves: neither is a control token any more."""
        ids: list[int] = []
        for i, piece in enumerate(_SHIELDED.split(text)):
            if i % 2:
                word = self._control[int(piece)]
                ids += self._plain_tokens(word[:1]) + self._plain_tokens(word[1:])
            elif piece:
                ids += self._plain_tokens(piece)
        return ids

    def _plain_tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _bos(self) -> list[int]:
        """What the tokenizer itself puts before plain text."""
        with_control = self.tokenizer("x", verbose=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return [bos] if bos is not None and with_control[:1] == [bos] else []

    def _find_end_ids(self) -> frozenset[int]:
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                "this model's tokenizer has no end-of-sequence token, so an answer could never end.",
                remedy="Set eos_token in the model's tokenizer_config.json.",
            )
        if not self.tokenizer.chat_template:
            return frozenset({self.tokenizer.eos_token_id})
        question = [{"role": "user", "content": _PROBE}]
        prompt = self._render(question, answer_next=True)
        answered = self._render([*question, {"role": "assistant", "content": _PROBE}])
        after = answered[len(prompt) + len(self._plain_tokens(_PROBE)) :]
        control = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return frozenset({self.tokenizer.eos_token_id, *(after[:1] if after and after[0] in control else [])})

    def _find_tools_fault(self) -> str:
        """ "" where a tool's name, a call's argument and an answer all stand in what is written."""
        function = {
            "name": "probe_name",
            "description": "probe",
            "parameters": {"type": "object", "properties": {}},
        }
        tools = [{"type": "function", "function": function}]
        call = {
            "id": "probe0001",
            "type": "function",
            "function": {"name": "probe_name", "arguments": {"x": "probe_value"}},
        }
        asked: list[Message] = [{"role": "user", "content": _PROBE}]
        called: list[Message] = [*asked, {"role": "assistant", "content": "", "tool_calls": [call]}]
        told: list[Message] = [
            *called,
            {"role": "tool", "tool_call_id": "probe0001", "content": "probe_answer"},
        ]
        steps = (
            (asked, "probe_name", "it does not write which tools there are"),
            (called, "probe_value", "it does not write calls"),
            (told, "probe_answer", "it does not write what tools answer"),
        )
        for messages, word, fault in steps:
            try:
                if word not in self._written(messages, messages is not called, tools):
                    return fault
            except ModelError as error:
                return f"{fault} ({error.message.rstrip('.')})"
        return ""

    def _need_room(self, tokens: int) -> None:
        if tokens > self.context:
            raise TooLong(tokens, self.context)

    def _need_prefix(self, short: list[int], long: list[int], turn: int, what: str) -> None:
        if long[: len(short)] == short:
            return
        at = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(long))
        alone, inside = self.tokenizer.decode(short[at : at + 8]), self.tokenizer.decode(long[at : at + 8])
        raise NotAPrefix(
            f"the chat template renders message {turn + 1} in two ways: as {what} token {at + 1} begins {alone!r}, "
            f"followed by more it begins {inside!r}.",
            remedy="The loss mask would be wrong, so nothing is trained. Choose another model, or a template without "
            "conditions on later messages.",
        )
