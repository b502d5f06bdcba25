"""A base that knows no conversations, as most that are trained further on plain text: the whole line on a text column."""

from __future__ import annotations

import json

import pytest

from luthier.models.testing import tiny_model

RECIPE = """\
name: notes
base: plain
data:
  sources:
    - {files: notes.jsonl, map: {text: text}}
  split: {validation: 0.15, test: 0.25}
train: {epochs: 1, learning_rate: 0.01, batch: {rows: 8, micro_tokens: 512}, dtype: fp32, adapter: {kind: full}}
evaluate: {resamples: 200}
"""


@pytest.fixture
def plain(workshop):
    tiny_model(workshop.folder / "plain", chat_template=None)
    words = ("parcel", "refund", "invoice", "error", "tracking", "payment")
    notes = [{"text": f"Note {i} about the {words[i % 6]} and the {words[i % 5]}."} for i in range(60)]
    workshop.write("notes.jsonl", "".join(json.dumps(note) + "\n" for note in notes))
    workshop.write("recipe.yaml", RECIPE)
    return workshop


def test_plain_text_needs_no_chat_template(plain):
    done = plain.run()
    assert done["release"] == "notes@1"
    before, after = (done["metrics"][system]["perplexity"] for system in ("base", "tuned"))
    assert after < before and done["metrics"]["tuned"]["exact_match"] is None


def test_whoever_then_wants_a_conversation_is_told(plain):
    plain.run()
    said = plain.luthier("chat", "notes", "--ask", "hello")
    assert said.exit_code == 4, said.output
    assert (
        "this model has no chat template" in said.stderr
        and "Choose its instruct or chat version" in said.stderr
    )


def test_conversations_are_refused_before_the_first_step(plain):
    result = plain.luthier(
        "run", plain.folder / "recipe.yaml", "--set", "data.sources.0.files=rows.jsonl",
        "--set", "data.sources.0.map={user: text, assistant: queue}",
    )  # fmt: skip
    assert result.exit_code == 4, result.output
    assert "rows.jsonl:" in result.stderr and "map: {text: COLUMN}" in result.stderr
