"""Lines of OpenAI's training files as rows of ours: which of the three forms a file has, and whether each line can be learnt from.

    chat            {"messages": [...], "tools": [...]}                       an assistant's message may say "weight": 0
    preference      {"input": {"messages", "tools"}, "preferred_output": [..], "non_preferred_output": [..]}
    reinforcement   {"messages": [... ends with the user], and whatever a grader compares with}

A line is read as strictly as any JSON Lines of ours (data/connectors), turned into the columns that a map names, and held against what
the data layer holds rows against (data/mapping). Not here: where files lie, what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import DataError, LuthierError

Form = Literal["chat", "preference", "reinforcement"]
MOST_FAULTS = 20
"""So many are told; how many there are is told too."""
FEWEST_ROWS = 4
"""One each to validate and to test with, and some to learn from."""
_MESSAGE = {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call", "refusal"}
_CHAT = {"messages", "tools", "functions", "parallel_tool_calls"}
_PAIR = {"input", "preferred_output", "non_preferred_output"}

Row = dict[str, Any]


@dataclass
class Checked:
    """What a file holds. `fields`: names beside `messages` that every line has, which a grader may compare with. `weighted`: some
    assistant's message is not to be learnt."""

    form: Form
    rows: int = 0
    tools: bool = False
    weighted: bool = False
    fields: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    more_faults: int = 0

    def fault(self, line: int | str, reason: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(f"line {line}: {reason}")
        else:
            self.more_faults += 1

    def told(self) -> str | None:
        """The faults as one text, or None."""
        if not self.faults:
            return None
        more = f" (and {self.more_faults:,} more lines)" if self.more_faults else ""
        return "; ".join(self.faults) + more

    def plain(self) -> dict[str, Any]:
        return vars(self).copy()


def check(path: Path, shown: str) -> Checked:
    """Every line of the file. Raises DataError where it is not JSON Lines at all."""
    from luthier.data.connectors import json_rows

    found: Checked | None = None
    with path.open("rb") as stream:
        if json_rows.is_array(stream):
            raise DataError(f"{shown} is one JSON array.", remedy="Write one object a line (JSON Lines).")
        stream.seek(0)
        for block in json_rows.read(stream, shown, None, aside=True):
            if found is None and not len(block) and block.bad:
                raise DataError(
                    f"{shown} is not JSON Lines: line {block.bad[0].line}: {block.bad[0].reason}.",
                    remedy="Write one JSON object a line, as UTF-8 text.",
                )
            rows = [
                {name: cells[n] for name, cells in block.columns.items() if cells[n] is not None}
                for n in range(len(block))
            ]
            if found is None:
                found = Checked(_form_of(rows[0]), fields=sorted(set(rows[0]) - _CHAT))
            for bad in block.bad:
                found.fault(bad.line, bad.reason)
            _check_rows(rows, block.lines, found)
    if found is None:
        raise DataError(f"{shown} is empty.", remedy="Write one JSON object a line.")
    if found.rows < FEWEST_ROWS and not found.faults:
        found.fault("-", f"the file holds {found.rows} rows, and at least {FEWEST_ROWS} are needed")
    return found


def rows_of(path: Path, form: Form, answer: str | None = None) -> Iterator[Row]:
    """The rows of a file that was checked. `answer`: of reinforcement, the field that holds what is compared with."""
    from luthier.data.connectors import json_rows

    with path.open("rb") as stream:
        for raw in stream:
            if raw.strip():
                yield from rows_of_line(json_rows.decode(raw.removeprefix(b"\xef\xbb\xbf")), form, answer)


def rows_of_line(line: Mapping[str, Any], form: Form, answer: str | None = None) -> list[Row]:
    """What a line becomes: one row; of a conversation some of whose answers are not to be learnt, one up to each that is. Raises
    ValueError, in words."""
    if form == "preference":
        return [_pair(line)]
    messages, tools = _messages(line.get("messages"), "messages"), _tools(line)
    if form == "reinforcement":
        return [_asked(line, messages, tools, answer)]
    learnt = [n for n, one in enumerate(messages) if one["role"] == "assistant" and one.pop("weight", 1)]
    said = [n for n, one in enumerate(messages) if one["role"] == "assistant"]
    if not said:
        raise ValueError("no message is the assistant's, so there is nothing to learn")
    if not learnt:
        raise ValueError("every assistant message has weight 0, so there is nothing to learn")
    if learnt == said:
        return [{"messages": messages, **tools}]
    return [{"messages": messages[: n + 1], **tools} for n in learnt]


def map_of(form: Form, tools: bool) -> dict[str, Any]:
    """The recipe's map of such rows."""
    more = {"tools": "tools"} if tools else {}
    if form == "preference":
        return {"messages": "prompt", "chosen": "chosen", "rejected": "rejected", **more}
    return {"messages": "messages", **more}


def _form_of(line: Row) -> Form:
    if _PAIR & set(line):
        return "preference"
    messages = line.get("messages")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        ends, beside = messages[-1].get("role"), set(line) - _CHAT
        if ends != "assistant" and beside:
            return "reinforcement"
    return "chat"


def _check_rows(lines: list[Row], numbers: Any, found: Checked) -> None:
    rows: list[Row] = []
    origins: list[int] = []
    for number, line in zip(numbers, lines, strict=True):
        try:
            if (form := _form_of(line)) != found.form and not _is(line, found.form):
                raise ValueError(f"it is of the form {form}, and the file began with {found.form}")
            if found.form == "reinforcement":
                _text_fields(line)
                found.fields = [name for name in found.fields if name in line]
            made = rows_of_line(line, found.form)
        except ValueError as error:
            found.fault(number, str(error))
            continue
        found.weighted |= found.form == "chat" and _weighs(line)
        found.tools |= any("tools" in row for row in made)
        rows += made
        origins += [number] * len(made)
    found.rows += len(set(origins))
    for n, reason in _unreadable(rows, found):
        found.fault(origins[n], reason)


def _is(line: Row, form: Form) -> bool:
    """A reinforcement file may have lines that bring nothing beside the question; they are told as such."""
    return form == "reinforcement" and "messages" in line


def _weighs(line: Row) -> bool:
    return any(one.get("weight") == 0 for one in line["messages"] if isinstance(one, dict))


def _unreadable(rows: list[Row], found: Checked) -> Iterator[tuple[int, str]]:
    """What the data layer says of rows that read well."""
    from luthier.data.connectors.protocol import Block
    from luthier.data.mapping import Layout, to_records
    from luthier.data.maps import MapSpec
    from luthier.data.shapes import Shape

    if not rows:
        return
    tools = any("tools" in row for row in rows)
    chosen = MapSpec.model_validate({**map_of(found.form, tools), "on_bad_row": "set_aside"})
    shape = Shape("map", chosen, 1.0, "")
    names = {name: [row.get(name) for row in rows] for name in dict.fromkeys(k for row in rows for k in row)}
    layout = Layout.of(shape, chosen, None, classify=False, source="", weight=1.0, columns=list(names))
    try:
        _, bad = to_records(Block(names, "", range(len(rows))), layout)
    except LuthierError as error:
        yield 0, error.message
        return
    for origin, reason in zip(bad.origins, bad.reasons, strict=True):
        yield int(origin.rpartition(":")[2]), reason


def _pair(line: Mapping[str, Any]) -> Row:
    if unknown := sorted(set(line) - _PAIR):
        raise ValueError(f"there is no key {unknown[0][:60]!r} in a preference line")
    if not isinstance(line.get("input"), Mapping):
        raise ValueError("input is not an object with messages")
    asked = line["input"]
    if unknown := sorted(set(asked) - _CHAT):
        raise ValueError(f"input: there is no key {unknown[0][:60]!r}")
    row: Row = {"prompt": _messages(asked.get("messages"), "input.messages"), **_tools(asked)}
    for name, key in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        row[name] = _messages(line.get(key), key)
    for message in (*row["prompt"], *row["chosen"], *row["rejected"]):
        if message.pop("weight", 1) == 0:
            raise ValueError("weight belongs to chat lines; of a pair the last answers alone are compared")
    return row


def _asked(line: Mapping[str, Any], messages: list[Row], tools: Row, answer: str | None) -> Row:
    if messages[-1]["role"] == "assistant":
        raise ValueError("messages end with the assistant; of reinforcement they end with who asks")
    if any(one.pop("weight", 1) == 0 for one in messages):
        raise ValueError("weight belongs to chat lines")
    said = "" if answer is None else line.get(answer)
    if not isinstance(said, str | int | float) or isinstance(said, bool):
        raise ValueError(f"{answer!r} is missing, or no text to compare with")
    # Where nothing is compared with it, the row's own answer is never read; the data layer wants one.
    return {"messages": [*messages, {"role": "assistant", "content": str(said) or "-"}], **tools}


def _text_fields(line: Mapping[str, Any]) -> None:
    if not set(line) - _CHAT:
        raise ValueError("nothing stands beside messages for a grader to compare with")


def _messages(value: Any, name: str) -> list[Row]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is not a list of messages")
    found = []
    for n, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise ValueError(f"{name}: message {n} is not an object")
        if unknown := sorted(set(message) - _MESSAGE):
            raise ValueError(f"{name}: message {n} has the key {unknown[0][:60]!r}, which is not read here")
        if message.get("refusal") or message.get("name"):
            raise ValueError(f"{name}: message {n} has a name or a refusal, which no chat template is given")
        weight = message.get("weight", 1)
        if weight not in (0, 1) or isinstance(weight, bool):
            raise ValueError(f"{name}: the weight of message {n} is {weight!r}, and it is 0 or 1")
        if "weight" in message and message.get("role") != "assistant":
            raise ValueError(f"{name}: message {n} has a weight, and only the assistant's may")
        found.append({key: message[key] for key in message if message[key] is not None})
        found[-1]["content"] = _content(message, n, name)
    return found


def _content(message: Row, n: int, name: str) -> str | None:
    """Text, or parts of text put together."""
    value = message.get("content")
    if value is None or isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else []
    texts = [str(one["text"]) for one in parts if isinstance(one, dict) and _is_text(one)]
    if not texts or len(texts) < len(parts):
        raise ValueError(f"{name}: the content of message {n} is neither text nor parts of text")
    return "\n".join(texts)


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _tools(line: Mapping[str, Any]) -> Row:
    if "tools" in line and "functions" in line:
        raise ValueError("tools and functions are both there; keep tools")
    tools = line.get("tools", line.get("functions"))
    return {"tools": tools} if tools else {}
