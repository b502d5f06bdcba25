"""A small typed language for looking at rows: `len(user) > 20 and not contains(lower(assistant), "as an
ai")`.

    text ──tokens──▶ ──parse, with types──▶ Node ──▶ a Polars expression over a frame of the names it uses

    or, and, not                         truth           "text", 'text'            text
    ==  !=  <  <=  >  >=                 compare          12, 0.5, 1e3              number
    in ["a", "b"], not in [1, 2]                         true, false               truth
    +  -  *  /  %  unary -               numbers

    user, assistant, system              text of these turns, joined by line breaks; missing where there is none
    text, label, source, group, rejected text
    weight, rating                       number
    len(x), words(x)                     characters; runs of non-blanks
    lower(x)                             text
    contains(x, "s"), starts(..), ends(..), matches(x, "regex")      truth; Rust's regular expressions: linear time
    turns()                              messages without the system's; 0 for a plain text
    number(x)                            the number that a text is, such as a label; missing if it is none
    given(x)                             whether x is there

In quotes, a backslash before n, t, \\ or a quote is an escape; before anything else it stands for itself, as
in "\\d+".

Missing values: a comparison or test of what is missing is false, so `not (rating < 3)` is true where there is
no rating. Arithmetic with it is missing, as is a division by zero and whatever no finite number holds.

Nothing here is `eval`: there are no attributes, no subscripts, no names but these. Every mistake is a
ValueError that says where (column, from 1), what, and what to write instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from luthier.core.errors import did_you_mean

if TYPE_CHECKING:
    import polars as pl

    from .opened import Opened

Type = Literal["text", "number", "truth"]

LONGEST = 4_000
"""Characters of an expression."""
DEEPEST = 50
"""Parentheses, calls and signs within each other."""
MOST_TERMS = 200
"""Operators in one expression."""

NAMES: dict[str, Type] = {
    "user": "text",
    "assistant": "text",
    "system": "text",
    "text": "text",
    "label": "text",
    "source": "text",
    "group": "text",
    "rejected": "text",
    "weight": "number",
    "rating": "number",
}
ROLES = ("user", "assistant", "system", "text", "rejected")


class Function(NamedTuple):
    takes: tuple[Type | Literal["any", "literal"], ...]
    """`any`: of any type; `literal`: a text in quotes."""
    gives: Type


FUNCTIONS = {
    "len": Function(("text",), "number"),
    "words": Function(("text",), "number"),
    "lower": Function(("text",), "text"),
    "contains": Function(("text", "literal"), "truth"),
    "starts": Function(("text", "literal"), "truth"),
    "ends": Function(("text", "literal"), "truth"),
    "matches": Function(("text", "literal"), "truth"),
    "turns": Function((), "number"),
    "number": Function(("text",), "number"),
    "given": Function(("any",), "truth"),
}


@dataclass(frozen=True)
class Node:
    """`kind` is a literal, name, call, or operator; `value` what it is called; `column` where it stands, from
    1."""

    kind: Literal["literal", "name", "call", "compare", "in", "and", "or", "not", "arithmetic", "minus"]
    type: Type
    value: Any = None
    parts: tuple[Node, ...] = ()
    column: int = 1


class Token(NamedTuple):
    kind: Literal["number", "text", "word", "sign", "end"]
    value: str
    column: int


TOKEN = re.compile(
    r"""\s*+(?:(?P<number>(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?)"""
    r"""|(?P<text>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')|(?P<word>[^\W\d]\w*+)|(?P<sign>==|!=|<=|>=|[-+*/%<>()\[\],]))""",
    re.DOTALL,
)
ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'"}
INSTEAD = {"=": "==", "&&": "and", "||": "or", "!": "not", "<>": "!=", "~": "matches(x, '..')", "===": "=="}


def parse(source: str) -> Node:
    """
    >>> parse("len(user) > 20").type
    'truth'
    >>> parse("len(user) > 'a'")
    Traceback (most recent call last):
    ValueError: column 11: > compares a number with a text; compare values of one type, as in number(label) > 3
    """
    if len(source) > LONGEST:
        raise ValueError(
            f"the expression has {len(source)} characters; {LONGEST} are the most, use two rules"
        )
    return _Parser(list(_tokens(source))).whole()


def names(node: Node) -> set[str]:
    """The names that an expression uses; `turns` for turns().

    >>> sorted(names(parse("len(user) > turns() and label == 'a'")))
    ['label', 'turns', 'user']
    """
    found = {node.value} if node.kind == "name" or (node.kind == "call" and node.value == "turns") else set()
    return found.union(*map(names, node.parts))


def evaluated(node: Node, rows: Opened) -> pl.Series:
    """Its value for each row [B]: Boolean without nulls, Float64 or String with nulls for what is missing."""

    frame = _frame(rows, names(node))
    value = frame.with_columns(_polars(node).alias("value"))["value"]
    return value.fill_null(False) if node.type == "truth" else value


def _tokens(source: str) -> Iterator[Token]:
    at = 0
    end = len(source.rstrip())
    while at < end:
        match = TOKEN.match(source, at)
        if match is None:
            column = at + len(source[at:]) - len(source[at:].lstrip()) + 1
            rest = source[column - 1 :]
            if rest[0] in "\"'":
                raise ValueError(
                    f"column {column}: the text that begins with {rest[:20]!r} is not closed; add {rest[0]}"
                )
            wrong = next(
                (sign for sign in sorted(INSTEAD, key=len, reverse=True) if rest.startswith(sign)), None
            )
            hint = f"write {INSTEAD[wrong]}" if wrong else "remove it, or put it into quotes"
            raise ValueError(f"column {column}: {wrong or rest[0]!r} means nothing here; {hint}")
        kind = match.lastgroup
        assert kind is not None
        value, column = match[kind], match.start(kind) + 1
        if kind == "number" and not math.isfinite(float(value)):
            raise ValueError(f"column {column}: {value[:20]} is too large for a number; write a smaller one")
        yield Token(kind, _unquoted(value) if kind == "text" else value, column)  # type: ignore[arg-type]
        at = match.end()
    yield Token("end", "", len(source) + 1)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[0]), text[1:-1], flags=re.DOTALL)


class _Parser:
    """Recursive descent, one method per level; `depth` and `terms` bound what it builds."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens, self._at, self._depth, self._terms = tokens, 0, 0, 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _takes(self, *values: str) -> Token | None:
        """The next token if it is one of these signs or words."""
        token = self._next
        if token.kind in ("sign", "word") and token.value in values:
            self._at += 1
            return token
        return None

    def _needs(self, value: str, after: str) -> None:
        if not self._takes(value):
            raise self._wrong(f"{value} is missing after {after}")

    def _wrong(self, what: str) -> ValueError:
        token = self._next
        found = "the expression ends" if token.kind == "end" else f"there is {token.value!r}"
        return ValueError(f"column {token.column}: {what}; {found} here")

    def whole(self) -> Node:
        node = self._or()
        if self._next.kind != "end":
            raise self._wrong("nothing can follow here but and, or, or an operator")
        return node

    def _term(self, column: int) -> None:
        self._terms += 1
        if self._terms > MOST_TERMS:
            raise ValueError(f"column {column}: more than {MOST_TERMS} operators; use two rules, or in [..]")

    def _or(self) -> Node:
        return self._joined("or", self._and)

    def _and(self) -> Node:
        return self._joined("and", self._not)

    def _joined(self, word: Literal["and", "or"], part: Callable[[], Node]) -> Node:
        parts = [part()]
        columns = []
        while token := self._takes(word):
            self._term(token.column)
            columns.append(token.column)
            parts.append(part())
        if not columns:
            return parts[0]
        for node, column in zip(parts, [columns[0], *columns], strict=True):
            _expect(node, "truth", column, word)
        return Node(word, "truth", word, tuple(parts), columns[0])

    def _not(self) -> Node:
        token = self._takes("not")
        if token is None:
            return self._compare()
        with_parts = self._deeper(token, self._not)
        _expect(with_parts, "truth", token.column, "not")
        return Node("not", "truth", "not", (with_parts,), token.column)

    def _deeper(self, token: Token, part: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"column {token.column}: nested deeper than {DEEPEST} levels; write it flatter")
        node = part()
        self._depth -= 1
        return node

    def _compare(self) -> Node:
        left = self._sum()
        if token := self._takes("==", "!=", "<", "<=", ">", ">="):
            self._term(token.column)
            right = self._sum()
            if left.type != right.type:
                raise ValueError(
                    f"column {token.column}: {token.value} compares a {left.type} with a {right.type}; compare values of one "
                    "type, as in number(label) > 3"
                )
            if left.type == "truth" and token.value not in ("==", "!="):
                raise ValueError(
                    f"column {token.column}: {token.value} has no meaning for truths; use == or !="
                )
            if (more := self._next).value in ("==", "!=", "<", "<=", ">", ">=") and more.kind == "sign":
                raise ValueError(
                    f"column {more.column}: {more.value} follows another comparison; write a < b and b < c"
                )
            return Node("compare", "truth", token.value, (left, right), token.column)
        column = self._next.column
        if self._takes("in"):
            return self._in(left, column)
        if self._takes("not"):
            self._needs("in", "a value and not")
            return replace(self._in(left, column), value="not in")
        return left

    def _in(self, left: Node, column: int) -> Node:
        self._term(column)
        self._needs("[", "in")
        values: list[Node] = []
        while not self._takes("]"):
            if values:
                self._needs(",", "a value in the list")
                if self._takes("]"):
                    break
            value = self._unary()
            if value.kind != "literal":
                raise ValueError(
                    f"column {value.column}: a list holds numbers and quoted texts only; write the value out"
                )
            if value.type != left.type:
                raise ValueError(
                    f"column {value.column}: in looks for a {left.type} among a {value.type}; all must be of one type"
                )
            values.append(value)
        if not values:
            raise ValueError(f"column {column}: the list after in is empty; name at least one value")
        return Node("in", "truth", "in", (left, *values), column)

    def _sum(self) -> Node:
        return self._arithmetic(("+", "-"), self._product)

    def _product(self) -> Node:
        return self._arithmetic(("*", "/", "%"), self._unary)

    def _arithmetic(self, signs: tuple[str, ...], part: Callable[[], Node]) -> Node:
        node = part()
        while token := self._takes(*signs):
            self._term(token.column)
            right = part()
            for side in (node, right):
                _expect(side, "number", token.column, token.value)
            node = Node("arithmetic", "number", token.value, (node, right), token.column)
        return node

    def _unary(self) -> Node:
        token = self._takes("-")
        if token is None:
            return self._atom()
        node = self._deeper(token, self._unary)
        _expect(node, "number", token.column, "-")
        if node.kind == "literal":
            return Node("literal", "number", -node.value, (), token.column)
        return Node("minus", "number", "-", (node,), token.column)

    def _atom(self) -> Node:
        token = self._next
        self._at += token.kind != "end"
        if token.kind == "number":
            return Node("literal", "number", float(token.value), (), token.column)
        if token.kind == "text":
            return Node("literal", "text", token.value, (), token.column)
        if token.value == "(":
            node = self._deeper(token, self._or)
            self._needs(")", "the expression in parentheses")
            return node
        if token.kind == "word" and token.value not in ("and", "or", "not", "in"):
            return self._named(token)
        self._at -= token.kind != "end"
        raise self._wrong("a value is missing: a name, a number, a quoted text or a function")

    def _named(self, token: Token) -> Node:
        if token.value in ("true", "false"):
            return Node("literal", "truth", token.value == "true", (), token.column)
        if self._takes("("):
            return self._call(token)
        if token.value in NAMES:
            return Node("name", NAMES[token.value], token.value, (), token.column)
        if token.value in FUNCTIONS:
            raise ValueError(
                f"column {token.column}: {token.value} is a function; write {_usage(token.value)}"
            )
        raise ValueError(
            f"column {token.column}: there is no name {token.value!r}; {did_you_mean(token.value, tuple(NAMES))}; "
            "texts stand in quotes"
        )

    def _call(self, token: Token) -> Node:
        function = FUNCTIONS.get(token.value)
        if function is None:
            hint = did_you_mean(token.value, tuple(FUNCTIONS))
            raise ValueError(f"column {token.column}: there is no function {token.value!r}; {hint}")
        parts: list[Node] = []
        while not self._takes(")"):
            if parts:
                self._needs(",", f"a value for {token.value}, or )")
            parts.append(self._deeper(token, self._or))
        if len(parts) != len(function.takes):
            raise ValueError(
                f"column {token.column}: {token.value} takes {len(function.takes)} values, not {len(parts)}; "
                f"write {_usage(token.value)}"
            )
        for part, wanted in zip(parts, function.takes, strict=True):
            if wanted == "literal" and (part.kind, part.type) != ("literal", "text"):
                raise ValueError(
                    f"column {part.column}: {token.value} looks for a text in quotes; write {_usage(token.value)}"
                )
            if wanted in ("text", "number") and part.type != wanted:
                raise ValueError(
                    f"column {part.column}: {token.value} takes a {wanted}, and this is a {part.type}; write {_usage(token.value)}"
                )
        if token.value == "matches":
            _check_pattern(parts[1])
        return Node("call", function.gives, token.value, tuple(parts), token.column)


def _usage(name: str) -> str:
    shown = {"text": "user", "literal": '"..."', "any": "label", "number": "1"}
    return f"{name}({', '.join(shown[kind] for kind in FUNCTIONS[name].takes)})"


def _expect(node: Node, wanted: Type, column: int, sign: str) -> None:
    if node.type != wanted:
        hint = {
            "truth": 'compare it, as in label == "a" or len(user) > 3',
            "number": "use len(x) or number(x)",
        }.get(wanted, "")
        raise ValueError(
            f"column {column}: {sign} needs a {wanted} on each side, and one is a {node.type}; {hint}"
        )


def _check_pattern(node: Node) -> None:
    import polars as pl

    try:
        pl.Series(["x"]).str.contains(node.value)
    except pl.exceptions.ComputeError as error:
        told = (
            " ".join(line.strip() for line in str(error).splitlines() if "error:" in line)
            or "it is too large"
        )
        raise ValueError(
            f"column {node.column}: {node.value[:60]!r} is not a regular expression: {told.removeprefix('error: ')}; "
            "look-around and back references are not known"
        ) from None


NUMBER = r"^\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*$"


def _frame(rows: Opened, used: set[str]) -> pl.DataFrame:
    """One line per row, with a column for each name; `turns` is always there."""
    import numpy as np
    import polars as pl

    spoken = ~rows.says("system", "text", "rejected", "argument")
    columns: dict[str, pl.Series] = {
        "turns": pl.Series(np.bincount(rows.row[spoken], minlength=len(rows)).astype(np.float64))
    }
    for name in sorted(used - {"turns"}):
        if name in ROLES:
            there = rows.per_row(rows.says(name))
            joined = pl.Series(rows.joined(name), dtype=pl.String)
            columns[name] = joined.to_frame("t").select(pl.when(pl.Series(there)).then(pl.col("t")))["t"]
        else:
            dtype = pl.Float64 if NAMES[name] == "number" else pl.String
            columns[name] = pl.Series(pl.from_arrow(rows.column(name))).cast(dtype)
    return pl.DataFrame(columns)


def _polars(node: Node) -> pl.Expr:
    import polars as pl

    if node.kind == "literal":
        # A column and not pl.lit: Polars does not spread one value over all rows in every operation.
        types = {"text": pl.String, "number": pl.Float64, "truth": pl.Boolean}
        return pl.repeat(node.value, pl.len(), dtype=types[node.type])
    if node.kind == "name":
        found = pl.col(node.value)
        return _finite(found) if node.type == "number" else found
    parts = [_polars(part) for part in node.parts]
    if node.kind == "and":
        return pl.all_horizontal(parts)
    if node.kind == "or":
        return pl.any_horizontal(parts)
    if node.kind == "not":
        return ~parts[0]
    if node.kind == "minus":
        return -parts[0]
    if node.kind == "in":
        values = pl.Series([part.value for part in node.parts[1:]])
        among = parts[0].is_in(
            values.implode()
        )  # of what is missing nothing is known, and so it is in no list, and in none's opposite
        return (~among if node.value == "not in" else among).fill_null(False)
    if node.kind == "compare":
        return _COMPARE[node.value](*parts).fill_null(False)
    if node.kind == "arithmetic":
        return _finite(_ARITHMETIC[node.value](*parts))
    if node.value == "turns":
        return pl.col("turns")
    wanted = FUNCTIONS[node.value].takes
    values_or_texts = [
        pl.lit(part.value) if kind == "literal" else value
        for part, kind, value in zip(node.parts, wanted, parts, strict=True)
    ]
    return _CALLS[node.value](*values_or_texts)


def _finite(value: pl.Expr) -> pl.Expr:
    """What no number holds is missing. Each value stands here once, or expressions would grow by powers of
    two."""
    return value.replace([math.inf, -math.inf, math.nan], None)


def _number(text: pl.Expr) -> pl.Expr:
    import polars as pl

    return _finite(
        pl.when(text.str.contains(NUMBER)).then(text.str.strip_chars()).cast(pl.Float64, strict=False)
    )


_COMPARE: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "%": lambda a, b: a % b,
}
_CALLS: dict[str, Callable[..., pl.Expr]] = {
    "len": lambda x: x.str.len_chars().cast(float),
    "words": lambda x: x.str.count_matches(r"\S+").cast(float),
    "lower": lambda x: x.str.to_lowercase(),
    "contains": lambda x, s: x.str.contains(s, literal=True).fill_null(False),
    "starts": lambda x, s: x.str.starts_with(s).fill_null(False),
    "ends": lambda x, s: x.str.ends_with(s).fill_null(False),
    "matches": lambda x, s: x.str.contains(s).fill_null(False),
    "number": _number,
    "given": lambda x: x.is_not_null(),
}
