"""The page of a search, of trials written down by hand."""

from luthier.app.report.search_page import render
from luthier.app.searching import Searched
from luthier.app.study import Trial

TRIALS = [
    Trial(0, {}, "done", 1.07, 0.8, 1.4, work=3.4e12, seconds=65),
    Trial(1, {"train.learning_rate": 0.002, "train.batch.rows": 16}, "done", 0.45, 0.33, 0.59, work=3.4e12, seconds=64),
    Trial(2, {"train.learning_rate": 0.009}, "pruned", seconds=25, why="given up at its validation 3: loss 2.1 is behind the others"),
    Trial(3, {"train.learning_rate": 0.01}, "pruned", seconds=25),
    Trial(4, {"train.learning_rate": 0.02}, "failed", seconds=25, why="the loss is <nan>"),
]  # fmt: skip


def test_each_trial_is_told_once_with_how_it_ended():
    page = render(
        Searched(
            "licences",
            "log_loss",
            False,
            TRIALS,
            1,
            1,
            "it is the best",
            (1,),
            ("train.learning_rate=0.002", "train.batch.rows=16"),
            None,
            317.0,
        )
    )
    assert "5 settings tried: 2 trained to the end, 2 given up early, 1 failed" in page
    assert "Kept is trial 1: log loss 0.45" in page and "has 1.07" in page
    assert "<td>given up at its validation 3: loss 2.1 is behind the others</td>" in page
    assert "<td>given up early</td>" in page
    assert "<td>failed: the loss is &lt;nan&gt;</td>" in page
    assert "--set train.learning_rate=0.002 --set train.batch.rows=16" in page
