"""What the page tells of training: in the loss's own unit, with the figure that chose the weights, the method's own
figures, and each source by itself."""

import re
from dataclasses import replace

from luthier.app.report.learning import figures, how, learning
from luthier.app.report.page import render

REWARDS = {
    "steps": [
        {"step": n, "loss": 0.0, "learning_rate": 1e-4, "gradient_norm": 1.0, "tokens": 90, "supervised": 30, "reward": n / 10,
         "answer_tokens": 8.0}
        for n in range(1, 5)
    ],
    "validation": [{"step": 0, "loss": -0.1, "reward": 0.1, "answer_tokens": 9.0}, {"step": 3, "loss": -0.5, "reward": 0.5, "answer_tokens": 7.0},
                   {"step": 4, "loss": -0.4, "reward": 0.4, "answer_tokens": 7.5}],
    "best_step": 3,
    "stopped": "epochs",
    "watched": {"metric": "reward", "mode": "max"},
    "unit": "around 0 in training",
    "kept": {"how": "best", "steps": [3], "loss": -0.5, "why": None},
}  # fmt: skip


def label(drawing):
    return re.search(r'aria-label="([^"]*)"', drawing["wide"])[1]


def test_the_watched_figure_is_drawn_first_and_the_loss_in_its_own_unit():
    reward, loss = learning(REWARDS, None)["curves"]
    assert (reward["name"], reward["beside"]) == ("Reward", "decides which weights are kept: more is better")
    assert label(reward["drawing"]) == (
        "Training reward from 0.1 to 0.4; validation reward from 0.1 to 0.4; best reward at step 3."
    )
    assert "best reward: step 3" in reward["drawing"]["narrow"]
    assert (loss["name"], loss["beside"]) == ("Loss", "around 0 in training")
    assert "best reward at step 3" in label(loss["drawing"]) and "lowest" not in label(loss["drawing"])


def test_a_watched_loss_is_drawn_once(sample):
    (loss,) = learning(sample.classify().history, None)["curves"]
    assert loss["beside"] == "nats per supervised token"
    assert label(loss["drawing"]).endswith("; best at step 120.")


def test_a_figure_of_validation_alone_is_drawn_too():
    history = {
        "steps": [{"step": 1, "loss": 2.0}],
        "validation": [{"step": 0, "loss": 3.0, "token_accuracy": 0.2}, {"step": 1, "loss": 2.0, "token_accuracy": 0.4}],
        "best_step": 1,
        "watched": {"metric": "token_accuracy", "mode": "max"},
    }  # fmt: skip
    accuracy, _ = learning(history, None)["curves"]
    assert label(accuracy["drawing"]) == (
        "Validation token accuracy from 0.2 to 0.4; best token accuracy at step 1."
    )


def test_the_methods_own_figures_are_listed():
    assert figures(REWARDS) == {
        "rows": [
            {"name": "loss", "values": ["0", "−0.1", "−0.4"]},
            {"name": "reward", "values": ["0.4", "0.1", "0.4"]},
            {"name": "answer tokens", "values": ["8", "9", "7.5"]},
        ],
        "more": 0,
    }


def test_nothing_beside_the_loss_makes_no_table(sample):
    assert figures(sample.classify().history) is None


def sources(names):
    def losses(start):
        return {name: start + i for i, name in enumerate(names)}

    return {
        "steps": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5, "groups": losses(1.0)}],
        "validation": [{"step": 0, "loss": 3.0, "groups": losses(3.0)}, {"step": 2, "loss": 1.5, "groups": losses(1.5)}],
        "best_step": 2,
    }  # fmt: skip


def test_each_source_is_told_by_itself():
    told = learning(sources(["faq", "tickets"]), None)
    assert [one["name"] for one in told["small"]] == ["Loss of faq", "Loss of tickets"]
    assert told["figures"]["rows"][1:] == [
        {"name": "loss of faq", "values": ["1", "3", "1.5"]},
        {"name": "loss of tickets", "values": ["2", "4", "2.5"]},
    ]


def test_many_sources_are_counted():
    told = learning(sources([f"source-{i:02}" for i in range(20)]), None)
    assert len(told["small"]) == 6 and len(told["figures"]["rows"]) == 1 + 12
    assert told["figures"]["more"] == 8


def test_how_it_was_trained_is_named(sample):
    facts = sample.classify()
    told = {one["name"]: one["value"] for one in how(facts.history, facts.train)}
    assert told == {
        "Method": "sft",
        "What moves": "lora (rank: 16, rslora: false)",
        "Number format": "bf16",
        "Fused parts": "gated, head, norms",
    }
    proof = facts.history["proof"]
    fused = proof["fused"]

    def parts(**changed):
        history = {**facts.history, "proof": {**proof, **changed}}
        return {one["name"]: one["value"] for one in how(history, facts.train)}["Fused parts"]

    assert parts(fused={**fused, "left": {"kernels": "no compiler"}}).endswith(
        "left plain: kernels (no compiler)"
    )
    assert parts(fused={**fused, "used": False}).startswith("none: on this run's rows they differed")
    assert parts(fused=None).startswith("none: weights that are cut across processes")
    preferred = {"method": {"dpo": {"beta": 0.1}}, "adapter": {"kind": "full"}}
    told = {one["name"]: one["value"] for one in how(facts.history, preferred)}
    assert (told["Method"], told["What moves"]) == ("dpo (beta: 0.1)", "full")


def test_names_of_sources_and_settings_stay_text(sample):
    row = "<script>alert(1)</script>\u202e"
    history = {**sources([row, "b"]), "unit": row, "watched": {"metric": row, "mode": "max"}}
    for told in (*history["steps"], *history["validation"]):
        told[row] = 1.0
    train = {"method": {"sft": {"x": row}}, "adapter": {"kind": row}}
    text = render(replace(sample.classify(), history=history, train=train))
    assert "<script" not in text and "\u202e" not in text and "⟨U+202E⟩" in text


def test_a_gradient_of_nothing_is_not_compared(sample):
    from luthier.app.report.learning import proof

    whole = sample.classify().history["proof"]
    told = {
        one["name"]: one
        for one in proof(
            {"proof": {**whole, "packing": {**whole["packing"], "gradient": None, "parameter": None}}}
        )
    }
    assert (told["Packing"]["found"], told["Packing"]["allowed"]) == (
        "off by 2.1e-04 in a row's loss",
        "1e-02 (bf16)",
    )
    broken = {**whole["fused"], "loss": None, "gradient": None, "used": False}
    told = {one["name"]: one["found"] for one in proof({"proof": {**whole, "fused": broken}})}
    assert told["Fused"].startswith(
        "off by no finite number in a row's loss, no finite number in the gradient and"
    )
