"""Activation checkpointing gives the same bits: losses, gradients, with dropout and under autocast."""

import pytest
import torch

from luthier.models.adapters import Full, Lora
from luthier.models.attention import packed
from luthier.models.fast import quicken
from luthier.models.spec import FullSpec, LoraSpec
from luthier.models.weights import load
from luthier.training.machine import Machine
from luthier.training.recompute import recompute_blocks


def machine(dtype):
    return Machine("cpu", dtype, 1, "", "")


def loss_and_gradients(base, adapter, spec, dtype, recompute, fused):
    model = adapter.attach(load(base, dtype="fp32" if isinstance(spec, FullSpec) else dtype), spec, 0).train()
    if fused:
        assert "norms" in quicken(model).parts
    precision = machine(dtype).precision
    if recompute:
        assert recompute_blocks(model, precision) == 2
    torch.manual_seed(0)
    with precision(model):
        out = model(input_ids=torch.arange(20)[None], use_cache=False, **packed([8, 12]))
        loss = out.logits.float().square().mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("adapter", "spec"),
    [(Lora(), LoraSpec(rank=4)), (Lora(), LoraSpec(rank=4, dropout=0.3)), (Full(), FullSpec())],
    ids=["lora", "dropout", "full"],
)
@pytest.mark.parametrize("fused", [False, True])
def test_the_same_bits(base, adapter, spec, dtype, fused):
    plain, gradients = loss_and_gradients(base, adapter, spec, dtype, False, fused)
    again, gradients_again = loss_and_gradients(base, adapter, spec, dtype, True, fused)
    assert plain == again and gradients.keys() == gradients_again.keys() and gradients
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)


def test_what_is_kept_between_the_passes_is_less(base):
    def kept_bytes(recompute):
        model = Full().attach(load(base), FullSpec(), 0).train()
        if recompute:
            recompute_blocks(model, machine("fp32").precision)
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.get_decoder()(input_ids=torch.arange(200)[None], use_cache=False, **packed([200]))
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(size for place, size in sizes.items() if place not in weights)

    assert kept_bytes(True) < kept_bytes(False) / 3


def test_training_with_it_ends_in_the_same_adapter(new_work, make_record):
    rows = [make_record(i) for i in range(16)]
    plain = new_work("plain", train=rows, validation=rows[:4])
    plain.run(activation_checkpointing=False)
    again = new_work("again", train=rows, validation=rows[:4])
    again.run(activation_checkpointing=True)
    name = "adapter_model.safetensors"
    assert plain.files()[name] == again.files()[name]


def test_turning_it_on_by_itself_is_told(new_work, make_record, monkeypatch):
    rows = [make_record(i) for i in range(16)]
    monkeypatch.setattr("luthier.training.assembly.machine_bytes", lambda device: 1_000_000)
    work = new_work("small", train=rows, validation=rows[:4])
    work.run()
    assert "than the 1.0 MB that this machine has" in work.told("activation_checkpointing")[0]["reason"]
