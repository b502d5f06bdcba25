import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import ModelError
from luthier.models.choices import build_trie, score_choices, score_plainly
from luthier.models.template import TooLong

LABELS = ["GPL", "GPL-2.0", "GPL-2.0-only", "MIT", "Apache-2.0", "é"]


def prompts(template, texts, instruction="Which licence is this notice?"):
    system = {"role": "system", "content": instruction}
    return [template.prompt([system, {"role": "user", "content": text}]) for text in texts]


def close(one, other, tolerance=1e-4):
    torch.testing.assert_close(torch.tensor(one), torch.tensor(other), atol=tolerance, rtol=tolerance)


def test_tree_equals_one_by_one(tiny, tiny_template):
    rows = prompts(tiny_template, ["MIT", "free of charge " * 9, "", "x"])
    fast = score_choices(tiny, tiny_template, rows, LABELS)
    close(fast, score_plainly(tiny, tiny_template, rows, LABELS))
    for row in fast:
        assert math.isclose(sum(map(math.exp, row)), 1, rel_tol=1e-6)
    assert fast[0] != fast[1]


def test_batching_and_sharing_change_nothing(tiny, tiny_template):
    rows = prompts(tiny_template, ["refund " * n for n in range(12)])
    together = score_choices(tiny, tiny_template, rows, LABELS)
    close(together, score_choices(tiny, tiny_template, rows, LABELS, token_budget=1))
    close(together, [score_choices(tiny, tiny_template, [row], LABELS)[0] for row in rows])


def test_rows_that_share_nothing_or_everything(tiny, tiny_template):
    one = tiny_template.prompt([{"role": "user", "content": "parcel"}])
    close(
        score_choices(tiny, tiny_template, [one, one], LABELS),
        score_plainly(tiny, tiny_template, [one] * 2, LABELS),
    )
    strangers = [one, one[::-1]]
    close(
        score_choices(tiny, tiny_template, strangers, LABELS),
        score_plainly(tiny, tiny_template, strangers, LABELS),
    )


def test_dropout_and_gradients_stay_out(tiny, tiny_template):
    from luthier.models.adapters import Lora
    from luthier.models.spec import LoraSpec

    model = Lora().attach(tiny, LoraSpec(dropout=0.9), seed=0).train()
    for name, parameter in Lora().trainable(model):
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    rows = prompts(tiny_template, ["a", "b"])
    assert score_choices(model, tiny_template, rows, LABELS) == score_choices(
        model, tiny_template, rows, LABELS
    )
    assert model.training


def test_what_cannot_be_chosen_is_refused(tiny, tiny_template):
    rows = prompts(tiny_template, ["a"])
    with pytest.raises(ModelError, match="nothing to choose from"):
        score_choices(tiny, tiny_template, rows, [])
    with pytest.raises(ModelError, match="'MIT' and 'MIT' are the same tokens"):
        score_choices(tiny, tiny_template, rows, ["MIT", "x", "MIT"])
    with pytest.raises(TooLong):
        score_choices(tiny, tiny_template, [list(range(3, 3 + 510))], ["a long label that has many tokens"])


def test_no_rows_no_work(tiny, tiny_template):
    assert score_choices(tiny, tiny_template, [], LABELS) == []


answers = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=5).map(lambda a: (*a, 9)), min_size=1, unique=True
)


@settings(max_examples=100)
@given(answers)
def test_trie_holds_every_answer_and_every_edge_once(given_answers):
    trie = build_trie(given_answers)
    for answer, path in zip(given_answers, trie.paths, strict=True):
        assert tuple(trie.steps[edge][1] for edge in path) == answer
    # One edge per distinct beginning; one node per beginning that goes on.
    beginnings = {answer[: n + 1] for answer in given_answers for n in range(len(answer))}
    assert len(trie.steps) == len(beginnings)
    assert len(trie.tree.tokens) == len({b for b in beginnings if b[-1] != 9})
    assert all(parent is None or parent < node for node, parent in enumerate(trie.tree.parents))
