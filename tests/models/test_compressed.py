"""Packed weights: what fits in the bits comes back exactly, the rest within half a step; other tools read the files."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import ModelError
from luthier.models import compressed, weights
from luthier.models.compressed import PACKINGS, pack, pack_folder, unpack, unpacked
from luthier.models.families import FAMILIES
from luthier.models.testing import tiny_model


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 999), st.sampled_from(["int8", "int4"]))
def test_no_weight_moves_by_more_than_half_a_step(outputs, groups, seed, width):
    packing = PACKINGS[width]
    weight = torch.randn(outputs, 32 * groups, generator=torch.Generator().manual_seed(seed))
    words, scales = pack(weight, packing)
    back = unpack(words, scales, weight.shape[1], packing, torch.float32)
    step = scales.repeat_interleave(weight.shape[1] // scales.shape[1], 1)
    moved = (back - weight).abs()
    if width == "int8":
        assert (moved <= step / 2 * (1 + 1e-5)).all()
    else:  # a smaller scale cuts the largest of a group, where that makes the whole nearer
        inside = weight.abs() <= 7 * step
        assert (moved[inside] <= step[inside] / 2 * (1 + 1e-5)).all()
        plain = weight.reshape(outputs, groups, 32)
        full = plain.abs().amax(-1, keepdim=True) / 7
        rounded = ((plain / full).round() * full - plain).square().sum()
        assert (back - weight).square().sum() <= rounded * (1 + 1e-5)


@given(st.sampled_from(["int8", "int4"]), st.integers(0, 99))
def test_what_fits_comes_back_exactly(width, seed):
    packing = PACKINGS[width]
    most = 7 if width == "int4" else 127
    codes = torch.randint(-most, most + 1, (3, 64), generator=torch.Generator().manual_seed(seed)).float()
    codes[:, ::32] = most  # so that every group's scale is a half
    words, scales = pack(codes / 2, packing)
    assert torch.equal(unpack(words, scales, 64, packing, torch.float32), codes / 2)


def test_zeros_stay_zeros_and_nan_is_refused():
    words, scales = pack(torch.zeros(2, 32), PACKINGS["int4"])
    assert torch.equal(unpack(words, scales, 32, PACKINGS["int4"], torch.float32), torch.zeros(2, 32))
    with pytest.raises(ModelError, match="infinite or not a number"):
        pack(torch.full((1, 32), float("nan")), PACKINGS["int8"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loaded_model_is_the_unpacked_one_in_every_family(family, tmp_path, logits):
    """Embeddings, norms, biases, rotary tables and scales of embeddings are all there."""
    source = tiny_model(tmp_path / "m", family=family, hidden=32)
    pack_folder(source, tmp_path / "p", "int8")
    model = weights.load(tmp_path / "p")
    plain, read = weights.load(source), unpacked(tmp_path / "p")
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.copy_(read(name))
    ids = list(range(3, 40))
    torch.testing.assert_close(logits(model, ids), logits(plain, ids), atol=1e-5, rtol=1e-5)
    assert any(type(module).__name__ == "PackedLinear" for module in model.modules())


@pytest.mark.parametrize(("width", "bits"), [("int8", 8), ("int4", 4)])
def test_the_fields_own_library_reads_the_same_numbers(width, bits, tmp_path):
    library = pytest.importorskip("compressed_tensors.compressors", reason="pip install compressed-tensors")
    unpack_from_int32 = pytest.importorskip(
        "compressed_tensors.compressors.pack_quantized.helpers", reason="another layout of the library"
    ).unpack_from_int32 if not hasattr(library, "unpack_from_int32") else library.unpack_from_int32  # fmt: skip
    weight = torch.randn(6, 64)
    words, scales = pack(weight, PACKINGS[width])
    theirs = unpack_from_int32(words, bits, torch.Size([6, 64])).float()
    groups = scales.repeat_interleave(64 // scales.shape[1], 1)
    torch.testing.assert_close(theirs * groups, unpack(words, scales, 64, PACKINGS[width], torch.float32))


@pytest.mark.parametrize("width", ["int8", "int4"])
def test_plain_transformers_gives_the_same_logits(width, tmp_path, logits):
    pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
    from transformers import AutoModelForCausalLM

    source = tiny_model(tmp_path / "m", hidden=32)
    pack_folder(source, tmp_path / "p", width)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "p", dtype=torch.float32)
    ids = list(range(3, 40))
    torch.testing.assert_close(
        logits(theirs, ids), logits(weights.load(tmp_path / "p"), ids), atol=1e-4, rtol=1e-4
    )


def test_inputs_that_make_no_groups_are_refused_by_name(tmp_path):
    source = tiny_model(tmp_path / "m", hidden=24, heads=4)
    with pytest.raises(ModelError, match=r"groups of 32, and model.layers.0.mlp.down_proj has 48"):
        pack_folder(source, tmp_path / "p", "int4")


def test_foreign_packing_and_lost_weights_are_refused(tmp_path):
    source = tiny_model(tmp_path / "m", hidden=32)
    pack_folder(source, tmp_path / "p", "int8")
    config = json.loads((tmp_path / "p" / "config.json").read_text())
    config[compressed.KEY]["format"] = "marlin-24"
    (tmp_path / "p" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="packed in a way that is not read here"):
        weights.load(tmp_path / "p")
    config[compressed.KEY] = compressed.settings(PACKINGS["int8"])
    config["num_hidden_layers"] = 3
    (tmp_path / "p" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"do not fit its config.json, first at 'model.layers.2"):
        weights.load(tmp_path / "p")
