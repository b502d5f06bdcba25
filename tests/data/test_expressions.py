"""The little language: what it says, against a plain interpreter; and that no text at all makes it fail but
with a ValueError."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.expressions import FUNCTIONS, NAMES, Node, evaluated, names, parse
from luthier.data.testing import batch_of, opened

ROWS: list[Any] = [
    [
        ("system", "Be kind"),
        ("user", "Hello there"),
        ("assistant", "Yes."),
        ("user", "b"),
        ("assistant", "ab"),
    ],
    "plain text",
    [("user", "a"), ("assistant", "3.5"), ("rejected", "No")],
    [("user", ""), ("assistant", " -1e2 ")],
]
COLUMNS: dict[str, list[Any]] = {
    "rating": [1.0, None, 0.0, math.nan],
    "group": ["g", None, "h", ""],
    "label": ["ab", None, "3.5", " -1e2 "],
    "source": ["s", "t", "s", "t"],
    "weight": [1.0, 0.5, 2.0, 1.0],
}


def values(expression: str) -> list[Any]:
    return evaluated(parse(expression), opened(*ROWS, **COLUMNS)).to_list()


@pytest.mark.parametrize(
    ("expression", "want"),
    [
        ("len(user) > 3", [True, False, False, False]),
        ("user == 'Hello there\\nb'", [True, False, False, False]),  # turns are joined by line breaks
        ("given(system) or given(text)", [True, True, False, False]),
        ("rating < 1", [False, False, True, False]),  # nothing, and no number, are both missing
        ("not (rating < 1)", [True, True, False, True]),
        ("rating != 1", [False, False, True, False]),
        ('label in ["ab", "3.5"]', [True, False, True, False]),
        ('label not in ["ab"]', [False, False, True, True]),
        ("number(label) > -1000", [False, False, True, True]),
        ("turns() in [4, 0]", [True, True, False, False]),
        ("matches(user, '^H.*e$') and ends(user, \"b\")", [False, False, False, False]),
        ('matches(user, "(?s)^H.*\\w$")', [True, False, False, False]),
        ("contains(lower(rejected), 'n') or starts(text, 'plain')", [False, True, True, False]),
        ("words(user)", [3, None, 1, 0]),
        ("weight * 2 - 1 / 4 + -1", [0.75, -0.25, 2.75, 0.75]),
        ("7 % 3 + -7 % 3", [3, 3, 3, 3]),  # 1 and, as in Python, 2
        ("1 / (weight - 1)", [None, -2, 1, None]),
        ("rating + 1", [2, None, 1, None]),
        ("group < 'h' or (true and source == 't') == false", [True, False, True, True]),
        ("0 == number(user) or 1 < number(text)", [False] * 4),  # nowhere a number
        ("1 + 2 * 3 == 7 and not false", [True] * 4),
        ("'it\\'s \\\\ \\d' == \"it's \\\\ \\\\d\"", [True] * 4),
    ],
)
def test_values(expression: str, want: list[Any]) -> None:
    assert values(expression) == want


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        (
            "",
            "column 1: a value is missing: a name, a number, a quoted text or a function; the expression ends here",
        ),
        ("user = 'a'", "column 6: '=' means nothing here; write =="),
        ("a && b", "column 3: '&&' means nothing here; write and"),
        ("usr == 'a'", "column 1: there is no name 'usr'; did you mean 'user'?; texts stand in quotes"),
        ("lenn(user) > 1", "column 1: there is no function 'lenn'; did you mean 'len'?"),
        ("len() > 1", "column 1: len takes 1 values, not 0; write len(user)"),
        ("len(1) > 1", "column 5: len takes a text, and this is a number; write len(user)"),
        ("len > 1", "column 1: len is a function; write len(user)"),
        ("len(user", "column 9: , is missing after a value for len, or ); the expression ends here"),
        ("1 < 2 < 3", "column 7: < follows another comparison; write a < b and b < c"),
        (
            "user > 3",
            "column 6: > compares a text with a number; compare values of one type, as in number(label) > 3",
        ),
        ("true < false", "column 6: < has no meaning for truths; use == or !="),
        (
            "user and true",
            'column 6: and needs a truth on each side, and one is a text; compare it, as in label == "a"',
        ),
        (
            "user + 1 > 2",
            "column 6: + needs a number on each side, and one is a text; use len(x) or number(x)",
        ),
        ("label in []", "column 7: the list after in is empty; name at least one value"),
        ("label in [1]", "column 11: in looks for a text among a number; all must be of one type"),
        ("label in [user]", "column 11: a list holds numbers and quoted texts only; write the value out"),
        (
            "contains(user, user)",
            'column 16: contains looks for a text in quotes; write contains(user, "...")',
        ),
        ("matches(user, '(')", "column 15: '(' is not a regular expression: "),
        ("matches(user, '(?=a)')", "look-around and back references are not known"),
        ("'abc", "column 1: the text that begins with \"'abc\" is not closed; add '"),
        ("user.x == 'a'", "column 5: '.' means nothing here; remove it, or put it into quotes"),
        ("user 'a'", "column 6: nothing can follow here but and, or, or an operator; there is 'a' here"),
        ("1e999 > 1", "column 1: 1e999 is too large for a number; write a smaller one"),
        ("(" * 60 + "1" + ")" * 60, "column 51: nested deeper than 50 levels; write it flatter"),
        ("+".join("1" * 300), "column 402: more than 200 operators; use two rules, or in [..]"),
        ("a" * 4001, "the expression has 4001 characters; 4000 are the most, use two rules"),
        ("__import__('os')", "column 1: there is no function '__import__'"),
    ],
)
def test_mistakes_say_where_what_and_what_instead(expression: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse(expression)


def test_the_longest_expressions_that_are_allowed_can_be_evaluated() -> None:
    for expression in (
        "+".join("1" * 200),
        "(" * 49 + "1" + ")" * 49,
        "-" * 49 + "weight",
        "not " * 49 + "true",
    ):
        assert values(expression)[0] is not None
    assert values(" and ".join(["len(user)>=0"] * 100)) == [True, False, True, True]


def test_names() -> None:
    assert names(parse("len(user) > turns() and label in ['a'] or not given(rating)")) == {
        "user",
        "turns",
        "label",
        "rating",
    }


# A plain interpreter of the same tree over one row: None is missing.
def plain(node: Node, row: dict[str, Any]) -> Any:
    if node.kind == "literal":
        return node.value
    if node.kind == "name":
        value = row.get(node.value)
        return None if isinstance(value, float) and not math.isfinite(value) else value
    parts = [plain(part, row) for part in node.parts]
    if node.kind in ("and", "or"):
        return (all if node.kind == "and" else any)(parts)
    if node.kind == "not":
        return not parts[0]
    if node.kind == "in":
        return parts[0] is not None and (parts[0] in parts[1:]) is (node.value == "in")
    if node.kind == "call" and node.value == "given":
        return parts[0] is not None
    if node.kind == "call" and node.value == "turns":
        return row["turns"]
    if None in parts:
        return False if node.type == "truth" else None
    if node.kind == "call":
        return CALLS[node.value](*parts)
    if node.kind == "compare":
        a, b = parts
        return {"==": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[node.value]
    return arithmetic(node.value, *parts) if len(parts) == 2 else -parts[0]


def arithmetic(sign: str, a: float, b: float) -> float | None:
    try:
        value = {"+": a + b, "-": a - b, "*": a * b}.get(sign)
        if value is None:
            value = a / b if sign == "/" else a - b * float(math.floor(a / b))
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    return value if math.isfinite(value) else None


def number(text: str) -> float | None:
    if not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", text, re.ASCII):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


CALLS: dict[str, Any] = {
    "len": len,
    "words": lambda x: len(x.split()),
    "lower": str.lower,
    "contains": lambda x, s: s in x,
    "starts": str.startswith,
    "ends": str.endswith,
    "matches": lambda x, s: re.search(s, x) is not None,
    "number": number,
}

texts = st.sampled_from(["a", "b", "", "ab", "3.5", "Hello there", "no"])
quoted = texts.map(lambda text: f'"{text}"')
numbers = st.sampled_from(["0", "1", "2.5", "-3", "1e300", "0.1", "7"])


def grown(kind: str, depth: int) -> st.SearchStrategy[str]:
    """Expressions of a type."""
    own = [name for name, of in NAMES.items() if of == kind]
    leaf = {
        "text": quoted | st.sampled_from(own or [""]),
        "number": numbers | st.sampled_from([*own, "turns()"]),
    }.get(kind, st.sampled_from(["true", "false"]))
    if not depth:
        return leaf
    text, number_, truth = (st.deferred(lambda k=k: grown(k, depth - 1)) for k in ("text", "number", "truth"))
    if kind == "text":
        return leaf | text.map("lower({})".format)
    if kind == "number":
        signs = st.sampled_from(["+", "-", "*", "/", "%"])
        return (
            leaf
            | st.tuples(st.sampled_from(["len", "words", "number"]), text).map("{0[0]}({0[1]})".format)
            | st.tuples(number_, signs, number_).map("({0[0]} {0[1]} {0[2]})".format)
        )
    compares = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    finds = st.sampled_from(["contains", "starts", "ends", "matches"])
    return (
        leaf
        | st.tuples(text, compares, text).map("({0[0]} {0[1]} {0[2]})".format)
        | st.tuples(number_, compares, number_).map("({0[0]} {0[1]} {0[2]})".format)
        | st.tuples(truth, st.sampled_from(["and", "or", "=="]), truth).map("({0[0]} {0[1]} {0[2]})".format)
        | truth.map("(not {})".format)
        | st.tuples(finds, text, quoted).map("{0[0]}({0[1]}, {0[2]})".format)
        | (text | number_).map("given({})".format)
        | st.tuples(text, st.sampled_from(["in", "not in"]), quoted, quoted).map(
            "({0[0]} {0[1]} [{0[2]}, {0[3]}])".format
        )
    )


ROW_DICTS = [
    {
        "user": "Hello there\nb", "assistant": "Yes.\nab", "system": "Be kind", "turns": 4,
        "rating": 1.0, "group": "g", "label": "ab", "source": "s", "weight": 1.0,
    },
    {"text": "plain text", "turns": 0, "source": "t", "weight": 0.5},
    {
        "user": "a", "assistant": "3.5", "rejected": "No", "turns": 2,
        "rating": 0.0, "group": "h", "label": "3.5", "source": "s", "weight": 2.0,
    },
    {
        "user": "", "assistant": " -1e2 ", "turns": 2,
        "rating": math.nan, "group": "", "label": " -1e2 ", "source": "t", "weight": 1.0,
    },
]  # fmt: skip


@given(grown("truth", 3) | grown("number", 3))
@settings(max_examples=500, deadline=None)
def test_every_expression_says_what_the_plain_interpreter_says(expression: str) -> None:
    node = parse(expression)
    want = [plain(node, row) for row in ROW_DICTS]
    found = evaluated(node, opened(*ROWS, **COLUMNS)).to_list()
    assert len(found) == len(want)
    for one, other in zip(found, want, strict=True):
        assert one == other or one == pytest.approx(other, rel=1e-12)


PIECES = [*NAMES, *FUNCTIONS, "and", "or", "not", "in", "true", "(", ")", "[", "]", ",", "==", "!=", "<", ">=", "+", "-", "*", "/", "%",
          '"a"', "'('", "'(?i)x'", "1", "2.5", "1e308", "\n", ".", "=", "user.x", "\\", "'", "é", "\x00", "null"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join) | st.text(max_size=40))
@settings(max_examples=600, deadline=None)
def test_no_text_fails_but_with_a_value_error_and_what_is_accepted_can_be_evaluated(expression: str) -> None:
    try:
        node = parse(expression)
    except ValueError as error:
        assert re.match(r"column [0-9]+: .+; ", str(error), re.DOTALL), str(error)
        return
    assert len(evaluated(node, opened(*ROWS, **COLUMNS))) == len(ROWS)


@given(st.text(max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_pattern_is_a_regular_expression_or_a_value_error(pattern: str) -> None:
    quoted_pattern = '"' + pattern.replace("\\", "\\\\").replace('"', '\\"') + '"'
    try:
        node = parse(f"matches(user, {quoted_pattern})")
    except ValueError:
        return
    assert node.parts[1].value == pattern
    assert evaluated(node, opened(*ROWS)).dtype.is_(evaluated(parse("true"), opened(*ROWS)).dtype)


def test_an_empty_batch() -> None:
    from luthier.data.opened import Opened

    for expression in ("len(user) > 1", "1 + rating", "true"):
        assert len(evaluated(parse(expression), Opened(batch_of()))) == 0


def test_what_is_in_no_list_of_lists_is_known_at_once() -> None:
    deep = "(" * 40 + "label not in ['a']" + ") not in [true]" * 40
    node = parse(deep)
    assert names(node) == {"label"} and node.type == "truth"
    assert len(evaluated(node, opened("x", "y"))) == 2
