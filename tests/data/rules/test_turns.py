"""What is a conversation, what is only counted, and the order of roles against a plain twin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.data.rules.turns import NEXT
from luthier.data.testing import HOSTILE, batch_of, obeys, run


def said(roles: str) -> list[tuple[str, str]]:
    """A conversation by the first letters of its roles."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "x": "narrator", "r": "rejected"}
    return [(names[letter], letter) for letter in roles]


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ("ua", None),
        ("sua", None),
        ("uaua", None),
        ("uatta", None),
        ("uar", None),
        ("aua", "assistant speaks first"),
        ("usa", "system speaks after user"),
        ("ssua", "system speaks after system"),
        ("sa", "assistant speaks after system"),
        ("uuaa", "user speaks after user"),
        ("uta", "tool speaks after user"),
        ("uau", "user speaks last, not the assistant"),
        ("uat", "tool speaks last, not the assistant"),
        ("s", "system speaks last, not the assistant"),
        ("xua", "narrator speaks first"),
        ("uxa", "narrator speaks after user"),
    ],
)
def test_order(roles: str, reason: str | None) -> None:
    assert run("turns", batch_of(said(roles))).removed == [reason]
    assert run("turns", batch_of(said(roles)), order=False).removed == [None]


@given(st.lists(st.text("suatx", min_size=1, max_size=6), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_order_is_that_of_the_plain_twin(rows: list[str]) -> None:
    done = run("turns", batch_of(*map(said, rows)))
    for letters, reason in zip(rows, done.removed, strict=True):
        roles = ["", *(role for role, _ in said(letters))]
        pairs = zip(roles, roles[1:], strict=False)
        fine = all(after in NEXT.get(before, ()) for before, after in pairs) and roles[-1] == "assistant"
        assert (reason is None) == fine


def test_the_most_turns_are_counted_without_the_system_message() -> None:
    rows = batch_of(said("sua"), said("uaua"), said("uar"), "plain")
    assert run("turns", rows, most=2).removed == [None, "4 turns, more than 2", None, None]


def test_marks_of_templates() -> None:
    rows = [
        [("user", "a<|im_end|>\n[INST]b"), ("assistant", "x")],
        [("user", "a < b | c > d"), ("assistant", "[inst]")],
        "text </s> <|endoftext|>",
        [("user", "u"), ("assistant", "a"), ("rejected", "r<end_of_turn>")],
    ]
    told = "turn holds a chat template's mark,"
    done = run("turns", batch_of(*rows))
    assert done.removed == [
        f"the user {told} <|im_end|>",
        None,
        f"the text {told} <|endoftext|>",
        f"the rejected {told} <end_of_turn>",
    ]
    kept = run("turns", batch_of(*rows), marks="keep")
    assert kept.removed == [None] * 4 and kept.counts == {"marks": 3}


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI language model, I have no opinion.",
        "I’m sorry, but I can’t help with that.",
        "Als KI-Sprachmodell habe ich keine Meinung.",
        "En tant que modèle de langage, je ne peux pas.",
        "Lo siento, pero no puedo ayudarte.",
    ],
)
def test_refusals(answer: str) -> None:
    rows = batch_of([("user", "why?"), ("assistant", answer)])
    assert run("turns", rows).removed == [None] and run("turns", rows).counts == {"refusals": 1}
    assert run("turns", rows, refusals="drop").removed == ["the assistant refuses"]


@pytest.mark.parametrize(
    "row",
    [
        [("user", "As an AI language model, what are you?"), ("assistant", "A program.")],
        [("user", "u"), ("assistant", "Yes."), ("rejected", "I'm sorry, but I can't.")],
        [("user", "u"), ("assistant", "x" * 300 + " as an ai language model")],
        "As an AI language model",
    ],
)
def test_no_refusals(row: Any) -> None:
    assert run("turns", batch_of(row), refusals="drop").removed == [None]


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ("One sentence. " + "and " * 30, {"cut off": 1}),
        ("One sentence. " + "and " * 30 + "end.", {}),
        ("One sentence. " + "and " * 30 + "(see “this”)\n", {}),
        ("一つの文。 " + "と" * 120 + "。", {}),
        ("billing", {}),
        ("word " * 40, {}),  # no sentence at all, perhaps a list
        ("See:\n```py\nx = 1", {"unclosed code": 1}),
        ("See:\n```py\nx = 1\n```", {}),
    ],
)
def test_what_seems_cut_off_is_only_counted(answer: str, counts: dict[str, int]) -> None:
    done = run("turns", batch_of([("user", "u"), ("assistant", answer)]))
    assert done.removed == [None] and done.counts == counts


@given(
    st.lists(
        st.text("suatxr", min_size=1, max_size=5).map(said) | st.text(max_size=20), min_size=1, max_size=4
    )
)
@settings(max_examples=50, deadline=None)
def test_laws(rows: list[Any]) -> None:
    rows = [row if isinstance(row, str) or row[0][0] != "rejected" else "x" for row in rows]
    obeys("turns", rows, refusals="drop", most=3)


def test_hostile_texts() -> None:
    obeys("turns", [*HOSTILE, *([("user", text), ("assistant", text)] for text in HOSTILE)], refusals="drop")
