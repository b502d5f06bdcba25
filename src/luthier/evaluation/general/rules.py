"""Instructions whose keeping can be read off an answer: so many lines, these words, that form. After IFEval (Zhou et al. 2023,
arXiv:2311.07911), whose idea this is; the instructions are our own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _json(text: str) -> Any:
    """The value, also where it stands in a fenced block; None where there is none."""
    bare = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    try:
        return json.loads(bare)
    except ValueError:
        return None


def _keys(text: str, keys: list[str]) -> bool:
    value = _json(text)
    return isinstance(value, dict) and sorted(value) == sorted(keys)


def _numbers(text: str, count: int) -> bool:
    value = _json(text)
    return (
        isinstance(value, list) and len(value) == count and all(isinstance(one, int | float) for one in value)
    )


def _cased(text: str, wanted: Callable[[str], str]) -> bool:
    return text == wanted(text) and any(letter.isalpha() for letter in text)


CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "lines": lambda text, n: len(_lines(text)) == n,
    "bullets": lambda text, n: len(_lines(text)) == n and all(one.startswith("- ") for one in _lines(text)),
    "numbered": lambda text, n: (
        [one.partition(".")[0] for one in _lines(text)] == [str(i + 1) for i in range(n)]
    ),
    "words": lambda text, n: len(text.split()) == n,
    "words_at_most": lambda text, n: len(text.split()) <= n,
    "words_at_least": lambda text, n: len(text.split()) >= n,
    "sentences": lambda text, n: len(re.findall(r"[.!?]+(?=[\s\"')]|$)", text)) == n,
    "commas": lambda text, n: text.count(",") == n,
    "contains": lambda text, words: all(word.lower() in text.lower() for word in words),
    "without": lambda text, words: bool(text) and not any(word.lower() in text.lower() for word in words),
    "starts": lambda text, word: text.startswith(word),
    "ends": lambda text, word: text.endswith(word),
    "upper": lambda text, on: _cased(text, str.upper) is on,
    "lower": lambda text, on: _cased(text, str.lower) is on,
    "json": _keys,
    "json_array": _numbers,
}


def kept(text: str, rules: Mapping[str, Any]) -> bool:
    """Whether an answer keeps every rule.

    >>> kept("- a saw\\n- a file\\n- a vice", {"bullets": 3}), kept("A red fox.", {"words": 3, "without": ["z"]})
    (True, True)
    >>> kept('{"city": "Rome"}', {"json": ["city"]}), kept("LOUD", {"lower": True})
    (True, False)
    """
    bare = text.strip()
    return all(CHECKS[name](bare, wanted) for name, wanted in rules.items())
