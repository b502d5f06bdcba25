"""The regression head: its loss by hand, its units, and a run whose result loads and answers."""

import numpy as np
import pytest
import torch

from luthier.core.errors import DataError
from luthier.models import head as heads
from luthier.models.template import Template
from luthier.models.weights import load, load_tokenizer
from luthier.training.method import NoSettings
from luthier.training.methods.regress import Regress
from luthier.training.rows import Row, Tokens


def row(seed, n, value, weight=1.0):
    ids = np.random.default_rng(seed).integers(3, 300, n).astype(np.int32)
    told = np.zeros(n, bool)
    told[-1] = True
    return Row(f"row{seed}", weight, "", (Tokens(ids, told),), signal=value)


def numbered(record, i):
    """Rows whose number is 10 or 30."""
    *asked, _ = record["messages"]
    return {**record, "messages": [*asked, {"role": "assistant", "content": str(10 + 20 * (i % 2))}]}


def test_a_head_of_zeros_gives_the_mean(base):
    # mean 20, scale 10: targets 10 and 30 stand at -1 and +1; an output of zero is off by 1 each, by 10 in the units.
    method = Regress(NoSettings())
    method.mean, method.scale = 20.0, 10.0
    model = load(base)
    with torch.no_grad():
        heads.attach(model, heads.Number(20.0, 10.0), seed=0).score.weight.zero_()
    loss = method.loss(model, method.collate([row(1, 8, 10.0), row(2, 6, 30.0, weight=3.0)]))
    assert loss.sum.item() == pytest.approx(1 + 3) and loss.by_row.tolist() == pytest.approx([1, 3])
    assert loss.metrics["absolute_error"] == pytest.approx(40)
    template = Template(load_tokenizer(base), 512)
    assert heads.numbers(model, template, [[5, 6, 7], [8]]) == [20.0, 20.0]


def test_an_answer_that_is_no_number_is_refused(base, make_record):
    template = Template(load_tokenizer(base), 512)
    with pytest.raises(DataError, match=r"the answer '(billing|delivery)' is not a number"):
        Regress(NoSettings()).encode(make_record(0), template)


@pytest.mark.parametrize("number", ["0.3", "-7"])
def test_equal_numbers_are_nothing_to_learn(new_work, make_record, number):
    assert np.full(12, 0.3).std() > 0  # 6e-17, by which errors would be divided
    rows = [make_record(i) for i in range(16)]
    for one in rows:
        one["messages"][-1]["content"] = number
    work = new_work("equal", train=rows[:12], validation=rows[12:])
    with pytest.raises(
        DataError, match=rf"every training row has the same number \({number}\), so there is nothing to learn"
    ):
        work.run(method="regress")
    assert not work.told("training")


def test_a_trial_on_equal_rows_of_others_is_no_reason_to_refuse(base):
    # A plan measures a few rows: they may have one number though the data has others.
    class Few(list):
        signals = (0.3,) * 12

    method, model = Regress(NoSettings()), load(base)
    method.attach(model, {"train": Few()}, None, 0)
    assert method.scale == 1.0 and method.mean == pytest.approx(0.3)
    assert method.collate([row(1, 8, 0.3)]).targets_R.tolist() == pytest.approx([0.0], abs=1e-9)


def test_a_run_learns_numbers_and_gives_them_back(new_work, make_record):
    rows = [
        numbered(make_record(i % 2), i) | {"id": f"{i:032x}"} for i in range(40)
    ]  # two texts, two numbers
    work = new_work("numbers", train=rows[:32], validation=rows[32:])
    work.run(method="regress", learning_rate=0.02, epochs=6)
    told = [dict(e.data) for e in work.events if e.kind == "validation"]
    assert told[-1]["absolute_error"] < 0.5 * told[0]["absolute_error"]
    model = load(work.out, base_folder=work.base)
    assert heads.head_of(model).gives == heads.Number(20.0, 10.0)
    template = Template(load_tokenizer(work.base), 512)
    asked = [template.prompt(r["messages"][:-1]) for r in rows[:2]]
    low, high = heads.numbers(model, template, asked)
    assert low < 20 < high
