"""Columns that hold whole conversations become messages, and a rejected answer beside them where there are pairs.

    messages                      [user, assistant]                                  as it stands
    chosen, rejected              [user, assistant], [user, assistant]               equal but for the last answer
    messages, chosen, rejected    [user], [assistant], [assistant]                   a prompt, and two ways to go on
    chosen, rejected (text)       "\\n\\nHuman: ..\\n\\nAssistant: .."                   transcripts, as Anthropic's HH has them

Not here: pairs of plain columns (user, assistant); `mapping` reads those.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import tools
from .connectors import cells
from .connectors.protocol import Block
from .json_text import loads
from .maps import ConstantSpec, ConversationSpec, MapSpec, Part
from .records import TURNS, build_messages, message_counts

VOICES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "bard": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
}  # fmt: skip
TOOL_VOICES = {
    **VOICES, "tool": tools.TOOL, "function": tools.TOOL, "observation": tools.TOOL, "ipython": tools.TOOL, "function_call":
    tools.CALL, "tool_call": tools.CALL,
}  # fmt: skip
"""Where a source has tools."""
SPEAKER = re.compile(r"\n\n(Human|Assistant):[^\S\n]?")
TOGETHER = "(conversation)"
"""The column of conversations that were gathered from rows (gather.py)."""

Turn = dict[str, Any]


def read(
    block: Block, wish: MapSpec, keys: tuple[str, str], problems: cells.Problems
) -> tuple[pa.Array, pa.Array]:
    """(messages [B], rejected [B]); marks rows that cannot be learnt from. Conversations with tools: `with_tools`."""
    column = _column(wish.messages or wish.chosen)
    messages = _conversations(block, column, keys, problems)
    prompts = message_counts(messages)
    if wish.messages is not None and wish.chosen is not None:
        answers = _answers(block, _column(wish.chosen), keys, problems)
        messages = _joined(messages, answers, _column(wish.chosen), problems)
    _check_turns(messages, column, problems)
    if wish.rejected is None:
        return messages, pa.nulls(len(block), pa.string())
    name = _column(wish.rejected)
    if wish.messages is not None:
        others = _answers(block, name, keys, problems)
    else:
        others = _conversations(block, name, keys, problems)
    return messages, _rejected(messages, prompts, others, name, problems)


def with_tools(
    block: Block, wish: MapSpec, keys: tuple[str, str], problems: cells.Problems
) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(messages [B], rejected [B], tools [B]); calls and what tools answer are turns of their own (tools.py). A better answer may
    call; a worse one is text."""
    assert wish.tools is not None
    none = [None] * len(block)

    def cells_of(part: Part | None) -> list[Any]:
        return none if part is None else _plain_cells(block.columns.get(_column(part), none))

    beside = (
        [wish.tools.constant] * len(block) if isinstance(wish.tools, ConstantSpec) else cells_of(wish.tools)
    )
    column = _column(wish.messages or wish.chosen)
    messages: list[list[Turn] | None] = []
    rejected: list[str | None] = []
    offered: list[str | None] = []
    prompts, chosen, worse = (cells_of(part) for part in (wish.messages, wish.chosen, wish.rejected))
    for row, (prompt, better, other, told) in enumerate(zip(prompts, chosen, worse, beside, strict=True)):
        found = known = text = None
        try:
            known = tools.tools_of(told)
            names = tools.names_of(known)
            whole = _followed(prompt, better, keys) if wish.chosen is not None else _raw(prompt, keys)
            found = _spoken(whole, keys, names)
            if wish.rejected is not None and found is not None:
                beginning = prompt if wish.chosen is not None else None
                text = _worse(found, beginning, other, keys, names, _column(wish.rejected))
        except ValueError as error:
            problems.setdefault(row, f"{column!r}: {error}")
        messages.append(found)
        rejected.append(text)
        offered.append(known)
    array = pa.array(messages, TURNS)
    _check_turns(array, column, problems, ends=("assistant", tools.CALL))
    return array, pa.array(rejected, pa.string()), pa.array(offered, pa.string())


def _raw(cell: Any, keys: tuple[str, str], *, answer: bool = False) -> list[Any] | None:
    """The messages of a cell, as they stand there. A text is JSON of them or, where it is an `answer`, what the assistant says."""
    if isinstance(cell, str):
        if answer and not cell.lstrip().startswith("["):
            return [{keys[0]: "assistant", keys[1]: cell}] if cell.strip() else None
        cell = loads(cell) if cell.strip() else None
    return None if cell is None else list(cells.cell_list(cell))


def _followed(prompt: Any, answer: Any, keys: tuple[str, str]) -> list[Any] | None:
    """A prompt with an answer after it; an answer that begins with the whole prompt stands alone. Raises ValueError."""
    before, after = _raw(prompt, keys) or [], _raw(answer, keys, answer=True)
    if not after:
        raise ValueError("the chosen answer is missing")
    return after if before and after[: len(before)] == before else [*before, *after]


def _worse(
    chosen: list[Turn], prompt: Any, cell: Any, keys: tuple[str, str], known: list[str], column: str
) -> str:
    """The text of a rejected answer. Raises ValueError where it is none, or answers something else."""
    after = _raw(cell, keys, answer=True)
    if not after:
        raise ValueError(f"the rejected answer is missing ({column!r} is empty)")
    before = chosen[: tools.before_answer(chosen)]
    if isinstance(cell, str) and not cell.lstrip().startswith("["):
        return cell
    turns = _spoken(_followed(prompt, after, keys), keys, known) or []
    if turns[-1]["role"] == tools.CALL:
        raise ValueError(f"{column!r} ends with a call, and a rejected answer is read as text alone")
    if turns[-1]["role"] != "assistant":
        raise ValueError(f"{column!r} does not end with the assistant, so it rejects no answer")
    if turns[:-1] not in (before, []):
        raise ValueError(f"{column!r} differs from the chosen conversation before its last answer")
    if turns[-1]["content"] is None:
        raise ValueError(f"the rejected answer is missing ({column!r} is empty)")
    return str(turns[-1]["content"])


def _plain_cells(column: list[Any] | pa.Array) -> list[Any]:
    return column if isinstance(column, list) else list(column.to_pylist(maps_as_pydicts="strict"))


def _spoken(cell: list[Any] | None, keys: tuple[str, str], known: list[str]) -> list[Turn] | None:
    """Raises ValueError."""
    if cell is None:
        return None
    said = tools.Conversation(known)
    for message in cell:
        turn = cells.turn_of(message, *keys)
        word, content = turn["role"], turn["content"]
        voice = TOOL_VOICES.get(word.lower(), word) if word is not None else None
        calls = message.get("tool_calls") or [one for one in [message.get("function_call")] if one]
        if voice == tools.CALL:
            written = loads(content or "")
            said.call(written if isinstance(written, list) else [written])
        elif voice == tools.TOOL:
            said.answer(message.get("tool_call_id"), content)
        elif calls and voice != "assistant":
            raise ValueError(f"{word!r} calls a tool, and only the assistant may")
        elif calls:
            if content:
                said.say(voice, content)
            said.call(cells.cell_list(calls))
        else:
            said.say(voice, content)
    return said.end()


def grouped(
    block: Block, system: pa.Array | None, wish: ConversationSpec, problems: cells.Problems
) -> pa.Array:
    """messages [B] of conversations that were gathered from rows, in their order."""
    found: list[list[Turn]] = []
    beginnings = [None] * len(block) if system is None else system.to_pylist()
    for row, (said, beginning) in enumerate(zip(block.columns.get(TOGETHER, []), beginnings, strict=True)):
        turns = [] if beginning is None else [{"role": "system", "content": beginning}]
        turns += said
        last = max((n for n, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1)
        if wish.ending == "trim" and last >= 0:
            turns = turns[: last + 1]
        elif 0 <= last < len(turns) - 1:
            why = f"{len(turns) - 1 - last} messages follow the last answer; `ending: trim` leaves them out"
            problems.setdefault(row, why)
        found.append(_one_voice(row, turns, wish, problems))
    messages = pa.array(found, TURNS)
    _check_turns(messages, wish.content, problems)
    return messages


def _one_voice(row: int, turns: list[Turn], wish: ConversationSpec, problems: cells.Problems) -> list[Turn]:
    """Messages of one role after each other as one."""
    merged: list[Turn] = []
    for turn in turns:
        if not merged or merged[-1]["role"] != turn["role"]:
            merged.append(dict(turn))
        elif wish.same_role == "merge":
            merged[-1]["content"] += f"\n\n{turn['content']}"
        else:
            why = f"two messages of {turn['role']} stand after each other; `same_role: merge` makes them one"
            problems.setdefault(row, why)
    return merged


def _column(part: Part | None) -> str:
    assert isinstance(part, str)  # MapSpec allows nothing else where there is no `user`
    return part


def _conversations(block: Block, column: str, keys: tuple[str, str], problems: cells.Problems) -> pa.Array:
    """Lists of messages; where the cells are text, lists written as JSON, or transcripts."""
    found = block.columns.get(column, [None] * len(block))
    if not _holds_text(found) or _holds_lists(found):
        return _lists(found, column, keys, block.place, problems)
    texts, why = cells.texts(found, column, block.place)
    _mark(why, problems)
    told = texts.to_pylist()
    written = [_written(i, text, column, problems) for i, text in enumerate(told)]
    if all(one is None for one in written):
        return pa.array([_transcript(i, text, column, problems) for i, text in enumerate(told)], TURNS)
    lists = _lists(written, column, keys, block.place, problems)
    both = [
        _transcript(i, text, column, problems) if one is None and i not in problems else one
        for i, (text, one) in enumerate(zip(told, lists.to_pylist(), strict=True))
    ]
    return pa.array(both, TURNS)


def _lists(
    found: list[Any] | pa.Array, column: str, keys: tuple[str, str], place: str, problems: cells.Problems
) -> pa.Array:
    for row in _calling(found):
        problems.setdefault(row, f"{column!r} calls a tool; say which there are, as in map: {{tools: tools}}")
    messages, why = cells.conversations(found, column, keys, place)
    _mark(why, problems)
    return _voices(messages)


CALLING = ("tool_calls", "function_call")


def _calling(found: list[Any] | pa.Array) -> list[int]:
    """Rows with a message that calls a tool."""
    if not isinstance(found, list):
        inner = found.type.value_type if _holds_lists(found) else None
        if inner is None or not pa.types.is_struct(inner) or not {f.name for f in inner} & {*CALLING}:
            return []
        found = found.to_pylist()
    return [
        row
        for row, cell in enumerate(found)
        if isinstance(cell, list)
        and any(isinstance(one, dict) and any(one.get(name) for name in CALLING) for one in cell)
    ]


def _written(row: int, text: str | None, column: str, problems: cells.Problems) -> list[Any] | None:
    """The list that JSON in a cell of text says; None where the text is none."""
    if text is None or not text.lstrip().startswith("["):
        return None
    try:
        found = loads(text)
    except ValueError as error:
        problems.setdefault(row, f"{column!r} begins like a list of messages, and {error}")
        return None
    return found if isinstance(found, list) else None


def _answers(block: Block, column: str, keys: tuple[str, str], problems: cells.Problems) -> pa.Array:
    """What follows a prompt: lists of messages, or text that the assistant says."""
    found = block.columns.get(column, [None] * len(block))
    if _holds_lists(found) or not _holds_text(found):
        return _conversations(block, column, keys, problems)
    texts, why = cells.texts(found, column, block.place)
    _mark(why, problems)
    said = [None if text is None else [{"role": "assistant", "content": text}] for text in texts.to_pylist()]
    return pa.array(said, TURNS)


def _holds_lists(column: list[Any] | pa.Array) -> bool:
    if isinstance(column, list):
        return any(isinstance(cell, list) for cell in column)
    return pa.types.is_list(column.type) or pa.types.is_large_list(column.type)


def _holds_text(column: list[Any] | pa.Array) -> bool:
    if isinstance(column, list):
        return any(isinstance(cell, str) for cell in column)
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def _mark(why: cells.Problems, problems: cells.Problems) -> None:
    for row, reason in why.items():
        problems.setdefault(row, reason)


def _transcript(row: int, text: str | None, column: str, problems: cells.Problems) -> list[Turn] | None:
    if text is None:
        return None
    opening, *pieces = SPEAKER.split(text)
    if opening.strip() or not pieces:
        problems.setdefault(
            row, f"{column!r} is neither a list of messages nor a transcript that begins with '\\n\\nHuman:'"
        )
        return None
    return [
        {"role": VOICES[who.lower()], "content": said.strip("\n")}
        for who, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def _voices(messages: pa.Array) -> pa.Array:
    """Roles by their one name; an unknown role stays as it is and is found by `_check_turns`."""
    flat = messages.flatten()
    known = pc.index_in(pc.utf8_lower(flat.field("role")), pa.array(list(VOICES)))
    roles = pc.coalesce(pa.array(list(VOICES.values())).take(known), flat.field("role"))
    return build_messages(message_counts(messages), roles, flat.field("content"), messages.is_null())


def _joined(messages: pa.Array, answers: pa.Array, column: str, problems: cells.Problems) -> pa.Array:
    """Each prompt with its answer after it."""
    joined = []
    for row, (prompt, answer) in enumerate(zip(messages.to_pylist(), answers.to_pylist(), strict=True)):
        if prompt is not None and not answer:
            problems.setdefault(row, f"the chosen answer is missing ({column!r} is empty)")
        joined.append(None if prompt is None else prompt + (answer or []))
    return pa.array(joined, TURNS)


def _rejected(
    messages: pa.Array, prompts: np.ndarray, others: pa.Array, column: str, problems: cells.Problems
) -> pa.Array:
    """The last answer of each other conversation [B]. What stands before it must be what stands before the chosen one:
    the whole of it, or what follows the first `prompts` messages, or nothing."""
    found: list[str | None] = []
    rows = zip(messages.to_pylist(), prompts.tolist(), others.to_pylist(), strict=True)
    for row, (chosen, prompt, other) in enumerate(rows):
        found.append(None)
        if not other or other[-1]["content"] is None:
            problems.setdefault(row, f"the rejected answer is missing ({column!r} is empty)")
        elif other[-1]["role"] != "assistant":
            problems.setdefault(row, f"{column!r} does not end with the assistant, so it rejects no answer")
        elif chosen and other[:-1] not in (chosen[:-1], chosen[prompt:-1]):
            problems.setdefault(
                row, f"{column!r} differs from the chosen conversation before its last answer"
            )
        else:
            found[-1] = other[-1]["content"]
    return pa.array(found, pa.string())


def _check_turns(
    messages: pa.Array, column: str, problems: cells.Problems, ends: tuple[str, ...] = ("assistant",)
) -> None:
    """`ends` are the voices that a conversation may end with; where calls are among them, tools may speak."""
    flat = messages.flatten()
    counts = message_counts(messages)
    rows = np.repeat(np.arange(len(messages)), counts)
    stops = np.cumsum(counts)
    first = np.zeros(len(flat), bool)
    first[(stops - counts)[counts > 0]] = True

    def mark(turns: np.ndarray, why: str) -> None:
        for row in rows[turns]:
            problems.setdefault(int(row), why)

    for row in np.flatnonzero(counts == 0):
        problems.setdefault(int(row), f"the conversation is missing ({column!r} is empty)")
    role = np.array(flat.field("role").to_pylist(), dtype=object)
    voices = ["system", "user", "assistant", *([tools.CALL, tools.TOOL] if tools.CALL in ends else [])]
    known = np.isin(role.astype(str), voices)
    for turn in np.flatnonzero(~known):
        problems.setdefault(
            int(rows[turn]), f"a message speaks as {role[turn]!r}; known: {', '.join(voices)}"
        )
    mark(flat.field("content").is_null().to_numpy(zero_copy_only=False), "a message has no content")
    mark((role == "system") & ~first, "a system message stands after the first message")
    if len(role):
        last = np.flatnonzero(counts > 0)
        for row in last[~np.isin(role[stops[last] - 1].astype(str), ends)]:
            problems.setdefault(
                int(row), "the conversation does not end with the assistant, so there is no answer to learn"
            )
