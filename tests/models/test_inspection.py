"""Attacks on the door through which models enter. Each leaves a marker if it runs; none may."""

import json
import pickle
import shutil
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.core.errors import ModelError
from luthier.models import inspection
from luthier.models.folder import read_header
from luthier.models.inspection import inspect
from luthier.models.testing import CHAT_TEMPLATE


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def edit(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_folder_passes(folder):
    (folder / "README.md").write_text("# A model")
    inspect(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "rng_state.pth", "x.pt", "a.ckpt", "b.pkl", "c.joblib", "d.npy"]
)
def test_pickle_by_name(folder, tmp_path, name):
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ModelError, match=f"{name} is a pickled format"):
        inspect(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_by_content(folder, tmp_path, protocol):
    (folder / "added_tokens.json").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol))
    with pytest.raises(ModelError, match="not what its name says"):
        inspect(folder)
    assert not (tmp_path / "ran").exists()


def test_pickle_named_safetensors_has_no_second_reader(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ModelError, match="not a sound safetensors file"):
        inspect(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["modeling_x.py", "sub/sitecustomize.py", "x.so", "evil.pth"])
def test_code(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("import os")
    with pytest.raises(ModelError, match=r"is code|pickled format"):
        inspect(folder)


def test_links(folder, tmp_path):
    (folder / "tokenizer.json").rename(tmp_path / "elsewhere")
    (folder / "tokenizer.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"tokenizer.json is a link\.(.|\n)*cp -rL"):
        inspect(folder)


@pytest.mark.parametrize(
    ("file", "changes", "key"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling_x.Model"}}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.T", None]}}, "auto_map"),
        ("config.json", {"text_config": {"trust_remote_code": True}}, "trust_remote_code"),
        ("config.json", {"_attn_implementation": "someone/kernel"}, "_attn_implementation"),
        ("config.json", {"_attn_implementation_internal": "someone/kernel"}, "_attn_implementation_internal"),
        ("generation_config.json", {"custom_generate": "someone/code"}, "custom_generate"),
        ("config.json", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config"),
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "vocab_file"),
    ],
)
def test_settings_that_choose_code(folder, file, changes, key):
    edit(folder, file, **changes)
    with pytest.raises(ModelError, match=f"{file} sets '{key}'"):
        inspect(folder)


def test_an_unknown_family(folder):
    edit(folder, "config.json", model_type="mamba")
    with pytest.raises(ModelError, match=r"model_type = 'mamba'(.|\n)*llama"):
        inspect(folder)


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"a": NaN}', '{"a": 1, "a": 2}', '{"a": ' + "[" * 100_000, "\ud800"]
)
def test_broken_json(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match=r"config\.json"):
        inspect(folder)


def test_not_a_model(tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        inspect(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json"):
        inspect(tmp_path)


def write(path, header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def entry(start, end, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "data", "told"),
    [
        ({"a": entry(0, 4), "b": entry(0, 4)}, b"1234", "overlaps"),
        ({"a": entry(4, 8)}, b"12345678", "gap"),
        ({"a": entry(0, 4)}, b"12", "end at byte"),
        ({"a": entry(0, 4)}, b"12345678", "end at byte"),
        ({"a": entry(0, 4, (2,))}, b"1234", "does not have the bytes"),
        ({"a": entry(0, 4, (-1, -1))}, b"1234", "natural number"),
        ({"a": entry(0, 4, (2**63, 2))}, b"1234", "does not have the bytes"),
        ({"a": entry(0, 4, dtype="PICKLE")}, b"1234", "type 'PICKLE'"),
        ({"a": {"dtype": "F32"}}, b"", "not complete"),
        (b'{"a": 1, "a": 2}', b"", "twice"),
        (b"not json", b"", "not valid JSON"),
    ],
)
def test_unsound_safetensors(folder, header, data, told):
    write(folder / "model.safetensors", header, data)
    with pytest.raises(ModelError, match=told):
        inspect(folder)


def test_a_header_longer_than_its_file(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(ModelError, match="header claims"):
        inspect(folder)
    (folder / "model.safetensors").write_bytes(b"123")
    with pytest.raises(ModelError, match="header claims"):
        inspect(folder)


@settings(max_examples=150, deadline=None)
@given(where=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_header_is_refused_or_harmless(tiny_folder, tmp_path_factory, where, byte):
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    data = bytearray((tiny_folder / "model.safetensors").read_bytes())
    data[where] = byte
    path.write_bytes(data)
    try:
        tensors = read_header(path)
    except ModelError:
        return
    assert all(0 <= t.start <= t.end <= len(data) for t in tensors.values())


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("F32", np.float32("nan").tobytes()),
        ("F32", np.float32("-inf").tobytes()),
        ("F16", np.float16("inf").tobytes()),
        ("BF16", b"\xc0\x7f"),  # 0x7FC0, little-endian: NaN
    ],
)
def test_numbers_that_are_not_finite(folder, dtype, value):
    good = b"\x00" * len(value)
    write(folder / "model.safetensors", {"a.weight": entry(0, 2 * len(value), (2,), dtype)}, good + value)
    with pytest.raises(ModelError, match=r"'a\.weight' in model.safetensors holds NaN"):
        inspect(folder)
    write(folder / "model.safetensors", {"a.weight": entry(0, 2 * len(value), (2,), dtype)}, good * 2)
    inspect(folder)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "gone-00001.safetensors", "..\\x"])
def test_an_index_that_points_elsewhere(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="not a weights file of this folder"):
        inspect(folder)


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{% for", "not a Jinja template"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot be used"),
        ("{{ raise_exception('no') }}", "refuses a single question"),
        ("{% for i in range(3000000) %}x{% endfor %}", "cannot be used"),
        ("{% set n = namespace(x='a' * 10) %}{% for i in range(12) %}{% set n.x = n.x|replace('a', 'a' * 10) %}"
         "{% endfor %}{{ n.x }}", "memory"),
        ("x" * 300_000, "larger than"),
    ],
)  # fmt: skip
def test_hostile_templates(folder, template, told):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=told):
        inspect(folder)


def test_a_template_that_never_ends_is_killed(folder, monkeypatch):
    monkeypatch.setattr(inspection, "TEMPLATE_SECONDS", 1.0)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    edit(folder, "tokenizer_config.json", chat_template=loops)
    began = time.monotonic()
    with pytest.raises(ModelError, match="did not render a short conversation in 1 s"):
        inspect(folder)
    assert time.monotonic() - began < 10


def test_usual_constructs_of_templates_pass(folder):
    (folder / "chat_template.jinja").write_text(
        "{%- if tools %}{{ tools | tojson }}{% endif %}{% set today = strftime_now('%Y') %}"
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% generation %}{{ m.content | trim }}{% endgeneration %}{% endfor %}" + CHAT_TEMPLATE
    )
    inspect(folder)
