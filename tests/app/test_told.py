"""What a run tells of itself on its page and its card, from what it really left: a method with a loss of its own, two
sources, a watched figure, answers that were disliked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luthier.app.app import App
from luthier.app.context import Silent
from luthier.core import plugin

RECIPE = """\
name: thumbs
base: tiny
data:
  sources:
    - {name: faq, files: faq.jsonl, map: {user: text, assistant: answer, rating: good}}
    - {name: shop, files: shop.jsonl, map: {user: text, assistant: answer, rating: good}}
  split: {validation: 0.2, test: 0.3}
train:
  method: kto
  epochs: 1
  learning_rate: 0.01
  batch: {rows: 8, micro_tokens: 512}
  dtype: fp32
  adapter: {kind: lora, rank: 4}
  early_stopping: {metric: accuracy, patience: 9}
evaluate: {against: [base_3shot], resamples: 200, max_tokens: 4}
"""


@pytest.fixture
def thumbs(workshop):
    for name in ("faq", "shop"):
        rows = [{"text": f"{name} {i}?", "answer": f"yes {i}", "good": i % 2 == 0} for i in range(40)]
        workshop.write(f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    workshop.write("recipe.yaml", RECIPE)
    return workshop


def test_the_page_and_the_card_tell_what_the_run_did(thumbs):
    done = thumbs.run()
    page = Path(done["report_path"]).read_text(encoding="utf-8")
    for told in (
        "kto (beta: 0.1", "lora (rank: 4", "fp32", '<span class="quiet">lost value per answer</span>',
        "decides which weights are kept: more is better", "Loss of faq", "loss of shop",
        "are rated 0 or less: their answers are no references",
    ):  # fmt: skip
        assert told in page, told
    assert "per supervised token" not in page
    shown = json.loads(thumbs.luthier("show", done["release"], "--json").stdout)
    card = (Path(shown["folder"]) / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "chosen by accuracy, with a validation loss of" in card


def test_the_terminal_tells_the_figure_that_chooses(thumbs):
    result = thumbs.luthier("run", thumbs.folder / "recipe.yaml")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if "validation at step" in line]
    assert lines and all("accuracy" in line and "loss by source: faq" in line for line in lines)


class Bar(Silent):
    """Notes what stands beside the bar of training."""

    def __init__(self):
        self.beside = []

    def progress(self, what, done, total, facts):
        if what == "train":
            self.beside.append(list(facts))


def test_the_bar_shows_the_figure_that_chooses(thumbs):
    bar = Bar()
    App(thumbs.home, {}).recipes.run(thumbs.folder / "recipe.yaml", watch=bar)
    assert bar.beside and all(shown == ["loss", "accuracy", "tokens_per_s"] for shown in bar.beside)


@pytest.mark.parametrize(
    ("counts", "methods"),
    [
        ("nats per supervised token", {"sft", "distill"}),
        ("nats per pair", {"dpo", "orpo", "simpo"}),
        ("squared nats per pair", {"ipo"}),
        ("lost value per answer", {"kto"}),
        ("nats per row", {"classify"}),
    ],
)
def test_a_loss_is_told_in_what_it_counts(counts, methods):
    assert {name for name in plugin.names("method") if plugin.load("method", name).unit == counts} == methods
