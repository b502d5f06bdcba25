import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import SpecError
from luthier.core.spec import Spec, override, parse, read_yaml, redact, resolve


class Train(Spec):
    epochs: int = 1
    """Passes over the data."""
    learning_rate: float | None = None
    """Peak rate."""


class Wish(Spec):
    name: str
    """What to call it."""
    train: Train = Train()
    """How to train."""


def wish(text, *sets):
    return parse(Wish, override(read_yaml(text, "r.yaml"), sets))


def test_yaml_is_1_2():
    tree = read_yaml(
        "a: 1e-4\nb: no\nc: 010\nd: 0x10\ne: on\nf: 1_000\ng: .5\nh: ~\ni: true\nj: '1'\nk: 2026-01-02"
    )
    assert tree.value == {"a": 1e-4, "b": "no", "c": 10, "d": 16, "e": "on", "f": 1000, "g": 0.5, "h": None,
                          "i": True, "j": "1", "k": "2026-01-02"}  # fmt: skip


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 50_000, "a: " + "[{b: " * 30_000, "- " * 100_000])
def test_brackets_without_end_are_refused_at_once(text):
    began_s = time.process_time()
    with pytest.raises(SpecError, match="nested deeper than 40 levels"):
        read_yaml(text)
    assert time.process_time() - began_s < 1.0


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_key():
    with pytest.raises(SpecError) as caught:
        wish("name: x\ntrain:\n  epochs: 2\n  learning_rat: 1e-4\n")
    assert (
        "r.yaml:4: train.learning_rat: there is no key 'learning_rat' here; did you mean 'learning_rate'?"
        in str(caught.value)
    )


def test_every_fault_is_told_at_once():
    with pytest.raises(SpecError) as caught:
        wish("train:\n  epochs: many\nnaem: x\n")
    # The unknown key is found first and stops the walk of its own mapping; it is what the user must mend first.
    assert "r.yaml:3" in str(caught.value) and "'name'" in str(caught.value)
    with pytest.raises(SpecError) as caught:
        wish("train:\n  epochs: many\n  learning_rate: fast\n")
    text = str(caught.value)
    assert "r.yaml:2: train.epochs" in text and "'many'" in text
    assert "r.yaml:3: train.learning_rate" in text
    assert "name: this key is needed and is not there" in text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: 1\na: 2", "r.yaml:2: the key 'a' stands twice"),
        ("a: &x 1\nb: *x", "r.yaml:2: aliases"),
        ("a: !!python/object:os.system x", "r.yaml:1: the tag"),
        ("a: [1, 2", "r.yaml:"),
        ("", "is empty"),
        ("\n".join("  " * i + "a:" for i in range(60)), "nested deeper"),
        ("x" * 1_000_001, "larger than"),
        ("- 1\n- 2", "not keys and values"),
    ],
)
def test_bad_yaml_is_refused_with_a_place(text, part):
    with pytest.raises(SpecError, match=None) as caught:
        parse(Wish, read_yaml(text, "r.yaml"))
    assert part in str(caught.value)


def test_a_number_too_long_to_hold_is_an_error_not_a_crash():
    with pytest.raises(SpecError, match="number"):
        read_yaml("a: " + "9" * 5000)


def test_nan_is_refused():
    with pytest.raises(SpecError, match="finite"):
        wish("name: x\ntrain: {learning_rate: .nan}")


def test_override_makes_missing_sections_and_reads_yaml_values():
    assert wish("name: x", "train.epochs=3", "train.learning_rate=1e-3").train == Train(
        epochs=3, learning_rate=1e-3
    )


@pytest.mark.parametrize("text", ["train.epochs", "=3", "name.x=1", "train.²=1"])
def test_a_bad_override_is_refused(text):
    with pytest.raises(SpecError, match=r"--set|there is no key"):
        wish("name: x", text)


def test_override_into_a_list_counts_from_zero():
    tree = override(read_yaml("a: [1, 2]"), ["a.1=5"])
    assert tree.value == {"a": [1, 5]}
    with pytest.raises(SpecError, match="list of 2"):
        override(read_yaml("a: [1, 2]"), ["a.7=5"])


def test_specs_are_frozen_and_spell_out_defaults():
    spec = wish("name: x")
    assert spec.plain() == {"name": "x", "train": {"epochs": 1, "learning_rate": None}}
    with pytest.raises(Exception, match="frozen"):
        spec.name = "y"


def test_secrets_are_put_in_late_and_taken_out_of_messages():
    environ = {"PASSWORD": "hunter2"}
    assert resolve("postgresql://u:${PASSWORD}@h/d", environ) == "postgresql://u:hunter2@h/d"
    assert redact("no route to u:hunter2@h", "${PASSWORD}", environ) == "no route to u:${PASSWORD}@h"
    with pytest.raises(SpecError, match="TOKEN is not set"):
        resolve("${TOKEN}", environ)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.from_regex(r"k[a-z]{1,8}", fullmatch=True), plain, min_size=1, max_size=4))
def test_json_is_read_as_yaml(value):
    import json

    assert read_yaml(json.dumps(value, ensure_ascii=False)).value == value
