"""The CPU form and the CUDA form of a packed line against `Line.plainly`, and `plainly` against plain attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.models import attention, blocked, weights
from luthier.models.families import FAMILIES
from luthier.models.fast import kernels, quicken
from luthier.models.line import Line, Segment, document, steady
from luthier.models.testing import tiny_model


@st.composite
def lines(draw):
    """Up to three levels: each segment continues an earlier one or none."""
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    above = [draw(st.none() | st.integers(0, k - 1)) if k else None for k in range(len(lengths))]
    return Line([Segment(n, a) for n, a in zip(lengths, above, strict=True)])


def heads(count, tokens, size=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # As a model gives them: [T, heads, D] turned, not contiguous.
    return torch.randn(tokens, count, size, dtype=dtype, generator=generator).transpose(0, 1).requires_grad_()


def both(line, form, plain, dtype=torch.float64, kv_heads=2, groups=2, close=None):
    """Compare outputs and gradients of two forms."""
    q, k, v = (heads(n, line.tokens, dtype=dtype, seed=n) for n in (kv_heads * groups, kv_heads, kv_heads))
    out_grad = heads(kv_heads * groups, line.tokens, dtype=dtype, seed=9).detach()
    one, other = form(q, k, v), plain(q, k, v)
    found = (one, *torch.autograd.grad(one, (q, k, v), out_grad))
    wanted = (other, *torch.autograd.grad(other, (q, k, v), out_grad))
    for a, b in zip(found, wanted, strict=True):
        if close is None:
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)
        else:
            assert (a - b).norm() <= close * b.norm()


@settings(max_examples=40, deadline=None)
@given(
    line=lines(),
    kv_heads=st.sampled_from([1, 3]),
    groups=st.sampled_from([1, 2]),
    queries=st.sampled_from([7, 256]),
    scores=st.sampled_from([1, 1 << 19]),
    window=st.sampled_from([None, 1, 5, 30]),
)
def test_blocks_equal_one_segment_at_a_time(line, kv_heads, groups, queries, scores, window):
    kept = blocked.QUERIES, blocked.SCORES
    blocked.QUERIES, blocked.SCORES = queries, scores
    try:
        both(
            line,
            lambda q, k, v: line.attend(0, q, k, v, 0.3, window),
            lambda q, k, v: line.plainly(q, k, v, 0.3, window),
            kv_heads=kv_heads,
            groups=groups,
        )
    finally:
        blocked.QUERIES, blocked.SCORES = kept


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The kernels in use, and afterwards as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_library", None)
        if why := kernels.use(tmp_path_factory.mktemp("kernels")):
            pytest.skip(why)
        yield


@settings(max_examples=15, deadline=None)
@given(line=lines())
def test_the_compiled_softmax_gives_the_same(compiled, line):
    def without(q, k, v):
        with kernels.plainly():
            return line.attend(0, q, k, v, 0.3, None)

    both(line, lambda q, k, v: line.attend(0, q, k, v, 0.3, None), without, torch.float32, close=2e-6)


@settings(max_examples=15, deadline=None)
@given(line=lines(), window=st.sampled_from([None, 5]))
def test_a_segment_sees_what_it_continues_and_itself(line, window):
    """Each sequence by itself, from its first token on, is what the line must give for its last segment."""
    q, k, v = (heads(n, line.tokens, seed=n) for n in (4, 2, 2))
    told = line.plainly(q, k, v, 0.3, window)
    for at, segment in enumerate(line.segments):
        chain = [at]
        while (above := line.segments[chain[-1]].above) is not None:
            chain.append(above)
        places = [line.starts[i] + j for i in reversed(chain) for j in range(line.segments[i].tokens)]
        alone = document(q[:, places], k[:, places], v[:, places], 0.3, window=window)
        torch.testing.assert_close(
            told[:, places[-segment.tokens :]], alone[:, -segment.tokens :], atol=1e-12, rtol=1e-10
        )
        assert line.position_ids()[0, places].tolist() == list(range(len(places)))


def varlen_plainly(q, k, v, edges_q, edges_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
    """What torch's kernel computes, sequence by sequence: both ends aligned."""
    assert longest_q == int(edges_q.diff().max()) and longest_k == int(edges_k.diff().max())
    assert window_size[1] == 0 and enable_gqa == (q.shape[1] != k.shape[1])
    window = None if window_size[0] < 0 else window_size[0] + 1
    out = []
    for a, b, c, d in zip(edges_q, edges_q[1:], edges_k, edges_k[1:], strict=False):
        q_HND, k_KSD, v_KSD = (x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d]))
        out.append(document(q_HND, k_KSD, v_KSD, scale, window=window).transpose(0, 1))
    return torch.cat(out)


@settings(max_examples=15, deadline=None)
@given(line=lines(), window=st.sampled_from([None, 5]))
def test_the_form_for_cuda_equals_plain(line, window):
    """Its logic: the kernel itself needs a GPU and is replaced by its plain twin."""
    from torch.nn.attention import varlen

    real, varlen.varlen_attn = varlen.varlen_attn, varlen_plainly
    try:
        both(
            line,
            lambda q, k, v: line.by_varlen(q, k, v, 0.3, window),
            lambda q, k, v: line.plainly(q, k, v, 0.3, window),
        )
    finally:
        varlen.varlen_attn = real


def test_bf16_stays_near_fp32():
    line = Line([Segment(30), Segment(50), Segment(20, 1), Segment(9, 1)])
    q, k, v = (heads(n, line.tokens, dtype=torch.float32, seed=n) for n in (4, 2, 2))
    exact = torch.autograd.grad(line.plainly(q, k, v, 0.3).square().sum(), (q, k, v))
    halves = [x.detach().bfloat16().requires_grad_() for x in (q, k, v)]
    rough = torch.autograd.grad(line.attend(0, *halves, 0.3, None).float().square().sum(), halves)
    for one, other in zip(rough, exact, strict=True):
        # bf16 keeps 8 bits: relative errors around 1/256 per operation.
        assert (one.float() - other).norm() / other.norm() < 0.02


SETTINGS = {
    "mistral": {"sliding_window": 8},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_in_every_family(family, fused, tmp_path):
    """[p][a][b] against [p a][p b]: logits of the ends, and the gradient of every weight; windows of 8 tokens end within
    the prefix."""
    model = weights.load(tiny_model(tmp_path / "m", family=family, **SETTINGS.get(family, {})))
    if fused:
        assert "projections" in quicken(model).parts
    p, a, b = torch.randint(3, 500, (36,), generator=torch.Generator().manual_seed(1)).split([21, 10, 5])
    line = Line([Segment(21), Segment(10, 0), Segment(5, 0)])

    def told(ids, places, keywords):
        model.zero_grad()
        logits = model(input_ids=ids[None], **keywords, use_cache=False).logits[0, places]
        logits.log_softmax(-1).square().mean().backward()
        return logits.detach(), [x.grad.clone() for x in model.parameters()]

    shared = told(torch.cat([p, a, b]), slice(21, 36), attention.along(line))
    alone = [*range(21, 31), *range(52, 57)]
    plain = told(torch.cat([p, a, p, b]), alone, attention.packed([31, 26]))
    torch.testing.assert_close(shared[0], plain[0], atol=2e-4, rtol=2e-4)
    for one, other in zip(shared[1], plain[1], strict=True):
        assert (one - other).norm() <= 2e-5 * other.norm() + 1e-9


def test_dropout_and_wrong_rows_are_refused():
    line = Line([Segment(3), Segment(2, 0)])
    x = torch.zeros(2, 5, 4)
    with pytest.raises(ValueError, match="shares prefixes"):
        line.attend(0, x, x, x, 1.0, None, dropout=0.1)
    with pytest.raises(ValueError, match="the line has 5 tokens"):
        line.attend(0, x[:, :4], x[:, :4], x[:, :4], 1.0, None)
    with pytest.raises(ValueError, match="does not stand before it"):
        Line([Segment(3, 0)])


def test_a_model_with_dropout_is_not_steady(tmp_path):
    assert steady(weights.load(tiny_model(tmp_path / "plain")))
    assert not steady(weights.load(tiny_model(tmp_path / "drops", attention_dropout=0.1)))
    assert not steady(torch.nn.Sequential(torch.nn.Dropout(0.1)))
    assert steady(torch.nn.Sequential(torch.nn.Dropout(0.0)))
