"""No form goes without generation settings, licence, card and hashes; and what the card says is so."""

import json

import pytest

from luthier.core.errors import ModelError
from luthier.postprocessing import sums
from luthier.postprocessing.complete import complete, vllm_ready


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "bos_token_id": 0, "eos_token_id": 2})
    )
    (folder / "luthier.json").write_text(json.dumps({"name": "owner/name"}))
    return folder


FACTS = {"base_name": "owner/name", "base_digest": "b" * 64, "model_digest": "a" * 64, "vllm": None,
         "task": {"kind": "classify", "instruction": "Route it.\nBriefly."}}  # fmt: skip


def completed(base, form="merged", **facts):
    folder = base.parent / form
    folder.mkdir()
    complete(folder, form, base, {**FACTS, **facts})
    return folder


def test_a_base_that_says_nothing_gets_stated_defaults_and_a_notice(base):
    folder = completed(base)
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "do_sample": False,
    }
    assert (
        "tuned from owner/name, which came without a licence file and without a stated licence"
        in (folder / "NOTICE").read_text()
    )
    assert 'license: "other"' in (folder / "README.md").read_text()


def test_what_the_base_says_is_kept(base):
    (base / "generation_config.json").write_text('{"temperature": 0.3}')
    (base / "LICENSE").write_text("words of the licence\n")
    (base / "luthier.json").write_text(json.dumps({"name": "owner/name", "license": "MIT"}))
    folder = completed(base)
    assert json.loads((folder / "generation_config.json").read_text()) == {"temperature": 0.3}
    assert (folder / "LICENSE").read_text() == "words of the licence\n" and not (folder / "NOTICE").exists()
    assert 'license: "mit"' in (folder / "README.md").read_text()


def test_a_known_models_licence_is_stated_though_its_text_is_not_there(base):
    folder = completed(base, base_name="smollm2-135m-instruct")
    assert "states the licence Apache-2.0; its text did not come" in (folder / "NOTICE").read_text()


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("adapter", "PeftModel.from_pretrained(base"),
        ("merged", 'AutoModelForCausalLM.from_pretrained(".")'),
        ("int4", "pip install compressed-tensors"),
        ("gguf-q8", "llama-server -m model.gguf"),
        ("onnx", 'onnxruntime.InferenceSession("model.onnx")'),
    ],
)
def test_each_card_says_how_it_is_loaded_and_asked(base, form, told):
    card = (completed(base, form) / "README.md").read_text()
    assert told in card and "    Route it.\n    Briefly.\n" in card and "a" * 64 in card
    assert 'base_model: "owner/name"' in card


def test_a_path_is_no_model_of_a_hub(base):
    assert "base_model" not in (completed(base, base_name="tiny") / "README.md").read_text()


@pytest.mark.parametrize(
    ("config", "ready", "told"),
    [
        ({"peft_type": "LORA", "r": 4}, 8, None),
        ({"peft_type": "LORA", "r": 64, "use_rslora": True}, 64, None),
        ({"peft_type": "LORA", "r": 1024}, None, "rank 1024 is above 512"),
        ({"peft_type": "LORA", "r": 8, "use_dora": True}, None, "no DoRA"),
        ({"peft_type": "IA3"}, None, "LoRA alone"),
        ({"peft_type": "LORA", "r": 8, "modules_to_save": ["lm_head"]}, None, "whole modules"),
    ],
)
def test_what_vllm_takes(tmp_path, config, ready, told):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = vllm_ready(tmp_path)
    assert found["max_lora_rank"] == ready and found["ready"] == (told is None)
    assert found["why"] is None if told is None else told in found["why"]


# -- hashes ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    (folder / "adapter").mkdir(parents=True)
    (folder / "luthier.json").write_text("{}")
    (folder / "adapter" / "weights").write_bytes(b"\0" * 1000)
    sums.write(folder)
    return folder


def test_an_untouched_package_is_sound(package):
    found = sums.verify(package)
    assert found.sound and found.files == 2


def test_what_is_missing_changed_or_added_is_named(package):
    (package / "luthier.json").write_text("{ }")
    (package / "adapter" / "weights").unlink()
    (package / "evil.py").write_text("")
    found = sums.verify(package)
    assert (found.missing, found.changed, found.surplus) == (
        ("adapter/weights",),
        ("luthier.json",),
        ("evil.py",),
    )
    assert not found.sound and found.files == 0


def test_a_link_in_the_place_of_a_file_is_a_change(package, tmp_path):
    (tmp_path / "same").write_text("{}")
    (package / "luthier.json").unlink()
    (package / "luthier.json").symlink_to(tmp_path / "same")
    assert sums.verify(package).changed == ("luthier.json",)


@pytest.mark.parametrize(
    "text",
    ["x  y\n", f"{'a' * 64}  ../outside\n", f"{'a' * 64}  /etc/passwd\n", f"{'a' * 64}  a\n{'b' * 64}  a\n"],
)
def test_a_list_that_is_not_safe_is_refused(package, text):
    (package / "SHA256SUMS").write_text(text)
    with pytest.raises(ModelError, match="a path within the folder, each once"):
        sums.verify(package)


def test_what_is_no_plain_file_is_never_opened_and_never_unseen(package, tmp_path):
    import os

    os.mkfifo(package / "adapter" / "pipe")
    (package / "luthier.json").unlink()
    os.mkfifo(package / "luthier.json")
    (package / "empty").symlink_to(tmp_path, target_is_directory=True)
    with open(os.fsencode(package) + b"/\xff", "wb"):
        pass
    found = sums.verify(package)
    assert (found.changed, found.surplus) == (("luthier.json",), ("\\xff", "adapter/pipe", "empty"))


def test_a_list_that_is_a_link_is_none(package, tmp_path):
    (package / "SHA256SUMS").rename(tmp_path / "list")
    (package / "SHA256SUMS").symlink_to(tmp_path / "list")
    with pytest.raises(ModelError, match="has no SHA256SUMS"):
        sums.verify(package)


@pytest.mark.parametrize("name", ["LICENSE\nx", "LICENSE\u2028", "a\\b", "LICENSE\x1b[2J"])
def test_a_name_that_the_list_cannot_hold_is_not_packed(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(ModelError, match="cannot hold"):
        sums.write(tmp_path)


def test_names_of_strangers_do_not_steer_the_terminal(capsys):
    from luthier.cli.file_tables import print_verdict

    print_verdict(sums.Verdict(1, (), (), ("a\x1b[2Jb",)))
    told = capsys.readouterr().out
    assert "\x1b" not in told and "surplus  a⟨U+001B⟩[2Jb" in told


def test_the_system_s_own_tool_reads_the_list(package):
    import shutil
    import subprocess

    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=package, capture_output=True).returncode == 0
