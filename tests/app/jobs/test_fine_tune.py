"""What the kind makes of a wish before anything is trained: rows, sides, a recipe that is one; and of figures after it."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import pytest

from luthier.app.checking import check
from luthier.app.jobs import fine_tune
from luthier.app.jobs.fine_tune import Figures, _metrics, _write_rows, recipe_of
from luthier.app.recipe import Recipe
from luthier.core.errors import BeingMade, Busy, DataError
from luthier.core.event import Event
from luthier.core.spec import Tree, parse

CHAT = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": str(n)}]}
    for n in range(40)
]


class Files:
    """app.uploaded, of files that are there already."""

    def __init__(self, **files):
        self.files = files

    def copy(self, file_id, target):
        target.write_text("".join(json.dumps(line) + "\n" for line in self.files[file_id]))


def written(tmp_path, files, form="chat", answer=None, **named):
    wish = {
        "files": {"train": None, "validation": None, "test": None, **named},
        "form": form,
        "answer": answer,
    }
    counts = _write_rows(SimpleNamespace(uploaded=Files(**files)), wish, tmp_path)
    rows = {
        side: [json.loads(line) for line in (tmp_path / f"{side}.jsonl").read_text().splitlines()]
        for side in counts
    }
    assert {side: len(found) for side, found in rows.items()} == counts
    return rows


def texts(rows):
    return {row["messages"][0]["content"] for row in rows}


def test_a_tenth_each_is_held_back_and_equal_rows_stay_together(tmp_path):
    rows = written(tmp_path, {"t": [*CHAT, *CHAT[:5]]}, train="t")
    sides = [texts(found) for found in rows.values()]
    assert sum(len(one) for one in sides) == len(set.union(*sides)) == 40
    assert (len(sides[1]), len(sides[2])) == (4, 4)
    assert written(tmp_path, {"t": [*CHAT[20:], *CHAT[:20]]}, train="t")["test"] == rows["test"]


def test_a_validation_file_is_the_whole_validation_side_and_training_keeps_the_rest(tmp_path):
    rows = written(tmp_path, {"t": CHAT[:20], "v": CHAT[20:30]}, train="t", validation="v")
    assert texts(rows["validation"]) == texts(CHAT[20:30])
    assert len(rows["train"]) == 18 and len(rows["test"]) == 2
    rows = written(
        tmp_path, {"t": CHAT[:20], "v": CHAT[20:30], "x": CHAT[30:]}, train="t", validation="v", test="x"
    )
    assert (len(rows["train"]), len(rows["test"])) == (20, 10)


def test_rows_that_are_all_the_same_leave_nothing_to_measure_with(tmp_path):
    with pytest.raises(DataError, match="all the same"):
        written(tmp_path, {"t": CHAT[:1] * 9}, train="t")


def test_an_answer_of_weight_0_is_said_and_not_learnt(tmp_path):
    talk = lambda n, weight: {"messages": [  # noqa: E731
        {"role": "user", "content": f"{n}a"}, {"role": "assistant", "content": "first", "weight": weight},
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "second"}]}  # fmt: skip
    rows = written(tmp_path, {"t": [talk(n, n % 2) for n in range(10)]}, train="t")
    everything = [row["messages"] for found in rows.values() for row in found]
    assert all(
        messages[-1]["role"] == "assistant" and "weight" not in json.dumps(messages)
        for messages in everything
    )
    # with weight 1 both answers are learnt in one row; with 0 the second alone, after all that was said before it
    assert {len(messages) for messages in everything} == {4}


def test_a_row_becomes_one_up_to_each_answer_that_is_learnt():
    from luthier.app.tuning_rows import rows_of_line

    turns = [
        ("user", "a", None),
        ("assistant", "1", 1),
        ("user", "b", None),
        ("assistant", "2", 0),
        ("user", "c", None),
        ("assistant", "3", None),
    ]
    line = {
        "messages": [{"role": r, "content": c, **({} if w is None else {"weight": w})} for r, c, w in turns]
    }
    assert [len(row["messages"]) for row in rows_of_line(line, "chat")] == [2, 6]


@pytest.mark.parametrize(
    ("form", "method", "task"),
    [
        ("chat", "sft", {"kind": "chat"}),
        ("chat", {"sft": {"turns": "last"}}, {"kind": "classify", "instruction": "Route ${HOME}."}),
        ("preference", {"dpo": {"beta": 0.2}}, {"kind": "chat"}),
        (
            "reinforcement",
            {"grpo": {"rewards": ["exact_match"], "reward_weights": [1.0], "generations": 4}},
            {"kind": "chat"},
        ),
    ],
)
def test_the_recipe_is_one(form, method, task):
    wish = {
        "name": "ft-0011aabb", "base": "smollm2-135m-instruct", "task": task, "form": form, "tools": form == "chat", "multiplier": 0.5,
        "train": {"method": method, "epochs": 2, "batch": {"rows": 4}, "seed": 5},
    }  # fmt: skip
    recipe = parse(Recipe, Tree(recipe_of(wish), source="recipe.json"))
    check(recipe)
    assert recipe.train.peak_learning_rate == 1e-4  # half of what lora learns with
    assert [one.side for one in recipe.data.sources] == ["train", "validation", "test"]
    assert recipe.task.instruction == task.get("instruction")  # and ${HOME} is not looked up


def test_figures_are_told_under_openais_names():
    heard = []
    figures = Figures(SimpleNamespace(event=heard.append, progress=None))
    figures.event(Event("training", "run", {"steps": 9}))
    figures.event(Event("step", "run", {"step": 2, "loss": 0.5, "tokens": 7, "groups": {"a": 1}}))
    figures.event(Event("validation", "run", {"step": 2, "loss": 0.75, "token_accuracy": 0.5}))
    assert heard[1].data == {"step": 2, "train_loss": 0.5, "tokens": 7, "total_steps": 9}
    assert heard[2].data == {
        "step": 2,
        "valid_loss": 0.75,
        "valid_mean_token_accuracy": 0.5,
        "total_steps": 9,
    }


def test_the_metrics_of_a_checkpoint_are_those_of_its_step():
    history = {
        "steps": [{"step": n, "loss": 1 / n} for n in (1, 2)],
        "validation": [{"step": 2, "loss": 0.4}],
    }
    assert _metrics(history, 2) == {"step": 2, "train_loss": 0.5, "valid_loss": 0.4, "full_valid_loss": 0.4}


def test_only_the_same_model_is_waited_for(monkeypatch, tmp_path):
    said, raised = [], [BeingMade("another process is making it."), BeingMade("still."), Busy("writing.")]

    def again(*_, **__):
        if raised:
            raise raised.pop(0)
        return "made"

    at = SimpleNamespace(
        app=SimpleNamespace(recipes=SimpleNamespace(run=again)), watch=None, stop=threading.Event(),
        tell=lambda message, **_: said.append(message),
    )  # fmt: skip
    monkeypatch.setattr(fine_tune, "WAIT_S", 0.0)
    with pytest.raises(Busy, match="writing"):
        fine_tune._run(at, tmp_path / "recipe.json")
    assert said == ["Another job is making the same model; waiting for it"]
    assert fine_tune._run(at, tmp_path / "recipe.json") == "made"
