"""The quantised base: its sixteen values derived, its bytes counted, its rounding bounded, its gradient the plain one."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import ModelError
from luthier.models import shapes, weights
from luthier.models.quantised import NF4, QuantisedLinear, dequantise, quantise, quantise_blocks

BITS = ("8bit", "4bit")


def linear(out=48, into=96, seed=0, bias=False):
    torch.manual_seed(seed)
    return torch.nn.Linear(into, out, bias=bias).requires_grad_(False)


def bytes_of(module):
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def test_the_sixteen_values_are_quantiles_of_a_normal_distribution():
    # Dettmers et al. 2023, section 3; the tail beyond the outermost quantile is, in their code, (1/(2·15) + 1/(2·16))/2 of the
    # mass on either side; nine points from 1/2 to there give the eight positive values, eight give the seven negative.
    outermost = 1 - (1 / (2 * 15) + 1 / (2 * 16)) / 2
    quantile = NormalDist().inv_cdf

    def side(points):
        return [quantile(0.5 + (outermost - 0.5) * k / (points - 1)) for k in range(1, points)]

    values = sorted([-v for v in side(8)] + [0.0] + side(9))
    largest = max(values)
    assert [v / largest for v in values] == pytest.approx(NF4, abs=1e-6)


def test_memory_by_hand():
    # 48·96 = 4608 weights. 8bit: a byte each and 4 for each of 48 rows. 4bit: half a byte each, 4 for each of 72 blocks.
    assert bytes_of(QuantisedLinear(linear(), "8bit")) == 4608 + 4 * 48 == 4800
    assert bytes_of(QuantisedLinear(linear(), "4bit")) == 4608 // 2 + 4 * 72 == 2592
    # 7·11 = 77 weights fill one block and part of a second: 2·32 + 2·4.
    assert bytes_of(QuantisedLinear(linear(7, 11), "4bit")) == 72
    for bits in BITS:
        for out, into in ((48, 96), (7, 11)):
            assert bytes_of(QuantisedLinear(linear(out, into), bits)) == shapes.quantised_bytes(
                out, into, bits
            )


@given(st.integers(1, 9), st.integers(1, 140), st.integers(0, 10**6), st.sampled_from([1e-6, 1.0, 300.0]))
def test_no_weight_moves_by_more_than_half_a_gap(out, into, seed, size):
    weight = torch.randn(out, into, generator=torch.Generator().manual_seed(seed)) * size
    back = dequantise(*quantise(weight, "8bit"), weight.shape, torch.float32)
    # 8bit: 127 steps up to the row's largest.
    half = weight.abs().amax(1, keepdim=True) / 127 / 2
    assert ((back - weight).abs() <= half * (1 + 1e-3)).all()
    # 4bit: the widest gap of the sixteen values is from -1 to -0.696.
    back = dequantise(*quantise(weight, "4bit"), weight.shape, torch.float32)
    flat = torch.nn.functional.pad(weight.view(-1), (0, -weight.numel() % 64)).view(-1, 64)
    half = (flat.abs().amax(1, keepdim=True) * (1 - 0.6961928) / 2).expand(-1, 64).reshape(-1)
    assert ((back - weight).view(-1).abs() <= half[: weight.numel()] * (1 + 1e-3)).all()


@pytest.mark.parametrize("bits", BITS)
def test_what_is_already_on_the_grid_stays(bits):
    weight = linear().weight
    once = dequantise(*quantise(weight, bits), weight.shape, torch.float32)
    again = dequantise(*quantise(once, bits), weight.shape, torch.float32)
    torch.testing.assert_close(again, once, atol=0, rtol=1e-6)
    zeros = torch.zeros(3, 64)
    assert torch.equal(dequantise(*quantise(zeros, bits), zeros.shape, torch.float32), zeros)


def test_four_bits_by_hand():
    # Largest 2, so the values are looked for at 0.5, 0.01, -1 and 1: the nearest are 0.4407, 0, -1 and 1, times two.
    weight = torch.zeros(1, 64)
    weight[0, :4] = torch.tensor([1.0, 0.02, -2.0, 2.0])
    codes, scales = quantise(weight, "4bit")
    assert scales.tolist() == [[2.0]]
    # 0.4407 is number 12, zero number 7, -1 number 0, 1 number 15: bytes 12·16 + 7 and 0·16 + 15, then zeros.
    assert codes[0, :3].tolist() == [12 * 16 + 7, 15, 7 * 16 + 7]
    back = dequantise(codes, scales, (1, 64), torch.float32)[0, :5].tolist()
    assert back == pytest.approx([0.8814197, 0.0, -2.0, 2.0, 0.0])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_and_gradient_equal_a_plain_layer_with_the_dequantised_weights(bits, dtype):
    plain = linear(bias=True).to(dtype)
    layer = QuantisedLinear(linear(bias=True).to(dtype), bits)
    plain.weight = torch.nn.Parameter(layer.weight, requires_grad=False)
    x = torch.randn(5, 96, dtype=dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    up = torch.randn(5, 48, dtype=dtype)
    layer(ours).backward(up)
    plain(theirs).backward(up)
    tolerance = (
        1e-6 if dtype == torch.float32 else 2e-2
    )  # the bias is added before or after one rounding to bf16
    torch.testing.assert_close(layer(x), plain(x), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bits", BITS)
def test_neither_inputs_nor_weights_are_kept_for_the_backward_pass(bits):
    layer, kept = QuantisedLinear(linear(), bits), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(torch.randn(5, 96, requires_grad=True))
    assert y.grad_fn is not None and kept == []


def test_autocast_chooses_the_format_of_the_product():
    layer = QuantisedLinear(linear(), "8bit")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 96)).dtype == torch.bfloat16
    assert layer(torch.randn(2, 96)).dtype == torch.float32


def test_only_the_blocks_matrices_are_quantised(tiny, tiny_folder):
    quantise_blocks(tiny, "4bit")
    kinds = {name.rpartition(".")[2] for name, m in tiny.named_modules() if isinstance(m, QuantisedLinear)}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert type(tiny.get_output_embeddings()) is torch.nn.Linear
    # hidden 32, kv 16, intermediate 64: 4-bit bytes of q, o 1024·9/16, k, v 512·9/16, three of 2048·9/16; two blocks.
    packed = 2 * (2 * 1024 + 2 * 512 + 3 * 2048) * 9 // 16
    # The rest is fp32: embeddings V·32 (the head is tied) and five norms of 32.
    vocabulary = tiny.config.vocab_size
    rest = 4 * (vocabulary * 32 + 5 * 32)
    rotary = sum(b.numel() * b.element_size() for n, b in tiny.named_buffers() if "inv_freq" in n)
    assert bytes_of(tiny) - rotary == packed + rest
    assert shapes.base_bytes(weights.describe(tiny_folder), "fp32", "4bit") == packed + rest


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_that_is_no_number_is_refused(bits):
    layer = linear()
    layer.weight[3, 5] = math.nan
    with pytest.raises(ModelError, match=r"cannot be quantised(.|\n)*Fetch the model again"):
        QuantisedLinear(layer, bits)
