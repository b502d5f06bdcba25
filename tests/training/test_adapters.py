"""Every adapter through the whole stage: trained, kept, resumed to the same bytes, and read back with the loss it told."""

import pytest
import torch

from luthier.core.errors import Interrupted
from luthier.core.testing import FakeContext
from luthier.models.template import Template
from luthier.models.weights import describe, load, load_tokenizer
from luthier.training.methods.sft import Sft, SftSettings
from luthier.training.rows import read_split
from luthier.training.spec import TrainSpec

from .conftest import conversation, record

KINDS = {
    "rslora": {"kind": "lora", "rank": 4, "rslora": True},
    "dora on the last block": {"kind": "lora", "rank": 4, "dora": True, "last_layers": 1},
    "ia3": {"kind": "ia3"},
    "last block": {"kind": "full", "last_layers": 1},
    "from random weights": {"kind": "full", "init": "random"},
    "head": {"kind": "head"},
}
QUANTISED = {"kind": "lora", "rank": 4, "quantize": "4bit"}


def loss_of(model, work):
    template = Template(load_tokenizer(work.base), 512)
    sft = Sft(SftSettings())
    rows = read_split(
        work.dataset / "validation.parquet", sft, template, {}, work.folder, FakeContext(work.folder)
    )
    batch = sft.collate(list(rows))
    with torch.no_grad():
        return sft.loss(model, batch).sum.item() / sum(batch.row_weights)


@pytest.mark.parametrize("adapter", KINDS.values(), ids=KINDS)
def test_what_is_kept_has_the_loss_that_was_told(adapter, work):
    summary = work.run(adapter=adapter)
    losses = [one["loss"] for one in work.history()["validation"]]
    assert min(losses) < losses[0]
    assert loss_of(load(work.out, base_folder=work.base), work) == pytest.approx(min(losses), rel=1e-5)
    planned = TrainSpec.model_validate({"adapter": adapter}).adapter.trained_parameters(describe(work.base))
    assert summary["trained_parameters"] == planned


def test_on_a_quantised_base_the_loss_is_nearly_the_one_that_was_told(work):
    """Told is the quantised base's; kept, measured and served is the adapter on the base as it was."""
    work.run(adapter=QUANTISED)
    losses = [one["loss"] for one in work.history()["validation"]]
    assert min(losses) < losses[0]
    kept = loss_of(load(work.out, base_folder=work.base), work)
    assert kept != pytest.approx(min(losses), rel=1e-5)
    assert abs(kept - min(losses)) < 0.5 * (losses[0] - min(losses))


@pytest.mark.parametrize("adapter", [KINDS["ia3"], QUANTISED], ids=["ia3", "quantised"])
def test_in_bf16_too(adapter, work):
    work.run(adapter=adapter, dtype="bf16")
    losses = [one["loss"] for one in work.history()["validation"]]
    assert min(losses) < losses[0]


@pytest.mark.parametrize("adapter", [*KINDS.values(), QUANTISED], ids=[*KINDS, "quantised"])
def test_gone_on_with_it_ends_in_the_same_bytes(adapter, work, work_in, tmp_path):
    given = {"adapter": adapter, "max_steps": 4, "checkpoint_every": 1}
    work.run(**given)
    again = work_in(tmp_path / "again")
    again.stop_after_checks = 6
    with pytest.raises(Interrupted):
        again.run(**given)
    again.stop_after_checks = None
    again.run(**given)
    assert again.told("resumed")
    assert again.files() == work.files()


def test_a_classification_head_alone(new_work):
    """Linear probing: of the language model only the last norm moves, and its own head stays tied."""
    rows = [record(i, label=conversation(i)[-1]["content"]) for i in range(30)]
    work = new_work("probe", train=rows[:24], validation=rows[24:])
    summary = work.run(adapter={"kind": "head"}, method="classify", learning_rate=0.05)
    losses = [one["loss"] for one in work.history()["validation"]]
    assert min(losses) < losses[0]
    assert summary["trained_parameters"] == 16 + 2 * 16  # the norm; two labels' scores
    assert describe(work.out).tied
