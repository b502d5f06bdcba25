import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models import attention


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


def test_attention_that_looks_ahead_is_refused(tiny):
    x = torch.zeros(1, 2, 3, 4)
    module = tiny.model.layers[0].self_attn
    assert module.is_causal
    module.is_causal = False
    try:
        with pytest.raises(ModelError, match="looks at later tokens"):
            attention.varlen(module, x, x, x, None)
    finally:
        module.is_causal = True


def test_a_document_does_not_see_its_neighbours(tiny):
    lengths = [20, 30, 40]
    ids = torch.randint(3, 500, (1, 90), generator=torch.Generator().manual_seed(2))
    changed = ids.clone()
    changed[:, 20:50] = 7
    with torch.no_grad():
        one, two = (
            tiny(input_ids=x, **attention.packed(lengths), use_cache=False).logits[0] for x in (ids, changed)
        )
    assert torch.equal(one[:20], two[:20]) and torch.equal(one[50:], two[50:])
    assert not torch.allclose(one[20:50], two[20:50])


def test_attention_that_needs_more_is_refused(tiny):
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ModelError, match="softcap"):
        attention.varlen(tiny, q, q, q, None, softcap=50.0)
