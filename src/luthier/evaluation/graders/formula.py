"""calculate_output: a small arithmetic over the scores of a multi grader, read by a parser of its own and never by Python's.

    sum      = product (("+" | "-") product)*
    product  = signed (("*" | "/") signed)*
    signed   = "-" signed | power
    power    = value ("^" signed)?
    value    = number | name | name "(" sum ("," sum)* ")" | "(" sum ")"

Functions: min, max, abs, floor, ceil, exp, sqrt, log. Numbers are floats, so nothing grows without end; what has no value (1/0, log of
0) is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from luthier.core.errors import SpecError

LONGEST = 2_000
DEEPEST = 40
_TOKEN = re.compile(
    r"\s*(?:([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+)|([A-Za-z_][A-Za-z0-9_]*)|([-+*/^(),]))",
    re.ASCII,
)
Scores = Mapping[str, float]
Node = Callable[[Scores], float]
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., float]]] = {
    "min": (1, 50, min), "max": (1, 50, max), "abs": (1, 1, abs), "floor": (1, 1, math.floor), "ceil": (1, 1, math.ceil),
    "exp": (1, 1, math.exp), "sqrt": (1, 1, math.sqrt), "log": (1, 1, math.log),
}  # fmt: skip


class Unknown(SpecError):
    """It names what is no grader."""


class NoValue(SpecError):
    """It has no value for these scores."""


@dataclass(frozen=True)
class Formula:
    """`names`: of the scores that it looks at."""

    text: str
    names: frozenset[str]
    node: Node

    def value(self, scores: Scores) -> float:
        """Raises NoValue.

        >>> Formula.read("0.5 * a + max(b, -1) ^ 2", {"a", "b"}).value({"a": 1, "b": 0.5})
        0.75
        """
        try:
            found = float(self.node(scores))
        except (ArithmeticError, ValueError, TypeError):
            found = math.nan
        if not math.isfinite(found):
            raise NoValue(
                f"{self.text[:80]!r} has no value for these scores.", remedy="Guard it, as in max(x, 0.001)."
            )
        return found

    @classmethod
    def read(cls, text: str, known: frozenset[str] | set[str]) -> Formula:
        """`known`: names of graders. Raises SpecError, and Unknown for another name."""
        parser = _Parser(text, known)
        node = parser.sum()
        if parser.at < len(parser.tokens):
            raise parser.wrong()
        return cls(text, frozenset(parser.names), node)


class _Parser:
    def __init__(self, text: str, known: frozenset[str] | set[str]) -> None:
        if len(text) > LONGEST:
            raise SpecError(f"a formula has at most {LONGEST:,} characters.", remedy="Write it shorter.")
        self.text, self.known = text, known
        self.names: set[str] = set()
        self.tokens: list[tuple[str, str]] = []
        self.at = self.depth = 0
        place, end = 0, len(text.rstrip())
        while place < end:
            match = _TOKEN.match(text, place)
            if match is None:
                raise self.wrong(text[place:].lstrip()[:1])
            kind = ("number", "name", "sign")[next(i for i, part in enumerate(match.groups()) if part)]
            self.tokens.append((kind, match[0].strip()))
            place = match.end()

    def wrong(self, what: str | None = None) -> SpecError:
        here = self.tokens[self.at][1] if what is None and self.at < len(self.tokens) else what
        return SpecError(
            f"the formula {self.text[:80]!r} cannot be read{f' at {here[:40]!r}' if here else ': it ends too early'}.",
            remedy="It may hold numbers, names of graders, + - * / ^, parentheses and min, max, abs, floor, ceil, exp, sqrt, log.",
        )

    def take(self, *signs: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at] in [("sign", sign) for sign in signs]:
            self.at += 1
            return self.tokens[self.at - 1][1]
        return None

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise SpecError(f"a formula is nested at most {DEEPEST} deep.", remedy="Write it flatter.")
        terms = [("+", self.product())]
        while sign := self.take("+", "-"):
            terms.append((sign, self.product()))
        self.depth -= 1
        return lambda s: math.fsum(node(s) if sign == "+" else -node(s) for sign, node in terms)

    def product(self) -> Node:
        first, rest = self.signed(), []
        while sign := self.take("*", "/"):
            rest.append((sign, self.signed()))

        def value(s: Scores) -> float:
            made = first(s)
            for sign, node in rest:
                made = made * node(s) if sign == "*" else made / node(s)
            return made

        return value

    def signed(self) -> Node:
        minus = 0
        while self.take("-"):
            minus += 1
        node = self.power()
        return (lambda s: -node(s)) if minus % 2 else node

    def power(self) -> Node:
        base = self.value()
        if not self.take("^"):
            return base
        self.depth += 1
        if self.depth > DEEPEST:
            raise SpecError(f"a formula is nested at most {DEEPEST} deep.", remedy="Write it flatter.")
        raised = self.signed()
        self.depth -= 1
        return lambda s: math.pow(base(s), raised(s))

    def value(self) -> Node:
        if self.take("("):
            node = self.sum()
            if not self.take(")"):
                raise self.wrong()
            return node
        if self.at >= len(self.tokens):
            raise self.wrong()
        kind, text = self.tokens[self.at]
        if kind == "number":
            self.at += 1
            number = float(text)
            return lambda _: number
        if kind != "name":
            raise self.wrong()
        self.at += 1
        if self.take("("):
            return self.call(text)
        if text not in self.known:
            raise Unknown(
                f"the formula names {text[:80]!r}, which is no grader here.",
                remedy=f"There are {', '.join(sorted(self.known))}.",
            )
        self.names.add(text)
        return lambda s: s[text]

    def call(self, name: str) -> Node:
        if name not in _FUNCTIONS:
            raise self.wrong(f"{name}(")
        given = [self.sum()]
        while self.take(","):
            given.append(self.sum())
        if not self.take(")"):
            raise self.wrong()
        least, most, function = _FUNCTIONS[name]
        if not least <= len(given) <= most:
            raise self.wrong(f"{name}(")
        return lambda s: function(*(node(s) for node in given))
