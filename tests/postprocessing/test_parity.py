"""The gate: what is packed is what was trained, in its own engine; what is planted in a form is caught and named."""

import json
import shutil
from pathlib import Path

import pytest

from luthier.core.errors import ModelError
from luthier.models.testing import CHAT_TEMPLATE
from luthier.postprocessing import llamacpp
from luthier.postprocessing.forms import KINDS

from .conftest import World

LLAMACPP = pytest.mark.skipif(llamacpp.version() is None, reason="xllamacpp is not installed")
HUGGING_FACE = ["adapter", "merged", "int8", "int4"]
GGUF = ["gguf", "gguf-q8", "gguf-q4"]


@pytest.fixture(scope="module")
def quiet_base(tmp_path_factory):
    """What its blocks add is small beside what comes in, as in trained models; a plain random one turns on 4 bits' rounding."""
    from safetensors.torch import load_file, save_file

    from luthier.models.testing import tiny_model

    folder = tiny_model(tmp_path_factory.mktemp("base") / "tiny", context=128, hidden=64)
    stored = load_file(folder / "model.safetensors")
    for name, weight in stored.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight *= 0.02
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "LICENSE").write_text("the base's licence\n")
    return folder


@pytest.fixture
def shop(tmp_path, quiet_base):
    return World(tmp_path, quiet_base, adapter_std=0.03)


@pytest.fixture
def lively(tmp_path, tiny_base):
    """Where each thing that is attended to changes the answer."""
    return World(tmp_path, tiny_base)


def plant(monkeypatch, form, change):
    from luthier.postprocessing import package

    real = package._fill

    def fill(folder, made, *rest):
        real(folder, made, *rest)
        if made == form:
            change(folder)

    monkeypatch.setattr(package, "_fill", fill)


def edited(folder, name, **values):
    told = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**told, **values}))


def refused(shop, monkeypatch, form, change, told, export=None):
    plant(monkeypatch, form, change)
    with pytest.raises(ModelError, match=told):
        shop.pack(export=[export or form])


def test_every_form_of_transformers_says_what_the_trained_model_says(shop):
    out, _ = shop.pack(export=HUGGING_FACE)
    found = json.loads((out / "parity.json").read_text())
    assert list(found) == HUGGING_FACE
    for form in ("adapter", "merged"):
        assert found[form]["top_1"] == 1.0 and found[form]["divergence"] == pytest.approx(0, abs=1e-5)
    for form, one in found.items():
        assert one["divergence"] <= KINDS[form].divergence
        assert one["rows"] == 8 and one["tokens"] >= 16  # each answer and its end
        assert one["engine"].startswith("transformers ") and one["check"] == "all log-probabilities"
    assert 0 < found["int8"]["divergence"] < found["int4"]["divergence"]


@LLAMACPP
def test_llama_cpp_says_what_the_trained_model_says(shop):
    """Rendered by its own template, cut by its own tokenizer, computed by its own kernels."""
    out, _ = shop.pack(export=GGUF)
    found = json.loads((out / "parity.json").read_text())
    for form in GGUF:
        assert (
            found[form]["engine"].startswith("llama.cpp (xllamacpp ")
            and "64 likeliest" in found[form]["check"]
        )
        assert found[form]["divergence"] <= KINDS[form].divergence
    assert found["gguf"]["divergence"] < 0.02


def test_without_llama_cpp_the_file_is_read_back_and_the_record_says_so(shop, monkeypatch):
    monkeypatch.setattr(llamacpp, "version", lambda: None)
    out, _ = shop.pack(export=["gguf", "gguf-q8"])
    found = json.loads((out / "parity.json").read_text())
    assert "not run in llama.cpp, since xllamacpp is not installed" in found["gguf-q8"]["check"]
    assert found["gguf"]["divergence"] < 1e-4


def test_onnx_runtime_says_what_the_trained_model_says(shop):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    out, _ = shop.pack(export=["onnx"])
    found = json.loads((out / "parity.json").read_text())["onnx"]
    assert found["top_1"] == 1.0 and found["divergence"] < 1e-5 and found["engine"].startswith("onnxruntime ")
    graph = (out / "onnx" / "model.onnx").read_bytes()
    assert b"site-packages" not in graph and b".py" not in graph  # no path of the machine that made it
    assert {"model.onnx", "model.onnx_data", "tokenizer.json", "chat_template.jinja"} <= {
        p.name for p in (out / "onnx").iterdir()
    }


# -- a template that is another one --------------------------------------------------------------------------------------


def _other_template(folder):
    path = folder / "chat_template.jinja"
    path.write_text("{{ '\\n' }}" + path.read_text())


@pytest.mark.parametrize("form", HUGGING_FACE)
def test_another_template_is_caught_and_named(shop, monkeypatch, form):
    refused(shop, monkeypatch, form, _other_template, f"form '{form}' .*its chat template is another one")


def _rewritten(folder, change):
    """The GGUF file again, with other metadata."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    path = folder / "model.gguf"
    reader = GGUFReader(path)
    facts = {
        name: (field, field.contents())
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    writer = GGUFWriter(folder / "new.gguf", facts.pop("general.architecture")[1])
    told = {name: value for name, (_, value) in facts.items()}
    change(told)
    for name, value in told.items():
        kinds = facts[name][0].types if name in facts else [GGUFValueType.FLOAT32]
        writer.add_key_value(name, value, kinds[0], kinds[-1] if kinds[0] == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data.copy(), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "new.gguf").replace(path)


def test_another_template_in_a_gguf_files_metadata(shop, monkeypatch):
    def change(told):
        told["tokenizer.chat_template"] = "{{ '\n' }}" + CHAT_TEMPLATE

    refused(
        shop,
        monkeypatch,
        "gguf-q8",
        lambda f: _rewritten(f, change),
        "'gguf-q8' .*its chat template is another one",
    )


def test_other_settings_in_a_gguf_files_metadata(shop, monkeypatch):
    def change(told):
        told["llama.rope.freq_base"] = 11.0

    refused(
        shop,
        monkeypatch,
        "gguf",
        lambda f: _rewritten(f, change),
        "'gguf' does not say .*Its settings are others: rope_theta is 11 and was 10000",
    )


@LLAMACPP
def test_what_only_the_engine_itself_can_tell(lively, monkeypatch):
    """Tokens, weights and settings are right as we read them; llama.cpp reads one more key."""

    def change(told):
        told["llama.rope.scaling.factor"] = 8.0

    refused(
        lively,
        monkeypatch,
        "gguf",
        lambda f: _rewritten(f, change),
        "'gguf' does not say .*the engine reads them otherwise",
    )


# -- a tokenizer that is another one -------------------------------------------------------------------------------------


def _other_tokenizer(folder):
    told = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = told["model"]["vocab"]
    vocabulary["e"], vocabulary["a"] = vocabulary["a"], vocabulary["e"]
    (folder / "tokenizer.json").write_text(json.dumps(told))


@pytest.mark.parametrize("form", [*HUGGING_FACE, "onnx"])
def test_another_tokenizer_is_caught_and_named(shop, monkeypatch, form):
    refused(shop, monkeypatch, form, _other_tokenizer, f"form '{form}' .*its tokenizer is another one")


def test_another_tokenizer_in_a_gguf_file(shop, monkeypatch):
    def change(told):
        tokens = told["tokenizer.ggml.tokens"]
        e, a = tokens.index("e"), tokens.index("a")
        tokens[e], tokens[a] = "a", "e"

    refused(
        shop,
        monkeypatch,
        "gguf",
        lambda f: _rewritten(f, change),
        "form 'gguf' .*its tokenizer is another one",
    )


# -- a wrong scale ---------------------------------------------------------------------------------------------------------


def test_a_wrong_scale_of_an_adapter_is_caught_and_named(shop, monkeypatch):
    refused(
        shop, monkeypatch, "adapter", lambda folder: edited(folder, "adapter_config.json", lora_alpha=1),
        "'adapter' does not say what the trained model says(.|\n)*lora_alpha is 1 and was",
    )  # fmt: skip


@pytest.mark.parametrize("form", ["merged", "int4", "gguf-q8", "onnx"])
def test_a_wrong_scale_in_merging_is_caught_in_every_form_made_from_it(shop, monkeypatch, form):
    from luthier.models.merge import merge

    def change(folder):
        wrong = shop.tmp / "wrong"
        shutil.copytree(shop.model, wrong)
        alpha = json.loads((wrong / "adapter_config.json").read_text())["lora_alpha"]
        edited(wrong, "adapter_config.json", lora_alpha=alpha / 2)
        merge(shop.base, wrong, folder)

    told = "'merged' does not say .*What training changed is in its weights 0.50 times"
    if form != "merged":
        told += f".*It is what {form} is made from"
    refused(shop, monkeypatch, "merged", change, told, export=form)


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_a_wrong_scale_in_quantising_is_caught_and_named(shop, monkeypatch, form):
    from safetensors.torch import load_file, save_file

    def change(folder):
        stored = load_file(folder / "model.safetensors")
        stored["model.layers.1.mlp.up_proj.weight_scale"] *= 0.9
        save_file(stored, folder / "model.safetensors")

    told = f"'{form}' does not say .*'model.layers.1.mlp.up_proj.weight' are in it 0.[89].* times, and 1 is right: its scaling"
    refused(shop, monkeypatch, form, change, told)


def test_a_wrong_scale_in_a_gguf_file_is_caught_and_named(shop, monkeypatch):
    from luthier.models import to_gguf

    real = to_gguf.permute  # q and k pass here
    monkeypatch.setattr(to_gguf, "permute", lambda rows, heads: real(rows, heads) * 0.9)
    with pytest.raises(ModelError, match=r"'gguf-q4' .*self_attn.[qk]_proj.weight' are in it 0.[89]"):
        shop.pack(export=["gguf-q4"])


def test_rows_that_are_not_interleaved_are_caught(shop, monkeypatch):
    from luthier.models import to_gguf

    monkeypatch.setattr(to_gguf, "permute", lambda rows, heads: rows)
    with pytest.raises(ModelError, match=r"'gguf' does not say .*[qk]_proj.weight'"):
        shop.pack(export=["gguf"])


def test_other_weights_in_the_merged_model_are_caught(shop, monkeypatch):
    def change(folder):
        for path in shop.base.glob("*.safetensors"):
            shutil.copyfile(path, folder / path.name)  # the adapter was left out

    refused(shop, monkeypatch, "merged", change, "training changed is in its weights 0.00 times")


def test_other_weights_in_an_onnx_file_are_caught(lively, monkeypatch):
    from luthier.models import to_onnx

    real = to_onnx.write
    monkeypatch.setattr(to_onnx, "write", lambda source, out: real(lively.base, out))
    with pytest.raises(ModelError, match=r"'onnx' does not say .*its weights or its graph are others"):
        lively.pack(export=["onnx"])


# -- the server ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", [["adapter"], ["merged"], ["int8"], ["int4"]])
def test_the_serving_engine_is_in_the_gate(shop, export):
    from luthier.app.packing import ask

    out, _ = shop.pack(export=export, serve=ask)
    found = json.loads((out / "parity.json").read_text())["served"]
    assert (
        found["engine"] == "the server's transformers engine" and found["rows"] == 8 and found["tokens"] >= 8
    )
    if export[0] in ("adapter", "merged"):
        assert found["top_1"] == 1.0 and found["divergence"] < 1e-4


def test_a_server_that_asks_otherwise_is_caught(lively):
    from luthier.app.packing import ask

    def otherwise(package, base, prompts, tokens, alternatives):
        """The instruction comes in twice."""
        twice = [[{"role": "system", "content": "Answer in French."}, *prompt] for prompt in prompts]
        return ask(package, base, twice, tokens, alternatives)

    with pytest.raises(ModelError, match="the serving engine does not say what the trained model says"):
        lively.pack(export=["merged"], serve=otherwise)


def test_of_few_tokens_more_may_differ():
    """At most n·0.02 + 2·√(n·0.02·0.98): 1.6 of 19 and 28.9 of 1,000."""
    from luthier.postprocessing.parity import Parity, _judge

    def judged(differ, tokens):
        _judge("merged", Parity(8, tokens, 1 - differ / tokens, 0.001, 0.01, "all", "an engine"), Path())

    judged(1, 19)
    judged(28, 1000)
    for differ, tokens in ((2, 19), (29, 1000)):
        with pytest.raises(ModelError, match="the likeliest is the same in"):
            judged(differ, tokens)


def test_the_estimate_from_the_likeliest_tokens_is_never_above_the_whole_divergence():
    import torch

    from luthier.postprocessing.parity import lumped_divergence

    draw = torch.Generator().manual_seed(0)
    p, q = (
        torch.log_softmax(2 * torch.randn(50, 300, generator=draw, dtype=torch.float64), -1) for _ in range(2)
    )
    whole = (p.exp() * (p - q)).sum(-1)
    for count in (5, 64, 300):
        ids = q.topk(count).indices
        part = lumped_divergence(p.gather(-1, ids), q.gather(-1, ids))
        assert (part <= whole + 1e-9).all()
    torch.testing.assert_close(part, whole)  # of all tokens it is the whole
