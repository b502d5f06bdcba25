import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import ModelError
from luthier.models import attention
from luthier.models.attention import Documents, documents_plainly


def heads(count, tokens, size=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # As a model gives them: [T, heads, D] turned, not contiguous.
    return torch.randn(tokens, count, size, dtype=dtype, generator=generator).transpose(0, 1).requires_grad_()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    kv_heads=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 2]),
    block=st.sampled_from([1, 7, 256]),
)
def test_fast_backward_equals_plain(lengths, kv_heads, groups, block):
    q, k, v = (heads(n, sum(lengths), seed=n) for n in (kv_heads * groups, kv_heads, kv_heads))
    out_grad = heads(kv_heads * groups, sum(lengths), seed=9).detach()
    fast, plain = Documents.apply(q, k, v, lengths, 0.3), documents_plainly(q, k, v, lengths, 0.3)
    torch.testing.assert_close(fast, plain)
    before, attention.QUERY_BLOCK = attention.QUERY_BLOCK, block
    try:
        ours = torch.autograd.grad(fast, (q, k, v), out_grad)
    finally:
        attention.QUERY_BLOCK = before
    for one, other in zip(ours, torch.autograd.grad(plain, (q, k, v), out_grad), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-10)


def test_fast_backward_in_bf16_stays_near_fp32():
    lengths = [30, 50]
    q, k, v = (heads(n, 80, dtype=torch.float32, seed=n) for n in (4, 2, 2))
    exact = torch.autograd.grad(documents_plainly(q, k, v, lengths, 0.3).square().sum(), (q, k, v))
    halves = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    rough = torch.autograd.grad(Documents.apply(*halves, lengths, 0.3).float().square().sum(), halves)
    for one, other in zip(rough, exact, strict=True):
        # bf16 keeps 8 bits: relative errors around 1/256 per operation.
        assert (one.float() - other).norm() / other.norm() < 0.02


def test_packed_equals_one_document_at_a_time(tiny, logits):
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(3, 500, (n,), generator=generator).tolist() for n in (5, 1, 40, 17)]
    row = torch.tensor([[token for document in documents for token in document]])
    packed = tiny(input_ids=row, **attention.packed([5, 1, 40, 17]), use_cache=False).logits[0]
    alone = torch.cat([logits(tiny, document) for document in documents])
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)


def test_packed_gradients_equal_one_document_at_a_time(tiny):
    def gradient(rows):
        tiny.zero_grad()
        for row, kwargs in rows:
            out = tiny(input_ids=torch.tensor([row]), use_cache=False, **kwargs).logits
            out.log_softmax(-1).square().sum().backward()
        return [p.grad.clone() for p in tiny.parameters()]

    a, b = list(range(10, 25)), list(range(100, 140))
    one = gradient([(a + b, attention.packed([15, 40]))])
    two = gradient([(a, {}), (b, {})])
    for x, y in zip(one, two, strict=True):
        assert (x - y).norm() / y.norm() < 1e-4


def test_padding_is_masked_when_someone_pads(tiny, logits):
    ids = [10, 11, 12, 13]
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    padded = tiny(input_ids=torch.tensor([[0, 0, *ids]]), attention_mask=mask, use_cache=False,
                  position_ids=torch.tensor([[0, 0, 0, 1, 2, 3]])).logits[0, 2:]  # fmt: skip
    torch.testing.assert_close(padded, logits(tiny, ids), atol=1e-4, rtol=1e-4)


def test_transformers_own_generation_works_with_it(tiny, logits):
    ids = list(range(20, 30))
    with torch.no_grad():
        out = tiny.generate(
            torch.tensor([ids]), max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    expected = list(ids)
    for _ in range(5):
        expected.append(int(logits(tiny, expected)[-1].argmax()))
    assert out[0].tolist() == expected


def test_attention_that_needs_more_is_refused(tiny):
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ModelError, match="softcap"):
        attention.varlen(tiny, q, q, q, None, softcap=50.0)
