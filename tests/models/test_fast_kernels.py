"""Compiled formulas, plain formulas and torch's own autograd give the same; the loader never fails, it explains."""

import os
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core import native as core_native
from luthier.models.fast import kernels, native


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory):
    """Compiled from today's source, and not what a cache holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_library", None)
        kernels.use(tmp_path_factory.mktemp("kernels"))
        yield


@pytest.fixture(params=["compiled", "plain"])
def form(request):
    if request.param == "compiled":
        if not kernels.compiled():
            pytest.skip("no C compiler here")
        yield request.param
    else:
        with kernels.plainly():
            yield request.param


def draw(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def test_norm_by_hand(form):
    # mean(x²) = (9 + 16) / 2 = 12.5; with eps = 0 the scale is 1 / sqrt(12.5) = 0.2828427
    y, r = kernels.norm(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), 0.0, torch.float32)
    torch.testing.assert_close(y, torch.tensor([[0.8485281, 2.2627417]]))
    torch.testing.assert_close(r, torch.tensor([0.2828427]))


@pytest.mark.parametrize("heads", [None, 3])
@pytest.mark.parametrize("size", [7, 64, 1500])
def test_norm_and_its_gradient(form, heads, size):
    # A slice of a wider tensor, as q and k are of one product.
    wide = draw(5, (heads or 1) * size + 8)
    x = wide[:, : (heads or 1) * size]
    x = x.unflatten(1, (heads, size)) if heads else x
    scale, grad = draw(size, seed=1), draw(*x.shape, seed=2)
    leaf = x.clone().requires_grad_()
    plain = leaf * torch.rsqrt(leaf.square().mean(-1, keepdim=True) + 1e-6) * scale
    y, r = kernels.norm(x, scale, 1e-6, torch.float32)
    torch.testing.assert_close(y, plain.detach())
    torch.testing.assert_close(
        kernels.norm_back(grad, x, r, scale), torch.autograd.grad(plain, leaf, grad)[0], rtol=1e-4, atol=1e-5
    )


def test_rotary_by_hand(form):
    # A quarter turn takes (1, 0) to (0, 1): y₁ = x₁·0 - x₂·1, y₂ = x₂·0 + x₁·1. The third number has no pair.
    x = torch.tensor([[[1.0, 0.0, 5.0]]])
    cos, sin = torch.zeros(1, 2), torch.ones(1, 2)
    torch.testing.assert_close(
        kernels.rotate(x, cos, sin, torch.empty(1, 1, 3)), torch.tensor([[[0.0, 1.0, 5.0]]])
    )


@pytest.mark.parametrize("turned", [0, 4, 8])
def test_rotary_transposed_is_its_gradient(form, turned):
    x, grad = draw(5, 3, 8), draw(5, 3, 8, seed=1)
    cos, sin = draw(5, turned, seed=2), draw(5, turned, seed=3)
    y = kernels.rotate(x, cos, sin, torch.empty(5, 3, 8))
    back = kernels.rotate(grad, cos, sin, torch.empty(5, 3, 8), transposed=True)
    # <A x, g> = <x, Aᵀ g>
    torch.testing.assert_close((y * grad).sum(), (x * back).sum())
    inside = x.clone()
    assert torch.equal(kernels.rotate(inside, cos, sin, inside), y)


@pytest.mark.parametrize("act", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("size", [1, 7, 16, 64, 1024, 1500])
def test_gate_and_its_gradient(form, size, act):
    both, grad = draw(4, 2 * size, scale=3.0), draw(4, size, seed=1)
    leaf = both.clone().requires_grad_()
    g, u = leaf.chunk(2, 1)
    activated = (
        torch.nn.functional.silu(g) if act == "silu" else torch.nn.functional.gelu(g, approximate="tanh")
    )
    plain = activated * u
    torch.testing.assert_close(kernels.gate(*both.chunk(2, 1), act), plain.detach(), rtol=1e-5, atol=1e-6)
    back, again = kernels.gate_back(grad, *both.chunk(2, 1), act, again=True)
    torch.testing.assert_close(again, plain.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(back, torch.autograd.grad(plain, leaf, grad)[0], rtol=1e-4, atol=1e-5)


def test_cross_entropy_by_hand(form):
    # softmax(2·(0, ln 2 / 2)) = (1/3, 2/3), so the loss of the second is ln 1.5 and, weighted 3 and through the scale
    # of 2, its gradient 3·2·(1/3, 2/3 - 1) = (2, -2).
    logits = torch.tensor([[0.0, 0.34657359]])
    losses = kernels.cross_entropy_(logits, torch.tensor([1]), torch.tensor([3.0]), 2.0)
    torch.testing.assert_close(losses, torch.tensor([0.4054651]))
    torch.testing.assert_close(logits, torch.tensor([[2.0, -2.0]]))


def test_cross_entropy_of_what_is_not_a_number_is_not_a_number(form):
    bad = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0]])
    assert kernels.cross_entropy_(bad, torch.tensor([1, 1]), None).isnan().all()
    assert kernels.gate(bad, torch.ones(2, 2), "silu").isnan()[0, 0]


@pytest.mark.parametrize("length", [9, 1100])
def test_causal_softmax_and_its_gradient(form, length):
    scores, grad = draw(2, 6, length, scale=2.0), draw(2, 6, length, seed=1)
    first = length - 3  # rows 0..2 are three queries of one head, rows 3..5 of another
    leaf = scores.clone().requires_grad_()
    hidden = torch.arange(length)[None] > first + torch.arange(6)[:, None] % 3
    plain = torch.softmax((leaf * 0.5).masked_fill(hidden, float("-inf")), -1)
    shares = kernels.causal_softmax_(scores.clone(), 3, first, 0.5)
    torch.testing.assert_close(shares, plain.detach(), rtol=1e-5, atol=1e-7)
    # A key that is not seen has no share, whatever garbage its gradient is.
    back = kernels.causal_softmax_back_(grad.clone(), shares, 3, first, 0.5)
    torch.testing.assert_close(back, torch.autograd.grad(plain, leaf, grad)[0], rtol=1e-4, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40))
def test_compiled_rounding_to_bf16_is_torchs(values):
    # norm with a scale of one row is no identity, but a turn by nothing is: R = 0 copies, and x·1 rounds.
    x = torch.tensor([values])
    rounded, _ = kernels.norm(torch.ones(1, len(values)), x[0], 0.0, torch.bfloat16)
    tiny = x.abs() < 2e-38  # the processor's own rounding takes denormals for zero
    assert torch.equal(rounded[~tiny].isnan(), x.bfloat16()[~tiny].isnan())
    torch.testing.assert_close(rounded[~tiny], x.bfloat16()[~tiny], equal_nan=True, rtol=0, atol=0)


# -- bf16: what is stored has 8 bits, what is computed 24 ---------------------------------------------------------------

ONE_ROUNDING = {"rtol": 2**-8, "atol": 2e-5}
PLAIN_ROUNDINGS = {"rtol": 2**-6, "atol": 2e-2}
"""The plain twins may round in between."""


@pytest.fixture
def near(form):
    """Compare a result in bf16 with fp32 arithmetic on the same, rounded, inputs."""
    allowed = ONE_ROUNDING if form == "compiled" else PLAIN_ROUNDINGS

    def check(found, wanted):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), wanted.detach(), **allowed)

    return check


def halved(*shape, seed=0, scale=1.0):
    return draw(*shape, seed=seed, scale=scale).bfloat16()


@pytest.mark.parametrize("size", [7, 64, 1500])
def test_norm_of_bf16(near, size):
    x, grad, scale = halved(5, 3, size), halved(5, 3, size, seed=2), draw(size, seed=1)
    leaf = x.float().requires_grad_()
    plain = leaf * torch.rsqrt(leaf.square().mean(-1, keepdim=True) + 1e-6) * scale
    y, r = kernels.norm(x, scale, 1e-6, torch.bfloat16)
    near(y, plain)
    assert r.dtype == torch.float32
    near(kernels.norm_back(grad, x, r, scale), torch.autograd.grad(plain, leaf, grad.float())[0])


def test_rotary_of_bf16(near):
    x, cos, sin = halved(5, 3, 8), draw(5, 8, seed=2), draw(5, 8, seed=3)
    # As models give them, both halves are the same.
    cos[:, 4:], sin[:, 4:] = cos[:, :4], sin[:, :4]
    turned = (
        x.float() * cos[:, None] + torch.cat([-x.float()[..., 4:], x.float()[..., :4]], -1) * sin[:, None]
    )
    near(kernels.rotate(x, cos, sin, torch.empty_like(x)), turned)


@pytest.mark.parametrize("act", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("size", [7, 64, 1500])
def test_gate_of_bf16(near, size, act):
    both, grad = halved(4, 2 * size, scale=2.0), halved(4, size, seed=1)
    leaf = both.float().requires_grad_()
    g, u = leaf.chunk(2, 1)
    told = torch.nn.functional.silu(g) if act == "silu" else torch.nn.functional.gelu(g, approximate="tanh")
    plain = told * u
    near(kernels.gate(*both.chunk(2, 1), act), plain)
    back, again = kernels.gate_back(grad, *both.chunk(2, 1), act, again=True)
    near(again, plain)
    near(back, torch.autograd.grad(plain, leaf, grad.float())[0])


@pytest.mark.parametrize("vocabulary", [5, 4099])
def test_cross_entropy_of_bf16(near, vocabulary):
    logits, weights = halved(6, vocabulary, scale=3.0), draw(6, seed=1).abs()
    targets = torch.randint(0, vocabulary, (6,), generator=torch.Generator().manual_seed(2))
    leaf = logits.float().requires_grad_()
    plain = torch.nn.functional.cross_entropy(leaf * 0.5, targets, reduction="none")
    (wanted,) = torch.autograd.grad(plain, leaf, weights)
    losses = kernels.cross_entropy_(logits, targets, weights, 0.5)
    torch.testing.assert_close(losses, plain.detach(), rtol=1e-4, atol=1e-5)
    near(logits, wanted)


def test_causal_softmax_of_bf16(near):
    scores, grad, first = halved(2, 6, 300, scale=2.0), halved(2, 6, 300, seed=1), 297
    leaf = scores.float().requires_grad_()
    hidden = torch.arange(300)[None] > first + torch.arange(6)[:, None] % 3
    plain = torch.softmax((leaf * 0.5).masked_fill(hidden, float("-inf")), -1)
    shares = kernels.causal_softmax_(scores.clone(), 3, first, 0.5)
    near(shares, plain)
    near(
        kernels.causal_softmax_back_(grad.clone(), shares, 3, first, 0.5),
        torch.autograd.grad(plain, leaf, grad.float())[0],
    )


# -- what kernels.c may not be given ------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [[0, 5], [-1, 0]])
def test_a_target_beyond_the_vocabulary_is_an_error_and_nothing_is_written(form, targets):
    logits = draw(2, 5)
    before = logits.clone()
    with pytest.raises((IndexError, RuntimeError)):
        kernels.cross_entropy_(logits, torch.tensor(targets), torch.ones(2))
    assert torch.equal(logits, before)


def test_targets_of_another_format_are_an_error():
    with pytest.raises(IndexError, match=r"targets are torch\.int32"):
        kernels.cross_entropy_(draw(2, 5), torch.tensor([0, 1], dtype=torch.int32), None)


def test_formats_that_differ_and_scales_that_are_no_fp32_go_the_plain_way():
    x, scale = draw(3, 8), draw(8, seed=1)
    wanted, r = kernels.norm(x, scale, 1e-6, torch.float32)
    torch.testing.assert_close(kernels.norm(x, scale.double(), 1e-6, torch.float32)[0], wanted)
    spread = torch.stack([scale, scale], 1)[:, 0]
    assert not spread.is_contiguous()
    torch.testing.assert_close(kernels.norm(x, spread, 1e-6, torch.float32)[0], wanted)
    torch.testing.assert_close(
        kernels.norm_back(x, x, r, spread), kernels.norm_back(x, x, r, scale), rtol=1e-5, atol=1e-6
    )
    up = draw(3, 8, seed=2)
    mixed = kernels.gate(x.bfloat16(), up, "silu")
    torch.testing.assert_close(mixed.float(), kernels.gate(x, up, "silu"), rtol=2e-2, atol=2e-2)


def test_plainly_counts_in_its_own_thread(_compiled):
    from threading import Thread

    if not kernels.compiled():
        pytest.skip("no C compiler here")
    seen = []
    with kernels.plainly():
        other = Thread(target=lambda: seen.append(kernels.compiled()))
        other.start()
        other.join()
        assert not kernels.compiled()
    assert seen == [True] and kernels.compiled()


def test_shapes_that_do_not_fit_never_reach_the_compiled_code(form):
    """What plain torch makes of them, or its error; memory beyond the tensors in no case."""
    x = draw(4, 8)
    one = kernels.rotate(x.view(4, 1, 8), draw(1, 8, seed=1), draw(1, 8, seed=2), torch.empty(4, 1, 8))
    with kernels.plainly():
        other = kernels.rotate(x.view(4, 1, 8), draw(1, 8, seed=1), draw(1, 8, seed=2), torch.empty(4, 1, 8))
    assert torch.equal(one, other)
    _, r = kernels.norm(x, torch.ones(8), 1e-6, torch.float32)
    for wrong in (
        lambda: kernels.norm(x, torch.ones(5), 1e-6, torch.float32),
        lambda: kernels.norm_back(x[:, :5], x, r, torch.ones(8)),
        lambda: kernels.gate(x, x[:, :5].contiguous(), "silu"),
        lambda: kernels.cross_entropy_(x.clone(), torch.zeros(4, dtype=torch.int64), torch.ones(3)),
    ):
        with pytest.raises((RuntimeError, IndexError)):
            wrong()
    scores = draw(1, 2, 4)
    told = kernels.causal_softmax_(
        scores.clone(), 2, 9, 1.0
    )  # more keys asked for than there are: all are seen
    torch.testing.assert_close(told, torch.softmax(scores, -1))
    shares = told.bfloat16()
    back = kernels.causal_softmax_back_(draw(1, 2, 4, seed=1), shares, 2, 9, 1.0)
    assert back.isfinite().all()


def test_the_number_of_threads_changes_no_bit():
    if not kernels.compiled():
        pytest.skip("no C compiler here")
    x, scale = draw(50, 64), draw(64, seed=1)
    threads = torch.get_num_threads()
    told = []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            told.append(kernels.norm(x, scale, 1e-6, torch.bfloat16)[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*told)


# -- the loader --------------------------------------------------------------------------------------------------------


def test_it_compiles_once(tmp_path, monkeypatch):
    if native.load(tmp_path).library is None:
        pytest.skip("no C compiler here")
    (made,) = tmp_path.iterdir()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert native.load(tmp_path).library is not None
    assert [made] == list(tmp_path.iterdir())


def test_no_compiler_is_a_reason_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(core_native.shutil, "which", lambda _: None)
    assert native.load(tmp_path).reason == "no C compiler was found (cc, gcc or clang)"


def test_a_compiler_that_fails_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "FLAGS", ("--no-such-flag",))
    told = native.load(tmp_path)
    assert told.library is None
    assert "failed: " in told.reason or "no C compiler" in told.reason
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_can_write_is_not_trusted(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    os.chmod(folder, 0o777)
    assert native.load(folder).reason == f"{folder} can be written by other users"


def test_a_folder_that_cannot_be_made_is_a_reason(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be kept or loaded" in native.load(tmp_path / "file" / "below").reason


def test_nobody_knows_where_home_is_and_that_is_a_reason(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(core_native.Path, "home", home)
    assert "Could not determine home" in native.load().reason


@pytest.fixture
def made(tmp_path):
    if native.load(tmp_path).library is None:
        pytest.skip("no C compiler here")
    (path,) = tmp_path.iterdir()
    return path


def test_a_library_that_was_cut_short_is_made_once_more(made, tmp_path_factory):
    short = tmp_path_factory.mktemp("short") / made.name
    short.write_bytes(made.read_bytes()[:1000])
    short.chmod(0o500)
    assert native.load(short.parent).library is not None
    assert short.stat().st_size == made.stat().st_size and short.stat().st_mode & 0o777 == 0o500


@pytest.mark.parametrize("mode", [0o520, 0o502])
def test_a_library_that_others_can_write_is_not_loaded(made, mode):
    made.chmod(mode)
    assert native.load(made.parent).reason == f"{made} can be written by other users"


def test_a_library_behind_a_link_is_not_loaded(made, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "library.so"
    made.rename(elsewhere)
    made.symlink_to(elsewhere)
    assert "is not what it should be" in native.load(made.parent).reason
