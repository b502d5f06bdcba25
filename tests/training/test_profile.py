"""Arithmetic counted by hand, a recorded step split so that nothing is lost, and the bottleneck's name."""

from types import SimpleNamespace

import pytest
import torch

from luthier.core.testing import FakeContext
from luthier.models.weights import ModelFacts
from luthier.training.flops import Flops, Peak, measure_peak, of_sequences
from luthier.training.profile import BUSY, Bottleneck, Profile, name_bottleneck, together
from luthier.training.spec import TrainSpec
from luthier.training.split_time import BACKBONE, BACKWARD, FORWARD, INPUT, KINDS, OPTIMIZER, split

# h 8, q 2·4, k 1·4, i 16: matrices of a block 8·8 + 4·8 + 4·8 + 8·8 + 3·16·8 = 576.
FACTS = ModelFacts(
    parameters=10_000,
    layers=3,
    hidden=8,
    heads=2,
    kv_heads=1,
    head_size=4,
    vocabulary=100,
    intermediate=16,
    context=64,
    tied=True,
    dtype="fp32",
)


def spec(**given):
    return TrainSpec.model_validate(given)


@pytest.fixture(autouse=True)
def _small_products(monkeypatch):
    monkeypatch.setattr("luthier.training.flops.SQUARE", 128)
    monkeypatch.setattr("luthier.training.flops.SECONDS_EACH", 0.01)


# -- arithmetic ---------------------------------------------------------------------------------------------------------


def test_flops_of_lora_by_hand():
    told = of_sequences(spec(adapter={"kind": "lora", "rank": 2}), FACTS, [5, 3], supervised=4)
    # Eight tokens through three blocks, forward and the inputs' gradient.
    assert told.matrices == 2 * 576 * 8 * (3 + 3)
    # r·(in + out): q and o 2·16, k and v 2·12, three of 24; 128·2·3 numbers; six operations each and token.
    assert told.adapter == 6 * 2 * (2 * 16 + 2 * 12 + 3 * 24) * 3 * 8
    # Causal: 5·6/2 + 3·4/2 pairs, two products of 2·8 operations each; forward, and twice that backward.
    assert told.attention == (15 + 6) * 2 * (2 * 8) * 3 * (1 + 2)
    # The head on four positions, forward and the inputs' gradient.
    assert told.head == 2 * 100 * 8 * 4 * 2
    assert told.total == told.matrices + told.adapter + told.attention + told.head


def test_flops_of_full_fine_tuning_by_hand():
    # The rule of thumb, 6·P·T (Kaplan et al. 2020): forward, inputs' gradient, weights' gradient.
    told = of_sequences(spec(adapter={"kind": "full"}), FACTS, [8], supervised=8)
    assert told.matrices == 6 * 576 * 3 * 8 and told.adapter == 0
    assert told.head == 6 * 100 * 8 * 8
    # Of the topmost block alone: three blocks forward, one for each gradient.
    top = of_sequences(spec(adapter={"kind": "full", "last_layers": 1}), FACTS, [8], supervised=8)
    assert top.matrices == 2 * 576 * 8 * (3 + 1 + 1)


def test_a_loss_that_does_not_read_the_vocabulary_has_no_head():
    assert of_sequences(TrainSpec(), FACTS, [8], 8, through_vocabulary=False).head == 0


def test_counted_flops_are_torchs_own(base):
    """torch counts what it dispatches: the linear layers and the head; its count knows nothing of our formula."""
    from torch.utils.flop_counter import FlopCounterMode

    from luthier.models.adapters import Full
    from luthier.models.attention import packed
    from luthier.models.spec import FullSpec
    from luthier.models.weights import describe, load

    facts, model = describe(base), Full().attach(load(base), FullSpec(), 0)
    with FlopCounterMode(display=False) as counter:
        out = model(input_ids=torch.arange(12)[None], use_cache=False, **packed([7, 5]))
        out.logits.sum().backward()
    told = of_sequences(spec(adapter={"kind": "full"}), facts, [7, 5], supervised=12)
    seen = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
    # The lowest block's inputs have a gradient here too: the embeddings move.
    assert seen["aten.mm"] == told.matrices + told.head


def test_the_machines_rate_is_measured():
    told = measure_peak(FACTS, 16, "fp32")
    assert set(told.square) == {"fp32", "bf16"} and told.rows == 16
    assert all(1e6 < rate < 1e15 for rate in (*told.square.values(), told.model))


# -- where time goes ----------------------------------------------------------------------------------------------------


def event(name, own_us, *children, seq=-1):
    made = SimpleNamespace(
        name=name, self_cpu_time_total=own_us, sequence_nr=seq, cpu_children=list(children), cpu_parent=None,
        self_device_time_total=0, time_range=SimpleNamespace(start=0),
    )  # fmt: skip
    for child in children:
        child.cpu_parent = made
    return made


def events(*roots):
    """All of them, with starts in the order of writing."""
    found = []

    def walk(one):
        one.time_range.start = len(found)
        found.append(one)
        for child in one.cpu_children:
            walk(child)

    for root in roots:
        walk(root)
    return found


def seconds(told):
    return {kind: us for kind, value in told.kinds.items() if (us := round(1e6 * value))}


def test_each_microsecond_goes_to_one_kind():
    told = split(
        events(
            event(INPUT, 5, event("aten::cat", 1)),
            event(
                FORWARD,
                10,  # the interpreter
                event(
                    BACKBONE,
                    7,
                    event("aten::addmm", 100, seq=1),
                    event("LineAttention", 3, event("aten::bmm", 20), event("aten::softmax", 2), seq=2),
                    event("_Norm", 30, seq=3),
                ),
                event("aten::mm", 50, seq=4),
                event("aten::_log_softmax", 5, seq=5),
            ),
            event(
                BACKWARD,
                1,
                event("autograd::engine::evaluate_function: LogSoftmaxBackward0", 1, event("LogSoftmaxBackward0", 1, event("aten::mul", 6)), seq=5),
                event("autograd::engine::evaluate_function: MmBackward0", 1, event("MmBackward0", 1, event("aten::mm", 60)), seq=4),
                event("autograd::engine::evaluate_function: NormBackward", 1, event("_NormBackward", 31), seq=3),
                event("autograd::engine::evaluate_function: LineAttentionBackward", 1, event("LineAttentionBackward", 1, event("aten::bmm", 40)), seq=2),
                event("autograd::engine::evaluate_function: AddmmBackward0", 1, event("aten::mm", 200), seq=1),
                event("c10d::allreduce_", 9),
            ),
            event(OPTIMIZER, 2, event("aten::_fused_adamw_", 8)),
        ),
        wall_s=1000e-6,
    )  # fmt: skip
    assert seconds(told) == {
        "input": 6,
        "matmul": 100 + 200,
        "attention": 3 + 20 + 2 + 1 + 40,
        "element_wise": 30 + 31,
        "head": 50
        + 5
        + 6
        + 60,  # forward by its place, backward by the number of the operation it belongs to
        "communication": 9,
        "optimizer": 10,
        "other": 1000 - 6 - 300 - 66 - 61 - 121 - 9 - 10,
    }
    assert sum(told.shares().values()) == pytest.approx(1) and set(told.kinds) == set(KINDS)
    assert next(iter(told.operations.items())) == ("aten::mm", pytest.approx(310e-6))


def test_without_a_backbone_the_head_is_known_by_its_loss_alone():
    told = split(
        events(event(FORWARD, 0, event("aten::mm", 10), event("aten::cross_entropy_loss", 4))), 14e-6
    )
    assert seconds(told) == {"matmul": 10, "head": 4}


def test_on_a_gpu_an_operation_takes_its_kernels_time():
    one = event(FORWARD, 50, event("aten::mm", 30))
    one.cpu_children[0].self_device_time_total = 70
    assert seconds(split(events(one), 100e-6, "cuda")) == {"matmul": 70, "other": 30}


# -- what holds it back -------------------------------------------------------------------------------------------------

FAST_BF16 = Peak({"fp32": 5e10, "bf16": 15e10}, 1e11, 2000)
NO_BF16 = Peak({"fp32": 5e10, "bf16": 1e10}, 4e10, 2000)


def named(shares, peak=NO_BF16, dtype="fp32", tokens=2000, memory=0.1, **given):
    return name_bottleneck(
        spec(**given), {**dict.fromkeys(KINDS, 0.0), **shares}, peak, dtype, tokens, memory
    )


def test_every_kind_of_work_waits_for_something():
    assert sorted(kind for kinds in BUSY.values() for kind in kinds) == sorted(KINDS)


@pytest.mark.parametrize(
    ("shares", "given", "kind", "remedy"),
    [
        ({"matmul": 0.7, "other": 0.3}, {}, "compute", "fewer or shorter rows"),
        ({"matmul": 0.7, "other": 0.3}, {"peak": FAST_BF16}, "compute", "3.0 times as fast"),
        ({"matmul": 0.3, "attention": 0.5}, {}, "compute", "shorten the longest rows"),
        ({"matmul": 0.2, "head": 0.5}, {}, "compute", "smaller vocabulary"),
        ({"matmul": 0.7}, {"adapter": {"kind": "full"}}, "compute", "train.adapter.kind: lora"),
        ({"matmul": 0.7}, {"batch": {"micro_tokens": 256}, "tokens": 250}, "compute", "Raise train.batch.micro_tokens"),
        ({"element_wise": 0.6, "matmul": 0.4}, {}, "memory", "not fused"),
        ({"element_wise": 0.6, "matmul": 0.4}, {"peak": FAST_BF16}, "memory", "train.dtype: bf16"),
        ({"optimizer": 0.6, "matmul": 0.4}, {}, "memory", "raise train.batch.rows"),
        ({"input": 0.6, "matmul": 0.4}, {}, "input", "micro_tokens"),
        ({"communication": 0.6, "matmul": 0.4}, {}, "communication", "fewer processes"),
        ({"other": 0.6, "matmul": 0.4}, {}, "overhead", "micro_tokens"),
        ({"matmul": 0.7}, {"memory": 0.95}, "memory", "activation_checkpointing: true"),
        ({"matmul": 0.7}, {"memory": 0.95, "activation_checkpointing": True}, "memory", "micro_tokens"),
    ],
)  # fmt: skip
def test_the_bottleneck_and_its_remedy(shares, given, kind, remedy):
    told = named(shares, **given)
    assert told.kind == kind and remedy in told.remedy


def test_the_reason_carries_the_figures():
    told = named({"matmul": 0.62, "attention": 0.1, "element_wise": 0.2})
    assert (
        told.share == pytest.approx(0.72)
        and told.reason == "72% of a step: matrix products 62%, attention 10%"
    )


# -- a real one ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"adapter": {"kind": "full"}, "activation_checkpointing": True}])
def test_a_real_profile_adds_up(work, given):
    from luthier.core.testing import FakeContext
    from luthier.models.weights import describe
    from luthier.training.profile import profile
    from luthier.training.train import tokenised

    wish = spec(dtype="fp32", batch={"rows": 8, "micro_tokens": 150}, **given)
    work.folder.mkdir()
    at = FakeContext(work.folder)
    method = wish.method.load()(wish.method.settings)
    splits, template = tokenised(wish, method, work.base, work.dataset, 512, {}, work.folder, at)
    folders = {"base": work.base, "dataset": work.dataset}
    told = profile(wish, method, folders, splits, template, describe(work.base), 2, at)
    assert sum(told.shares.values()) == pytest.approx(1) and all(share >= 0 for share in told.shares.values())
    assert all(told.shares[kind] > 0 for kind in ("matmul", "attention", "element_wise", "head", "optimizer"))
    assert told.shares["communication"] == told.shares["generation"] == 0
    assert told.steps == 2 and told.step_s > 0 and told.tokens_per_step > 8
    assert told.achieved == pytest.approx(
        told.flops_per_step.total / told.tokens_per_step * told.tokens_per_s
    )
    assert told.plain()["of_peak"] == pytest.approx(told.achieved / told.peak.square["fp32"])
    assert {"forward", "backward", "optimizer", "input"} <= {
        name for name, share in told.phases.items() if share
    }


def test_the_profiles_memory_is_not_that_of_what_was_before(work):
    import numpy as np

    from luthier.core.testing import FakeContext
    from luthier.models.weights import describe
    from luthier.training.memory import peak_bytes_so_far
    from luthier.training.profile import profile
    from luthier.training.train import tokenised

    held = np.ones(100_000_000)  # 0.8 GB
    most = peak_bytes_so_far()
    del held
    wish = spec(dtype="fp32", batch={"rows": 8, "micro_tokens": 150})
    work.folder.mkdir()
    at = FakeContext(work.folder)
    method = wish.method.load()(wish.method.settings)
    splits, template = tokenised(wish, method, work.base, work.dataset, 512, {}, work.folder, at)
    folders = {"base": work.base, "dataset": work.dataset}
    told = profile(wish, method, folders, splits, template, describe(work.base), 1, at)
    assert told.peak_bytes < most - 300_000_000


# -- several processes --------------------------------------------------------------------------------------------------


def alone(device="cpu"):
    return Profile(
        device=device, dtype="fp32", threads=2, fused=(), processes=1, exchange_s=0.0, steps=2, step_s=4.0,
        tokens_per_s=250.0, tokens_per_step=1000.0, supervised_per_step=300.0, micro_batches_per_step=2.0,
        first_step_s=5.0, shares={**dict.fromkeys(KINDS, 0.0), "matmul": 0.75, "element_wise": 0.25}, phases={},
        operations=[], recorded_slower=0.0, flops_per_step=Flops(1.0, 0.0, 0.0, 0.0), achieved=1.0,
        matmul_achieved=None, peak=NO_BF16, peak_bytes=1, machine_bytes=10, bottleneck=Bottleneck("compute", 0.75, "", ""),
    )  # fmt: skip


def test_processes_that_share_a_processor_by_hand():
    # 4 s of work whoever does it, and 12 s of exchange: three quarters of the step.
    told = together(alone(), 2, 12.0, spec(parallel={"kind": "ddp", "processes": 2}))
    assert (told.step_s, told.tokens_per_s) == (16.0, 62.5)
    assert told.shares["communication"] == 0.75 and told.shares["matmul"] == pytest.approx(0.75 / 4)
    assert sum(told.shares.values()) == pytest.approx(1)
    assert told.bottleneck.kind == "communication" and "fewer processes" in told.bottleneck.remedy


def test_processes_with_a_gpu_each_by_hand():
    # 4 s among two, and 2 s of exchange.
    told = together(alone("cuda"), 2, 2.0, spec(parallel={"kind": "ddp", "processes": 2}))
    assert (told.step_s, told.tokens_per_s, told.shares["communication"]) == (4.0, 250.0, 0.5)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_real_processes_exchange(work, kind):
    from luthier.models.adapters import Full
    from luthier.models.spec import FullSpec
    from luthier.models.weights import load
    from luthier.training import exchange

    wish = spec(parallel={"kind": kind, "processes": 2}, adapter={"kind": "full"}, device="cpu")
    model = Full().attach(load(work.base), FullSpec(), 0)
    made = SimpleNamespace(spec=wish, model=model, parameters=list(model.named_parameters()))
    sizes = exchange.sizes_of(made)
    assert sum(sizes) == model.num_parameters() and len(sizes) == (
        len(made.parameters) if kind == "ddp" else 3
    )
    few, many = (exchange.seconds_of(wish, [n], 1, FakeContext(work.folder)) for n in (10, 30_000_000))
    assert 0 < few < many  # 10 numbers against 120 MB


def test_processes_that_cannot_speak_are_told(work, monkeypatch):
    from luthier.core.errors import ModelError
    from luthier.training import exchange

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    monkeypatch.setattr(exchange, "PATIENCE_S", 60)
    with pytest.raises(ModelError, match="2 processes could not exchange gradients on this machine"):
        exchange.seconds_of(
            spec(parallel={"kind": "ddp", "processes": 2}, device="cpu"), [10], 1, FakeContext(work.folder)
        )
